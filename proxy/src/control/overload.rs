//! Looks at what the process may run short of, and puts stages into force for the workers.

use std::fs;
use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval};

use crate::limit::pressure::Pressure;
use crate::model::overload::{Monitor, Overload};
use crate::observe::metrics::{Gauge, Labels, Shard};
use crate::observe::series::{OVERLOAD_PRESSURE, OVERLOAD_STAGE};
use crate::sys;

/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;

impl Monitor {
    const fn name(self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Connections(_) => "connections",
            Self::OpenFiles => "open_files",
        }
    }
}

/// Looks again and again. What cannot be read is taken for plenty.
pub async fn watch(overload: Overload, pressure: Arc<Pressure>, metrics: Shard) {
    let shown = |family, label, name| metrics.gauge(family, &Labels::none().with(label, name));
    let monitors: Vec<(Monitor, Gauge)> = overload
        .monitors
        .iter()
        .map(|monitor| (*monitor, shown(OVERLOAD_PRESSURE, "resource", monitor.name())))
        .collect();
    let stages: Vec<Gauge> =
        overload.stages.iter().map(|(stage, _)| shown(OVERLOAD_STAGE, "action", stage.name())).collect();
    for monitor in &overload.monitors {
        if let Monitor::Connections(most) = monitor {
            pressure.limit_connections(usize::try_from(*most).unwrap_or(usize::MAX));
        }
    }
    let most_files = sys::raise_open_files();
    let mut ticks = interval(overload.refresh);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let used: Vec<f64> =
            monitors.iter().map(|(monitor, gauge)| look(*monitor, &pressure, most_files, gauge)).collect();
        for ((stage, triggers), gauge) in overload.stages.iter().zip(&stages) {
            let shares = triggers
                .iter()
                .map(|(place, trigger)| used.get(*place).map_or(0.0, |used| trigger.share(*used)));
            let share = shares.fold(0.0, f64::max);
            gauge.set(percent(share));
            if pressure.set(*stage, share) {
                let (action, in_force) = (stage.name(), share > 0.0);
                tracing::warn!(action, in_force, "what is done about overload has changed");
            }
            let for_memory = triggers.iter().any(|(place, _)| {
                overload.monitors.get(*place).is_some_and(|monitor| matches!(monitor, Monitor::Memory(_)))
            });
            if share > 0.0 && for_memory {
                // What was freed inside the process may be what is missing.
                sys::release_free_memory();
            }
        }
    }
}

/// The share of a resource that is used.
fn look(monitor: Monitor, pressure: &Pressure, most_files: u64, gauge: &Gauge) -> f64 {
    let (used, all) = match monitor {
        Monitor::Memory(most) => (resident_bytes(), most),
        Monitor::Connections(most) => (Some(pressure.connections() as u64), most),
        Monitor::OpenFiles => (open_files(), most_files),
    };
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more digits")]
    let share = used.unwrap_or(0) as f64 / all.max(1) as f64;
    gauge.set(percent(share));
    share
}

fn percent(share: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let percent = (share * 100.0).round() as u32;
    percent
}

fn resident_bytes() -> Option<u64> {
    let pages = fs::read_to_string("/proc/self/statm").ok()?;
    let resident: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(resident * PAGE_BYTES)
}

/// Newer kernels (6.2) say it as the size of the directory, which costs nothing however many there are.
fn open_files() -> Option<u64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    if size > 0 {
        return Some(size);
    }
    fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_read() {
        assert!(resident_bytes().unwrap() > 1024 * 1024);
        let before = open_files().unwrap();
        let held: Vec<_> = (0..20).map(|_| fs::File::open("/proc/self/statm").unwrap()).collect();
        assert!(open_files().unwrap() >= before + 15);
        drop(held);
    }
}
