//! The arguments of `outrider-proxy redirect`.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{WRONG, complain, say};
use crate::redirect::{Backend, Families, Plan, PortRange, Subnet, apply, plan, verify};

/// Exit code when the rules could not be set or removed, or do not work.
const FAILED: u8 = 3;

/// Sets packet filter rules in the current network namespace. Safe to run again: rules of an earlier run are replaced.
///
/// Needs `CAP_NET_ADMIN`. Exit codes: 0 done; 2 wrong arguments; 3 the rules could not be set or removed, or do not
/// work.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Port of the proxy's outbound listener.
    #[arg(long, value_name = "PORT", default_value_t = plan::OUTBOUND_PORT)]
    outbound_port: u16,
    /// Port of the proxy's inbound listener.
    #[arg(long, value_name = "PORT", default_value_t = plan::INBOUND_PORT)]
    inbound_port: u16,
    /// User that the proxy runs as.
    #[arg(long, value_name = "UID", default_value_t = plan::PROXY_ID)]
    uid: u32,
    /// Group that the proxy runs as.
    #[arg(long, value_name = "GID", default_value_t = plan::PROXY_ID)]
    gid: u32,
    /// Ports of the pod that are reached without the proxy, beside 15000, 15020 and 15021: `22,8000-8100`.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    skip_inbound_ports: Vec<PortRange>,
    /// Ports elsewhere that the pod reaches without the proxy.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    skip_outbound_ports: Vec<PortRange>,
    /// Destinations that the pod reaches without the proxy: `10.0.0.0/8,fd00::/8`.
    #[arg(long, value_name = "BLOCKS", value_delimiter = ',')]
    skip_subnets: Vec<Subnet>,
    /// Addresses that are redirected.
    #[arg(long, value_enum, default_value_t = Ip::Dual)]
    ip_families: Ip,
    /// What is given the rules.
    #[arg(long, value_enum, default_value_t = Tool::Auto)]
    backend: Tool,
    /// Prints the rules and changes nothing.
    #[arg(long, conflicts_with = "remove")]
    dry_run: bool,
    /// Removes the rules of earlier runs.
    #[arg(long)]
    remove: bool,
    /// Changes nothing, but shows that the rules work, whoever has set them. Needs no capability; to be run before the
    /// proxy, and not as its user and group.
    #[arg(long, conflicts_with_all = ["remove", "dry_run"])]
    verify: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ip {
    /// IPv4 and IPv6.
    Dual,
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Tool {
    /// nftables, or iptables where that cannot be used.
    Auto,
    /// `nft`.
    Nftables,
    /// `iptables-restore` and `ip6tables-restore`.
    Iptables,
}

/// Runs the command.
pub(super) fn run(arguments: Arguments) -> ExitCode {
    let failed = |code: u8, error: &dyn std::fmt::Display| {
        complain(&format!("redirect: {error}"));
        ExitCode::from(code)
    };
    let backend = match arguments.backend {
        Tool::Auto => Backend::Auto,
        Tool::Nftables => Backend::Nftables,
        Tool::Iptables => Backend::Iptables,
    };
    let (dry_run, remove, verify) = (arguments.dry_run, arguments.remove, arguments.verify);
    let plan = match checked(arguments) {
        Ok(plan) => plan,
        Err(error) => return failed(WRONG, &error),
    };
    if dry_run {
        say(apply::dry_run(&plan, backend).trim_end());
        return ExitCode::SUCCESS;
    }
    if verify {
        return match verify::verify(&plan) {
            Ok(()) => {
                say("outbound connections are redirected");
                ExitCode::SUCCESS
            }
            Err(error) => failed(FAILED, &error),
        };
    }
    let done = if remove {
        apply::remove(backend).map(|()| "redirection removed".to_owned())
    } else {
        apply::apply(&plan, backend).map(|applied| {
            if let Some(why) = applied.instead {
                complain(&format!("redirect: nftables cannot be used: {why}"));
            }
            format!("redirection set with {}", applied.tool)
        })
    };
    match done {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(error) => failed(FAILED, &error),
    }
}

fn checked(arguments: Arguments) -> Result<Plan, plan::PlanError> {
    let mut plan = Plan {
        families: match arguments.ip_families {
            Ip::Dual => Families::Dual,
            Ip::Ipv4 => Families::Ipv4,
            Ip::Ipv6 => Families::Ipv6,
        },
        uid: arguments.uid,
        gid: arguments.gid,
        outbound_port: arguments.outbound_port,
        inbound_port: arguments.inbound_port,
        skip_outbound_ports: arguments.skip_outbound_ports,
        skip_subnets: arguments.skip_subnets,
        ..Plan::default()
    };
    plan.skip_inbound_ports.extend(arguments.skip_inbound_ports);
    plan.check()
}
