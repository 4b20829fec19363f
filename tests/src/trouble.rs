//! Upstreams in trouble of one kind or another, which count what they are asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::process::free_port;

const WELL: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const ILL: &[u8] = b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno";

/// What is wrong with an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Nobody listens.
    Refuses,
    /// It is killed after as many requests, with all its connections.
    Dies(usize),
    /// It takes requests and never answers.
    Hangs,
    /// Packets to it are lost: its queue of connections is full.
    Blackhole,
    /// It sends its answer's head a byte at a time.
    Drips,
    /// It resets every connection after the first bytes.
    Resets,
    /// Every second answer is a 503.
    HalfErrors,
    /// Every answer is a 503.
    Errors,
    /// It serves one request at a time and takes this long for each.
    Serves(Duration),
}

/// A running upstream.
#[derive(Debug)]
pub struct Troubled {
    /// Where it is.
    pub port: u16,
    asked: Arc<AtomicUsize>,
    /// What keeps the queue full.
    _held: Vec<TcpStream>,
}

impl Troubled {
    /// Requests so far.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Starts it.
    ///
    /// # Panics
    /// When there is no port for it.
    pub async fn start(trouble: Trouble) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        if trouble == Trouble::Refuses {
            return Self { port: free_port(), asked, _held: Vec::new() };
        }
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let backlog = if trouble == Trouble::Blackhole { 1 } else { 1024 };
        let socket = socket.listen(backlog).expect("a listener");
        let address = socket.local_addr().expect("its address");
        let mut held = Vec::new();
        if trouble == Trouble::Blackhole {
            // Connections that nobody accepts, until one more is not answered.
            let patience = Duration::from_millis(300);
            while let Ok(Ok(stream)) = tokio::time::timeout(patience, TcpStream::connect(address)).await {
                held.push(stream);
            }
            std::mem::forget(socket);
        } else {
            tokio::spawn(serve(socket, trouble, Arc::clone(&asked)));
        }
        Self { port: address.port(), asked, _held: held }
    }
}

async fn serve(socket: TcpListener, trouble: Trouble, asked: Arc<AtomicUsize>) {
    // Dropped with the listener, which ends all connections.
    let mut connections = JoinSet::new();
    let (turn, death) = (Arc::new(Mutex::new(())), Arc::new(tokio::sync::Notify::new()));
    loop {
        let stream = tokio::select! {
            accepted = socket.accept() => accepted,
            () = death.notified() => return,
        };
        let Ok((stream, _)) = stream else { continue };
        let _ = stream.set_nodelay(true);
        let (asked, turn, death) = (Arc::clone(&asked), Arc::clone(&turn), Arc::clone(&death));
        connections.spawn(async move {
            let _ = talk(stream, trouble, &asked, (&turn, &death)).await;
        });
    }
}

async fn talk(
    mut stream: TcpStream,
    trouble: Trouble,
    asked: &AtomicUsize,
    (turn, death): (&Mutex<()>, &tokio::sync::Notify),
) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let number = asked.fetch_add(1, Ordering::Relaxed);
        match trouble {
            Trouble::Hangs => std::future::pending().await,
            Trouble::Drips => {
                for byte in WELL {
                    stream.write_all(&[*byte]).await?;
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
            Trouble::Resets => {
                stream.set_zero_linger()?;
                return Ok(());
            }
            Trouble::Dies(after) if number >= after => {
                death.notify_one();
                std::future::pending().await
            }
            Trouble::HalfErrors if number.is_multiple_of(2) => stream.write_all(ILL).await?,
            Trouble::Errors => stream.write_all(ILL).await?,
            Trouble::Serves(time) => {
                let _mine = turn.lock().await;
                tokio::time::sleep(time).await;
                stream.write_all(WELL).await?;
            }
            Trouble::None | Trouble::Dies(_) | Trouble::HalfErrors => stream.write_all(WELL).await?,
            Trouble::Refuses | Trouble::Blackhole => return Ok(()),
        }
    }
}
