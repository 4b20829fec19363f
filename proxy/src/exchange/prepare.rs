//! What is done to the heads on their way through: what outsiders may not say is removed, what the next hop must
//! know is added, and the changes that routes ask for are made.

use std::net::{IpAddr, SocketAddr};

use super::report::Report;
use super::{Origin, Routed, client_cert, inject};
use crate::fault::filter::CONTROL_PREFIX;
use crate::http::headers::Headers;
use crate::http::message::{RequestHead, ResponseHead};
use crate::model::ForwardAction;
use crate::model::headers::{HeaderChanges, Values};
use crate::model::http_chain::Underscores;
use crate::model::route::{HostRewrite, WeightedEntry};
use crate::model::route_table::without_port;
use crate::observe::Reason;
use crate::observe::format::Record;

/// Makes a request fit to be decided about.
///
/// # Errors
/// The reason for which it must be refused.
pub(super) fn request(request: &mut RequestHead, origin: &Origin) -> Result<(), Reason> {
    if matches!(request.method, http::Method::CONNECT | http::Method::TRACE) {
        return Err(Reason::ConnectNotRouted);
    }
    let chain = &origin.chain;
    let has_underscore = |name: &[u8]| name.contains(&b'_');
    match chain.underscores {
        Underscores::Allow => {}
        Underscores::Reject if request.headers.iter().any(|(name, _)| has_underscore(name)) => {
            return Err(Reason::UnderscoreHeader);
        }
        Underscores::Drop => request.headers.retain(|name, _| !has_underscore(name)),
        Underscores::Reject => {}
    }
    if chain.strip_port {
        let host_len = without_port(&request.authority).len();
        request.authority.truncate(host_len);
    }
    // Whatever steers a proxy must come from its own configuration, and an identity from a certificate.
    let steers_faults = may_steer_faults(origin);
    request.headers.retain(|name, _| {
        let steers = name.starts_with(b"x-envoy-") || name.starts_with(b"x-outrider-");
        !steers || (steers_faults && name.starts_with(CONTROL_PREFIX))
    });
    client_cert::forward(request, origin);
    forwarded(request, origin);
    request_id(request, origin);
    Ok(())
}

/// Whether the client may say which faults it wants: where a filter is there to hear it, and at the edge of the mesh only
/// to a client with an identity. What a request asks for is never more than the filter's own share.
fn may_steer_faults(origin: &Origin) -> bool {
    let inside = || !origin.chain.use_remote_address || origin.standing.facts.identity().is_some();
    !origin.chain.faults.is_empty() && inside()
}

/// `x-forwarded-for` and `x-forwarded-proto`.
fn forwarded(request: &mut RequestHead, origin: &Origin) {
    let chain = &origin.chain;
    if chain.use_remote_address && !chain.skip_xff_append {
        let mut line: Vec<u8> = Vec::new();
        for value in request.headers.all(b"x-forwarded-for") {
            line.extend_from_slice(value);
            line.push(b',');
        }
        line.extend_from_slice(origin.remote.ip().to_canonical().to_string().as_bytes());
        request.headers.set(b"x-forwarded-for", &line);
    }
    if chain.use_remote_address || !request.headers.contains(b"x-forwarded-proto") {
        request.headers.set(b"x-forwarded-proto", if request.secure { b"https" } else { b"http" });
    }
}

/// The client's address as far as it can be trusted, by the head as it came in: the peer's own, or what the configured
/// number of proxies in front of us say (Envoy's `xff_num_trusted_hops`).
#[must_use]
pub fn client_address(request: &RequestHead, origin: &Origin) -> SocketAddr {
    let chain = &origin.chain;
    let back = match (chain.use_remote_address, chain.trusted_hops) {
        (true, 0) => return origin.remote,
        // The nearest of them is the peer itself, which stands in nobody's list yet.
        (true, hops) => hops - 1,
        (false, hops) => hops,
    };
    stated_address(&request.headers, back).map_or(origin.remote, |ip| SocketAddr::new(ip, 0))
}

/// What `x-forwarded-for` says so many places before its end.
fn stated_address(headers: &Headers, back: u32) -> Option<IpAddr> {
    let values = || headers.all(b"x-forwarded-for").flat_map(|value| value.split(|byte| *byte == b','));
    let place = values().count().checked_sub(1)?.checked_sub(back as usize)?;
    std::str::from_utf8(values().nth(place)?).ok()?.trim_ascii().parse().ok()
}

