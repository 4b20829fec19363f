//! Answers that the proxy makes itself.

use std::fmt::{Display, Write as _};
use std::future::poll_fn;
use std::task::Poll;
use std::time::SystemTime;

use bytes::Bytes;
use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::time::{Instant, timeout};

use super::report::Report;
use super::{Origin, Outcome, Routed};
use crate::fault::shape::poll_pump;
use crate::http::body::{Pump, Whole};
use crate::http::downstream::Downstream;
use crate::http::heads::Heads;
use crate::http::message::{BodyLength, RequestHead, ResponseHead};
use crate::model::Route;
use crate::model::route::{DirectAction, RedirectAction, RedirectPath};
use crate::observe::{Flags, Reason};

/// The header that carries the reason code.
pub const REASON_HEADER: &[u8] = b"outrider-error";

/// Answers for this reason.
pub(super) async fn local<D: Downstream>(
    down: &mut D,
    request: &RequestHead,
    response: &mut ResponseHead,
    (reason, routed): (Reason, Option<&Routed<'_>>),
    report: &mut Report,
) -> Outcome {
    with_status(down, request, response, (reason, reason.status(), routed), report).await
}

/// Answers for this reason with a status of the route's own.
pub(super) async fn with_status<D: Downstream>(
    down: &mut D,
    request: &RequestHead,
    response: &mut ResponseHead,
    (reason, status, routed): (Reason, StatusCode, Option<&Routed<'_>>),
    report: &mut Report,
) -> Outcome {
    let body = head(request, response, (reason, status), "", report);
    send_body(down, request, response, (routed, body), report).await
}

/// Answers for this reason and says in words what was wrong.
pub(super) async fn refuse<D: Downstream, E: Display>(
    down: &mut D,
    request: &RequestHead,
    response: &mut ResponseHead,
    (reason, detail, routed): (Reason, E, Option<&Routed<'_>>),
    report: &mut Report,
) -> Outcome {
    let body = head(request, response, (reason, reason.status()), &detail.to_string(), report);
    send_body(down, request, response, (routed, body), report).await
}

/// Answers what was never a request, and records it as one.
pub async fn unread<D: Downstream>(
    down: &mut D,
    Heads { request, response }: &mut Heads,
    (reason, detail): (Reason, &str),
    origin: &Origin,
) {
    let mut report = Report::begin(origin, origin.remote);
    // What came of it may not say how it is answered.
    let nothing = RequestHead::default();
    let body = head(&nothing, response, (reason, reason.status()), detail, &mut report);
    let _ = send_body(down, &nothing, response, (None, body), &mut report).await;
    report.finish(request, response, origin, Instant::now());
}

/// Fills the head of an answer for a reason and returns its body. A gRPC client gets its error in the form that
/// it understands.
pub(super) fn head(
    request: &RequestHead,
    response: &mut ResponseHead,
    (reason, status): (Reason, StatusCode),
    detail: &str,
    report: &mut Report,
) -> Bytes {
    report.ended(reason);
    response.clear();
    response.status = status;
    let mut text = reason.cause().to_owned();
    if !detail.is_empty() {
        // Writing into a string cannot fail.
        let _ = write!(text, " ({detail})");
    }
    if report.names_reason {
        response.headers.append(REASON_HEADER, reason.code().as_bytes());
    }
    if request.is_grpc() {
        response.status = StatusCode::OK;
        response.headers.append(b"content-type", b"application/grpc");
        response.headers.append(b"grpc-status", grpc_status(reason, status).as_bytes());
        let message = utf8_percent_encode(&text, GRPC_MESSAGE).to_string();
        response.headers.append(b"grpc-message", message.as_bytes());
        return Bytes::new();
    }
    text.push('\n');
    response.headers.append(b"content-type", b"text/plain; charset=utf-8");
    Bytes::from(text)
}

/// What `grpc-message` does not carry as it is (gRPC over HTTP/2: `Status-Message`).
const GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// The gRPC status for an HTTP status (grpc: http-grpc-status-mapping). What cannot be in time must not be tried again,
/// as clients do with what is unavailable.
const fn grpc_status(reason: Reason, status: StatusCode) -> &'static str {
    if matches!(reason, Reason::DeadlineTooShort) {
        return "4";
    }
    match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    }
}

/// Fills a redirect to the path as it stands in the request.
pub(super) fn to_path(request: &RequestHead, response: &mut ResponseHead, report: &mut Report) {
    report.ended(Reason::Redirect);
    response.clear();
    response.status = StatusCode::TEMPORARY_REDIRECT;
    response.headers.append(b"location", request.path.as_bytes());
}

/// Fills the redirect that a route wants.
pub(super) fn redirect(
    action: &RedirectAction,
    route: &Route,
    request: &RequestHead,
    response: &mut ResponseHead,
    report: &mut Report,
) {
    report.ended(Reason::Redirect);
    response.clear();
    response.status = action.status;
    response.headers.append(b"location", location(action, route, request).as_bytes());
}

fn location(action: &RedirectAction, route: &Route, request: &RequestHead) -> String {
    let old_scheme = if request.secure { "https" } else { "http" };
    let scheme = action.scheme.as_deref().unwrap_or(old_scheme);
    let old_host = crate::model::route_table::without_port(&request.authority);
    let old_port = request.authority.get(old_host.len()..).and_then(|port| port.strip_prefix(':'));
    let mut out = format!("{scheme}://{}", action.host.as_deref().unwrap_or(old_host));
    match action.port {
        Some(port) => {
            let _ = write!(out, ":{port}");
        }
        // A port that was the default of the old scheme means nothing in the new one.
        None if action.host.is_none() => {
            let default = if old_scheme == "https" { "443" } else { "80" };
            if let Some(port) = old_port.filter(|port| scheme == old_scheme || *port != default) {
                let _ = write!(out, ":{port}");
            }
        }
        None => {}
    }
    let mut path = request.path.clone();
    let mut keep_query = !action.strip_query;
    match &action.path {
        Some(RedirectPath::Whole(whole)) => {
            keep_query &= !whole.contains('?');
            let query = request.query().map(|query| format!("?{query}"));
            path = format!("{whole}{}", query.filter(|_| keep_query).unwrap_or_default());
            keep_query = true;
        }
        Some(RedirectPath::Rewrite(rewrite)) => {
            if let Some(rewritten) = crate::route::rewrite(rewrite, route, &path) {
                path = rewritten;
            }
        }
        None => {}
    }
    if !keep_query {
        path.truncate(path.find('?').unwrap_or(path.len()));
    }
    out.push_str(&path);
    out
}

/// Fills the head of a direct response.
pub(super) fn direct(action: &DirectAction, response: &mut ResponseHead, report: &mut Report) {
    report.reason = Some(Reason::DirectResponse);
    response.clear();
    response.status = action.status;
    if !action.body.is_empty() {
        response.headers.append(b"content-type", b"text/plain");
    }
}

/// Sends an answer without a body.
pub(super) async fn send<D: Downstream>(
    down: &mut D,
    request: &RequestHead,
    response: &mut ResponseHead,
    routed: Option<&Routed<'_>>,
    report: &mut Report,
) -> Outcome {
    send_body(down, request, response, (routed, Bytes::new()), report).await
}

/// Sends an answer.
pub(super) async fn send_body<D: Downstream>(
    down: &mut D,
    request: &RequestHead,
    response: &mut ResponseHead,
    (routed, body): (Option<&Routed<'_>>, Bytes),
    report: &mut Report,
) -> Outcome {
    if let Some(routed) = routed {
        super::prepare::local_response(response, routed, request, report);
    }
    super::inject::mark(response, report);
    report.status = response.status.as_u16();
    let length = body.len() as u64;
    let bodiless = request.method == Method::HEAD || crate::http::h1::write::is_bodiless(response.status);
    response.declared_length = Some(length).filter(|_| !crate::http::h1::write::is_bodiless(response.status));
    response.body = if bodiless || body.is_empty() { BodyLength::Empty } else { BodyLength::Known(length) };
    poll_fn(|cx| {
        down.settle(cx);
        Poll::Ready(())
    })
    .await;
    if !response.headers.contains(b"date") {
        // Whoever makes an answer dates it (RFC 9110 section 6.6.1).
        response.headers.append(b"date", httpdate::fmt_http_date(SystemTime::now()).as_bytes());
    }
    super::limit::tell(report.quota.as_deref(), &mut response.headers);
    if down.send_head(response).is_err() {
        return Outcome::Broken;
    }
    let (mut pump, mut source) = (Pump::default(), Whole(if bodiless { Bytes::new() } else { body }));
    let mut shaper = super::inject::shaper(&mut report.injected);
    let sent = poll_fn(|cx| poll_pump(&mut shaper, &mut pump, cx, &mut source, down));
    let sent = timeout(report.patience, sent).await;
    report.sent_bytes = pump.bytes();
    match sent {
        Ok(Ok(())) => Outcome::Complete(Instant::now()),
        Ok(Err(_)) => Outcome::Broken,
        Err(_) => {
            report.flags = report.flags.with(Flags::SI);
            down.abort();
            Outcome::Broken
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_client_is_told_in_its_own_words() {
        assert_eq!(grpc_status(Reason::DeadlineTooShort, StatusCode::GATEWAY_TIMEOUT), "4");
        assert_eq!(grpc_status(Reason::RouteTimeout, StatusCode::GATEWAY_TIMEOUT), "14");
        assert_eq!(utf8_percent_encode("100 % \u{e9}~\n", GRPC_MESSAGE).to_string(), "100 %25 %C3%A9~%0A");
    }
}
