//! An SVID from a SPIFFE Workload API: a stream on a Unix socket, over which the next one comes by itself.

use std::io;
use std::path::Path;

use http::Uri;
use hyper_util::rt::TokioIo;
use outrider_proto::workload_api::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use outrider_proto::workload_api::{X509svid, X509svidRequest, X509svidResponse};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};

use super::check::{Invalid, Material};
use super::control::ATTEMPT_TIMEOUT;
use super::error::FetchError;
use super::keeper::{Clock, Keeper};
use super::schedule::Backoff;
use super::{Bundles, Svid};
use crate::identity::{Refusal, SpiffeId};
use crate::model::identity::WorkloadApiSource;

/// Largest message, in bytes.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Proves that the caller means the Workload API (SPIFFE Workload Endpoint, section 3), which a request that somebody
/// was talked into does not.
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// Follows the stream, and opens it again when it ends, for ever.
pub async fn run(source: &WorkloadApiSource, keeper: &Keeper) {
    let mut backoff = Backoff::default();
    loop {
        let error = match open(source).await {
            Ok(stream) => follow(source, stream, keeper, &mut backoff).await,
            Err(error) => error,
        };
        keeper.failed(&error);
        sleep(backoff.pause(fastrand::f64())).await;
    }
}

/// Takes the first identity that comes.
///
/// # Errors
/// Why there is none.
pub async fn fetch(source: &WorkloadApiSource, clock: &Clock) -> Result<Svid, FetchError> {
    let first = async {
        let mut stream = open(source).await?;
        next(source, &mut stream).await
    };
    let response = timeout(ATTEMPT_TIMEOUT, first)
        .await
        .map_err(|error| FetchError::unreachable(peer(source), &error))??;
    take(source, response, clock)
}

/// Publishes what comes until the stream ends.
async fn follow(
    source: &WorkloadApiSource,
    mut stream: Streaming<X509svidResponse>,
    keeper: &Keeper,
    backoff: &mut Backoff,
) -> FetchError {
    loop {
        match next(source, &mut stream).await {
            Ok(response) => match take(source, response, keeper.clock()) {
                // A stream that says the same again and ends, over and over, gets longer pauses.
                Ok(svid) => {
                    if keeper.publish(svid) {
                        *backoff = Backoff::default();
                    }
                }
                Err(error) => keeper.failed(&error),
            },
            Err(error) => return error,
        }
    }
}

async fn open(source: &WorkloadApiSource) -> Result<Streaming<X509svidResponse>, FetchError> {
    let opening = async {
        let channel =
            connect(&source.socket).await.map_err(|error| FetchError::unreachable(peer(source), &error))?;
        let mut client = SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
        let stream = client.fetch_x509svid(request).await;
        Ok(stream.map_err(|status| FetchError::status(peer(source), &status))?.into_inner())
    };
    let opened = timeout(ATTEMPT_TIMEOUT, opening).await;
    opened.map_err(|error| FetchError::unreachable(peer(source), &error))?
}

async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    // The name is not looked up; it becomes `:authority`, as other clients send it.
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await
}

async fn next(
    source: &WorkloadApiSource,
    stream: &mut Streaming<X509svidResponse>,
) -> Result<X509svidResponse, FetchError> {
    let message = stream.message().await.map_err(|status| FetchError::status(peer(source), &status))?;
    message.ok_or_else(|| FetchError::Unreachable {
        peer: peer(source),
        reason: "it has closed the stream".to_owned(),
    })
}

fn peer(source: &WorkloadApiSource) -> String {
    format!("unix://{}", source.socket.display())
}

/// The identity that is wanted, out of all that came.
fn take(source: &WorkloadApiSource, response: X509svidResponse, clock: &Clock) -> Result<Svid, FetchError> {
    let X509svidResponse { svids, federated_bundles, crl } = response;
    if !crl.is_empty() {
        tracing::warn!(count = crl.len(), "revocation lists of the Workload API are not used");
    }
    let count = svids.len();
    let wanted =
        svids.into_iter().find(|svid| source.spiffe_id.as_ref().is_none_or(|id| *id == svid.spiffe_id));
    let X509svid { spiffe_id, x509_svid, x509_svid_key, bundle, .. } = match (wanted, &source.spiffe_id) {
        (Some(svid), _) => svid,
        (None, Some(wished)) => {
            let found = format!("none of the {count} identities that came");
            return Err(Invalid::OtherIdentity { wished: wished.clone(), found }.into());
        }
        (None, None) => return Err(Invalid::ChainLength(0).into()),
    };
    let domain_of = |id: &str| match SpiffeId::parse(id) {
        Ok(id) => Ok(id.trust_domain().to_owned()),
        Err(error) => Err(Invalid::from(Refusal::BadSpiffeId(error))),
    };
    let mut bundles = Bundles::new();
    for (id, roots) in &federated_bundles {
        bundles.insert(domain_of(id)?, split(roots)?);
    }
    bundles.insert(domain_of(&spiffe_id)?, split(&bundle)?);
    let key = PrivatePkcs8KeyDer::from(x509_svid_key).into();
    let svid = Material { chain: split(&x509_svid)?, key, bundles }.check(clock.now())?;
    if svid.spiffe_id.as_str() != spiffe_id {
        let found = svid.spiffe_id.to_string();
        return Err(Invalid::OtherIdentity { wished: spiffe_id, found }.into());
    }
    Ok(svid)
}

