//! The same rules for `iptables-restore` and `ip6tables-restore`, where there is no nftables.
//!
//! Chains of our own are emptied and filled anew; the jumps to them are put in once.

use std::fmt::Write as _;

use super::plan::{Plan, PortRange};

/// The jumps into our chains: table, chain of the kernel, chain of ours.
pub const JUMPS: [(&str, &str, &str); 4] = [
    ("raw", "PREROUTING", "OUTRIDER_GUARD_IN"),
    ("raw", "OUTPUT", "OUTRIDER_GUARD_OUT"),
    ("nat", "PREROUTING", "OUTRIDER_INBOUND"),
    ("nat", "OUTPUT", "OUTRIDER_OUTBOUND"),
];

/// Ports that one rule can name; a range counts twice.
const MAX_PORTS_IN_RULE: usize = 15;

/// What there is already, as `iptables-save` shows it.
#[derive(Clone, Debug, Default)]
pub struct Saved(String);

impl Saved {
    /// From the tool's output.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    fn has_jump(&self, (table, hook, chain): (&str, &str, &str)) -> bool {
        let wanted = jump((table, hook, chain));
        self.table(table).any(|line| line == wanted)
    }

    fn has_chain(&self, table: &str, chain: &str) -> bool {
        self.table(table)
            .any(|line| line.strip_prefix(':').is_some_and(|rest| rest.split(' ').next() == Some(chain)))
    }

    fn table<'a>(&'a self, table: &str) -> impl Iterator<Item = &'a str> {
        let begin = format!("*{table}");
        self.0.lines().skip_while(move |line| *line != begin).skip(1).take_while(|line| *line != "COMMIT")
    }
}

/// The text that sets the rules of one family.
#[must_use]
pub fn render(plan: &Plan, v4: bool, saved: &Saved) -> String {
    let mut text = String::new();
    for table in ["raw", "nat"] {
        let _ = writeln!(text, "*{table}");
        let jumps = JUMPS.iter().filter(|jump| jump.0 == table);
        for (_, _, chain) in jumps.clone() {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for (_, hook, chain) in jumps {
            for rule in rules(plan, v4, chain) {
                let _ = writeln!(text, "-A {chain} {rule}");
            }
            if !saved.has_jump((table, hook, chain)) {
                let _ = writeln!(text, "{}", jump((table, hook, chain)));
            }
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// The text that removes what is there of them; empty when nothing is.
#[must_use]
pub fn removal(saved: &Saved) -> String {
    let mut text = String::new();
    for table in ["raw", "nat"] {
        let jumps = JUMPS.iter().filter(|jump| jump.0 == table && saved.has_chain(table, jump.2));
        let mut lines = String::new();
        for (_, hook, chain) in jumps.clone() {
            if saved.has_jump((table, hook, chain)) {
                let _ = writeln!(lines, "{}", jump((table, hook, chain)).replacen("-A", "-D", 1));
            }
        }
        for (_, _, chain) in jumps {
            let _ = writeln!(lines, "-F {chain}\n-X {chain}");
        }
        if !lines.is_empty() {
            let _ = write!(text, "*{table}\n{lines}COMMIT\n");
        }
    }
    text
}

fn jump((_, hook, chain): (&str, &str, &str)) -> String {
    format!("-A {hook} -p tcp -j {chain}")
}

fn rules(plan: &Plan, v4: bool, chain: &str) -> Vec<String> {
    match chain {
        "OUTRIDER_GUARD_IN" => {
            let mut rules = vec!["-i lo -j RETURN".to_owned()];
            rules.extend(direct(plan, "DROP"));
            rules
        }
        // This table cannot answer; whoever tries waits in vain.
        "OUTRIDER_GUARD_OUT" => direct(plan, "DROP").into(),
        "OUTRIDER_INBOUND" => inbound(plan),
        _ => outbound(plan, v4),
    }
}

fn direct(plan: &Plan, target: &str) -> [String; 2] {
    [plan.outbound_port, plan.inbound_port]
        .map(|port| format!("-p tcp --dport {port} --syn -m addrtype --dst-type LOCAL -j {target}"))
}

fn inbound(plan: &Plan) -> Vec<String> {
    let mut rules = vec!["-i lo -j RETURN".to_owned(), "-m addrtype ! --dst-type LOCAL -j RETURN".to_owned()];
    rules.extend(ports(&plan.skip_inbound_ports).map(|ports| format!("{ports} -j RETURN")));
    rules.push(format!("-p tcp -j REDIRECT --to-ports {}", plan.inbound_port));
    rules
}

fn outbound(plan: &Plan, v4: bool) -> Vec<String> {
    let loopback = if v4 { "127.0.0.0/8" } else { "::1/128" };
    let proxy = format!("-m owner --uid-owner {} --gid-owner {}", plan.uid, plan.gid);
    let mut rules: Vec<String> =
        ports(&plan.skip_outbound_ports).map(|ports| format!("{ports} -j RETURN")).collect();
    rules.push(format!("-o lo -s {loopback} -j RETURN"));
    // What is left out inbound is left out here too: a rule can say "not these ports" only of one group of them.
    let to_self = format!("-o lo {proxy}");
    rules.extend(ports(&plan.skip_inbound_ports).map(|ports| format!("{to_self} {ports} -j RETURN")));
    rules.push(format!("-p tcp {to_self} ! -d {loopback} -j REDIRECT --to-ports {}", plan.inbound_port));
    rules.push("-o lo -j RETURN".to_owned());
    rules.push(format!("{proxy} -j RETURN"));
    rules.push(format!("-d {loopback} -j RETURN"));
    rules.extend(plan.subnets(v4).map(|subnet| format!("-d {subnet} -j RETURN")));
    rules.push(format!("-p tcp -j REDIRECT --to-ports {}", plan.outbound_port));
    rules
}

/// Matches of ports, as few as can be.
fn ports(ranges: &[PortRange]) -> impl Iterator<Item = String> {
    // Each range may count twice, so half of the limit always fits.
    ranges.chunks(MAX_PORTS_IN_RULE / 2).map(|group| {
        let group: Vec<String> = group.iter().map(|range| range.text(':')).collect();
        format!("-p tcp -m multiport --dports {}", group.join(","))
    })
}
