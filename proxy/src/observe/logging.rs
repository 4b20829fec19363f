//! The proxy's own log, on standard error. Its levels can be changed while it runs, for all or for one module.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, fmt, reload};

/// Changes the levels while the proxy runs.
pub type LevelHandle = reload::Handle<Targets, Registry>;

/// What our modules' targets begin with.
const CRATE: &str = "outrider_proxy";
/// Events that somebody should look into. Whatever the level, they are written: whoever has taken over a workload
/// would want them gone.
const SECURITY: &str = "security";
/// The lowest level of theirs.
const SECURITY_LEVEL: LevelFilter = LevelFilter::WARN;

/// The modules that may have a level of their own: those at the top of the crate that log, and `security`.
pub const MODULES: &[&str] = &[
    "admin",
    "connection",
    "control",
    "exchange",
    "export",
    "identity",
    "lockin",
    "observe",
    "run",
    "runtime",
    SECURITY,
    "svid",
    "tcp",
    "upstream",
    "worker",
    "xds",
];

/// Why a level cannot be set.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// No such level.
    #[error("level must be one of error, warn, info, debug, trace, off")]
    Level,
    /// No such module.
    #[error("module must be one of {}", MODULES.join(", "))]
    Module,
    /// Logging has ended.
    #[error("the log cannot be changed any more")]
    Gone,
}

/// Starts logging: `level` is `error` to `trace` or `off`, `json` selects one object per line.
///
/// # Errors
/// When the level is unknown, or logging was started before.
pub fn start(level: &str, json: bool) -> anyhow::Result<LevelHandle> {
    let level: LevelFilter =
        level.parse().map_err(|_| anyhow::anyhow!("log level \"{level}\" is not known"))?;
    let (filter, handle) = filter(level);
    let registry = tracing_subscriber::registry().with(filter);
    if json {
        registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()?;
    } else {
        registry.with(fmt::layer().with_ansi(false).with_writer(std::io::stderr)).try_init()?;
    }
    Ok(handle)
}

/// The filter that `start` puts before the log, and its handle.
pub(crate) fn filter(level: LevelFilter) -> (reload::Layer<Targets, Registry>, LevelHandle) {
    reload::Layer::new(all(level))
}

/// All at one level.
fn all(level: LevelFilter) -> Targets {
    let targets = Targets::new().with_default(level);
    if level < SECURITY_LEVEL {
        targets.with_target(format!("{CRATE}::{SECURITY}"), SECURITY_LEVEL)
    } else {
        targets
    }
}

/// Sets the level of one module, or of all and none differently.
///
/// # Errors
/// When level or module are not known.
pub fn set(handle: &LevelHandle, module: Option<&str>, level: &str) -> Result<(), LevelError> {
    let level: LevelFilter = level.parse().map_err(|_| LevelError::Level)?;
    let Some(module) = module else {
        return handle.reload(all(level)).map_err(|_| LevelError::Gone);
    };
    if !MODULES.contains(&module) {
        return Err(LevelError::Module);
    }
    let level = if module == SECURITY { level.max(SECURITY_LEVEL) } else { level };
    let changed = handle.modify(|targets| {
        *targets = std::mem::take(targets).with_target(format!("{CRATE}::{module}"), level);
    });
    changed.map_err(|_| LevelError::Gone)
}

/// The levels as they are, a line each.
#[must_use]
pub fn describe(handle: &LevelHandle) -> String {
    let lines = handle.with_current(|targets| {
        let level = targets.default_level().unwrap_or(LevelFilter::OFF);
        let mut modules: Vec<String> = targets
            .iter()
            .filter_map(|(target, level)| Some((target.strip_prefix(CRATE)?.strip_prefix("::")?, level)))
            .map(|(module, level)| format!("  {module}: {level}\n"))
            .collect();
        modules.sort();
        format!("level: {level}\n{}", modules.concat())
    });
    lines.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn levels_are_set_for_all_or_one() {
        let (_layer, handle) = filter(LevelFilter::INFO);
        assert_eq!(describe(&handle), "level: info\n");
        set(&handle, Some("xds"), "trace").unwrap();
        set(&handle, Some("tcp"), "debug").unwrap();
        set(&handle, Some("xds"), "error").unwrap();
        assert_eq!(describe(&handle), "level: info\n  tcp: debug\n  xds: error\n");
        set(&handle, None, "warn").unwrap();
        assert_eq!(describe(&handle), "level: warn\n");
        for nothing in ["error", "off"] {
            set(&handle, None, nothing).unwrap();
            assert_eq!(describe(&handle), format!("level: {nothing}\n  security: warn\n"));
            set(&handle, Some("security"), nothing).unwrap();
            assert_eq!(describe(&handle), format!("level: {nothing}\n  security: warn\n"));
        }
        assert_eq!(describe(&filter(LevelFilter::OFF).1), "level: off\n  security: warn\n");
        set(&handle, Some("security"), "debug").unwrap();
        assert_eq!(describe(&handle), "level: off\n  security: debug\n");
        set(&handle, None, "warn").unwrap();
        assert_eq!(set(&handle, None, "loud"), Err(LevelError::Level));
        assert_eq!(set(&handle, Some("h2"), "info"), Err(LevelError::Module));
        assert_eq!(describe(&handle), "level: warn\n");
    }

    #[test]
    fn a_level_holds_for_what_is_below_its_module() {
        let (layer, handle) = filter(LevelFilter::WARN);
        let lines = std::sync::Arc::new(Mutex::new(Vec::new()));
        let sink = std::sync::Arc::clone(&lines);
        let writer = move || Sink(std::sync::Arc::clone(&sink));
        let subscriber = tracing_subscriber::registry()
            .with(layer)
            .with(fmt::layer().with_ansi(false).with_writer(writer));
        tracing::subscriber::with_default(subscriber, || {
            set(&handle, Some("xds"), "debug").unwrap();
            tracing::debug!(target: "outrider_proxy::xds::client", "one");
            tracing::debug!(target: "outrider_proxy::tcp", "two");
            tracing::warn!(target: "h2", "three");
        });
        let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
        assert!(text.contains("one") && !text.contains("two") && text.contains("three"), "{text}");
    }

    struct Sink(std::sync::Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_module_that_logs_has_a_level() {
        for (path, text) in crate::observe::sources() {
            let module = path.split(['/', '.']).next().unwrap();
            let logs = ["error", "warn", "info", "debug", "trace"]
                .iter()
                .any(|level| text.contains(&format!("tracing::{level}!")));
            assert!(!logs || MODULES.contains(&module), "{path} logs");
        }
    }
}
