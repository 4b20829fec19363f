//! One health check of one endpoint: over connections of its own, which count against none of the cluster's limits.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Method, StatusCode};
use outrider_proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::clusters::ClusterState;
use super::connect::Offer;
use super::endpoint::EndpointState;
use super::pool::{self, UpstreamProtocol};
use crate::http::body::{Collect, Discard, Pump, Whole};
use crate::http::headers::Headers;
use crate::http::message::{BodyLength, RequestHead, ResponseHead};
use crate::model::Cluster;
use crate::model::headers::{HeaderChanges, Values};
use crate::model::health_check::{Asks, GrpcCheck, HealthCheck, HttpCheck, TcpCheck};
use crate::model::limits::Priority;
use crate::observe::format::Record;
use crate::transport::BufferPool;

/// Longest gRPC answer, with its prefix, in bytes.
const MAX_GRPC_BYTES: usize = 64;
/// Bytes of an answer over TCP that are looked through.
const MAX_TCP_BYTES: usize = 64 * 1024;
/// What we are called by those who are asked.
const USER_AGENT: &[u8] = b"Outrider/HC";

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is well.
    Passed,
    /// It says that it is not.
    Failed,
    /// It says so with a status that may pass.
    Doubtful,
    /// It does not answer, or makes no sense.
    Unreachable,
    /// It does not answer in time.
    TimedOut,
}

impl Finding {
    /// The name in metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Doubtful => "doubtful",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
        }
    }
}

/// Why there is no finding.
struct NoAnswer;

impl<E: std::error::Error> From<E> for NoAnswer {
    fn from(_: E) -> Self {
        Self
    }
}

/// An endpoint that is asked.
#[derive(Debug)]
pub struct Subject {
    cluster: Rc<ClusterState>,
    endpoint: Rc<EndpointState>,
    /// Its own name for checks.
    host: Option<Arc<str>>,
}

impl Subject {
    /// Without a connection yet.
    #[must_use]
    pub fn new(
        cluster: &Arc<Cluster>,
        (address, more): (SocketAddr, &Arc<[SocketAddr]>),
        host: Option<Arc<str>>,
        buffers: Rc<BufferPool>,
    ) -> Self {
        let endpoint = Rc::new(EndpointState::new(address, None, Arc::default()).and_at(more));
        Self { cluster: ClusterState::apart(cluster, buffers), endpoint, host }
    }

