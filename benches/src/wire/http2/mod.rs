//! The client's side of HTTP/2 (RFC 9113) for one request that is sent again and again: bytes in, bytes out, no I/O.
//!
//! A general implementation keeps every header of every stream, and hands each stream to a task of its own; a generator needs the status
//! and the length alone. Here one buffer of frames is taken at once and the next requests are written at once, so that the generator
//! costs a fraction of what it measures.

mod frame;
mod hpack;

use frame::{Flags, Frame, Kind, MAX_FRAME_BYTES, window_update};
pub use hpack::Request;

/// What is not HTTP/2 as we speak it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not HTTP/2: {0}")]
pub struct Malformed(pub &'static str);

/// Windows for what we receive, in bytes: no answer waits for us.
const RECEIVE_WINDOW: u32 = (1 << 31) - 1;
/// The connection's window is opened again after so many bytes.
const REOPEN_BYTES: u32 = 1 << 30;
/// Windows before anybody says otherwise (RFC 9113, section 6.9.2).
const DEFAULT_WINDOW: u32 = 65_535;
/// Bytes of bodies that may wait to be written.
const MAX_WAITING_BYTES: usize = 1 << 20;
/// The last stream that a connection can have.
const LAST_STREAM: u32 = (1 << 31) - 1;
const CANCEL: u32 = 8;
/// Identifiers of settings (RFC 9113, section 6.5.2).
const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an answer.
    Answer {
        /// Its status.
        status: u16,
        /// Bytes of its body.
        bytes: u64,
    },
    /// The server reset its stream with this code.
    Reset(u32),
    /// The server closes the connection and has not looked at it: it may be sent again (RFC 9113, section 6.8).
    Refused,
}

/// A connection. Each request carries a tag, which comes back with its end.
#[derive(Debug)]
pub struct Client<T> {
    request: Request,
    /// Bytes to be written; the caller takes what it has written from the front.
    pub out: Vec<u8>,
    streams: Vec<Stream<T>>,
    next: u32,
    /// Streams at once that the server allows; `None` until its settings are there.
    allowed: Option<u32>,
    initial_window: u32,
    send_window: i64,
    unacknowledged: u32,
    /// Streams whose bodies are not sent to their ends.
    unsent: usize,
    /// The stream whose header block goes on in the next frame.
    continued: Option<u32>,
    going_away: bool,
}

#[derive(Debug)]
struct Stream<T> {
    id: u32,
    tag: T,
    status: Option<u16>,
    received: u64,
    unsent: usize,
    window: i64,
}

impl<T> Client<T> {
    /// A new connection, its preface ready to be written.
    #[must_use]
    pub fn new(request: Request) -> Self {
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame::settings(&mut out, &[(ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, RECEIVE_WINDOW)]);
        window_update(&mut out, RECEIVE_WINDOW - DEFAULT_WINDOW);
        Self {
            request,
            out,
            streams: Vec::new(),
            next: 1,
            allowed: None,
            initial_window: DEFAULT_WINDOW,
            send_window: i64::from(DEFAULT_WINDOW),
            unacknowledged: 0,
            unsent: 0,
            continued: None,
            going_away: false,
        }
    }

    /// Streams at once that the server allows; `None` until it has said so, and until then no request may begin.
    #[must_use]
    pub const fn allowed(&self) -> Option<u32> {
        self.allowed
    }

    /// Requests under way.
    #[must_use]
    pub const fn under_way(&self) -> usize {
        self.streams.len()
    }

    /// Whether no more requests may begin on this connection.
    #[must_use]
    pub const fn is_closing(&self) -> bool {
        self.going_away || self.next > LAST_STREAM - 2
    }

