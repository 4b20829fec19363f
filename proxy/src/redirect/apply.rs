//! Hands rules to the system's own tools.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use super::iptables::{self, Saved};
use super::nftables;
use super::plan::Plan;

/// Who is given the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// nftables, or iptables where that cannot be used.
    #[default]
    Auto,
    /// nftables.
    Nftables,
    /// iptables and ip6tables.
    Iptables,
}

/// Why rules are not set, or not removed.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// There is no such tool.
    #[error("{tool}: {source}; install it, or choose another with --backend")]
    Missing {
        /// The tool.
        tool: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// It could not do it.
    #[error("{tool} refused: {message}; CAP_NET_ADMIN is needed in the pod's network namespace")]
    Refused {
        /// The tool.
        tool: &'static str,
        /// What it says.
        message: String,
    },
    /// Neither could do it.
    #[error("{nftables}\n{iptables}")]
    Neither {
        /// What came of nftables.
        nftables: Box<RedirectError>,
        /// What came of iptables.
        iptables: Box<RedirectError>,
    },
}

/// Rules that are set.
#[derive(Debug)]
pub struct Applied {
    /// What has them.
    pub tool: &'static str,
    /// Why it is not the one that comes first.
    pub instead: Option<RedirectError>,
}

/// What `apply` would hand over, as text for people; what is there already is not looked at.
#[must_use]
pub fn dry_run(plan: &Plan, backend: Backend) -> String {
    match backend {
        Backend::Auto | Backend::Nftables => nftables::render(plan),
        Backend::Iptables => families(plan).fold(String::new(), |text, v4| {
            let tool = tools(v4).1;
            format!("{text}# {tool} --noflush\n{}", iptables::render(plan, v4, &Saved::default()))
        }),
    }
}

/// Sets the rules; those of an earlier run are replaced.
///
/// # Errors
/// Why they are not set. With nftables nothing has changed then; with iptables one of two families may have.
pub fn apply(plan: &Plan, backend: Backend) -> Result<Applied, RedirectError> {
    let nft = || {
        give("nft", &["-f", "-"], &nftables::render(plan))?;
        Ok(Applied { tool: "nftables", instead: None })
    };
    let ip = || {
        for v4 in families(plan) {
            let (save, restore) = tools(v4);
            let saved = Saved::new(give(save, &[], "")?);
            give(restore, &["--noflush", "--wait"], &iptables::render(plan, v4, &saved))?;
        }
        Ok(Applied { tool: "iptables", instead: None })
    };
    match backend {
        Backend::Nftables => nft(),
        Backend::Iptables => ip(),
        Backend::Auto => nft().or_else(|first| match ip() {
            Ok(applied) => Ok(Applied { instead: Some(first), ..applied }),
            Err(second) => Err(RedirectError::Neither { nftables: first.into(), iptables: second.into() }),
        }),
    }
}

/// Removes the rules, if there are any.
///
/// # Errors
/// Why they may still be there.
pub fn remove(backend: Backend) -> Result<(), RedirectError> {
    let nft = || give("nft", &["-f", "-"], &nftables::removal()).map(|_| ());
    let ip = || {
        for v4 in [true, false] {
            let (save, restore) = tools(v4);
            let text = iptables::removal(&Saved::new(give(save, &[], "")?));
            if !text.is_empty() {
                give(restore, &["--noflush", "--wait"], &text)?;
            }
        }
        Ok(())
    };
    match backend {
        Backend::Nftables => nft(),
        Backend::Iptables => ip(),
        // Either may have set them.
        Backend::Auto => match (nft(), ip()) {
            (Err(first), Err(second)) => {
                Err(RedirectError::Neither { nftables: first.into(), iptables: second.into() })
            }
            (Ok(()) | Err(RedirectError::Missing { .. }), Ok(()) | Err(RedirectError::Missing { .. })) => {
                Ok(())
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        },
    }
}

fn families(plan: &Plan) -> impl Iterator<Item = bool> {
    [true, false].into_iter().filter(|v4| plan.families.has(*v4))
}

/// The tools of one family: one that shows rules and one that sets them.
const fn tools(v4: bool) -> (&'static str, &'static str) {
    if v4 { ("iptables-save", "iptables-restore") } else { ("ip6tables-save", "ip6tables-restore") }
}

/// Runs a tool with this on its standard input; what it answers.
fn give(tool: &'static str, arguments: &[&str], text: &str) -> Result<String, RedirectError> {
    let failed = |source| RedirectError::Missing { tool, source };
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // The rules of the longest plan fit into a pipe many times over, so writing them all first cannot block for ever.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() && written.is_ok() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(RedirectError::Refused { tool, message })
}
