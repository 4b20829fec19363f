use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use outrider_proto::json;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::super::pool::{self, UpstreamProtocol};
use super::*;
use crate::http::message::{RequestHead, ResponseHead};
use crate::model::Cluster;
use crate::upstream::link::UpstreamError;

fn cluster(more: &str) -> Rc<ClusterState> {
    let message = json::from_yaml(&format!("{{name: c, connect_timeout: 5s, {more}}}")).unwrap();
    ClusterState::apart(&Arc::new(Cluster::from_proto(&message).unwrap()), Rc::default())
}

fn endpoint(address: SocketAddr) -> Rc<EndpointState> {
    Rc::new(EndpointState::new(address, None, Arc::default()))
}

fn request() -> RequestHead {
    RequestHead { authority: "a".to_owned(), path: "/".to_owned(), ..RequestHead::default() }
}

/// A server that takes so many streams at a time, answers none, and says how many connections it has had.
async fn server(streams: u32) -> (SocketAddr, Rc<Cell<u32>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count: Rc<Cell<u32>> = Rc::default();
    let counted = Rc::clone(&count);
    tokio::task::spawn_local(async move {
        while let Ok((socket, _)) = listener.accept().await {
            counted.set(counted.get() + 1);
            tokio::task::spawn_local(async move {
                let mut builder = h2::server::Builder::new();
                let handshake = builder.max_concurrent_streams(streams).handshake::<_, Bytes>(socket);
                let mut connection = handshake.await.unwrap();
                let mut kept = Vec::new();
                while let Some(stream) = connection.accept().await {
                    kept.push(stream);
                }
            });
        }
    });
    (address, count)
}

async fn lend(
    cluster: &Rc<ClusterState>,
    endpoint: &Rc<EndpointState>,
) -> Result<UpstreamLink, AcquireError> {
    pool::acquire(cluster, endpoint, UpstreamProtocol::Http2, Priority::Default).await
}

#[tokio::test]
async fn who_opens_a_connection_to_an_endpoint_that_is_gone_uses_it() {
    let work = async {
        let (address, connections) = server(100).await;
        let (cluster, gone) = (cluster(""), endpoint(address));
        gone.remove();
        assert!(lend(&cluster, &gone).await.is_ok());
        while connections.get() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(connections.get(), 1);
        assert!(gone.shared_connection().is_none(), "nobody else does");
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test]
async fn an_endpoint_without_a_connection_gets_one_and_who_finds_no_room_waits() {
    let work = async {
        let limits = "circuit_breakers: {thresholds: [{max_connections: 1, max_pending_requests: 1}]}";
        let cluster = cluster(limits);
        let ((first, to_first), (second, to_second)) = (server(1).await, server(1).await);
        let (first, second) = (endpoint(first), endpoint(second));
        let mut under_way = lend(&cluster, &first).await.unwrap();
        under_way.send_head(&request()).unwrap();
        assert!(lend(&cluster, &second).await.is_ok(), "beyond the limit, as in Envoy");
        // The settings of the peer are known once it has seen a stream.
        while first.shared_connection().is_some() {
            tokio::task::yield_now().await;
        }
        let next = lend(&cluster, &first);
        tokio::pin!(next);
        assert!(polled_once(&mut next).await.is_pending());
        let refused = lend(&cluster, &first).await;
        assert!(matches!(refused, Err(AcquireError::Overflow(Resource::Pending))), "one may wait");
        drop(under_way);
        assert!(next.await.is_ok());
        assert_eq!((to_first.get(), to_second.get()), (1, 1));
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test]
async fn all_who_wait_for_room_get_it_one_after_the_other() {
    let work = async {
        let limits = "circuit_breakers: {thresholds: [{max_connections: 1}]}";
        let (cluster, (address, connections)) = (cluster(limits), server(1).await);
        let endpoint = endpoint(address);
        let mut under_way = lend(&cluster, &endpoint).await.unwrap();
        under_way.send_head(&request()).unwrap();
        while endpoint.shared_connection().is_some() {
            tokio::task::yield_now().await;
        }
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(lend(&cluster, &endpoint))).collect();
        for waiter in &mut waiting {
            assert!(polled_once(waiter).await.is_pending());
        }
        drop(under_way);
        for waiter in waiting {
            // Each ends its stream before the next one has looked.
            let link = tokio::time::timeout(Duration::from_secs(10), waiter).await;
            drop(link.expect("told of room").unwrap());
        }
        assert_eq!(connections.get(), 1);
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test]
async fn a_connection_takes_no_more_streams_than_the_cluster_says() {
    let work = async {
        let http2 = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': \
                     type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: \
                     {http2_protocol_options: {max_concurrent_streams: 2}}}}";
        let (cluster, (address, connections)) = (cluster(http2), server(100).await);
        let endpoint = endpoint(address);
        let mut under_way = Vec::new();
        for _ in 0..5 {
            under_way.push(lend(&cluster, &endpoint).await.unwrap());
        }
        while connections.get() < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(connections.get(), 3);
    };
    LocalSet::new().run_until(work).await;
}

/// Polls once.
async fn polled_once<F: Future + Unpin>(future: &mut F) -> std::task::Poll<()> {
    poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).map(|_| ()))).await
}

#[tokio::test]
async fn a_fresh_connection_that_is_lost_is_not_taken_for_an_idle_one() {
    let work = async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (cluster, endpoint) = (cluster(""), endpoint(listener.local_addr().unwrap()));
        let mut link = lend(&cluster, &endpoint).await.unwrap();
        let request = request();
        link.send_head(&request).unwrap();
        drop(listener.accept().await.unwrap());
        let mut response = ResponseHead::default();
        let lost = poll_fn(|cx| link.poll_response(cx, &request.method, &mut response)).await.unwrap_err();
        assert!(!matches!(lost, UpstreamError::ClosedBeforeResponse { reused: true }), "{lost}");
    };
    LocalSet::new().run_until(work).await;
}
