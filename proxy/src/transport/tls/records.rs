//! One step of rustls's state machine: what it wants done is done to the buffers around it.

use std::io::IoSlice;

use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};

use crate::transport::buffer::{Buffer, BufferPool, LARGE_BUFFER_BYTES};

/// Plaintext of one record (RFC 8446 section 5.1).
pub(super) const RECORD_BYTES: usize = 16 * 1024;
/// What a record is larger than its plaintext, at most (RFC 8446 section 5.2).
const RECORD_OVERHEAD_BYTES: usize = 256 + 5;
/// Plaintext that is encrypted before it is written to the socket. What is left of the buffer then is for answers to
/// the peer's own messages (key updates); a peer that wants more of them than fit and never reads is given up.
pub(super) const BATCH_BYTES: usize =
    LARGE_BUFFER_BYTES / (RECORD_BYTES + RECORD_OVERHEAD_BYTES) * RECORD_BYTES;
/// What one step of the state machine came to.
pub(super) enum Step {
    /// There may be more to do at once.
    Again,
    /// So many bytes of plaintext were encrypted.
    Wrote(usize),
    /// Nothing is left to do before the peer says more.
    Idle,
    /// The peer said that nothing follows.
    PeerClosed,
}

/// What is to be sent when the state allows it.
#[derive(Clone, Copy)]
pub(super) enum Intent<'a> {
    Nothing,
    Write(&'a [IoSlice<'a>]),
    Close,
}

/// Where plaintext goes: to the reader while it has space, behind `plain` otherwise.
pub(super) struct Reading<'a> {
    pub(super) space: &'a mut [u8],
    pub(super) filled: usize,
}

/// What a step may change besides rustls itself.
pub(super) struct Sides<'a> {
    pub(super) plain: &'a mut Buffer,
    pub(super) outgoing: &'a mut Buffer,
    pub(super) pool: &'a BufferPool,
}

impl Sides<'_> {
    /// Does what this state asks for; says how many bytes of ciphertext are used up.
    pub(super) fn handle<D>(
        &mut self,
        status: UnbufferedStatus<'_, '_, D>,
        reading: &mut Reading<'_>,
        intent: Intent<'_>,
    ) -> (usize, Result<Step, rustls::Error>) {
        let mut discard = status.discard;
        let step = status.state.and_then(|state| match state {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    self.deliver(record.payload, reading)?;
                }
                Ok(Step::Again)
            }
            ConnectionState::EncodeTlsData(message) => self.encode(message).map(|()| Step::Again),
            ConnectionState::TransmitTlsData(sent) => {
                // It is in `outgoing`, before everything that is encrypted after it.
                sent.done();
                Ok(Step::Again)
            }
            ConnectionState::WriteTraffic(traffic) => self.write(traffic, intent),
            ConnectionState::PeerClosed => Ok(Step::PeerClosed),
            ConnectionState::BlockedHandshake | ConnectionState::Closed => Ok(Step::Idle),
            ConnectionState::ReadEarlyData(_) => Err(general("early data was never offered")),
            _ => Err(general("rustls is in a state that is not known here")),
        });
        (discard, step)
    }

    fn deliver(&mut self, payload: &[u8], reading: &mut Reading<'_>) -> Result<(), rustls::Error> {
        let kept = if self.plain.is_empty() { reading.put(payload) } else { 0 };
        let rest = payload.get(kept..).unwrap_or_default();
        if self.plain.push(rest, self.pool) < rest.len() {
            return Err(general("more was decrypted than there is room for"));
        }
        Ok(())
    }

    fn encode<D>(&mut self, mut message: EncodeTlsData<'_, D>) -> Result<(), rustls::Error> {
        let mut needed = RECORD_OVERHEAD_BYTES;
        loop {
            let room = self.outgoing.room(needed, self.pool);
            let available = room.len();
            match message.encode(room) {
                Ok(count) => {
                    self.outgoing.filled(count);
                    return Ok(());
                }
                Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size }))
                    if required_size > available && needed < required_size =>
                {
                    needed = required_size;
                }
                Err(error) => return Err(general(&error.to_string())),
            }
        }
    }

    fn write<D>(
        &mut self,
        mut traffic: WriteTraffic<'_, D>,
        intent: Intent<'_>,
    ) -> Result<Step, rustls::Error> {
        match intent {
            Intent::Nothing => Ok(Step::Idle),
            Intent::Close => {
                let room = self.outgoing.room(RECORD_OVERHEAD_BYTES, self.pool);
                let count = traffic.queue_close_notify(room).map_err(|error| general(&error.to_string()))?;
                self.outgoing.filled(count);
                Ok(Step::Wrote(0))
            }
            Intent::Write(bufs) => {
                let mut accepted = 0;
                for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
                    let count = buf.len().min(BATCH_BYTES.saturating_sub(accepted));
                    let plain = buf.get(..count).unwrap_or_default();
                    let records = count.div_ceil(RECORD_BYTES) + 1;
                    let room = self.outgoing.room(count + records * RECORD_OVERHEAD_BYTES, self.pool);
                    match traffic.encrypt(plain, room) {
                        Ok(count) => self.outgoing.filled(count),
                        // The rest goes with the next call.
                        Err(EncryptError::InsufficientSize(_)) if accepted > 0 => break,
                        Err(error) => return Err(general(&error.to_string())),
                    }
                    accepted += count;
                    if count < buf.len() {
                        break;
                    }
                }
                Ok(Step::Wrote(accepted))
            }
        }
    }
}

impl Reading<'_> {
    /// For steps that read nothing.
    pub(super) const fn nowhere() -> Self {
        Self { space: &mut [], filled: 0 }
    }

    /// Space that is left.
    pub(super) const fn left(&self) -> usize {
        self.space.len() - self.filled
    }

    /// Copies as much as there is space for.
    fn put(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.left());
        if let Some(space) = self.space.get_mut(self.filled..self.filled + count) {
            space.copy_from_slice(bytes.get(..count).unwrap_or_default());
        }
        self.filled += count;
        count
    }

    /// Takes what is already decrypted.
    pub(super) fn take(&mut self, from: &mut Buffer) {
        let count = self.put(from.unread());
        from.consume(count);
    }
}

/// An error of ours in the clothes of rustls.
pub(super) fn general(message: &str) -> rustls::Error {
    rustls::Error::General(message.to_owned())
}
