use super::*;
use crate::model::Cluster;

fn config(yaml: &str) -> OutlierDetection {
    compiled(yaml).unwrap().outliers.unwrap()
}

fn compiled(yaml: &str) -> Result<Cluster, Vec<outrider_proto::Fault>> {
    let text = format!("{{name: c, type: STATIC, outlier_detection: {yaml}}}");
    Cluster::from_proto(&outrider_proto::json::from_yaml(&text).unwrap())
}

fn fleet(count: u16) -> (Hosts, Vec<Arc<Host>>) {
    let hosts = Hosts::default();
    let all = (0..count).map(|port| hosts.host(SocketAddr::from(([127, 0, 0, 1], port + 1)))).collect();
    (hosts, all)
}

fn charge(host: &Host, config: &OutlierDetection, outcome: Outcome) -> Vec<Cause> {
    let causes = host.conduct.charge(config, Charge::new(config.split, outcome));
    causes.into_iter().flatten().collect()
}

#[test]
fn failures_in_a_row_are_counted_as_envoy_does() {
    use Outcome::{ConnectFailed, Connected, Status, TimedOut};
    let both = "{consecutive_5xx: 3, consecutive_gateway_failure: 2";
    let split = ", split_external_local_origin_errors: true}";
    for (more, outcomes, expected) in [
        ("}", vec![Status(500), Status(500), Status(500)], vec![Cause::ServerErrors]),
        ("}", vec![Status(500), Status(500), Status(404), Status(500)], vec![]),
        ("}", vec![Status(503), Status(503)], vec![Cause::GatewayErrors]),
        ("}", vec![Status(503), Status(500), Status(503)], vec![Cause::ServerErrors]),
        ("}", vec![ConnectFailed, TimedOut], vec![Cause::GatewayErrors]),
        ("}", vec![ConnectFailed, Connected, TimedOut], vec![]),
        (split, vec![ConnectFailed; 4], vec![]),
        (split, vec![TimedOut; 5], vec![Cause::LocalFailures]),
        // What answers was reached.
        (split, vec![TimedOut, TimedOut, TimedOut, TimedOut, Status(404), TimedOut], vec![]),
    ] {
        let (config, host) = (config(&format!("{both}{more}")), Host::default());
        let found: Vec<Cause> =
            outcomes.iter().flat_map(|outcome| charge(&host, &config, *outcome)).collect();
        assert_eq!(found, expected, "{more} {outcomes:?}");
    }
}

