//! TLS configurations of one context, built anew when its certificate or its trust changes.
//!
//! The control thread puts in what is to be used; whoever opens or accepts a connection takes out what was built of
//! it. The lock is taken once a connection, never on a request's way.

use std::sync::{Arc, PoisonError, RwLock};

use super::config::{Credential, Tickets};
use super::peer::PeerIdentity;
use super::refusal::Refusal;
use super::revoked::Revocations;
use super::spent::Past;
use super::trust::Trust;

/// What a context is built from.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// Our own certificate.
    pub credential: Option<Credential>,
    /// Whom to believe.
    pub trust: Option<Arc<Trust>>,
    /// Who is cut off.
    pub revocations: Revocations,
}

/// What a handshake needs.
#[derive(Debug)]
pub struct Current<C> {
    /// rustls's configuration.
    pub config: Arc<C>,
    /// Who we are in it.
    pub own: Option<Arc<PeerIdentity>>,
    /// Whom it believes.
    pub trust: Option<Arc<Trust>>,
    /// Who is cut off.
    pub revocations: Revocations,
}

/// A configuration that follows its material. `C` is rustls's configuration of one side.
#[derive(Debug)]
pub struct Live<C>(RwLock<State<C>>);

#[derive(Debug)]
struct State<C> {
    material: Option<Arc<Material>>,
    built: Option<Arc<C>>,
    tickets: Option<Tickets>,
    /// What the operator is told when there is nothing to use.
    problem: Option<String>,
    tried: bool,
    past: Past,
}

impl<C> Default for Live<C> {
    fn default() -> Self {
        Self(RwLock::new(State {
            material: None,
            built: None,
            tickets: None,
            problem: None,
            tried: false,
            past: Past::default(),
        }))
    }
}

impl<C> Live<C> {
    /// Uses this from now on; connections that are open are held to it by whoever serves them. When there is a problem, what was there
    /// before goes on being used.
    ///
    /// Returns the problem when it is news.
    pub fn replace(&self, material: Result<Material, String>) -> Option<String> {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        state.tried = true;
        match material {
            Ok(material) => {
                if let Some(before) = state.material.as_ref().and_then(|before| before.credential.clone())
                    && material.credential.as_ref().is_none_or(|now| now.leaf != before.leaf)
                {
                    state.past.add(before);
                }
                state.material = Some(Arc::new(material));
                state.built = None;
                state.problem = None;
                None
            }
            Err(problem) => {
                let news = state.problem.as_ref() != Some(&problem);
                state.problem = Some(problem.clone());
                news.then_some(problem)
            }
        }
    }

    /// Whether the control thread has looked for its material.
    #[must_use]
    pub fn is_tried(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).tried
    }

    /// What it is made of now.
    #[must_use]
    pub fn material(&self) -> Option<Arc<Material>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).material.clone()
    }

    /// The configuration as it is now.
    ///
    /// # Errors
    /// [`Refusal::NotReady`] when there is no material, or our own certificate has expired.
    pub fn current(
        &self,
        build: impl FnOnce(&Material, &mut Option<Tickets>) -> Result<Arc<C>, rustls::Error>,
    ) -> Result<Current<C>, Refusal> {
        {
            let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if let (Some(material), Some(built)) = (&state.material, &state.built) {
                check_own(material)?;
                return Ok(current(built, material));
            }
        }
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let material = state.material.clone().ok_or(Refusal::NotReady)?;
        check_own(&material)?;
        let built = match &state.built {
            Some(built) => Arc::clone(built),
            None => build(&material, &mut state.tickets).map_err(|error| {
                tracing::warn!(%error, "TLS configuration cannot be built");
                Refusal::NotReady
            })?,
        };
        state.built = Some(Arc::clone(&built));
        Ok(current(&built, &material))
    }
}

impl<C> Live<C> {
    /// A configuration of its own that shows a certificate of ours whose time is over.
    ///
    /// # Errors
    /// [`Refusal::NotReady`] when there never was a certificate, or none can be made.
    pub fn expired(
        &self,
        build: impl FnOnce(&Material) -> Result<Arc<C>, rustls::Error>,
    ) -> Result<Current<C>, Refusal> {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let material = state.material.clone().ok_or(Refusal::NotReady)?;
        let spent = material.credential.as_ref().and_then(|present| state.past.spent(present));
        drop(state);
        let material = Material { credential: Some(spent.ok_or(Refusal::NotReady)?), ..(*material).clone() };
        let built = build(&material).map_err(|_| Refusal::NotReady)?;
        Ok(current(&built, &material))
    }
}

fn current<C>(built: &Arc<C>, material: &Material) -> Current<C> {
    Current {
        config: Arc::clone(built),
        own: material.credential.as_ref().map(|credential| Arc::clone(&credential.leaf)),
        trust: material.trust.clone(),
        revocations: material.revocations.clone(),
    }
}

fn check_own(material: &Material) -> Result<(), Refusal> {
    if material.credential.as_ref().is_some_and(Credential::is_over) {
        Err(Refusal::NotReady)
    } else {
        Ok(())
    }
}
