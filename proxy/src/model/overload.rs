//! What is done when the process runs short of something (Envoy's `OverloadManager`).

use std::time::Duration;

use outrider_proto::envoy::config::overload::v3 as pb;
use outrider_proto::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use outrider_proto::envoy::extensions::resource_monitors::fixed_heap::v3::FixedHeapConfig;
use outrider_proto::outrider::overload::v1::OpenFiles;
use outrider_proto::{Path, unpack};
use pb::trigger::TriggerOneof;

use super::parse;
use crate::limit::pressure::Stage;

/// Envoy's default of `refresh_interval`.
const REFRESH: Duration = Duration::from_secs(1);
/// Shortest time between two looks: each costs a few system calls.
const MIN_REFRESH: Duration = Duration::from_millis(10);
/// What the names of actions begin with.
const ACTION: &str = "envoy.overload_actions.";

/// A compiled overload manager.
#[derive(Clone, Debug, PartialEq)]
pub struct Overload {
    /// Between two looks.
    pub refresh: Duration,
    /// What is looked at.
    pub monitors: Vec<Monitor>,
    /// What follows: a stage, and by the place of a monitor when.
    pub stages: Vec<(Stage, Vec<(usize, Trigger)>)>,
}

/// A resource that may be short, with what is all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Monitor {
    /// Resident memory, in bytes.
    Memory(u64),
    /// Connections from clients.
    Connections(u64),
    /// Open files, of the process's limit.
    OpenFiles,
}

/// From which share of a resource on a stage is in force.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trigger {
    /// From here on for a few cases.
    from: f64,
    /// From here on for all.
    full: f64,
}

impl Trigger {
    /// For which share of cases, when this share of the resource is used.
    #[must_use]
    pub fn share(&self, used: f64) -> f64 {
        if used >= self.full {
            1.0
        } else if used <= self.from {
            0.0
        } else {
            (used - self.from) / (self.full - self.from)
        }
    }
}

impl Overload {
    pub(super) fn from_proto(value: &pb::OverloadManager, path: &mut Path) -> Self {
        let refresh = parse::duration(value.refresh_interval.as_ref(), REFRESH, "refresh_interval", path);
        if refresh < MIN_REFRESH {
            path.fault_at("refresh_interval", "must be at least 10ms");
        }
        let mut names: Vec<&str> = Vec::new();
        let mut monitors = Vec::new();
        for (index, monitor) in value.resource_monitors.iter().enumerate() {
            path.item("resource_monitors", index, |path| {
                parse::required(&monitor.name, "name", path);
                if names.contains(&monitor.name.as_str()) {
                    path.fault_at("name", "is there twice");
                }
                if let Some(found) = Monitor::from_proto(monitor, path) {
                    names.push(&monitor.name);
                    monitors.push(found);
                }
            });
        }
        let actions = value.actions.iter().enumerate();
        let stages = actions
            .filter_map(|(index, action)| path.item("actions", index, |path| stage(action, &names, path)));
        Self { refresh, stages: stages.collect(), monitors }
    }
}

impl Monitor {
    fn from_proto(value: &pb::ResourceMonitor, path: &mut Path) -> Option<Self> {
        let Some(pb::resource_monitor::ConfigType::TypedConfig(any)) = &value.config_type else {
            return path.field("typed_config", |path| path.refuse("missing"));
        };
        path.field("typed_config", |path| {
            if let Some(heap) = unpack::<FixedHeapConfig>(any) {
                if heap.max_heap_size_bytes == 0 {
                    path.fault_at("max_heap_size_bytes", "must be at least 1");
                }
                Some(Self::Memory(heap.max_heap_size_bytes))
            } else if let Some(connections) = unpack::<DownstreamConnectionsConfig>(any) {
                match u64::try_from(connections.max_active_downstream_connections) {
                    Ok(most) if most > 0 => Some(Self::Connections(most)),
                    Ok(_) | Err(_) => path
                        .field("max_active_downstream_connections", |path| path.refuse("must be at least 1")),
                }
            } else if unpack::<OpenFiles>(any).is_some() {
                Some(Self::OpenFiles)
            } else {
                path.refuse(format!("\"{}\" is not a resource monitor", any.type_url))
            }
        })
    }
}

