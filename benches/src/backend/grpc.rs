//! gRPC calls are echoed, unary or streaming alike: what comes goes back as it comes, and then a good status.

use anyhow::Result;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response, header};

pub(super) async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut back = respond.send_response(response, false)?;
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        let data = data?;
        let length = data.len();
        // What the client does not take back is held here, so its own window stays closed until it does.
        back.reserve_capacity(length);
        let mut rest = data;
        while !rest.is_empty() {
            let Some(capacity) = std::future::poll_fn(|cx| back.poll_capacity(cx)).await else {
                return Ok(());
            };
            let some = rest.split_to(capacity?.min(rest.len()));
            back.send_data(some, false)?;
            back.reserve_capacity(rest.len());
        }
        body.flow_control().release_capacity(length)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    Ok(back.send_trailers(trailers)?)
}
