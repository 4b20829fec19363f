//! Why the proxy answered a request itself, or ended it: one stable code each.
//!
//! The same code stands in the `outrider-error` header, in the access log (`%RESPONSE_CODE_DETAILS%`) and in
//! `outrider_local_replies_total{reason}`. `docs/reasons.md` is made from this table.

use http::StatusCode;

use super::flags::Flags;

macro_rules! reasons {
    ($($name:ident $code:literal $status:literal $flag:ident $blame:ident $repeat:ident $cause:literal $cure:literal;)*) => {
        /// Why the proxy answered or ended a request itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = $cause] $name,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable code.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            const fn status_number(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// Envoy's response flag for it.
            #[must_use]
            pub const fn flag(self) -> Flags {
                match self { $(Self::$name => Flags::$flag,)* }
            }

            /// Who can mend it.
            #[must_use]
            pub const fn blame(self) -> Blame {
                match self { $(Self::$name => Blame::$blame,)* }
            }

            /// Whether the same request may fare better when it is sent again. It may have been acted on before.
            #[must_use]
            pub const fn repeat(self) -> Repeat {
                match self { $(Self::$name => Repeat::$repeat,)* }
            }

            /// What happened.
            #[must_use]
            pub const fn cause(self) -> &'static str {
                match self { $(Self::$name => $cause,)* }
            }

            /// What to do about it.
            #[must_use]
            pub const fn cure(self) -> &'static str {
                match self { $(Self::$name => $cure,)* }
            }
        }
    };
}

/// Who can mend what ended a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Whoever sent the request.
    Downstream,
    /// Whom the request went to.
    Upstream,
    /// Whoever wrote the configuration.
    Configuration,
    /// Nobody: the configuration forbids it on purpose.
    Policy,
}

impl Blame {
    /// The name in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Downstream => "client",
            Self::Upstream => "upstream",
            Self::Configuration => "configuration",
            Self::Policy => "policy",
        }
    }
}

/// Whether the same request may fare better later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It may: what stood in its way passes.
    Again,
    /// It will not.
    Never,
}

