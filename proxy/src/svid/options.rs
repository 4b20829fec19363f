//! The source of identities from the environment or a command line, for where there is no start-up file.
//!
//! The options become the same message as an `outrider.identity` block, so that one place checks both.

use std::time::Duration;

use outrider_proto::outrider::config::v1::{Identity, identity};
use outrider_proto::{Fault, Path};

use crate::model::identity::IdentitySource;

/// Names of the variables.
pub const CONTROL: &str = "OUTRIDER_IDENTITY_CONTROL";
/// See [`CONTROL`].
pub const TOKEN_FILE: &str = "OUTRIDER_IDENTITY_TOKEN_FILE";
/// See [`CONTROL`].
pub const CA_FILE: &str = "OUTRIDER_IDENTITY_CA_FILE";
/// See [`CONTROL`].
pub const SERVER_NAME: &str = "OUTRIDER_IDENTITY_SERVER_NAME";
/// See [`CONTROL`].
pub const TTL_S: &str = "OUTRIDER_IDENTITY_TTL_S";
/// See [`CONTROL`].
pub const SPIFFE_ID: &str = "OUTRIDER_IDENTITY_SPIFFE_ID";
/// See [`CONTROL`].
pub const WORKLOAD_API: &str = "OUTRIDER_IDENTITY_WORKLOAD_API";

/// What was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Address of the control server.
    pub control: Option<String>,
    /// File of the bearer token.
    pub token_file: Option<String>,
    /// File of the control server's roots.
    pub ca_file: Option<String>,
    /// Name in the control server's certificate.
    pub server_name: Option<String>,
    /// Life to ask for, in seconds.
    pub ttl_s: Option<String>,
    /// Identity to ask for, or to choose.
    pub spiffe_id: Option<String>,
    /// Socket of a SPIFFE Workload API.
    pub workload_api: Option<String>,
}

impl Options {
    /// What the environment says.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Self {
        let [control, token_file, ca_file, server_name, ttl_s, spiffe_id, workload_api] =
            [CONTROL, TOKEN_FILE, CA_FILE, SERVER_NAME, TTL_S, SPIFFE_ID, WORKLOAD_API]
                .map(|name| env(name).filter(|value| !value.is_empty()));
        Self { control, token_file, ca_file, server_name, ttl_s, spiffe_id, workload_api }
    }

    /// With what `other` says where this says nothing. If this names a source, that of `other` does not count.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let named = self.control.is_some() || self.workload_api.is_some();
        Self {
            control: self.control.or(other.control.filter(|_| !named)),
            workload_api: self.workload_api.or(other.workload_api.filter(|_| !named)),
            token_file: self.token_file.or(other.token_file),
            ca_file: self.ca_file.or(other.ca_file),
            server_name: self.server_name.or(other.server_name),
            ttl_s: self.ttl_s.or(other.ttl_s),
            spiffe_id: self.spiffe_id.or(other.spiffe_id),
        }
    }

    /// The source; `None` when none is named.
    ///
    /// # Errors
    /// What is wrong, under the names of the fields of a start-up file.
    pub fn source(self) -> Result<Option<IdentitySource>, Vec<Fault>> {
        let mut path = Path::root();
        let ttl = self.ttl_s.as_ref().map(|text| text.parse::<u32>().map(u64::from));
        if let Some(Err(_)) = ttl {
            path.fault_at("requested_ttl", "must be a number of seconds");
        }
        let requested_ttl =
            ttl.and_then(Result::ok).and_then(|seconds| Duration::from_secs(seconds).try_into().ok());
        let source = match (self.control, self.workload_api) {
            (Some(_), Some(_)) => path.refuse("both a control server and a Workload API are named"),
            (None, None) => return path.finish(Some(None)),
            (Some(address), None) => Some(identity::Source::Control(identity::Control {
                address,
                token_file: self.token_file.unwrap_or_default(),
                ca_file: self.ca_file.unwrap_or_default(),
                server_name: self.server_name.unwrap_or_default(),
                requested_ttl,
                spiffe_id: self.spiffe_id.unwrap_or_default(),
            })),
            (None, Some(socket)) => Some(identity::Source::WorkloadApi(identity::WorkloadApi {
                socket,
                spiffe_id: self.spiffe_id.unwrap_or_default(),
            })),
        };
        let source = source.and_then(|source| {
            path.field("identity", |path| {
                IdentitySource::from_proto(&Identity { source: Some(source) }, path)
            })
        });
        path.finish(source.map(Some))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        let find =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Options::from_env(find)
    }

    #[test]
    fn the_environment_names_a_source() {
        assert_eq!(options(&[]).source().unwrap(), None);
        let control = [(CONTROL, "http://127.0.0.1:1"), (TOKEN_FILE, "/t"), (TTL_S, "60")];
        let Some(IdentitySource::Control(source)) = options(&control).source().unwrap() else {
            panic!("another source")
        };
        assert_eq!((source.port, source.requested_ttl), (1, Some(Duration::from_secs(60))));
        let api = options(&[(WORKLOAD_API, "unix:///s")]);
        assert!(matches!(api.clone().source(), Ok(Some(IdentitySource::WorkloadApi(_)))));
        let both = api.clone().or(options(&control));
        assert!(matches!(both.source(), Ok(Some(IdentitySource::WorkloadApi(_)))), "the first one counts");
        let wrong = Options { control: Some("http://127.0.0.1:1".into()), ..api }.source();
        assert!(wrong.unwrap_err()[0].to_string().contains("both"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let faults = options(&[(CONTROL, "https://c:1"), (TTL_S, "1h")]).source().unwrap_err();
        let text: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "requested_ttl: must be a number of seconds",
                "identity.control.token_file: missing",
                "identity.control.ca_file: missing",
            ]
        );
    }
}