fn stage(
    value: &pb::OverloadAction,
    monitors: &[&str],
    path: &mut Path,
) -> Option<(Stage, Vec<(usize, Trigger)>)> {
    let name = value.name.strip_prefix(ACTION);
    let stage = Stage::ALL.into_iter().find(|stage| Some(stage.name()) == name);
    if stage.is_none() {
        let names = Stage::ALL.map(Stage::name).join(", ");
        path.fault_at("name", format!("must be \"{ACTION}\" and one of {names}"));
    }
    if value.triggers.is_empty() {
        path.fault_at("triggers", "missing");
    }
    let triggers = value.triggers.iter().enumerate().filter_map(|(index, trigger)| {
        path.item("triggers", index, |path| {
            let Some(place) = monitors.iter().position(|name| *name == trigger.name) else {
                return path.field("name", |path| path.refuse("is none of resource_monitors"));
            };
            let (from, full) = match &trigger.trigger_oneof {
                Some(TriggerOneof::Threshold(threshold)) => (threshold.value, threshold.value),
                Some(TriggerOneof::Scaled(scaled)) => (scaled.scaling_threshold, scaled.saturation_threshold),
                None => return path.refuse("one of threshold and scaled is needed"),
            };
            if !(0.0..=1.0).contains(&from) || !(from..=1.0).contains(&full) {
                path.fault("thresholds must be from 0 to 1, and that of saturation not the lower one");
            }
            Some((place, Trigger { from, full }))
        })
    });
    let triggers = triggers.collect();
    Some((stage?, triggers))
}

#[cfg(test)]
mod tests {
    use outrider_proto::json;

    use super::*;

    fn compiled(yaml: &str) -> Result<Overload, String> {
        let value: pb::OverloadManager = json::from_yaml(yaml).unwrap();
        let mut path = Path::root();
        let overload = Overload::from_proto(&value, &mut path);
        path.finish(Some(overload)).map_err(|faults| format!("{faults:?}"))
    }

    const FILES: &str = "resource_monitors: [{name: f, typed_config: {'@type': type.googleapis.com/outrider.overload.v1.OpenFiles}}]";

    #[test]
    fn stages_come_into_force_by_their_triggers() {
        let overload = compiled(&format!(
            "{{{FILES}, actions: [{{name: envoy.overload_actions.stop_accepting_requests, triggers: [{{name: f, scaled: {{scaling_threshold: 0.8, saturation_threshold: 0.9}}}}]}}, \
             {{name: envoy.overload_actions.reject_incoming_connections, triggers: [{{name: f, threshold: {{value: 0.95}}}}]}}]}}"
        ))
        .unwrap();
        let share = |stage: usize, used: f64| (overload.stages[stage].1[0].1.share(used) * 100.0).round();
        for (used, requests, connections) in [
            (0.5, 0.0, 0.0),
            (0.8, 0.0, 0.0),
            (0.85, 50.0, 0.0),
            (0.9, 100.0, 0.0),
            (0.95, 100.0, 100.0),
            (2.0, 100.0, 100.0),
        ] {
            assert_eq!((share(0, used), share(1, used)), (requests, connections), "{used}");
        }
        assert_eq!(overload.refresh, Duration::from_secs(1));
    }

    #[test]
    fn what_cannot_come_into_force_is_refused() {
        let action = |action: &str| format!("{{{FILES}, actions: [{action}]}}");
        let named = "name: envoy.overload_actions.disable_http_keepalive";
        for (yaml, part) in [
            (
                action(
                    "{name: envoy.overload_actions.shrink_heap, triggers: [{name: f, threshold: {value: 0.5}}]}",
                ),
                "name",
            ),
            (action(&format!("{{{named}}}")), "triggers"),
            (
                action(&format!("{{{named}, triggers: [{{name: g, threshold: {{value: 0.5}}}}]}}")),
                "resource_monitors",
            ),
            (action(&format!("{{{named}, triggers: [{{name: f}}]}}")), "threshold"),
            (
                action(&format!("{{{named}, triggers: [{{name: f, threshold: {{value: 1.5}}}}]}}")),
                "from 0 to 1",
            ),
            (
                action(&format!(
                    "{{{named}, triggers: [{{name: f, scaled: {{scaling_threshold: 0.9, saturation_threshold: 0.8}}}}]}}"
                )),
                "saturation",
            ),
            (format!("{{{FILES}, refresh_interval: 0.001s}}"), "refresh_interval"),
        ] {
            let error = compiled(&yaml).unwrap_err();
            assert!(error.contains(part), "{part} not in {error}");
        }
    }
}
