//! All objects of a moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::authorization::AuthorizationPolicy;
use super::core::{EndpointSlice, Namespace, Pod, Service};
use super::egress::EgressPolicy;
use super::fault_injection::FaultInjection;
use super::gateway::{GrpcRoute, TcpRoute};
use super::http_route::HttpRoute;
use super::revocation::Revocation;
use super::traffic::TrafficPolicy;
use super::workload::Workload;
use super::{AnyObject, Key, Object, ObjectKind};

/// Objects of one kind by their keys; the objects are shared, so that a copy is cheap.
pub type Map<S> = BTreeMap<Key, Arc<Object<S>>>;

macro_rules! objects {
    ($($field:ident $kind:ident $type:ty;)*) => {
        /// All objects of a moment. A copy shares the objects; who holds one sees no later change.
        #[derive(Clone, Debug, Default)]
        #[expect(missing_docs, reason = "the kinds")]
        pub struct Objects {
            $(pub $field: Map<$type>,)*
        }

        impl Objects {
            /// Puts an object in, in place of the one with the same key.
            pub fn insert(&mut self, object: AnyObject) {
                match object {
                    $(AnyObject::$kind(object) => {
                        self.$field.insert(object.key.clone(), object);
                    })*
                }
            }

            /// Takes an object out; whether it was there.
            pub fn remove(&mut self, key: &Key) -> bool {
                match key.kind {
                    $(ObjectKind::$kind => self.$field.remove(key).is_some(),)*
                }
            }

            /// An object by its key.
            #[must_use]
            pub fn object(&self, key: &Key) -> Option<AnyObject> {
                match key.kind {
                    $(ObjectKind::$kind => self.$field.get(key).cloned().map(AnyObject::$kind),)*
                }
            }

            /// All of them, kind by kind, in the order of their keys.
            pub fn all(&self) -> impl Iterator<Item = AnyObject> + '_ {
                std::iter::empty()$(.chain(self.$field.values().cloned().map(AnyObject::$kind)))*
            }

            /// How many there are.
            #[must_use]
            pub fn len(&self) -> usize {
                0 $(+ self.$field.len())*
            }
        }
    };
}

objects! {
    namespaces Namespace Namespace;
    services Service Service;
    slices EndpointSlice EndpointSlice;
    pods Pod Pod;
    http_routes HttpRoute HttpRoute;
    grpc_routes GrpcRoute GrpcRoute;
    tcp_routes TcpRoute TcpRoute;
    workloads Workload Workload;
    traffic TrafficPolicy TrafficPolicy;
    authorization AuthorizationPolicy AuthorizationPolicy;
    egress EgressPolicy EgressPolicy;
    faults FaultInjection FaultInjection;
    revocations Revocation Revocation;
}

impl Objects {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
