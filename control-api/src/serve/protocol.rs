//! What the two protocols have in common: one way to drive them.

use std::fmt;
use std::sync::Arc;

use outrider_proto::envoy::config::core::v3::Node;
use outrider_proto::envoy::service::discovery::v3 as pb;
use tokio::time::Instant;

use super::{Answer, Differ, Outgoing, ProtocolError, Standing, delta, sotw};
use crate::snapshot::{Kind, Snapshot};

/// The state of one stream, without I/O and without a clock.
pub(super) trait Protocol: Send + fmt::Debug + Sized + 'static {
    /// What a client says.
    type Request: Send + fmt::Debug;
    /// What it is told.
    type Response: Send + fmt::Debug;
    /// Its name in the API and in metrics.
    const NAME: &str;

    fn open(identifier: Arc<str>, leasing: bool, snapshot: Arc<Snapshot>, differ: Arc<Differ>) -> Self;
    fn request(&mut self, request: &Self::Request, now: Instant) -> Result<Option<Answer>, ProtocolError>;
    fn change(&mut self, snapshot: Arc<Snapshot>);
    fn next(&mut self, now: Instant) -> Option<Outgoing<Self::Response>>;
    fn wake(&self, now: Instant) -> Option<Instant>;
    fn standing(&self) -> Vec<(Kind, Standing)>;
    fn node(request: &Self::Request) -> Option<&Node>;
}

macro_rules! protocol {
    ($session:ty, $request:ty, $response:ty, $name:literal) => {
        impl Protocol for $session {
            type Request = $request;
            type Response = $response;
            const NAME: &str = $name;

            fn open(
                identifier: Arc<str>,
                leasing: bool,
                snapshot: Arc<Snapshot>,
                differ: Arc<Differ>,
            ) -> Self {
                Self::new(identifier, leasing, snapshot, differ)
            }

            fn request(
                &mut self,
                request: &Self::Request,
                now: Instant,
            ) -> Result<Option<Answer>, ProtocolError> {
                Self::request(self, request, now)
            }

            fn change(&mut self, snapshot: Arc<Snapshot>) {
                Self::change(self, snapshot);
            }

            fn next(&mut self, now: Instant) -> Option<Outgoing<Self::Response>> {
                Self::next(self, now)
            }

            fn wake(&self, now: Instant) -> Option<Instant> {
                Self::wake(self, now)
            }

            fn standing(&self) -> Vec<(Kind, Standing)> {
                Self::standing(self).collect()
            }

            fn node(request: &Self::Request) -> Option<&Node> {
                request.node.as_ref()
            }
        }
    };
}

protocol!(delta::Session, pb::DeltaDiscoveryRequest, pb::DeltaDiscoveryResponse, "delta");
protocol!(sotw::Session, pb::DiscoveryRequest, pb::DiscoveryResponse, "sotw");
