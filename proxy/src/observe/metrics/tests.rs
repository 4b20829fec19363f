use super::*;
use crate::observe::series::exposition;

const COUNT: Family = Family { name: "a_total", help: "A.", kind: Kind::Counter, labels: &["x"] };
const OF_CLUSTER: Family =
    Family { name: "c_total", help: "C.", kind: Kind::Counter, labels: &["destination_service"] };
const SECONDS: Family = Family { name: "b_seconds", help: "B.", kind: Kind::Histogram, labels: &[] };
const NOW: Family = Family { name: "d", help: "D.", kind: Kind::Gauge, labels: &["listener"] };

fn of(cluster: &str) -> Labels {
    Labels::none().with("destination_service", cluster)
}

#[test]
fn workers_are_added_up() {
    let shards = [Shard::default(), Shard::default()];
    let labels = Labels::none().with("x", "q\"\\\n");
    for shard in &shards {
        shard.counter(COUNT, &labels).add(2);
        shard.counter(COUNT, &labels).add(1);
        shard.histogram(SECONDS, &Labels::none()).record(Duration::from_micros(600));
    }
    let text = render(&shards);
    assert!(text.contains("# TYPE a_total counter\na_total{x=\"q\\\"\\\\\\n\"} 6\n"), "{text}");
    let read = exposition::parse(&text);
    assert_eq!(read.value("a_total", &[("x", "q\"\\\n")]), Some(6.0));
    for (bound, count) in [("0.0005", 0.0), ("0.001", 2.0), ("10", 2.0), ("+Inf", 2.0)] {
        assert_eq!(read.value("b_seconds_bucket", &[("le", bound)]), Some(count), "{bound}");
    }
    assert_eq!(read.value("b_seconds_sum", &[]), Some(0.0012));
    assert_eq!(read.value("b_seconds_count", &[]), Some(2.0));
}

#[test]
fn a_duration_falls_into_the_bucket_that_it_is_not_longer_than() {
    let shard = Shard::default();
    let histogram = shard.histogram(SECONDS, &Labels::none());
    for micros in [0, 500, 501, 10_000_000, 10_000_001] {
        histogram.record(Duration::from_micros(micros));
    }
    histogram.record(Duration::MAX);
    let read = exposition::parse(&render(&[shard]));
    for (bound, count) in [("0.0005", 2.0), ("0.001", 3.0), ("7.5", 3.0), ("10", 4.0), ("+Inf", 6.0)] {
        assert_eq!(read.value("b_seconds_bucket", &[("le", bound)]), Some(count), "{bound}");
    }
}

#[test]
fn gauges_count_what_is_held() {
    let shards = [Shard::default(), Shard::default()];
    let gauge = shards[0].gauge(NOW, &Labels::none());
    let other = shards[1].gauge(NOW, &Labels::none()).hold();
    let (one, two) = (gauge.hold(), gauge.hold());
    assert!(render(&shards).contains("# TYPE d gauge\nd 3\n"));
    drop((one, other));
    assert!(render(&shards).contains("\nd 1\n"));
    drop(two);
    assert!(render(&shards).contains("\nd 0\n"));
}

#[test]
fn cardinality_is_bounded_and_says_so() {
    let shard = Shard::default();
    for n in 0..MAX_SERIES_PER_FAMILY + 5 {
        shard.counter(COUNT, &Labels::none().with("n", &n.to_string())).add(1);
    }
    shard.counter(COUNT, &Labels::none().with("n", "0")).add(1);
    let read = exposition::parse(&render(&[shard]));
    assert_eq!(read.value("a_total", &[("overflow", "true")]), Some(5.0));
    assert_eq!(read.value("a_total", &[("n", "0")]), Some(2.0));
    let dropped = read.value("outrider_metrics_series_dropped_total", &[("family", "a_total")]);
    assert_eq!(dropped, Some(5.0));
    assert_eq!(read.samples("a_total").count(), MAX_SERIES_PER_FAMILY + 1);
}

