//! The rules, byte for byte, and plans that must not become rules.

use std::fs;
use std::path::Path;

use super::apply::dry_run;
use super::iptables::{self, JUMPS, Saved};
use super::plan::{Plan, PlanError, PortRange};
use super::{Backend, Families, nftables};

fn ports(text: &str) -> Vec<PortRange> {
    text.split(',').map(|one| one.parse().unwrap()).collect()
}

/// Everything set, in an order and with overlaps that must not matter.
fn full() -> Plan {
    let mut plan = Plan {
        uid: 4000,
        gid: 4001,
        skip_outbound_ports: ports("3306,25"),
        skip_subnets: ["fd00:9::/64", "10.1.0.0/16", "10.1.2.3/16", "10.1.7.0/24", "192.0.2.9"]
            .map(|one| one.parse().unwrap())
            .to_vec(),
        ..Plan::default()
    };
    plan.skip_inbound_ports.extend(ports("8000-8100,22,8050-8200,15001"));
    plan.check().unwrap()
}

/// The file holds what is expected; `UPDATE_GOLDEN=1` writes it.
fn golden(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/redirect/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
    }
    assert_eq!(fs::read_to_string(&file).unwrap_or_default(), text, "{name}");
}

#[test]
fn rules_are_what_they_were() {
    let usual = Plan::default().check().unwrap();
    golden("usual.nft", &dry_run(&usual, Backend::Auto));
    golden("full.nft", &dry_run(&full(), Backend::Nftables));
    golden("ipv4.nft", &dry_run(&Plan { families: Families::Ipv4, ..full() }, Backend::Nftables));
    golden("usual.iptables", &dry_run(&usual, Backend::Iptables));
    golden("full.iptables", &dry_run(&full(), Backend::Iptables));
    golden("ipv6.iptables", &dry_run(&Plan { families: Families::Ipv6, ..full() }, Backend::Iptables));
    golden("removal.nft", &nftables::removal());
}

#[test]
fn a_second_run_of_iptables_adds_no_jump_and_removal_leaves_nothing() {
    let first = iptables::render(&full(), true, &Saved::default());
    for (_, hook, chain) in JUMPS {
        assert_eq!(first.matches(&format!("-A {hook} -p tcp -j {chain}\n")).count(), 1);
    }
    // What iptables-save shows is what iptables-restore takes.
    let saved = Saved::new(first);
    let second = iptables::render(&full(), true, &saved);
    for (_, hook, chain) in JUMPS {
        assert!(!second.contains(&format!("-A {hook} -p tcp -j {chain}\n")));
    }
    let removal = iptables::removal(&saved);
    for (_, hook, chain) in JUMPS {
        assert!(removal.contains(&format!("-D {hook} -p tcp -j {chain}\n")), "{removal}");
        assert!(removal.contains(&format!("-F {chain}\n-X {chain}\n")), "{removal}");
    }
    assert_eq!(iptables::removal(&Saved::new("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n".into())), "");
}

#[test]
fn a_jump_of_one_table_is_none_of_another() {
    let saved = Saved::new(
        "*nat\n:OUTRIDER_GUARD_IN - [0:0]\n-A PREROUTING -p tcp -j OUTRIDER_GUARD_IN\nCOMMIT\n".into(),
    );
    let text = iptables::render(&full(), true, &saved);
    assert!(text.contains("-A PREROUTING -p tcp -j OUTRIDER_GUARD_IN\n"), "it is wanted in raw: {text}");
}

#[test]
fn plans_that_make_loops_or_holes_are_refused() {
    let with = |change: fn(&mut Plan)| {
        let mut plan = Plan::default();
        change(&mut plan);
        plan.check().unwrap_err()
    };
    assert_eq!(with(|plan| plan.uid = 0), PlanError::Root);
    assert_eq!(with(|plan| plan.gid = 0), PlanError::Root);
    assert_eq!(with(|plan| plan.inbound_port = plan.outbound_port), PlanError::RedirectPorts);
    assert_eq!(with(|plan| plan.outbound_port = 0), PlanError::RedirectPorts);
    let many = with(|plan| plan.skip_outbound_ports = (1..600).step_by(2).map(PortRange::one).collect());
    assert_eq!(many, PlanError::TooMany(300));
}

#[test]
fn text_that_is_no_port_or_block_is_refused() {
    for text in ["", "0", "65536", "-1", "9-8", "1-", "1-2-3", "http"] {
        assert!(text.parse::<PortRange>().is_err(), "{text}");
    }
    for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/8; flush ruleset"] {
        assert!(text.parse::<super::Subnet>().is_err(), "{text}");
    }
    assert_eq!("10.9.8.7/8".parse::<super::Subnet>().unwrap().to_string(), "10.0.0.0/8");
    assert_eq!("::/0".parse::<super::Subnet>().unwrap().to_string(), "::/0");
    assert_eq!("0.0.0.0/0".parse::<super::Subnet>().unwrap().to_string(), "0.0.0.0/0");
    assert_eq!("fe80::1".parse::<super::Subnet>().unwrap().to_string(), "fe80::1/128");
}
