//! The programs that are compared: which there are, how each is configured for a kind of traffic, how it is started.
//!
//! Every one gets one worker on one core, no access log, no request ids, the same timeouts, and an upstream pool that is large
//! enough never to be the limit.

mod certificates;
pub(crate) mod envoy_form;
mod find;
mod haproxy;
mod nginx;
mod resilience;
mod start;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use find::{Found, find, floors};
pub use start::{Running, start};

/// A name in the report and the program behind it.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its name: the column.
    pub name: String,
    /// How it is talked to.
    pub kind: Kind,
    /// The program; none for [`Kind::Direct`].
    pub path: PathBuf,
    /// What it says of itself.
    pub version: String,
}

/// How a subject wants to be configured and started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No proxy at all.
    Direct,
    /// Envoy's YAML, our command line.
    Outrider,
    /// Envoy.
    Envoy,
    /// `HAProxy`.
    Haproxy,
    /// nginx.
    Nginx,
    /// One of the minimal proxies of `benches/floors`: two addresses on the command line.
    Floor(Floor),
    /// Any other program, told by its environment what to do (`OUTRIDER_BENCH_*`, see `docs/benchmarks/README.md`).
    Launcher,
}

/// The minimal proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    /// Bytes are copied, nothing is parsed.
    Tcp,
    /// HTTP/1.1 on one task.
    Raw,
    /// hyper on both sides.
    Hyper,
    /// [`Self::Raw`] with rustls on one of its sides, for half of a pair.
    Rustls,
}

/// Which kind of traffic a subject is set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// HTTP/1.1 on both sides.
    Http1,
    /// The same, and WebSocket upgrades are let through.
    WebSocket,
    /// HTTP/2 with prior knowledge on both sides.
    Http2,
    /// Opaque TCP.
    Tcp,
    /// HTTP/1.1 past so many deny rules, none of which matches.
    Policy(usize),
    /// HTTP/1.1 with every policy of resilience on, none of which has to act.
    Resilient,
    /// HTTP/1.1 through two of them, mutual TLS between; or one of the two alone.
    Pair(Side),
}

/// Which part of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Both, started one behind the other.
    Both,
    /// Plain to the client, TLS to the other.
    Client,
    /// TLS from the other, plain to the backend.
    Server,
}

/// One configuration.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The traffic.
    pub mode: Mode,
    /// Where it goes.
    pub upstream: SocketAddr,
    /// How many services there are, the one that is used among them.
    pub clusters: usize,
    /// The control server that listeners and clusters come from, instead of the file.
    pub control: Option<SocketAddr>,
}

impl Setup {
    /// One service, from a file.
    #[must_use]
    pub const fn plain(mode: Mode, upstream: SocketAddr) -> Self {
        Self { mode, upstream, clusters: 1, control: None }
    }
}

impl Mode {
    /// The part of a pair, for one that is of a pair.
    #[must_use]
    pub const fn side(self) -> Option<Side> {
        match self {
            Self::Pair(side) => Some(side),
            Self::Http1 | Self::WebSocket | Self::Http2 | Self::Tcp | Self::Policy(_) | Self::Resilient => {
                None
            }
        }
    }

    /// The name that a launcher is given.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::WebSocket => "websocket",
            Self::Http2 => "http2",
            Self::Tcp => "tcp",
            Self::Policy(_) => "policy",
            Self::Resilient => "resilient",
            Self::Pair(_) => "pair",
        }
    }
}

impl Subject {
    /// Why this one has no part in a setup, if it has none.
    #[must_use]
    pub fn declines(&self, setup: &Setup) -> Option<&'static str> {
        if setup.control.is_some() {
            return (!matches!(self.kind, Kind::Outrider | Kind::Envoy)).then_some("no xDS");
        }
        let many = setup.clusters > 1;
        if setup.mode == Mode::Resilient {
            return (self.kind != Kind::Outrider).then_some("its own route is what is compared with");
        }
        match (self.kind, setup.mode) {
            (Kind::Direct | Kind::Floor(_) | Kind::Launcher, _) if many => {
                Some("no configuration of services")
            }
            (Kind::Direct | Kind::Floor(_) | Kind::Launcher, Mode::Policy(_)) => Some("no policy"),
            (Kind::Floor(Floor::Rustls), mode) => {
                (!matches!(mode, Mode::Pair(_))).then_some("half of a pair over mTLS only")
            }
            (Kind::Direct | Kind::Floor(_), Mode::Pair(_)) => Some("no TLS"),
            (Kind::Launcher, Mode::Pair(Side::Client | Side::Server)) => Some("its certificates are its own"),
            (Kind::Nginx, Mode::Http2) => Some("no HTTP/2 to upstreams"),
            (Kind::Nginx, Mode::Tcp) if nginx::stream_module().is_none() => {
                Some("its stream module is missing; `make bench-setup` installs it")
            }
            (Kind::Floor(Floor::Raw), Mode::WebSocket | Mode::Http2 | Mode::Tcp) => Some("HTTP/1.1 only"),
            (Kind::Floor(Floor::Hyper), Mode::WebSocket | Mode::Http2 | Mode::Tcp) => Some("HTTP/1.1 only"),
            _ => None,
        }
    }
}
