use std::fmt::Write as _;

use std::sync::Arc;
use std::time::Duration;

use super::recorders::MAX_CACHED;
use super::*;
use crate::admin::process;
use crate::observe::flags::Flags;
use crate::observe::metrics::{Shard, render};
use crate::observe::reason::Reason;

fn outcome(status: u16, flags: Flags) -> Outcome {
    Outcome { status, flags, duration: Duration::from_millis(3), received_bytes: 5, sent_bytes: 7 }
}

#[test]
fn requests_are_recorded_under_their_labels() {
    let shard = Shard::default();
    let series = RequestSeries::new(&"c".into());
    let listener: Arc<str> = "l".into();
    for _ in 0..3 {
        series.record(&shard, &listener, "inbound", &outcome(200, Flags::NONE));
    }
    series.record(&shard, &listener, "inbound", &outcome(503, Flags::UF.with(Flags::URX)));
    // An equal name in another place is the same listener.
    series.record(&shard, &Arc::from("l"), "inbound", &outcome(200, Flags::NONE));
    let read = exposition::parse(&render(&[shard]));
    let place = [("direction", "inbound"), ("listener", "l"), ("destination_service", "c")];
    let requests = |code, flags| {
        let labels = [&place[..], &[("response_code", code), ("response_flags", flags)]].concat();
        read.value("outrider_requests_total", &labels)
    };
    assert_eq!((requests("200", "-"), requests("503", "UF,URX")), (Some(4.0), Some(1.0)));
    assert_eq!(read.value("outrider_request_duration_seconds_count", &place), Some(5.0));
    assert_eq!(read.value("outrider_request_duration_seconds_sum", &place), Some(0.015));
    assert_eq!(read.value("outrider_request_bytes_total", &place), Some(25.0));
    assert_eq!(read.value("outrider_response_bytes_total", &place), Some(35.0));
}

#[test]
fn more_combinations_than_are_kept_are_counted_all_the_same() {
    let shard = Shard::default();
    let series = RequestSeries::new(&"c".into());
    let listener: Arc<str> = "l".into();
    let codes = 100..100 + 2 * u16::try_from(MAX_CACHED).unwrap();
    for status in codes.clone().chain(codes.clone()) {
        series.record(&shard, &listener, "outbound", &outcome(status, Flags::NONE));
    }
    assert_eq!(series.kept(), MAX_CACHED);
    let read = exposition::parse(&render(&[shard]));
    for status in codes {
        let labels = [
            ("direction", "outbound"),
            ("listener", "l"),
            ("destination_service", "c"),
            ("response_code", &status.to_string()),
            ("response_flags", "-"),
        ];
        assert_eq!(read.value("outrider_requests_total", &labels), Some(2.0), "{status}");
    }
}

#[test]
fn own_answers_are_counted_by_reason() {
    let (shard, series) = (Shard::default(), ReasonSeries::default());
    for reason in Reason::ALL {
        series.count(&shard, *reason);
        series.count(&shard, *reason);
    }
    let read = exposition::parse(&render(&[shard]));
    for reason in Reason::ALL {
        let labels = [("reason", reason.code())];
        assert_eq!(read.value("outrider_local_replies_total", &labels), Some(2.0), "{reason:?}");
    }
}

#[test]
fn families_are_made_with_the_labels_that_they_name() {
    for family in ALL.iter().chain(SLOW) {
        assert!(family.name.starts_with("outrider_"), "{}", family.name);
        assert_eq!(family.kind == Kind::Counter, family.name.ends_with("_total"), "{}", family.name);
    }
    let mut names: Vec<_> = ALL.iter().chain(SLOW).map(|family| family.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ALL.len() + SLOW.len());
}

#[test]
fn every_family_of_the_facade_is_listed() {
    let mut used = std::collections::BTreeSet::new();
    let tests = |path: &str| path.ends_with("tests.rs");
    for (path, text) in crate::observe::sources().into_iter().filter(|(path, _)| !tests(path)) {
        for part in ["counter!(", "gauge!(", "histogram!("].iter().flat_map(|end| text.split(end).skip(1)) {
            if let Some((name, _)) = part.strip_prefix('"').and_then(|part| part.split_once('"')) {
                assert!(SLOW.iter().any(|family| family.name == name), "{path}: {name}");
                used.insert(name.to_owned());
            }
        }
    }
    for family in SLOW.iter().filter(|family| family.name != ACCESS_LOG_DROPPED) {
        assert!(used.contains(family.name), "{} is listed but never counted", family.name);
    }
}

#[test]
fn the_facade_says_what_it_counts() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        describe();
        metrics::counter!("outrider_reloads_total", "outcome" => "ok").increment(1);
    });
    let read = exposition::parse(&recorder.handle().render());
    assert!(read.helps.contains("outrider_reloads_total"));
    assert_eq!(read.types["outrider_reloads_total"], "counter");
    assert_eq!(read.value("outrider_reloads_total", &[("outcome", "ok")]), Some(1.0));
}

#[test]
fn the_page_of_metrics_is_true() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(page, as_markdown()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(page).unwrap(), as_markdown(), "run with UPDATE_DOCS=1");
}

fn as_markdown() -> String {
    let mut out = String::from(
        "# Metrics\n\n`GET /stats/prometheus` (or `/metrics`) on the admin port, in Prometheus' text format 0.0.4. \
         Scrape it by IP address or as `localhost`: other host names are refused, so that no web page can read it. \
         This page is made from `proxy/src/observe/series.rs`; `UPDATE_DOCS=1 cargo test -p outrider-proxy` writes \
         it anew.\n\n",
    );
    table(
        &mut out,
        "On the data path",
        "Counted by each worker on its own and added up when they are read.",
        ALL,
    );
    table(&mut out, "Beside it", "", SLOW);
    table(&mut out, "The process", "Under the names that Prometheus' own clients use.", process::FAMILIES);
    out.push_str(
        "## Labels\n\n\
         - `direction`: `inbound` or `outbound`, or `unspecified`, as the listener says.\n\
         - `listener`: the `stat_prefix` of the filter chain; of connections, the name of the listener.\n\
         - `destination_service`: the cluster; empty for what went to none.\n\
         - `response_code`: the status that the client got; `0` when it got none.\n\
         - `response_flags`: Envoy's short names with commas between, or `-`.\n\
         - `reason`: a code of [reasons.md](reasons.md).\n\
         - `type`: the type URL of the resources.\n\n\
         ## How many series\n\n",
    );
    let _ = writeln!(
        out,
        "Labels come from closed sets and from the configuration, never from a request. A family has at most {} series \
         for each worker; what comes after is counted together under `overflow=\"true\"`, and \
         `outrider_metrics_series_dropped_total` says so. A series whose listener or cluster has left the configuration \
         is forgotten ten minutes after it last changed, by all workers at once: until then a sum never goes backwards, \
         and if it comes back it starts from 0, as after a restart. This happens when the metrics are read, so a proxy \
         that nobody scrapes keeps them up to the limit.",
        crate::observe::metrics::MAX_SERIES_PER_FAMILY
    );
    out
}

fn table(out: &mut String, title: &str, text: &str, families: &[Family]) {
    let text = if text.is_empty() { String::new() } else { format!("{text}\n\n") };
    let _ = write!(out, "## {title}\n\n{text}| family | type | labels | counts |\n|---|---|---|---|\n");
    for family in families {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind) = (family.name, family.kind.name());
        let _ = writeln!(out, "| `{name}` | {kind} | {} | {} |", labels.join(", "), family.help);
    }
    out.push('\n');
}
