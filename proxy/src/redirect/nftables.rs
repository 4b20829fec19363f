//! The rules for nftables: one table of our own, replaced as a whole in one transaction.

use std::fmt::Write as _;

use super::plan::{Families, Plan, PortRange};

/// The table; nothing of anybody else's is in it.
pub const TABLE: &str = "outrider";

/// A connection's first packet.
const FIRST_PACKET: &str = "tcp flags & (fin | syn | rst | ack) == syn";

/// The text that sets the rules, whatever was there before.
#[must_use]
pub fn render(plan: &Plan) -> String {
    // Made before it is deleted, so that the deletion works the first time too.
    let mut text = removal();
    let _ = writeln!(text, "table inet {TABLE} {{");
    let redirect_ports = format!("{{ {}, {} }}", plan.outbound_port, plan.inbound_port);
    text.push_str("\t# Redirected connections come over lo with the port already changed; only direct ones are meant.\n");
    chain(
        &mut text,
        "guard_inbound",
        "filter hook prerouting priority raw",
        &[
            "iifname \"lo\" return".to_owned(),
            format!("tcp dport {redirect_ports} {FIRST_PACKET} fib daddr type local drop"),
        ],
    );
    chain(
        &mut text,
        "guard_outbound",
        "filter hook output priority raw",
        &[format!("tcp dport {redirect_ports} {FIRST_PACKET} fib daddr type local reject with tcp reset")],
    );
    chain(&mut text, "inbound", "nat hook prerouting priority dstnat", &inbound(plan));
    chain(&mut text, "outbound", "nat hook output priority -100", &outbound(plan));
    text.push_str("}\n");
    text
}

/// The text that removes them, if they are there.
#[must_use]
pub fn removal() -> String {
    format!("table inet {TABLE}\ndelete table inet {TABLE}\n")
}

fn inbound(plan: &Plan) -> Vec<String> {
    let mut rules = only_tcp(plan);
    rules.push("iifname \"lo\" return".to_owned());
    rules.push("fib daddr type != local return".to_owned());
    rules.extend(ports(&plan.skip_inbound_ports).map(|ports| format!("tcp dport {ports} return")));
    rules.push(format!("meta l4proto tcp redirect to :{}", plan.inbound_port));
    rules
}

/// In the order of `docs/redirection.md`.
fn outbound(plan: &Plan) -> Vec<String> {
    let proxy = format!("meta skuid {} meta skgid {}", plan.uid, plan.gid);
    let mut rules = only_tcp(plan);
    rules.extend(ports(&plan.skip_outbound_ports).map(|ports| format!("tcp dport {ports} return")));
    rules.push("oifname \"lo\" ip saddr 127.0.0.0/8 return".to_owned());
    rules.push("oifname \"lo\" ip6 saddr ::1 return".to_owned());
    let not_ours = ports(&plan.skip_inbound_ports).map(|ports| format!(" tcp dport != {ports}"));
    let not_ours = not_ours.unwrap_or_default();
    let to_self = format!("oifname \"lo\" {proxy}{not_ours}");
    rules.push(format!("{to_self} ip daddr != 127.0.0.0/8 redirect to :{}", plan.inbound_port));
    rules.push(format!("{to_self} ip6 daddr != ::1 redirect to :{}", plan.inbound_port));
    rules.push("oifname \"lo\" return".to_owned());
    rules.push(format!("{proxy} return"));
    rules.push("ip daddr 127.0.0.0/8 return".to_owned());
    rules.push("ip6 daddr ::1 return".to_owned());
    for (v4, name) in [(true, "ip"), (false, "ip6")] {
        let blocks: Vec<String> = plan.subnets(v4).map(ToString::to_string).collect();
        if !blocks.is_empty() {
            rules.push(format!("{name} daddr {{ {} }} return", blocks.join(", ")));
        }
    }
    rules.push(format!("meta l4proto tcp redirect to :{}", plan.outbound_port));
    rules
}

fn only_tcp(plan: &Plan) -> Vec<String> {
    let mut rules = vec!["meta l4proto != tcp return".to_owned()];
    match plan.families {
        Families::Dual => {}
        Families::Ipv4 => rules.push("meta nfproto ipv6 return".to_owned()),
        Families::Ipv6 => rules.push("meta nfproto ipv4 return".to_owned()),
    }
    rules
}

fn ports(ranges: &[PortRange]) -> Option<String> {
    let ranges: Vec<String> = ranges.iter().map(|range| range.text('-')).collect();
    (!ranges.is_empty()).then(|| format!("{{ {} }}", ranges.join(", ")))
}

fn chain(text: &mut String, name: &str, hook: &str, rules: &[String]) {
    let _ = writeln!(text, "\tchain {name} {{\n\t\ttype {hook}; policy accept;");
    for rule in rules {
        let _ = writeln!(text, "\t\t{rule}");
    }
    text.push_str("\t}\n");
}
