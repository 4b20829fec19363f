//! What was decided about a request's way.

use std::sync::Arc;

use crate::http::message::{RequestHead, Version};
use crate::model::cluster::ProtocolChoice;
use crate::model::route_table::VirtualHost;
use crate::model::{Route, RouteAction, RouteTable};
use crate::upstream::ClusterState;
use crate::upstream::pool::UpstreamProtocol;

/// A route with what else was decided about the request.
pub(super) struct Routed<'a> {
    pub(super) table: &'a RouteTable,
    pub(super) host: &'a VirtualHost,
    pub(super) route: &'a Arc<Route>,
    /// Decides among the route's clusters.
    pub(super) draw: u64,
}

impl Routed<'_> {
    /// Whether the request goes on as something else than what was decided about.
    pub(super) fn changes_request(&self) -> bool {
        let (weighted, rewrites) = match &self.route.action {
            RouteAction::Forward(action) => {
                let rewrites = action.rewrite.is_some() || action.host.is_some();
                (action.cluster.pick(self.draw).1, rewrites)
            }
            RouteAction::Redirect(_) | RouteAction::Direct(_) => (None, false),
        };
        let changes = [&self.route.request_headers, &self.host.request_headers, &self.table.request_headers];
        let weighted = weighted.map(|entry| &entry.request_headers);
        rewrites || changes.into_iter().chain(weighted).any(|changes| !changes.is_empty())
    }
}

/// What is spoken with the cluster for this request.
#[must_use]
pub(super) fn protocol(cluster: &ClusterState, request: &RequestHead) -> UpstreamProtocol {
    match cluster.config().protocol {
        ProtocolChoice::Http1 => UpstreamProtocol::Http1,
        ProtocolChoice::Http2 => UpstreamProtocol::Http2,
        ProtocolChoice::Downstream if request.version == Version::Http2 => UpstreamProtocol::Http2,
        ProtocolChoice::Downstream => UpstreamProtocol::Http1,
        // An upgrade is one of HTTP/1.1's; not every server of HTTP/2 knows its like (RFC 8441).
        ProtocolChoice::Agreed if !request.upgrade.is_empty() => UpstreamProtocol::Http1,
        ProtocolChoice::Agreed => UpstreamProtocol::Agreed,
    }
}