reasons! {
    BadRequest "bad_request" 400 DPE Downstream Never "The request is malformed or ambiguous." "Mend the client; the body of the answer says what is wrong.";
    BadPath "bad_path" 400 DPE Downstream Never "The path is ambiguous: an escaped slash, a malformed escape, no UTF-8." "Mend the client, or set path_with_escaped_slashes_action or normalize_path.";
    UnderscoreHeader "underscore_header" 400 DPE Downstream Never "A header name holds an underscore and headers_with_underscores_action is REJECT_REQUEST." "Rename the header.";
    UpgradeNotAllowed "upgrade_not_allowed" 403 NONE Policy Never "The protocol upgrade is not allowed." "Add it to upgrade_configs.";
    AuthorizationDenied "authorization_denied" 403 UAEX Policy Never "Access denied: a policy denies it, or none allows it." "Look at the policy that the access log and outrider_authz_denied_total name.";
    PolicyChanged "policy_changed" 403 UAEX Policy Never "The policies have changed and no longer allow what they had let in. Only in logs and metrics." "Look at the policy that the access log and outrider_authz_denied_total name.";
    IdentityRevoked "identity_revoked" 403 UAEX Policy Never "The peer's identity was revoked; its connections were closed. Only in logs and metrics." "Find out why it was revoked; give the workload a new identity.";
    IdentityExpired "identity_expired" 403 UAEX Policy Never "The peer's certificate, or our own, has ended; the connections that rested on it were closed. Only in logs and metrics." "Opaque connections are opened anew; for others find out why an identity is not renewed (outrider_identity_renewals_total), or why a peer keeps a connection that it was to leave before.";
    DrainTimeout "drain_timeout" 503 NONE Policy Never "The listener was drained, and what was under way took longer than the drain timeout. Only in logs and metrics." "Give it more time (OUTRIDER_DRAIN_TIMEOUT_MS), or connections less (max_connection_duration), where it matters.";
    FaultInjected "fault_injected" 503 FI Policy Again "A fault was injected on purpose." "Look at the fault that the access log, the outrider-fault header and outrider_faults_total name.";
    EgressRefused "egress_refused" 403 UAEX Policy Never "The egress guard refuses the destination." "Look at the event in the log; allow the destination in the EgressGuard where it is wanted.";
    NoOriginalDestination "no_original_destination" 503 UH Configuration Never "The cluster goes where the connection was going, but it was not redirected here: it would come back for ever." "Connect through the redirection, or route it to a cluster with endpoints.";
    ConnectNotRouted "connect_not_routed" 404 NR Downstream Never "CONNECT and TRACE are not forwarded." "Talk to the service directly.";
    RouteNotFound "route_not_found" 404 NR Configuration Never "No virtual host or no route matches the request." "Look at the host and the path, and at the routes in /config_dump.";
    RoutesMissing "routes_missing" 404 NR Configuration Again "The listener names a route configuration that has not come yet." "Look at the control server, and at outrider_xds_rejects_total.";
    RequestTimeout "request_timeout" 408 DPE Downstream Again "The request did not come in within request_headers_timeout or request_timeout." "Look at the client and its network.";
    RequestIdle "request_idle_timeout" 408 SI Downstream Again "No byte of the request's body came within stream_idle_timeout." "Look at the client and its network.";
    UriTooLong "uri_too_long" 414 DPE Downstream Never "The request line is longer than 16 KiB." "Send a shorter URI.";
    ExpectationFailed "expectation_failed" 417 DPE Downstream Never "Expect holds something other than 100-continue." "Mend the client.";
    Http10NotAccepted "http10_not_accepted" 426 DPE Downstream Never "HTTP/1.0 is not accepted here." "Use HTTP/1.1, or set accept_http_10.";
    RateLimited "rate_limited" 429 RL Policy Again "A rate limit has no token left for the request, or for the connection." "Come again later, or raise the limit; outrider_rate_limited_total names it.";
    HeadersTooLarge "headers_too_large" 431 DPE Downstream Never "The head is larger than max_request_headers_kb or has more fields than max_headers_count." "Send fewer or smaller headers, or raise the limit.";
    UnknownCoding "unknown_transfer_coding" 501 DPE Downstream Never "A transfer coding other than chunked." "Mend the client.";
    VersionNotSupported "version_not_supported" 505 DPE Downstream Never "An HTTP version other than 1.0, 1.1 and 2." "Mend the client.";
    UpstreamProtocolError "upstream_protocol_error" 502 UPE Upstream Never "The upstream sent what is no valid response." "Look at the upstream; the access log names it.";
    NotSayable "not_sayable" 502 NONE Configuration Never "The request cannot be expressed in the upstream's protocol." "Look at the cluster's protocol options.";
    ClusterNotFound "cluster_not_found" 503 NC Configuration Again "The route names a cluster that does not exist." "Create the cluster, or mend the route.";
    NoHealthyUpstream "no_healthy_upstream" 503 UH Upstream Again "The cluster has no endpoint that may be used." "Look at /clusters, and at the service's instances.";
    UpstreamConnectFailure "upstream_connect_failure" 503 UF Upstream Again "The endpoint refused the connection." "Look at the endpoint; the access log names it.";
    UpstreamConnectTimeout "upstream_connect_timeout" 503 UF Upstream Again "The endpoint did not answer within connect_timeout." "Look at the endpoint and at the network policies.";
    UpstreamTlsRefused "upstream_tls_refused" 503 UF_TR Upstream Again "TLS with the endpoint failed: it is not who it should be, or refused us." "Look at %UPSTREAM_TRANSPORT_FAILURE_REASON% in the access log, at the endpoint's certificate and at ours.";
    UpstreamReset "upstream_reset" 503 UC Upstream Again "The upstream ended the connection before it answered." "Look at the upstream's log; retry_on: reset hides it where that is safe.";
    UpstreamRefused "upstream_refused" 503 UR Upstream Again "The upstream refused or reset the stream before it answered." "Look at the upstream's limits; retry_on: refused-stream is safe.";
    OverflowConnections "overflow_max_connections" 503 UO Upstream Again "max_connections of the cluster is reached." "Raise the circuit breaker, or look at why connections stay open.";
    OverflowPending "overflow_max_pending_requests" 503 UO Upstream Again "max_pending_requests of the cluster is reached." "Raise the circuit breaker, or add endpoints.";
    OverflowRequests "overflow_max_requests" 503 UO Upstream Again "max_requests of the cluster is reached." "Raise the circuit breaker, or add endpoints.";
    OverflowConcurrency "overflow_concurrency" 503 NONE Upstream Again "The adaptive limit on requests at a time is reached: with more the service would get slower." "Give the service more instances; or look at why it is slow.";
    Overloaded "overloaded" 503 OM Policy Again "The proxy is short of memory, connections or files and refuses requests." "Look at outrider_overload_pressure_percent; give the proxy more, or find out who asks so much.";
    OverflowRetries "overflow_max_retries" 503 UO Upstream Again "The cluster's limit on retries is reached." "Look at the upstream: it fails more than the retries allow.";
    DeadlineTooShort "deadline_too_short" 504 UO Upstream Again "The request has less time left than the service's answers have taken lately; it was not sent." "Give it more time; or look at why the service is slow.";
    RouteTimeout "route_timeout" 504 UT Upstream Again "The response was not complete within the route's timeout." "Look at the upstream, or raise the timeout.";
    PerTryTimeout "per_try_timeout" 504 UT Upstream Again "No response within per_try_timeout, and no retry was left." "Look at the upstream, or raise the timeout.";
    PerTryIdle "per_try_idle_timeout" 504 SI Upstream Again "No byte in either direction within per_try_idle_timeout, and no retry was left." "Look at the upstream, or raise the timeout.";
    StreamIdle "stream_idle_timeout" 504 SI Upstream Again "No byte in either direction within stream_idle_timeout." "Look at the slower side, or raise the timeout.";
    MaxStreamDuration "max_stream_duration" 504 UMSDR Policy Never "The request and its response took longer than max_stream_duration." "Raise the limit, or look at the slower side.";
    DirectResponse "direct_response" 200 NONE Configuration Never "The route holds the answer itself." "Nothing is wrong.";
    Redirect "redirect" 301 NONE Configuration Never "The route or the path normalisation sends the client elsewhere." "Nothing is wrong.";
    UpstreamBodyFailed "upstream_body_failed" 502 UC Upstream Again "The upstream ended in the middle of its response; the client saw it cut." "Look at the upstream; the access log names it.";
    DownstreamGone "downstream_gone" 499 DC Downstream Never "The client went away before it had its response. Only in logs and metrics." "Look at the client's timeouts.";
    DestinationNotTold "destination_not_told" 503 NR Configuration Again "The control server was asked what is at the destination, and has not said it in time. Only in logs and metrics." "See why there is no configuration stream, or whether the workload calls more destinations at a time, or more new ones in a second, than a proxy asks for.";
    NoFilterChain "no_filter_chain" 400 NR Configuration Never "No filter chain matches the connection, which was closed. Only in logs and metrics." "Look at the filter_chain_match of the listener.";
}

