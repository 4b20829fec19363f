//! The file of what holds over a restart: a stop of all, and since when faults run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Run;
use crate::ca::state::{StateDir, StateError};
use crate::object::{Key, ObjectKind};

const FILE: &str = "faults.json";

/// All of it.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    pub(super) stopped: bool,
    pub(super) runs: Vec<KeptRun>,
}

/// A run.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptRun {
    namespace: String,
    name: String,
    digest: [u8; 32],
    since_unix_ms: u64,
    /// How long it may last altogether.
    ends_after_ms: u64,
    stopped: bool,
}

impl Kept {
    pub(super) fn new<'a>(stopped: bool, runs: impl Iterator<Item = (&'a Key, &'a Run)>) -> Self {
        let runs = runs.map(|(key, run)| KeptRun {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            digest: run.digest,
            since_unix_ms: ms(run.since.duration_since(UNIX_EPOCH).unwrap_or_default()),
            ends_after_ms: ms(run.lasts),
            stopped: run.stopped,
        });
        Self { stopped, runs: runs.collect() }
    }
}

impl KeptRun {
    /// The run, as far as it goes on: by the calendar, but never longer than it lasts altogether.
    pub(super) fn run(self, (calendar, now): (SystemTime, Instant)) -> (Key, Run) {
        let since = UNIX_EPOCH + Duration::from_millis(self.since_unix_ms.min(MAX_UNIX_MS));
        let lasts = Duration::from_millis(self.ends_after_ms).min(MAX_LASTS);
        // A calendar that has gone back says nothing.
        let gone = calendar.duration_since(since).unwrap_or(Duration::ZERO);
        let ends = now + lasts.saturating_sub(gone);
        let key = Key::new(ObjectKind::FaultInjection, &self.namespace, &self.name);
        (key, Run { digest: self.digest, since, lasts, ends, stopped: self.stopped })
    }
}

/// The year 9999: no calendar is further.
const MAX_UNIX_MS: u64 = 253_402_300_799_000;
/// Longer than any fault may last.
const MAX_LASTS: Duration = Duration::from_secs(48 * 3600);

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn read(state: &StateDir) -> Result<Kept, StateError> {
    let Some(content) = state.read(FILE)? else { return Ok(Kept::default()) };
    serde_json::from_slice(&content).map_err(|error| {
        let reason = format!("{error}; to begin without knowing whether faults were stopped, remove it");
        StateError::new(&state.file(FILE), reason)
    })
}

pub(super) fn write(state: &StateDir, kept: &Kept) -> Result<(), StateError> {
    let content = serde_json::to_vec(kept).map_err(|error| StateError::new(&state.file(FILE), error))?;
    state.write(FILE, &content, 0o600)
}