fn request_id(request: &mut RequestHead, origin: &Origin) {
    let chain = &origin.chain;
    let foreign = chain.use_remote_address && !chain.preserve_request_id;
    if !chain.generate_request_id || (request.headers.contains(b"x-request-id") && !foreign) {
        return;
    }
    let random = u128::from(origin.worker.draw()) << 64 | u128::from(origin.worker.draw());
    // The version and variant bits of a random UUID (RFC 9562 section 5.4).
    let uuid = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let mut text = [0_u8; 36];
    let mut digits = (0..32).rev().map(|place| u8::try_from((uuid >> (place * 4)) & 15).unwrap_or(0));
    for (place, letter) in text.iter_mut().enumerate() {
        *letter = match (place, digits.len()) {
            (8 | 13 | 18 | 23, _) => b'-',
            _ => {
                digits.next().map_or(b'0', |digit| if digit < 10 { b'0' + digit } else { b'a' + digit - 10 })
            }
        };
    }
    request.headers.set(b"x-request-id", &text);
}

/// Makes the changes that route, virtual host and table ask for.
pub(super) fn upstream_request(
    request: &mut RequestHead,
    routed: &Routed<'_>,
    weighted: Option<&WeightedEntry>,
    action: &ForwardAction,
    report: &Report,
) {
    if let Some(path) = action
        .rewrite
        .as_ref()
        .and_then(|rewrite| crate::route::rewrite(rewrite, routed.route, &request.path))
    {
        request.headers.set(b"x-envoy-original-path", request.path.as_bytes());
        request.path = path;
    }
    match &action.host {
        Some(HostRewrite::Literal(host)) => {
            request.authority.clear();
            request.authority.push_str(host);
        }
        Some(HostRewrite::Header(name)) => {
            let value = request.headers.first(name).filter(|value| crate::http::is_host_and_port(value));
            if let Some(host) = value.and_then(|value| std::str::from_utf8(value).ok()) {
                request.authority = host.to_owned();
            }
        }
        None => {}
    }
    let levels = [
        weighted.map(|entry| &entry.request_headers),
        Some(&routed.route.request_headers),
        Some(&routed.host.request_headers),
        Some(&routed.table.request_headers),
    ];
    in_order(levels, routed.table.most_specific_wins, |changes, values| {
        changes.remove_from(&mut request.headers);
        changes.render(&Record { request: Some(&*request), ..report.plain_record() }, values);
        changes.add_to(&mut request.headers, values);
    });
}

/// Makes the changes to an upstream's response.
pub(super) fn response(
    response: &mut ResponseHead,
    routed: &Routed<'_>,
    weighted: Option<&WeightedEntry>,
    request: &RequestHead,
    origin: &Origin,
    report: &Report,
) {
    change_response(response, routed, weighted.map(|entry| &entry.response_headers), request, report);
    inject::mark(response, report);
    if origin.chain.request_id_in_response
        && let Some(id) = request.headers.first(b"x-request-id")
    {
        response.headers.set(b"x-request-id", id);
    }
}

/// Makes the changes to an answer of our own.
pub(super) fn local_response(
    response: &mut ResponseHead,
    routed: &Routed<'_>,
    request: &RequestHead,
    report: &Report,
) {
    change_response(response, routed, None, request, report);
}

fn change_response(
    response: &mut ResponseHead,
    routed: &Routed<'_>,
    weighted: Option<&HeaderChanges>,
    request: &RequestHead,
    report: &Report,
) {
    let levels = [
        weighted,
        Some(&routed.route.response_headers),
        Some(&routed.host.response_headers),
        Some(&routed.table.response_headers),
    ];
    in_order(levels, routed.table.most_specific_wins, |changes, values| {
        changes.remove_from(&mut response.headers);
        let record = Record {
            request: Some(request),
            response: Some(&*response),
            status: response.status.as_u16(),
            ..report.plain_record()
        };
        changes.render(&record, values);
        changes.add_to(&mut response.headers, values);
    });
}

/// The most specific level comes first, so that the table has the last word, or the other way round.
///
/// A level sees what the levels before it did. Nothing is allocated as long as all values are literal.
fn in_order(
    levels: [Option<&HeaderChanges>; 4],
    most_specific_wins: bool,
    mut apply: impl FnMut(&HeaderChanges, &mut Values),
) {
    let mut values = Values::default();
    let mut one = |changes: Option<&HeaderChanges>| {
        if let Some(changes) = changes.filter(|changes| !changes.is_empty()) {
            apply(changes, &mut values);
        }
    };
    if most_specific_wins {
        levels.into_iter().rev().for_each(&mut one);
    } else {
        levels.into_iter().for_each(&mut one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_counted_from_the_end_over_all_fields() {
        let mut headers = Headers::new();
        assert_eq!(stated_address(&headers, 0), None);
        headers.append(b"x-forwarded-for", b"203.0.113.1, 203.0.113.2");
        headers.append(b"x-forwarded-for", b" 2001:db8::3 ,x");
        for (back, expected) in [
            (0, None),
            (1, Some("2001:db8::3")),
            (2, Some("203.0.113.2")),
            (3, Some("203.0.113.1")),
            (4, None),
            (u32::MAX, None),
        ] {
            let expected = expected.map(|text| text.parse().unwrap());
            assert_eq!(stated_address(&headers, back), expected, "{back}");
        }
    }
}