impl Reason {
    /// The status of the answer, where the route does not say otherwise.
    #[must_use]
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.status_number()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// The table for `docs/reasons.md`.
#[must_use]
pub fn as_markdown() -> String {
    let mut out = String::from(
        "# Reason codes\n\nEvery answer that the proxy makes itself carries one of these codes: in the `outrider-error` header (`OUTRIDER_ERROR_HEADER=off` leaves it out), in the access \
         log as `%RESPONSE_CODE_DETAILS%`, and in `outrider_local_replies_total{reason}`. This page is made from \
         `proxy/src/observe/reason.rs`; `UPDATE_DOCS=1 cargo test -p outrider-proxy` writes it anew.\n\n\
         \"Whose\" says who can mend it. \"Again\" says whether the same request may fare better later; the upstream may \
         have acted on it, so what is not idempotent is not for repeating unseen.\n\n\
         | code | status | flag | whose | again | cause | what to do |\n|---|---|---|---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let (code, status, flag) = (reason.code(), reason.status_number(), reason.flag());
        let (whose, again) = (reason.blame().name(), reason.repeat() == Repeat::Again);
        let again = if again { "yes" } else { "no" };
        let (cause, cure) = (reason.cause(), reason.cure());
        out.push_str(&format!("| `{code}` | {status} | {flag} | {whose} | {again} | {cause} | {cure} |\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_statuses_valid() {
        let mut seen = std::collections::HashSet::new();
        for reason in Reason::ALL {
            assert!(seen.insert(reason.code()));
            assert_eq!(reason.status().as_u16(), reason.status_number());
        }
    }

    #[test]
    fn every_reason_is_given_somewhere() {
        let sources = crate::observe::sources();
        for reason in Reason::ALL {
            let name = format!("Reason::{reason:?}");
            let given = |(path, text): &(String, String)| {
                !path.starts_with("observe/") && text.split(&name).skip(1).any(|after| !is_word(after))
            };
            assert!(sources.iter().any(given), "{name} is listed but never given");
        }
    }

    fn is_word(text: &str) -> bool {
        text.starts_with(|letter: char| letter.is_alphanumeric() || letter == '_')
    }

    #[test]
    fn codes_flags_and_blame_agree() {
        for reason in Reason::ALL {
            let code = reason.code();
            assert!(
                code.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            );
            let by_client = matches!(reason.status().as_u16(), 400..=499) && reason.flag() == Flags::DPE;
            assert!(!by_client || reason.blame() == Blame::Downstream, "{code}");
            assert!(reason.cause().ends_with('.') && reason.cure().ends_with('.'), "{code}");
        }
    }

    #[test]
    fn the_page_of_reasons_is_true() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reasons.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(page, as_markdown()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(page).unwrap(), as_markdown(), "run with UPDATE_DOCS=1");
    }
}
