//! What a cluster has in use, counted over all workers, and the circuit-breaker limits on it.
//!
//! Envoy's thresholds (`envoy.config.cluster.v3.CircuitBreakers.Thresholds`) hold for a whole process, so the
//! counts are shared atomics. Two workers that take the last place at the same moment both look after they
//! have counted themselves, so a limit is never passed, and at worst one place stays free for that moment.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::host::Hosts;
use crate::limit::Bucket;
use crate::model::limits::Priority;

/// Counts of one cluster.
#[derive(Debug, Default)]
pub struct Usage {
    /// What is known of its endpoints.
    pub hosts: Hosts,
    /// The retries that there are in any case.
    pub reserve: Bucket,
    /// Whether there has been a connection.
    traffic: AtomicBool,
    default: Counts,
    high: Counts,
}

/// Counts of one priority.
#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
}

/// Which of the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Open or opening connections (`max_connections`).
    Connections,
    /// Requests that wait for a connection (`max_pending_requests`).
    Pending,
    /// Requests under way (`max_requests`).
    Requests,
    /// Retries under way (`max_retries`).
    Retries,
}

impl Resource {
    /// The name of the limit in the configuration.
    #[must_use]
    pub const fn limit_name(self) -> &'static str {
        match self {
            Self::Connections => "max_connections",
            Self::Pending => "max_pending_requests",
            Self::Requests => "max_requests",
            Self::Retries => "max_retries",
        }
    }
}

impl Usage {
    /// Whether there has been a connection.
    #[must_use]
    pub fn had_traffic(&self) -> bool {
        self.traffic.load(Ordering::Relaxed)
    }

    /// Takes note of a connection.
    pub(super) fn note_traffic(&self) {
        if !self.had_traffic() {
            self.traffic.store(true, Ordering::Relaxed);
        }
    }

    /// How many are in use now.
    #[must_use]
    pub fn count(&self, resource: Resource, priority: Priority) -> u32 {
        self.cell(resource, priority).load(Ordering::Relaxed)
    }

    /// Takes a place that is given back when the permit is dropped; `None` when `limit` are in use.
    #[must_use]
    pub fn permit(self: &Arc<Self>, resource: Resource, priority: Priority, limit: u32) -> Option<Permit> {
        let permit = self.permit_unlimited(resource, priority);
        (self.count(resource, priority) <= limit).then_some(permit)
    }

    /// Takes a place whatever the limit says.
    #[must_use]
    pub fn permit_unlimited(self: &Arc<Self>, resource: Resource, priority: Priority) -> Permit {
        self.cell(resource, priority).fetch_add(1, Ordering::Relaxed);
        Permit { usage: Arc::clone(self), resource, priority }
    }

    const fn cell(&self, resource: Resource, priority: Priority) -> &AtomicU32 {
        let counts = match priority {
            Priority::Default => &self.default,
            Priority::High => &self.high,
        };
        match resource {
            Resource::Connections => &counts.connections,
            Resource::Pending => &counts.pending,
            Resource::Requests => &counts.requests,
            Resource::Retries => &counts.retries,
        }
    }
}

/// A place in use.
#[derive(Debug)]
pub struct Permit {
    usage: Arc<Usage>,
    resource: Resource,
    priority: Priority,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.usage.cell(self.resource, self.priority).fetch_sub(1, Ordering::Relaxed);
    }
}

/// The counts by cluster name, looked up when a worker learns of a cluster, never per request. They outlive a
/// change of the cluster's configuration.
#[derive(Debug, Default)]
pub struct UsageRegistry {
    by_name: Mutex<HashMap<Arc<str>, Weak<Usage>>>,
}

impl UsageRegistry {
    /// The counts of this cluster.
    #[must_use]
    pub fn cluster(&self, name: &Arc<str>) -> Arc<Usage> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = by_name.get(name).and_then(Weak::upgrade) {
            return usage;
        }
        by_name.retain(|_, usage| usage.strong_count() > 0);
        let usage = Arc::new(Usage::default());
        by_name.insert(Arc::clone(name), Arc::downgrade(&usage));
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_never_passed_and_places_come_back() {
        let usage = Arc::new(Usage::default());
        let first = usage.permit(Resource::Requests, Priority::Default, 2);
        let second = usage.permit(Resource::Requests, Priority::Default, 2);
        assert!(first.is_some() && second.is_some());
        assert!(usage.permit(Resource::Requests, Priority::Default, 2).is_none());
        assert_eq!(usage.count(Resource::Requests, Priority::Default), 2);
        assert_eq!(usage.count(Resource::Retries, Priority::Default), 0);
        // Each priority has places of its own.
        assert!(usage.permit(Resource::Requests, Priority::High, 1).is_some());
        drop(first);
        assert!(usage.permit(Resource::Requests, Priority::Default, 2).is_some());
        assert!(usage.permit(Resource::Pending, Priority::Default, 0).is_none());
    }

    #[test]
    fn the_registry_keeps_counts_while_somebody_holds_them() {
        let registry = UsageRegistry::default();
        let name: Arc<str> = "a".into();
        let usage = registry.cluster(&name);
        let permit = usage.permit(Resource::Connections, Priority::Default, 1);
        assert_eq!(registry.cluster(&name).count(Resource::Connections, Priority::Default), 1);
        drop((usage, permit));
        assert_eq!(registry.cluster(&name).count(Resource::Connections, Priority::Default), 0);
    }
}
