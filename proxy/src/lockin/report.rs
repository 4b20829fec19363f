//! What holds and what the kernel lacks.

use landlock::PathFd;
use serde_json::{Value, json};

use super::Level;

/// What became of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It holds; what exactly.
    Held(String),
    /// It only logs, or cannot even do that; why.
    Logged(String),
    /// The kernel, or whoever started the proxy, does not let us have it; why.
    Lacking(String),
}

impl State {
    const fn name(&self) -> &'static str {
        match self {
            Self::Held(_) => "held",
            Self::Logged(_) => "logged",
            Self::Lacking(_) => "lacking",
        }
    }

    fn detail(&self) -> &str {
        match self {
            Self::Held(detail) | Self::Logged(detail) | Self::Lacking(detail) => detail,
        }
    }
}

/// What became of all layers. Kept as long as the process lives.
#[derive(Debug, Default)]
pub struct Report {
    level: Level,
    layers: Vec<(&'static str, State)>,
    /// What an operator should know of: files that will not be found again.
    notes: Vec<String>,
    held: Vec<PathFd>,
}

impl Report {
    /// Nothing done yet.
    #[must_use]
    pub const fn new(level: Level) -> Self {
        Self { level, layers: Vec::new(), notes: Vec::new(), held: Vec::new() }
    }

    pub(super) fn add(&mut self, layer: &'static str, state: State) {
        self.layers.push((layer, state));
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub(super) fn hold(&mut self, places: Vec<PathFd>) {
        self.held = places;
    }

    /// The layers, in the order in which they were put on.
    #[must_use]
    pub fn layers(&self) -> &[(&'static str, State)] {
        &self.layers
    }

    /// Writes it to the log and into the metrics.
    pub fn tell(&self) {
        if self.level == Level::Off {
            tracing::warn!("the proxy is not locked in: OUTRIDER_LOCK_IN is off");
        }
        let held: Vec<&str> = self
            .layers
            .iter()
            .filter(|(_, state)| matches!(state, State::Held(_)))
            .map(|(layer, _)| *layer)
            .collect();
        if !held.is_empty() {
            tracing::info!(layers = held.join(" "), "locked in");
        }
        for (layer, state) in &self.layers {
            match state {
                State::Held(_) => {}
                State::Logged(detail) => tracing::warn!(layer, detail, "not locked in, only logged"),
                State::Lacking(detail) => {
                    tracing::warn!(layer, detail, "not locked in: it cannot be had here")
                }
            }
            let labels = [("layer", *layer), ("state", state.name())];
            metrics::gauge!("outrider_lock_in", &labels).set(1.0);
        }
        for note in &self.notes {
            tracing::warn!("lock-in: {note}");
        }
    }

    /// As `/server_info` shows it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let layers: serde_json::Map<String, Value> = self
            .layers
            .iter()
            .map(|(layer, state)| {
                ((*layer).to_owned(), json!({"state": state.name(), "detail": state.detail()}))
            })
            .collect();
        json!({"level": self.level.name(), "layers": layers, "notes": self.notes})
    }
}