#[test]
fn a_streak_is_met_once_whoever_counts() {
    let (config, host) = (config("{consecutive_5xx: 100}"), Host::default());
    let met: usize = std::thread::scope(|scope| {
        let count = || (0..1000).map(|_| charge(&host, &config, Outcome::Status(500)).len()).sum::<usize>();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // What is counted while another begins anew may be lost, but is never counted twice.
    assert!((1..=40).contains(&met), "{met}");
}

#[test]
fn a_streak_beyond_a_limit_that_was_lowered_is_met() {
    let host = Host::default();
    let causes = |limit: &str, times: usize| -> usize {
        (0..times).map(|_| charge(&host, &config(limit), Outcome::Status(500)).len()).sum()
    };
    assert_eq!(causes("{consecutive_5xx: 100}", 40), 0);
    assert_eq!(causes("{consecutive_5xx: 5}", 1), 1);
    assert_eq!(causes("{consecutive_5xx: 5}", 5), 1, "it begins anew");
}

#[test]
fn no_more_are_ejected_than_may_be() {
    let now = Instant::now();
    let mut random = fastrand::Rng::with_seed(7);
    for (yaml, count, expected) in [
        ("{max_ejection_percent: 30}", 10, 3),
        ("{max_ejection_percent: 10}", 9, 0),
        ("{max_ejection_percent: 10, always_eject_one_host: true}", 9, 1),
        ("{max_ejection_percent: 100}", 4, 4),
        ("{max_ejection_percent: 0}", 4, 0),
        ("{max_ejection_percent: 100, enforcing_consecutive_5xx: 0}", 4, 0),
    ] {
        let (config, (hosts, all)) = (config(yaml), fleet(count));
        let before = hosts.generation();
        let eject =
            |host: &Host, random: &mut _| hosts.eject(host, (&config, Cause::ServerErrors), now, random);
        let ejected = all.iter().filter(|host| eject(host, &mut random)).count();
        assert_eq!(ejected, expected, "{yaml}");
        assert_eq!(hosts.ejected() as usize, expected);
        assert_eq!(hosts.generation() - before, expected as u64);
        hosts.pardon_all();
        assert_eq!(hosts.ejected(), 0);
    }
}

#[test]
fn ejections_grow_longer_and_shorter_again() {
    let config =
        config("{base_ejection_time: 10s, max_ejection_time: 25s, max_ejection_percent: 100, interval: 1s}");
    let (hosts, all) = fleet(1);
    let mut random = fastrand::Rng::with_seed(7);
    let mut now = Instant::now();
    let lasted = |now: &mut Instant, random: &mut fastrand::Rng| {
        let begun = *now;
        assert!(hosts.eject(&all[0], (&config, Cause::ServerErrors), *now, random));
        while all[0].is_ejected() {
            *now += Duration::from_secs(1);
            hosts.review(&config, *now, random);
        }
        now.duration_since(begun).as_secs()
    };
    let ejections: Vec<u64> = (0..4).map(|_| lasted(&mut now, &mut random)).collect();
    assert_eq!(ejections, [10, 20, 25, 25]);
    for _ in 0..2 {
        now += Duration::from_secs(1);
        hosts.review(&config, now, &mut random);
    }
    assert_eq!(lasted(&mut now, &mut random), 20, "two quiet intervals take two off");
}

#[test]
fn rates_are_held_against_the_others() {
    let mut random = fastrand::Rng::with_seed(7);
    let percentage = "enforcing_failure_percentage: 100, failure_percentage_threshold: 50";
    let all_but_one: &[usize] = &[0, 1, 2, 3];
    // Good answers of 200, for each endpoint.
    for (yaml, good, expected) in [
        ("success_rate_stdev_factor: 1900", &[200, 199, 198, 200, 120][..], &[4_usize][..]),
        ("success_rate_stdev_factor: 1900", &[200, 199, 198, 120], &[]),
        ("success_rate_minimum_hosts: 4, success_rate_stdev_factor: 1500", &[200, 199, 198, 120], &[3]),
        ("success_rate_request_volume: 201", &[200, 199, 198, 200, 120], &[]),
        ("enforcing_success_rate: 0", &[200, 199, 198, 200, 120], &[]),
        (percentage, &[90, 90, 90, 90, 101], all_but_one),
        (&format!("{percentage}, failure_percentage_minimum_hosts: 6"), &[90, 90, 90, 90, 101], &[]),
    ] {
        let config = config(&format!("{{max_ejection_percent: 100, {yaml}}}"));
        let (hosts, all) = fleet(u16::try_from(good.len()).unwrap());
        for (host, good) in all.iter().zip(good) {
            let own = OwnTally::default();
            for number in 0..200 {
                own.count(Charge::new(false, Outcome::Status(if number < *good { 200 } else { 500 })));
            }
            own.flush(&host.conduct);
            own.flush(&host.conduct);
        }
        let verdicts = hosts.review(&config, Instant::now(), &mut random);
        assert!(verdicts.iter().all(|verdict| verdict.ejected.is_some()));
        let ejected: Vec<usize> = (0..all.len()).filter(|index| all[*index].is_ejected()).collect();
        assert_eq!(ejected, expected, "{yaml} {good:?}");
        // The next interval begins with nothing.
        assert!(hosts.review(&config, Instant::now(), &mut random).is_empty());
    }
}

#[test]
fn settings_out_of_bounds_are_refused() {
    for yaml in [
        "{interval: 0s}",
        "{base_ejection_time: 0s}",
        "{max_ejection_percent: 101}",
        "{max_ejection_time: 0s}",
    ] {
        assert!(compiled(yaml).is_err(), "{yaml}");
    }
}
