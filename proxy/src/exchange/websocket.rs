//! The handshake of a WebSocket between versions of HTTP: in HTTP/1.1 the client sends a key and the server proves that it has
//! read it (RFC 6455 section 4), in HTTP/2 neither does (RFC 8441 section 5). Whoever speaks HTTP/1.1 gets what it is
//! owed.
//!
//! What the client itself has sent, and the server has proven, is passed on over HTTP/2 too, so that a tunnel through two
//! proxies is one handshake from end to end, whosever they are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::attempt::Ending;
use super::relay::opens_tunnel;
use crate::http::message::{RequestHead, ResponseHead, Version};
use crate::observe::Reason;

const KEY: &[u8] = b"sec-websocket-key";
const ACCEPT: &[u8] = b"sec-websocket-accept";
const VERSION: &[u8] = b"sec-websocket-version";
/// What a server adds to a key before it proves that it has read it (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The upstream has not proven that it has read our key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sec-websocket-accept is missing or wrong")]
struct NotProven;

/// Gives a request that came without a key one, as the upstream may speak HTTP/1.1; whether it did.
pub(super) fn ask(request: &mut RequestHead, mut draw: impl FnMut() -> u64) -> bool {
    if !is_websocket(request) || request.version != Version::Http2 || request.headers.contains(KEY) {
        return false;
    }
    // It is to differ from others, for the sake of caches, and keeps no secret.
    let nonce = u128::from(draw()) << 64 | u128::from(draw());
    request.headers.set(KEY, STANDARD.encode(nonce.to_be_bytes()).as_bytes());
    if !request.headers.contains(VERSION) {
        request.headers.set(VERSION, b"13");
    }
    true
}

/// A response that opens a WebSocket stands only with what its handshake wants.
pub(super) fn prove(ending: &mut Ending, request: &RequestHead, response: &mut ResponseHead, ours: bool) {
    if matches!(ending, Ending::Response(_))
        && let Err(error) = answer(request, response, ours)
    {
        *ending = Ending::Answer(Reason::UpstreamProtocolError, error.to_string());
    }
}

/// Looks at the answer where the key was ours; writes the proof that a client wants and an upstream over HTTP/2 has not
/// given.
///
/// # Errors
/// When the upstream takes the WebSocket without having read our key.
fn answer(request: &RequestHead, response: &mut ResponseHead, ours: bool) -> Result<(), NotProven> {
    if !is_websocket(request) || !opens_tunnel(request, response) {
        return Ok(());
    }
    let Some(key) = request.headers.first(KEY) else { return Ok(()) };
    let over_h2 = response.version == Version::Http2;
    if ours {
        let given: Vec<&[u8]> = response.headers.all(ACCEPT).collect();
        let proven = match given[..] {
            [] => over_h2,
            [given] => given == proof(key).as_bytes(),
            [_, _, ..] => false,
        };
        response.headers.remove(ACCEPT);
        return if proven { Ok(()) } else { Err(NotProven) };
    }
    if request.version != Version::Http2 && over_h2 && !response.headers.contains(ACCEPT) {
        response.headers.set(ACCEPT, proof(key).as_bytes());
    }
    Ok(())
}

fn is_websocket(request: &RequestHead) -> bool {
    request.upgrade.eq_ignore_ascii_case("websocket")
}

/// That somebody has read a key (RFC 6455 section 4.2.2).
fn proof(key: &[u8]) -> String {
    let digest = &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
    STANDARD.encode(aws_lc_rs::digest::digest(digest, &[key, GUID].concat()))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn request(version: Version, key: Option<&[u8]>) -> RequestHead {
        let mut head = RequestHead { version, upgrade: "WebSocket".into(), ..RequestHead::default() };
        key.into_iter().for_each(|key| head.headers.set(KEY, key));
        head
    }

    fn response(version: Version, accept: &[&[u8]]) -> ResponseHead {
        let status = if version == Version::Http2 { StatusCode::OK } else { StatusCode::SWITCHING_PROTOCOLS };
        let mut head = ResponseHead { version, status, ..ResponseHead::default() };
        accept.iter().for_each(|accept| head.headers.append(ACCEPT, accept));
        head
    }

    #[test]
    fn the_proof_is_that_of_the_rfc() {
        assert_eq!(proof(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn who_came_over_http2_without_a_key_gets_one() {
        for (version, key, upgrade, expected) in [
            (Version::Http2, None, "websocket", true),
            (Version::Http2, Some(b"k".as_slice()), "websocket", false),
            (Version::Http2, None, "connect-udp", false),
            (Version::Http11, None, "websocket", false),
        ] {
            let mut request = RequestHead { upgrade: upgrade.into(), ..request(version, key) };
            let mut draws = [1, 2].into_iter();
            assert_eq!(
                ask(&mut request, || draws.next().unwrap()),
                expected,
                "{version:?} {key:?} {upgrade}"
            );
            if expected {
                assert_eq!(request.headers.first(KEY), Some(b"AAAAAAAAAAEAAAAAAAAAAg==".as_slice()));
                assert_eq!(request.headers.first(VERSION), Some(b"13".as_slice()));
            }
        }
    }

    #[test]
    fn each_version_gets_the_answer_that_it_knows() {
        use Version::{Http2, Http11};
        let (key, right) =
            (b"dGhlIHNhbXBsZSBub25jZQ==".as_slice(), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".as_slice());
        let wrong = b"s3pPLMBiTxaQ9kYGzzhZRbK+xO0=".as_slice();
        let (kept, made): (Option<&[u8]>, _) = (Some(right), Some(right));
        for (client, ours, upstream, given, expected) in [
            // The client's own key: the client looks at the answer.
            (Http11, false, Http11, vec![wrong], Ok(Some(wrong))),
            (Http11, false, Http11, vec![], Ok(None)),
            (Http11, false, Http2, vec![right], Ok(kept)),
            (Http11, false, Http2, vec![], Ok(made)),
            (Http2, false, Http2, vec![], Ok(None)),
            (Http2, false, Http11, vec![right], Ok(kept)),
            // Our key.
            (Http2, true, Http11, vec![right], Ok(None)),
            (Http2, true, Http11, vec![wrong], Err(NotProven)),
            (Http2, true, Http11, vec![right, right], Err(NotProven)),
            (Http2, true, Http11, vec![], Err(NotProven)),
            (Http2, true, Http2, vec![], Ok(None)),
            (Http2, true, Http2, vec![right], Ok(None)),
            (Http2, true, Http2, vec![wrong], Err(NotProven)),
        ] {
            let (request, mut response) = (request(client, Some(key)), response(upstream, &given));
            let answered = answer(&request, &mut response, ours);
            let found = answered.map(|()| response.headers.first(ACCEPT));
            assert_eq!(found, expected, "{client:?} {ours} {upstream:?} {given:?}");
        }
    }
}