/// Certificates that stand one after the other, by the lengths that they begin with (X.690, section 8.1.3).
fn split(mut bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Invalid> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let cut = length(bytes).and_then(|length| bytes.split_at_checked(length));
        let (first, rest) = cut.ok_or(Invalid::CutOff)?;
        found.push(CertificateDer::from(first.to_vec()));
        bytes = rest;
    }
    Ok(found)
}

/// Bytes of the element that comes first, its header included.
fn length(bytes: &[u8]) -> Option<usize> {
    let (0x30, rest) = bytes.split_first().map(|(tag, rest)| (*tag, rest))? else { return None };
    let (first, rest) = rest.split_first()?;
    if *first < 0x80 {
        return Some(2 + usize::from(*first));
    }
    // Certificates are shorter than 2^24 bytes by far.
    let digits = usize::from(*first & 0x7f);
    let number = rest.get(..digits).filter(|digits| (1..=3).contains(&digits.len()))?;
    let content = number.iter().fold(0, |sum, digit| (sum << 8) | usize::from(*digit));
    Some(2 + digits + content)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::svid::testing::{Authority, ID};

    fn response(ids: &[&str]) -> X509svidResponse {
        let authority = Authority::new("root");
        let svids = ids.iter().map(|id| {
            let material = authority.good(SystemTime::now(), Duration::from_secs(60));
            X509svid {
                spiffe_id: (*id).to_owned(),
                // The root stands in for an intermediate: two certificates in one field.
                x509_svid: [material.chain[0].as_ref(), material.bundles["a.test"][0].as_ref()].concat(),
                x509_svid_key: material.key.secret_der().to_vec(),
                bundle: material.bundles["a.test"][0].to_vec(),
                hint: String::new(),
            }
        });
        X509svidResponse { svids: svids.collect(), ..X509svidResponse::default() }
    }

    fn source(spiffe_id: Option<&str>) -> WorkloadApiSource {
        WorkloadApiSource { socket: "/s".into(), spiffe_id: spiffe_id.map(str::to_owned) }
    }

    #[test]
    fn the_wanted_identity_is_taken_with_the_bundles() {
        let clock = Clock::system();
        let mut both = response(&["spiffe://a.test/other", ID]);
        let roots = both.svids[0].bundle.clone();
        both.federated_bundles.insert("spiffe://b.test".into(), [roots.clone(), roots].concat());
        let svid = take(&source(Some(ID)), both.clone(), &clock).unwrap();
        assert_eq!((svid.spiffe_id.as_str(), svid.chain.len()), (ID, 2));
        assert_eq!(svid.bundles["b.test"].len(), 2);
        let text = take(&source(Some("spiffe://a.test/no")), both.clone(), &clock).unwrap_err().to_string();
        assert!(text.contains("none of the 2 identities"), "{text}");
        let text = take(&source(None), both, &clock).unwrap_err().to_string();
        assert!(text.contains(&format!("it is {ID}, not spiffe://a.test/other")), "{text}");
        assert!(take(&source(None), X509svidResponse::default(), &clock).is_err());
    }

    proptest::proptest! {
        #[test]
        fn a_list_is_split_into_what_it_was_made_of(parts in proptest::collection::vec(0_usize..70_000, 0..5)) {
            let parts: Vec<Vec<u8>> = parts.iter().map(|bytes| element(*bytes)).collect();
            let found = split(&parts.concat()).unwrap();
            let found: Vec<Vec<u8>> = found.iter().map(|part| part.to_vec()).collect();
            proptest::prop_assert_eq!(found, parts);
        }

        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
            if let Ok(found) = split(&bytes) {
                let all: Vec<u8> = found.iter().flat_map(|part| part.to_vec()).collect();
                proptest::prop_assert_eq!(all, bytes);
            }
        }
    }

    /// A sequence with so much in it.
    fn element(bytes: usize) -> Vec<u8> {
        let digits: Vec<u8> = bytes.to_be_bytes().into_iter().skip_while(|digit| *digit == 0).collect();
        let mut made = vec![0x30];
        if bytes < 0x80 {
            made.push(u8::try_from(bytes).unwrap());
        } else {
            made.push(0x80 | u8::try_from(digits.len()).unwrap());
            made.extend(digits);
        }
        made.resize(made.len() + bytes, 7);
        made
    }

    #[test]
    fn a_cut_list_of_certificates_is_refused() {
        let clock = Clock::system();
        let whole = response(&[ID]);
        for cut in 1..whole.svids[0].bundle.len() {
            let mut short = whole.clone();
            short.svids[0].bundle.truncate(cut);
            assert!(take(&source(None), short, &clock).is_err(), "{cut}");
        }
        assert_eq!(length(&[0x30, 0x80]), None, "an indefinite length is not DER");
        assert_eq!(length(&[0x30, 0x84, 1, 1, 1, 1]), None);
        assert_eq!(length(&[0x31, 0]), None);
    }
}