    /// Where it is asked.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address()
    }

    /// Asks it. Cancel-safe.
    pub async fn ask(&self, check: &HealthCheck) -> Finding {
        let asked = timeout(check.timeout, async {
            match &check.asks {
                Asks::Http(http) => self.http(http).await,
                Asks::Grpc(grpc) => self.grpc(grpc).await,
                Asks::Tcp(tcp) => self.tcp(tcp).await,
            }
        });
        let finding = match asked.await {
            Ok(Ok(finding)) => finding,
            Ok(Err(NoAnswer)) => Finding::Unreachable,
            Err(_) => Finding::TimedOut,
        };
        if !check.reuse_connection {
            self.endpoint.close_all();
        }
        finding
    }

    async fn http(&self, check: &HttpCheck) -> Result<Finding, NoAnswer> {
        let mut request = RequestHead {
            method: check.method.clone(),
            authority: self.authority(&check.host),
            path: check.path.to_string(),
            ..RequestHead::default()
        };
        request.headers.set(b"user-agent", USER_AGENT);
        change(&check.headers, &mut request.headers);
        let protocol = if check.http2 { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 };
        let mut sink = Discard;
        let response = self.exchange(protocol, &request, Bytes::new(), &mut sink).await?;
        let status = i64::from(response.status.as_u16());
        let is_in = |ranges: &[std::ops::Range<i64>]| ranges.iter().any(|range| range.contains(&status));
        Ok(if response.headers.contains(b"x-envoy-immediate-health-check-fail") {
            Finding::Failed
        } else if is_in(&check.expected) {
            Finding::Passed
        } else if is_in(&check.retriable) {
            Finding::Doubtful
        } else {
            Finding::Failed
        })
    }

    async fn grpc(&self, check: &GrpcCheck) -> Result<Finding, NoAnswer> {
        let message = HealthCheckRequest { service: check.service.to_string() };
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(u32::try_from(message.encoded_len())?);
        message.encode(&mut body)?;
        let mut request = RequestHead {
            method: Method::POST,
            authority: self.authority(&check.authority),
            path: "/grpc.health.v1.Health/Check".to_owned(),
            body: BodyLength::Known(body.len() as u64),
            te_trailers: true,
            ..RequestHead::default()
        };
        request.headers.set(b"content-type", b"application/grpc");
        request.headers.set(b"user-agent", USER_AGENT);
        change(&check.metadata, &mut request.headers);
        let mut sink = Collect::new(MAX_GRPC_BYTES);
        let response = self.exchange(UpstreamProtocol::Http2, &request, body.freeze(), &mut sink).await?;
        let status = sink.trailers.first(b"grpc-status").or_else(|| response.headers.first(b"grpc-status"));
        if response.status != StatusCode::OK || status != Some(b"0") {
            return Ok(Finding::Failed);
        }
        let serving = sink.bytes.get(5..).and_then(|message| HealthCheckResponse::decode(message).ok());
        let serving = serving.is_some_and(|message| message.status == 1);
        Ok(if serving { Finding::Passed } else { Finding::Failed })
    }

    async fn tcp(&self, check: &TcpCheck) -> Result<Finding, NoAnswer> {
        let mut transport = pool::dial(&self.cluster, &self.endpoint, Offer::Opaque).await?;
        if !check.send.is_empty() {
            transport.write_all(&check.send).await?;
            transport.flush().await?;
        }
        let mut seen = Vec::new();
        while !holds(&seen, &check.receive) {
            let before = seen.len();
            let read = (&mut transport).take(MAX_TCP_BYTES as u64).read_buf(&mut seen).await?;
            if read == 0 || before + read > MAX_TCP_BYTES {
                return Err(NoAnswer);
            }
        }
        Ok(Finding::Passed)
    }

    fn authority(&self, configured: &str) -> String {
        let own = self.host.as_deref().or((!configured.is_empty()).then_some(configured));
        own.unwrap_or(&self.cluster.config().name).to_owned()
    }

    /// Sends a request and reads its answer to the end, so that the connection can be used again.
    async fn exchange<S: crate::http::body::BodySink>(
        &self,
        protocol: UpstreamProtocol,
        request: &RequestHead,
        body: Bytes,
        sink: &mut S,
    ) -> Result<ResponseHead, NoAnswer> {
        let (cluster, endpoint) = (&self.cluster, &self.endpoint);
        let mut link = pool::acquire(cluster, endpoint, protocol, Priority::Default).await?;
        link.send_head(request)?;
        let (mut response, mut up, mut body) = (ResponseHead::default(), Pump::default(), Whole(body));
        poll_fn(|cx| {
            if !up.is_done() {
                // If it fails there may be an answer all the same.
                let _ = up.poll(cx, &mut body, &mut link);
            }
            while let Poll::Ready(polled) = link.poll_response(cx, &request.method, &mut response) {
                if polled.is_err() || !response.is_interim() {
                    return Poll::Ready(polled);
                }
            }
            Poll::Pending
        })
        .await?;
        let mut down = Pump::default();
        poll_fn(|cx| down.poll(cx, &mut link, sink)).await?;
        if up.is_done() {
            link.finish(cluster, endpoint, Instant::now());
        }
        Ok(response)
    }
}

fn change(changes: &HeaderChanges, headers: &mut Headers) {
    let mut values = Values::default();
    changes.remove_from(headers);
    changes.render(&Record::default(), &mut values);
    changes.add_to(headers, &values);
}

/// Whether all of them are there, one behind the other.
fn holds(mut seen: &[u8], wanted: &[Box<[u8]>]) -> bool {
    wanted.iter().all(|part| match memchr::memmem::find(seen, part) {
        Some(at) => {
            seen = seen.get(at + part.len()..).unwrap_or_default();
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_in_their_order() {
        let parts =
            |parts: &[&str]| -> Vec<Box<[u8]>> { parts.iter().map(|part| part.as_bytes().into()).collect() };
        assert!(holds(b"", &[]));
        assert!(holds(b"--one--two--", &parts(&["one", "two"])));
        assert!(!holds(b"--two--one--", &parts(&["one", "two"])));
        assert!(!holds(b"one", &parts(&["one", "one"])));
        assert!(!holds(b"on", &parts(&["one"])));
    }
}