    /// The tags of the requests under way, when the connection has broken.
    pub fn abandon(&mut self) -> impl Iterator<Item = T> + '_ {
        self.streams.drain(..).map(|stream| stream.tag)
    }

    /// Begins a request.
    pub fn begin(&mut self, tag: T) {
        let (id, unsent) = (self.next, self.request.body_bytes);
        self.next += 2;
        let flags = if unsent == 0 { Flags::END_STREAM } else { Flags::NONE };
        let block = self.request.block(id == 1);
        frame::write(&mut self.out, Kind::Headers, flags | Flags::END_HEADERS, id, block);
        let window = i64::from(self.initial_window);
        self.streams.push(Stream { id, tag, status: None, received: 0, unsent, window });
        if unsent > 0 {
            self.unsent += 1;
            self.send_bodies();
        }
    }

    /// Writes as much of the bodies as windows allow. To be called when `out` has been written.
    pub fn send_bodies(&mut self) {
        if self.unsent == 0 {
            return;
        }
        for stream in &mut self.streams {
            while stream.unsent > 0 && self.out.len() < MAX_WAITING_BYTES {
                let window = usize::try_from(self.send_window.min(stream.window)).unwrap_or(0);
                let some = stream.unsent.min(window).min(MAX_FRAME_BYTES);
                if some == 0 {
                    break;
                }
                stream.unsent -= some;
                let flags = if stream.unsent == 0 { Flags::END_STREAM } else { Flags::NONE };
                frame::data(&mut self.out, flags, stream.id, some);
                self.send_window -= some as i64;
                stream.window -= some as i64;
                self.unsent -= usize::from(stream.unsent == 0);
            }
        }
    }

    /// Takes whole frames from the front of `bytes`; how many bytes they had. What has ended is told to `ended`.
    ///
    /// # Errors
    /// When they are none, and the connection is to be given up.
    pub fn receive(&mut self, bytes: &[u8], mut ended: impl FnMut(T, End)) -> Result<usize, Malformed> {
        let mut rest = bytes;
        while let Some((frame, after)) = Frame::split(rest)? {
            self.frame(frame, &mut ended)?;
            rest = after;
        }
        Ok(bytes.len() - rest.len())
    }

    fn frame(&mut self, frame: Frame<'_>, ended: &mut impl FnMut(T, End)) -> Result<(), Malformed> {
        if let Some(stream) = self.continued {
            return self.continuation(frame, stream, ended);
        }
        match frame.kind {
            Kind::Data => self.data(frame, ended),
            Kind::Headers => self.headers(frame, ended),
            Kind::Reset => {
                let code = frame.word(0)?;
                if let Some(stream) = self.remove(frame.stream) {
                    ended(stream.tag, End::Reset(code));
                }
                Ok(())
            }
            Kind::Settings if frame.flags.has(Flags::ACK) => Ok(()),
            Kind::Settings => self.settings(frame),
            Kind::Ping if frame.flags.has(Flags::ACK) => Ok(()),
            Kind::Ping => {
                frame::write(&mut self.out, Kind::Ping, Flags::ACK, 0, frame.payload);
                Ok(())
            }
            Kind::GoAway => self.go_away(frame.word(0)?, ended),
            Kind::WindowUpdate => self.window(frame),
            Kind::Continuation => Err(Malformed("a continuation of nothing")),
            Kind::PushPromise => Err(Malformed("a push that was not allowed")),
            // Priorities, and what is not known, are to be passed over (RFC 9113, section 4.1).
            Kind::Other(_) => Ok(()),
        }
    }

    fn data(&mut self, frame: Frame<'_>, ended: &mut impl FnMut(T, End)) -> Result<(), Malformed> {
        // Padding counts for windows, not for the body. A frame is far smaller than this.
        self.unacknowledged += u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
        if self.unacknowledged >= REOPEN_BYTES {
            window_update(&mut self.out, self.unacknowledged);
            self.unacknowledged = 0;
        }
        let content = frame.content()?.len() as u64;
        // The stream may be one that we have given up.
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == frame.stream) {
            stream.received += content;
            if frame.flags.has(Flags::END_STREAM) {
                return self.end(frame.stream, ended);
            }
        }
        Ok(())
    }

    fn headers(&mut self, frame: Frame<'_>, ended: &mut impl FnMut(T, End)) -> Result<(), Malformed> {
        let block = frame.block()?;
        let last = frame.flags.has(Flags::END_STREAM);
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == frame.stream)
            && stream.status.is_none()
        {
            // Of trailers nothing is looked at, and after an interim answer (1xx) comes another.
            stream.status = Some(hpack::status(block)?).filter(|status| *status >= 200);
        }
        if !frame.flags.has(Flags::END_HEADERS) {
            // Whether the stream ends is decided here (RFC 9113, section 6.2), though it does so after the continuation.
            if last {
                self.end(frame.stream, ended)?;
            }
            self.continued = Some(frame.stream);
            return Ok(());
        }
        if last { self.end(frame.stream, ended) } else { Ok(()) }
    }

    fn continuation(
        &mut self,
        frame: Frame<'_>,
        stream: u32,
        _: &mut impl FnMut(T, End),
    ) -> Result<(), Malformed> {
        if frame.kind != Kind::Continuation || frame.stream != stream {
            return Err(Malformed("a header block that is not continued"));
        }
        if frame.flags.has(Flags::END_HEADERS) {
            self.continued = None;
        }
        Ok(())
    }

    fn settings(&mut self, frame: Frame<'_>) -> Result<(), Malformed> {
        let mut allowed = self.allowed.unwrap_or(u32::MAX);
        for setting in frame.settings()? {
            match setting {
                (HEADER_TABLE_SIZE, size) => self.request.limit_table(size, self.next == 1)?,
                (MAX_CONCURRENT_STREAMS, streams) => allowed = streams,
                (INITIAL_WINDOW_SIZE, window) => {
                    let more = i64::from(window) - i64::from(self.initial_window);
                    self.initial_window = window;
                    self.streams.iter_mut().for_each(|stream| stream.window += more);
                }
                // Larger frames may be sent, and need not be.
                _ => {}
            }
        }
        self.allowed = Some(allowed);
        frame::write(&mut self.out, Kind::Settings, Flags::ACK, 0, &[]);
        self.send_bodies();
        Ok(())
    }

    fn window(&mut self, frame: Frame<'_>) -> Result<(), Malformed> {
        let more = i64::from(frame.word(0)? & LAST_STREAM);
        if frame.stream == 0 {
            self.send_window += more;
        } else if let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == frame.stream) {
            stream.window += more;
        }
        self.send_bodies();
        Ok(())
    }

    fn go_away(&mut self, last: u32, ended: &mut impl FnMut(T, End)) -> Result<(), Malformed> {
        self.going_away = true;
        let refused: Vec<u32> =
            self.streams.iter().map(|stream| stream.id).filter(|id| *id > last & LAST_STREAM).collect();
        for id in refused {
            if let Some(stream) = self.remove(id) {
                ended(stream.tag, End::Refused);
            }
        }
        Ok(())
    }

    fn end(&mut self, id: u32, ended: &mut impl FnMut(T, End)) -> Result<(), Malformed> {
        let Some(stream) = self.remove(id) else { return Ok(()) };
        if stream.unsent > 0 {
            frame::write(&mut self.out, Kind::Reset, Flags::NONE, id, &CANCEL.to_be_bytes());
        }
        let status = stream.status.ok_or(Malformed("an answer without a status"))?;
        ended(stream.tag, End::Answer { status, bytes: stream.received });
        Ok(())
    }

    fn remove(&mut self, id: u32) -> Option<Stream<T>> {
        let place = self.streams.iter().position(|stream| stream.id == id)?;
        let stream = self.streams.swap_remove(place);
        self.unsent -= usize::from(stream.unsent > 0);
        Some(stream)
    }
}

#[cfg(test)]
mod tests;
