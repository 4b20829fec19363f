//! Faults end: with their lease, by a stop, and where somebody wants none; and never more than the caps allow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use outrider_tests::client::{self, PATIENCE};
use outrider_tests::faults::{Lab, Setup, haproxy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

const TTL: Duration = Duration::from_secs(1);
const SECOND: Duration = Duration::from_secs(1);
const ABORT: &str = "fault: {place: INBOUND, match: {path: {exact: /}}, abort: {http_status: 418}}";
const HOLE: &str = "fault: {place: INBOUND, match: {path: {exact: /hole}}, blackhole: {}}";
const STOP: &str = "guard: {stop: true}";
const LONG: Duration = Duration::from_secs(60);

/// How often what has to hold every time is tried; more where the variable says so.
fn rounds(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Loses the control server while a fault is on, and measures how long it goes on.
async fn lose_control(signal: &str) -> Duration {
    let lab = Arc::new(Lab::start(Setup { forwarded: true, ..Setup::default() }).await);
    assert_eq!(lab.push(&[("a", ABORT), ("b", HOLE)], Some(TTL), &[]).await, None);
    let beating = Arc::clone(&lab);
    let beats = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            beating.beat("a", ABORT, TTL);
            beating.beat("b", HOLE, TTL);
        }
    });
    lab.until("the fault", || true).await;
    let begun = Instant::now();
    let mut faulted = 0;
    // Heartbeats keep it up.
    while begun.elapsed() < TTL * 2 {
        let answer = lab.get(lab.inbound, "/").await;
        assert!(answer.status == 418 || faulted == 0, "{}\n{}", answer.status, lab.proxy.log());
        faulted += u32::from(answer.status == 418);
    }
    assert!(faulted > 0);
    let mut held = client::connect(lab.inbound).await;
    held.write_all(b"GET /hole HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let forwarder = lab.forwarder.as_ref().unwrap();
    forwarder.signal(signal);
    let lost = Instant::now();
    let mut last = lost;
    while lost.elapsed() < TTL + SECOND * 3 / 2 {
        if lab.get(lab.inbound, "/").await.status == 418 {
            last = Instant::now();
        }
    }
    let mut first = [0; 12];
    timeout(Duration::from_millis(1), held.read_exact(&mut first)).await.expect("already there").unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    if signal == "STOP" {
        // What was under way all the time comes now, and is too late.
        forwarder.signal("CONT");
        let back = Instant::now();
        while back.elapsed() < SECOND {
            assert_eq!(lab.get(lab.inbound, "/").await.status, 200, "a fault has come back");
        }
    }
    beats.abort();
    last - lost
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_end_with_the_control_server() {
    if haproxy().is_none() {
        eprintln!("SKIPPED: HAProxy is not there");
        return;
    }
    let count = rounds("OUTRIDER_TEST_LEASES", 4);
    let mut longest = Duration::ZERO;
    for round in (0..count).step_by(2) {
        let both = tokio::join!(lose_control("KILL"), lose_control("STOP"));
        for outlived in [both.0, both.1] {
            assert!(outlived <= TTL + SECOND, "round {round}: {outlived:?}");
            longest = longest.max(outlived);
        }
    }
    println!("{count} rounds, at most {longest:?} after the control server was lost, with a TTL of {TTL:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_takes_effect_within_a_second_under_load() {
    let lab = Arc::new(Lab::start(Setup::default()).await);
    assert_eq!(lab.push(&[("a", ABORT), ("b", HOLE)], Some(LONG), &[]).await, None);
    let begun = Instant::now();
    let (ended, last, faulted) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut load = Vec::new();
    for _ in 0..8 {
        let (lab, ended, last, faulted) =
            (Arc::clone(&lab), Arc::clone(&ended), Arc::clone(&last), Arc::clone(&faulted));
        load.push(tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                if lab.get(lab.inbound, "/").await.status == 418 {
                    faulted.fetch_add(1, Ordering::Relaxed);
                    last.fetch_max(u32::try_from(begun.elapsed().as_millis()).unwrap(), Ordering::Relaxed);
                }
            }
        }));
    }
    lab.until("faults under load", || faulted.load(Ordering::Relaxed) > 100).await;
    let mut held = client::connect(lab.inbound).await;
    held.write_all(b"GET /hole HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let at_work = || lab.metric("outrider_faults_active{fault=\"b\"}");
    lab.until("what is held is shown", || at_work() > 0.5).await;
    assert_eq!(lab.push(&[("g", STOP)], None, &[]).await, None);
    let stopped = begun.elapsed();
    let mut first = [0; 12];
    timeout(SECOND, held.read_exact(&mut first)).await.expect("what was held goes on").unwrap();
    while begun.elapsed() < stopped + 2 * SECOND {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ended.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    let last = Duration::from_millis(u64::from(last.load(Ordering::Relaxed)));
    assert!(last < stopped + SECOND, "stopped at {stopped:?}, last fault at {last:?}");
    lab.until("nothing is at work any more", || at_work() < 0.5).await;
    // As long as the stop is there, none begins.
    let refused = lab.push(&[("a", ABORT)], Some(LONG), &[]).await;
    assert!(refused.is_some_and(|refused| refused.contains("a guard stops all faults")));
    assert_eq!(lab.push(&[], None, &["g"]).await, None);
    assert_eq!(lab.push(&[("a", ABORT)], Some(LONG), &[]).await, None);
    lab.settle().await;
    assert_eq!(lab.get(lab.inbound, "/").await.status, 418);
}

/// So many requests on one connection; how many were not answered with 200.
async fn burst(port: u16, count: usize) -> usize {
    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: h\r\nx-reply-body: ok\r\n\r\n";
    let mut stream = client::connect(port).await;
    stream.set_nodelay(true).unwrap();
    let mut wrong = 0;
    for _ in 0..count {
        stream.write_all(ASK).await.unwrap();
        let (mut buffer, mut len) = ([0; 4096], 0);
        while !buffer[..len].ends_with(b"\r\n\r\nok") {
            let read = timeout(PATIENCE, stream.read(&mut buffer[len..])).await.unwrap().unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&buffer[..len]));
            len += read;
        }
        wrong += usize::from(!buffer.starts_with(b"HTTP/1.1 200"));
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_opted_out_sees_none() {
    let fault = "{name: f, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, \
                 abort: {http_status: 418, percentage: {numerator: 100}}}}, ";
    let count = rounds("OUTRIDER_TEST_REQUESTS", 10_000);
    let lab =
        Lab::start(Setup { env: &[("OUTRIDER_FAULTS", "off")], filters: fault, ..Setup::default() }).await;
    let all = "fault: {place: INBOUND, abort: {http_status: 418}}";
    let refused = lab.push(&[("a", all)], Some(LONG), &[]).await;
    assert!(refused.is_some_and(|refused| refused.contains("OUTRIDER_FAULTS=off")));
    let some = count.div_ceil(4);
    let port = lab.inbound;
    let wrong = tokio::join!(burst(port, some), burst(port, some), burst(port, some), burst(port, some));
    assert_eq!(wrong, (0, 0, 0, 0));
    drop(lab);
    // The control server can say so too, and it wins over the filter of the chain.
    let lab = Lab::start(Setup { filters: fault, ..Setup::default() }).await;
    assert_eq!(lab.get(lab.inbound, "/").await.status, 418);
    assert_eq!(lab.push(&[("g", "guard: {opt_out: true}")], None, &[]).await, None);
    let end = Instant::now() + PATIENCE;
    while lab.get(lab.inbound, "/").await.status != 200 {
        assert!(Instant::now() < end);
    }
    assert!(lab.push(&[("a", all)], Some(LONG), &[]).await.is_some());
    assert_eq!(burst(lab.inbound, 1000).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn caps_hold() {
    let lab = Lab::start(Setup::default()).await;
    let own = HOLE.replace("blackhole", "max_active: 3, blackhole");
    for (guard, fault, held) in [("guard: {max_active: 2}", HOLE, 2), ("guard: {}", own.as_str(), 3)] {
        assert_eq!(lab.push(&[("g", guard), ("b", fault)], Some(LONG), &[]).await, None);
        lab.settle().await;
        let mut waiting = Vec::new();
        for _ in 0..6 {
            let mut stream = client::connect(lab.inbound).await;
            stream.write_all(b"GET /hole HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
            waiting.push(stream);
        }
        let mut answered = 0;
        for stream in &mut waiting {
            let mut first = [0; 12];
            answered += usize::from(timeout(SECOND / 2, stream.read_exact(&mut first)).await.is_ok());
        }
        assert_eq!(answered, 6 - held, "{guard}");
        assert!(lab.metric("outrider_faults_overflow_total{fault=\"b\"}") >= (6 - held) as f64);
        assert_eq!(lab.push(&[], None, &["b"]).await, None);
        for stream in &mut waiting {
            let mut rest = [0; 1];
            assert!(timeout(SECOND, stream.read_exact(&mut rest)).await.is_ok(), "what was held goes on");
        }
    }
    let guard = "guard: {max_share: {numerator: 10}, exempt_paths: [{prefix: /spared}]}";
    assert_eq!(
        lab.push(&[("g", guard), ("a", &ABORT.replace("exact", "prefix"))], Some(LONG), &[]).await,
        None
    );
    // The first that is hit shows that it is in force.
    let end = Instant::now() + PATIENCE;
    while lab.get(lab.inbound, "/").await.status != 418 {
        assert!(Instant::now() < end);
    }
    let mut hit = 0;
    for _ in 0..1000 {
        hit += usize::from(lab.get(lab.inbound, "/").await.status == 418);
        assert_eq!(lab.get(lab.inbound, "/spared").await.status, 200);
    }
    // Ten may be saved up before.
    assert!((95..=110).contains(&hit), "{hit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_leased_is_refused() {
    let lab = Lab::start(Setup::default()).await;
    for (ttl, reason) in [(None, "ttl: missing"), (Some(Duration::from_secs(601)), "ttl: longer than 600 s")]
    {
        let refused = lab.push(&[("a", ABORT)], ttl, &[]).await;
        assert!(refused.clone().is_some_and(|refused| refused.contains(reason)), "{refused:?}");
    }
    assert_eq!(lab.get(lab.inbound, "/").await.status, 200);
}
