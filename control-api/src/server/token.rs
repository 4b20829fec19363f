//! `outrider-control token`: a join token of the mesh that a state directory belongs to.

use std::time::{Duration, SystemTime};

use super::StartError;
use super::arguments::Token;
use crate::auth::join::JoinKey;
use crate::auth::{check_segment, check_trust_domain};
use crate::ca::state::{StateDir, StateError};
use crate::proxy_info::Identity;

/// The file with the name of the trust domain, in the state directory: roots need not say it, where they are given.
const FILE: &str = "trust-domain";

/// Keeps of which trust domain the state is. The directory must be held.
pub(super) fn remember(state: &StateDir, trust_domain: &str) -> Result<(), StateError> {
    let text = format!("{trust_domain}\n");
    if state.read(FILE)?.is_some_and(|before| before == text.as_bytes()) {
        return Ok(());
    }
    state.write(FILE, text.as_bytes(), 0o600)
}

/// A token.
pub(super) fn made(token: &Token) -> Result<String, StartError> {
    for (flag, name) in [("--namespace", &token.namespace), ("--service-account", &token.service_account)] {
        if !check_segment(name) {
            return Err(StartError(format!("{flag}: \"{name}\" is not letters, digits, '.', '-' and '_'")));
        }
    }
    let failed = StartError::of("--state-dir");
    // The control server may be at work in it: what it has is read, and nothing is made or cleared away.
    let state = StateDir::existing(&token.state_dir).map_err(|error| failed(&error))?;
    let trust_domain = trust_domain(&state, token.trust_domain.as_deref())?;
    let key = JoinKey::existing(&state, &trust_domain).map_err(|error| failed(&error))?;
    let identity = Identity {
        trust_domain: trust_domain.as_str().into(),
        namespace: token.namespace.as_str().into(),
        service_account: token.service_account.as_str().into(),
    };
    let life = Duration::from_secs(token.life_s);
    key.token(&identity, life, SystemTime::now()).map_err(|error| StartError::of("token")(&error))
}

/// That of the state. A token for another one would be refused, whenever it is shown.
fn trust_domain(state: &StateDir, said: Option<&str>) -> Result<String, StartError> {
    let failed = StartError::of("--state-dir");
    let kept = state.read(FILE).map_err(|error| failed(&error))?;
    let kept = kept.map(|kept| String::from_utf8_lossy(&kept).trim().to_owned());
    match (kept, said) {
        (Some(kept), None) => Ok(kept),
        (Some(kept), Some(said)) if kept == said => Ok(kept),
        (Some(kept), Some(said)) => Err(StartError(format!(
            "--trust-domain: the state directory is that of \"{kept}\", not of \"{said}\""
        ))),
        (None, Some(said)) if check_trust_domain(said) => Ok(said.to_owned()),
        (None, Some(said)) => Err(StartError(format!("--trust-domain: \"{said}\" is not one"))),
        (None, None) => {
            let reason =
                "it does not say its trust domain; start the control server first, or name --trust-domain";
            Err(failed(&StateError::new(&state.file(FILE), reason)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::testing::Scratch;

    #[test]
    fn a_token_is_of_the_mesh_of_its_state_directory() {
        let scratch = Scratch::new("token");
        let state = StateDir::open(&scratch.path().join("state")).unwrap();
        let token = |trust_domain: Option<&str>| Token {
            state_dir: scratch.path().join("state"),
            trust_domain: trust_domain.map(ToOwned::to_owned),
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
            life_s: 60,
        };
        let refused = |trust_domain| made(&token(trust_domain)).unwrap_err().to_string();
        assert!(refused(None).contains("start the control server first"));
        JoinKey::open(&state, "demo.test").unwrap();
        remember(&state, "demo.test").unwrap();
        assert!(made(&token(None)).is_ok() && made(&token(Some("demo.test"))).is_ok());
        assert!(
            refused(Some("cluster.local")).contains("is that of \"demo.test\", not of \"cluster.local\"")
        );
    }
}
