//! The proxy's own log, on standard error.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, fmt, reload};

/// Changes the level while the proxy runs.
pub type LevelHandle = reload::Handle<LevelFilter, Registry>;

/// Starts logging: `level` is `error` to `trace` or `off`, `json` selects one object per line.
///
/// # Errors
/// When the level is unknown, or logging was started before.
pub fn start(level: &str, json: bool) -> anyhow::Result<LevelHandle> {
    let level: LevelFilter =
        level.parse().map_err(|_| anyhow::anyhow!("log level \"{level}\" is not known"))?;
    let (filter, handle) = reload::Layer::new(level);
    let registry = tracing_subscriber::registry().with(filter);
    if json {
        registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()?;
    } else {
        registry.with(fmt::layer().with_ansi(false).with_writer(std::io::stderr)).try_init()?;
    }
    Ok(handle)
}
