//! The operator's token: who may begin faults by hand. It is in a file that only the control server's user can read; whoever
//! reads that could read its keys too.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::ca::state::{StateDir, StateError};

/// The file of the token in the state directory.
pub const FILE: &str = "operator.token";
/// How much of it is chance.
const TOKEN_BYTES: usize = 32;

/// A token that lives as long as the state directory.
#[derive(Clone)]
pub struct OperatorToken(String);

impl OperatorToken {
    /// Reads it, and makes it on first start.
    ///
    /// # Errors
    /// When it cannot be read or made.
    pub fn open(state: &StateDir) -> Result<Self, StateError> {
        let failed = |reason: &str| StateError::new(&state.file(FILE), reason);
        if state.read(FILE)?.is_none() {
            let mut bytes = [0; TOKEN_BYTES];
            rand::fill(&mut bytes).map_err(|_| failed("no random numbers"))?;
            state.write(FILE, URL_SAFE_NO_PAD.encode(bytes).as_bytes(), 0o600)?;
        }
        let content = String::from_utf8(state.read(FILE)?.unwrap_or_default()).unwrap_or_default();
        let token = content.trim().to_owned();
        if token.len() < TOKEN_BYTES {
            return Err(failed("too short; remove it, and a new one is made"));
        }
        Ok(Self(token))
    }

    /// The `authorization` header of whoever has it.
    #[cfg(test)]
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether an `authorization` header has it.
    #[must_use]
    pub fn is_in(&self, authorization: Option<&[u8]>) -> bool {
        let given = authorization.and_then(|value| value.strip_prefix(b"Bearer "));
        given.is_some_and(|given| verify_slices_are_equal(given, self.0.as_bytes()).is_ok())
    }
}

impl fmt::Debug for OperatorToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::testing::Scratch;

    #[test]
    fn only_the_token_itself_opens() {
        let scratch = Scratch::new("operator");
        let state = StateDir::open(&scratch.path().join("state")).unwrap();
        let token = OperatorToken::open(&state).unwrap();
        let again = OperatorToken::open(&state).unwrap();
        let header = token.header();
        assert!(again.is_in(Some(header.as_bytes())));
        for wrong in ["", "Bearer ", &token.0, header.get(1..).unwrap(), &format!("{header}x")] {
            assert!(!token.is_in(Some(wrong.as_bytes())), "{wrong}");
        }
        assert!(!token.is_in(None));
        state.write(FILE, b"\n", 0o600).unwrap();
        assert!(OperatorToken::open(&state).is_err());
    }
}
