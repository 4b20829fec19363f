//! `x-forwarded-client-cert`: who the client is, for those behind us, as Envoy writes it.
//!
//! What a client says of itself is never taken for it: unless the chain forwards the field of trusted peers, it is
//! taken away.

use super::Origin;
use crate::http::message::RequestHead;
use crate::model::http_chain::ForwardClientCert;

const NAME: &[u8] = b"x-forwarded-client-cert";

/// Takes the field away, leaves it, replaces it or adds to it.
pub(super) fn forward(request: &mut RequestHead, origin: &Origin) {
    let mode = origin.chain.forward_client_cert;
    let Some(peer) = origin.peer() else {
        if mode != ForwardClientCert::AlwaysForwardOnly {
            request.headers.remove(NAME);
        }
        return;
    };
    match mode {
        ForwardClientCert::Sanitize => {
            request.headers.remove(NAME);
        }
        ForwardClientCert::ForwardOnly | ForwardClientCert::AlwaysForwardOnly => {}
        ForwardClientCert::SanitizeSet | ForwardClientCert::AppendForward => {
            let mut element = Vec::new();
            let mut add = |key: &str, value: &str| {
                if !element.is_empty() {
                    element.push(b';');
                }
                element.extend_from_slice(key.as_bytes());
                element.push(b'=');
                element.extend_from_slice(value.as_bytes());
            };
            let own = origin.own.as_ref();
            for uri in own.iter().flat_map(|own| &own.uris) {
                add("By", &legal(uri));
            }
            add("Hash", &peer.fingerprint);
            let details = origin.chain.client_cert_details;
            if details.subject {
                add("Subject", &format!("\"{}\"", legal(&peer.subject)));
            }
            if details.uri {
                for uri in &peer.uris {
                    add("URI", &legal(uri));
                }
            }
            if details.dns {
                for name in &peer.dns {
                    add("DNS", &legal(name));
                }
            }
            if mode == ForwardClientCert::AppendForward {
                let before: Vec<u8> = request.headers.all(NAME).collect::<Vec<_>>().join(&b',');
                if !before.is_empty() {
                    element = [before, element].join(&b',');
                }
            }
            request.headers.set(NAME, &element);
        }
    }
}

/// A name of a certificate cannot bring in what would end the value, the element or the field.
fn legal(name: &str) -> String {
    name.chars()
        .filter(|letter| letter.is_ascii_graphic() || *letter == ' ')
        .filter(|letter| !matches!(letter, '"' | ';' | ',' | '\\'))
        .collect()
}
