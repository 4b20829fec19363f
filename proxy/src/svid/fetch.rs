//! `outrider-proxy fetch-svid`: keeps certificate files fresh for workloads that do mTLS themselves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout_at};

use super::error::FetchError;
use super::keeper::Clock;
use super::output::{self, WriteError};
use super::schedule::Backoff;
use super::{Svid, fetch_once, start};
use crate::model::identity::IdentitySource;

/// Pause before files that could not be written are tried again: a full disk is emptied, a volume is mounted.
const WRITE_RETRY: Duration = Duration::from_secs(5);

/// What to do.
#[derive(Clone, Debug)]
pub struct Task {
    /// Where the identity comes from.
    pub source: IdentitySource,
    /// Where the files go.
    pub out_dir: PathBuf,
    /// For how long to try, to do it once only; for ever if not set.
    pub once_within: Option<Duration>,
}

/// Why it ended without having done it.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// No identity.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// No files.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// No signals, without which it could not be ended.
    #[error("signals: {0}")]
    Signals(#[from] std::io::Error),
}

/// Does it once, or until `SIGTERM` or `SIGINT`.
///
/// # Errors
/// Only of a task for once: a task for ever logs what fails and tries again.
pub async fn run(task: Task) -> Result<(), TaskError> {
    match task.once_within {
        Some(limit) => {
            let svid = patiently(&task.source, limit).await?;
            output::write(&task.out_dir, &svid)?;
            said(&task.out_dir, &svid);
            Ok(())
        }
        None => {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::select! {
                () = keep(task) => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            Ok(())
        }
    }
}

/// Tries again while the source is out of reach: it may be starting as we are. A no is a no.
async fn patiently(source: &IdentitySource, limit: Duration) -> Result<Svid, FetchError> {
    let end = Instant::now() + limit;
    let mut backoff = Backoff::default();
    loop {
        let error = match timeout_at(end, fetch_once(source, &Clock::system())).await {
            Ok(Ok(svid)) => return Ok(svid),
            Ok(Err(error)) => error,
            Err(elapsed) => return Err(FetchError::unreachable("the source of identities", &elapsed)),
        };
        let pause = backoff.pause(fastrand::f64());
        let is_passing = matches!(error, FetchError::Unreachable { .. });
        if !is_passing || Instant::now() + pause >= end {
            return Err(error);
        }
        tracing::warn!(%error, "trying again");
        sleep(pause).await;
    }
}

async fn keep(task: Task) {
    let mut published = start(task.source);
    while published.changed().await.is_ok() {
        let current = published.borrow_and_update().clone();
        // An identity that has ended leaves its files: nobody accepts them, and they say until when they were good.
        let Some(svid) = current else { continue };
        loop {
            match output::write(&task.out_dir, &svid) {
                Ok(()) => said(&task.out_dir, &svid),
                Err(error) => {
                    tracing::error!(%error, "cannot write; the files are as they were");
                    sleep(WRITE_RETRY).await;
                    // A newer identity is the one to write then.
                    if !published.has_changed().unwrap_or(true) {
                        continue;
                    }
                }
            }
            break;
        }
    }
}

fn said(directory: &Path, svid: &Svid) {
    tracing::info!(directory = %directory.display(), spiffe_id = %svid.spiffe_id, "files are fresh");
}
