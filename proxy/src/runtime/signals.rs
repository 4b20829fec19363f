//! What the operating system tells the process to do.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Finish what is under way and end.
    Drain,
    /// End now: it was told to drain before.
    EndAtOnce,
    /// Read the start-up file again.
    Reload,
}

/// The signals of a proxy: `SIGTERM` and `SIGINT`, of which the second ends it at once, and `SIGHUP`.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Log rotation sends the first of them to proxies that have to be told. Logs are opened again without it, and it must
    /// not end the process.
    ignored: [Signal; 2],
    was_told_to_end: bool,
}

impl Signals {
    /// Takes them over from the system.
    ///
    /// # Errors
    /// When it does not let us.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            ignored: [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?],
            was_told_to_end: false,
        })
    }

    /// Waits for the next one that says something. Cancel-safe.
    pub async fn next(&mut self) -> Told {
        let [first, second] = &mut self.ignored;
        loop {
            tokio::select! {
                () = received(&mut self.terminate) => break,
                () = received(&mut self.interrupt) => break,
                () = received(&mut self.hangup) => return Told::Reload,
                () = received(first) => {}
                () = received(second) => {}
            }
        }
        if std::mem::replace(&mut self.was_told_to_end, true) { Told::EndAtOnce } else { Told::Drain }
    }
}

async fn received(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        // No more signals will come; waiting for ever is what "none came" means.
        std::future::pending::<()>().await;
    }
}
