//! Names that a pod and its sidecar share with the rest of the mesh.

/// The sidecar's container.
pub use crate::object::core::SIDECAR_CONTAINER;

/// The init container that sets, or verifies, the rules of redirection.
pub const REDIRECT_CONTAINER: &str = "outrider-redirect";
/// The volume with the sidecar's start-up file, the roots of the mesh and its token.
pub const VOLUME: &str = "outrider";
/// Where that volume is.
pub const MOUNT: &str = "/etc/outrider";

/// Whether a pod gets a sidecar: a label of its namespace, or a label or annotation of its own.
pub const SWITCH: &str = "outrider.dev/inject";
/// What an injection did, so that it can be undone.
pub const STATUS: &str = "outrider.dev/status";
/// The sidecar's start-up file.
pub const BOOTSTRAP: &str = "outrider.dev/bootstrap";
/// The roots that the sidecar verifies the control server with (PEM).
pub const ROOTS: &str = "outrider.dev/roots";
/// What the names of annotations begin with that tune a sidecar.
pub const TUNING: &str = "config.outrider.dev/";

/// User and group of the proxy, as `outrider-proxy redirect` knows them.
pub const PROXY_ID: u32 = 1502;
/// The user of an init container that only verifies rules: anybody else.
pub const VERIFIER_ID: u32 = 1503;
/// The operator's endpoints, on loopback.
pub const ADMIN_PORT: u16 = 15_000;
/// `/metrics`.
pub const METRICS_PORT: u16 = 15_020;
/// `/ready`, and the probes of the application.
pub const READY_PORT: u16 = 15_021;
/// The first of the ports on which gRPC probes of the application are answered.
pub const GRPC_PROBE_PORT: u16 = 15_030;
/// What the tokens of the mesh are made for.
pub const TOKEN_AUDIENCE: &str = "outrider-ca";