#[test]
fn what_left_the_configuration_is_forgotten_after_a_while() {
    let shards = [Shard::default(), Shard::default()];
    let start = Instant::now();
    let shown = |after: Duration| exposition::parse(&render_at(&shards, start + after));
    let (one, two) = (shards[0].counter(OF_CLUSTER, &of("old")), shards[1].counter(OF_CLUSTER, &of("old")));
    one.add(3);
    two.add(4);
    shards[0].counter(COUNT, &Labels::none().with("x", "kept")).add(1);
    assert_eq!(shown(Duration::ZERO).samples("c_total").count(), 1);
    drop(one);
    // One worker still holds it: it may not be forgotten by the other, or the sum would fall.
    for times in 1..=3 {
        assert_eq!(shown(EXPIRY * times).value("c_total", &[("destination_service", "old")]), Some(7.0));
    }
    drop(two);
    let held_last = EXPIRY * 3;
    assert_eq!(shown(held_last + EXPIRY / 2).samples("c_total").count(), 1);
    // Somebody counts once more without keeping the handle.
    shards[0].counter(OF_CLUSTER, &of("old")).add(1);
    let changed = held_last + EXPIRY;
    assert_eq!(shown(changed).value("c_total", &[("destination_service", "old")]), Some(8.0));
    assert_eq!(shown(changed + EXPIRY).samples("c_total").count(), 1, "shown a last time");
    let after = shown(changed + EXPIRY);
    assert_eq!(after.samples("c_total").count(), 0);
    assert_eq!(after.value("a_total", &[("x", "kept")]), Some(1.0), "no name of the configuration in it");
}

#[test]
fn a_family_that_was_full_has_room_again() {
    let shard = Shard::default();
    let (start, later) = (Instant::now(), Instant::now() + EXPIRY);
    for n in 0..MAX_SERIES_PER_FAMILY {
        shard.counter(OF_CLUSTER, &of(&n.to_string())).add(1);
    }
    let shards = [shard];
    for now in [start, later] {
        let _ = render_at(&shards, now);
    }
    shards[0].counter(OF_CLUSTER, &of("new")).add(1);
    let read = exposition::parse(&render_at(&shards, later));
    assert_eq!(read.samples("c_total").count(), 1);
    assert_eq!(read.value("c_total", &[("destination_service", "new")]), Some(1.0));
}

#[test]
fn a_scrape_never_shows_less_while_workers_count() {
    let shards: Vec<Shard> = (0..2).map(|_| Shard::default()).collect();
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for shard in &shards {
            let ended = &ended;
            scope.spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    shard.counter(OF_CLUSTER, &of("c")).add(1);
                }
            });
        }
        let (start, mut last) = (Instant::now(), 0.0);
        for round in 0..500 {
            // Time flies, so that whatever could be forgotten in the middle of a count would be.
            let text = render_at(&shards, start + EXPIRY * round);
            let value = exposition::parse(&text).value("c_total", &[("destination_service", "c")]);
            let value = value.unwrap_or(last);
            assert!(value >= last, "{value} after {last}");
            last = value;
        }
        ended.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_strangers_choose_is_counted_together_from_some_number_on() {
    let (shard, few) = (Shard::default(), 3);
    let by = |source: &str| Labels::none().with("x", source);
    for source in ["a", "b", "c", "d", "e", "a"] {
        shard.counter_of_few(COUNT, few, (&by(source), &by("other"))).add(1);
    }
    let read = exposition::parse(&render(&[shard]));
    let counts = [("a", Some(2.0)), ("b", Some(1.0)), ("c", Some(1.0)), ("d", None), ("other", Some(2.0))];
    for (source, count) in counts {
        assert_eq!(read.value("a_total", &[("x", source)]), count, "{source}");
    }
}

#[test]
fn series_of_faults_and_rules_end_with_them() {
    use crate::observe::series::{EGRESS, FAULTS, FAULTS_ACTIVE, FAULTS_OVERFLOW, PLAINTEXT};
    for family in [EGRESS, FAULTS, FAULTS_ACTIVE, FAULTS_OVERFLOW, PLAINTEXT] {
        assert!(family.expires(), "{}", family.name);
    }
    let shards = [Shard::default()];
    let labels = Labels::none().with("fault", "shop/slow");
    let active = shards[0].gauge(FAULTS_ACTIVE, &labels).hold();
    let start = Instant::now();
    let shown = |times: u32| {
        let text = render_at(&shards, start + EXPIRY * times);
        exposition::parse(&text).value("outrider_faults_active", &[("fault", "shop/slow")])
    };
    assert_eq!((shown(0), shown(1), shown(2)), (Some(1.0), Some(1.0), Some(1.0)), "it is at work");
    drop(active);
    assert_eq!((shown(3), shown(4), shown(5)), (Some(0.0), Some(0.0), None));
}
