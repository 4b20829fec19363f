//! Upstreams that say what a test wants them to say, right or wrong.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::frames::{END_HEADERS, END_STREAM, Frame, HEADERS, PING, PREFACE, SETTINGS, frame, next};

/// A running upstream and what it saw.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Where it listens.
    pub port: u16,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    opened: AtomicUsize,
    closed: AtomicUsize,
    requests: Mutex<Vec<String>>,
}

impl Upstream {
    /// Connections so far.
    #[must_use]
    pub fn opened(&self) -> usize {
        self.seen.opened.load(Ordering::Acquire)
    }

    /// Connections that have ended.
    #[must_use]
    pub fn closed(&self) -> usize {
        self.seen.closed.load(Ordering::Acquire)
    }

    /// Request heads (HTTP/1) or header blocks (HTTP/2) so far.
    ///
    /// # Panics
    /// Never, unless another test thread did.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().expect("the list").clone()
    }

    /// Speaks HTTP/1: `answer` gets the number of the request in all and its head, and returns what is written for
    /// it; after nothing the connection is closed. Bodies are not told from heads.
    pub async fn h1(answer: impl Fn(usize, &str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::start(move |stream, seen| h1(stream, seen, Arc::clone(&answer))).await
    }

    /// Writes these bytes for the first request of every connection and closes it.
    pub async fn once(bytes: &'static [u8]) -> Self {
        Self::start(move |mut stream, seen| async move {
            if let Some(head) = read_head(&mut stream).await {
                seen.requests.lock().expect("the list").push(head);
                let _ = stream.write_all(bytes).await;
                let _ = stream.shutdown().await;
                while stream.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {}
            }
        })
        .await
    }

    /// Speaks HTTP/2 frame by frame: `answer` gets the number of the connection and the stream's HEADERS, and returns
    /// the frames that are written for it.
    pub async fn h2(answer: impl Fn(usize, &Frame) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::start(move |stream, seen| h2(stream, seen, Arc::clone(&answer))).await
    }

    async fn start<F>(serve: impl Fn(TcpStream, Arc<Seen>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let upstream = Self { port: socket.local_addr().expect("its address").port(), seen: Arc::default() };
        let seen = Arc::clone(&upstream.seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let _ = stream.set_nodelay(true);
                seen.opened.fetch_add(1, Ordering::AcqRel);
                let (serving, seen) = (serve(stream, Arc::clone(&seen)), Arc::clone(&seen));
                tokio::spawn(async move {
                    serving.await;
                    seen.closed.fetch_add(1, Ordering::AcqRel);
                });
            }
        });
        upstream
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

async fn h1(mut stream: TcpStream, seen: Arc<Seen>, answer: Arc<impl Fn(usize, &str) -> Vec<u8>>) {
    while let Some(head) = read_head(&mut stream).await {
        let number = {
            let mut requests = seen.requests.lock().expect("the list");
            requests.push(head.clone());
            requests.len() - 1
        };
        let bytes = answer(number, &head);
        if bytes.is_empty() || stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn h2(mut stream: TcpStream, seen: Arc<Seen>, answer: Arc<impl Fn(usize, &Frame) -> Vec<u8>>) {
    let connection = seen.opened.load(Ordering::Acquire) - 1;
    if stream.read_exact(&mut vec![0; PREFACE.len()]).await.is_err() {
        return;
    }
    let _ = stream.write_all(&frame(SETTINGS, 0, 0, &[])).await;
    while let Some(got) = next(&mut stream).await {
        let bytes = match got.kind {
            HEADERS => {
                assert!(got.flags & END_HEADERS != 0, "the proxy's heads are short");
                seen.requests.lock().expect("the list").push(format!("stream {}", got.stream));
                answer(connection, &got)
            }
            SETTINGS if got.flags & END_STREAM == 0 => frame(SETTINGS, END_STREAM, 0, &[]),
            PING if got.flags & END_STREAM == 0 => frame(PING, END_STREAM, 0, &got.payload),
            _ => continue,
        };
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
