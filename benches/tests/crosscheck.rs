//! The generator beside `wrk` (HTTP/1.1) and `h2load` (HTTP/2), on the same core, against the same target on another: they are to agree
//! on the throughput within 10 %.
//!
//! This measures time, so it is not among the tests that always run; `make bench-check` runs it, built for speed:
//! `cargo test --profile harness -p outrider-bench --test crosscheck -- --ignored`.

#[cfg(test)]
mod crosscheck {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use outrider_bench::backend::{Backend, Options};
    use outrider_bench::load::{Protocol, Spec, run};
    use outrider_bench::measure::Cores;

    /// How far apart the two may be.
    const TOLERANCE: f64 = 0.10;
    /// Pairs of runs of which the median counts.
    const ROUNDS: usize = 7;
    /// Seconds of each run.
    const SECONDS: u64 = 1;
    /// A machine that is busy with something else may spoil all rounds: so often is it given another chance.
    const ATTEMPTS: usize = 4;

    /// How long the target may take to be there.
    const PATIENCE: Duration = Duration::from_secs(10);

    struct Peer {
        name: &'static str,
        /// What comes before the figure in its output, in this order, and after it.
        figure: (&'static [&'static str], &'static str),
    }

    const WRK: Peer = Peer { name: "wrk", figure: (&["Requests/sec:"], "\n") };
    const H2LOAD: Peer = Peer { name: "h2load", figure: (&["finished in ", ", "], " req/s") };

    impl Peer {
        /// Whether it is there; if not, says so.
        fn is_there(&self) -> bool {
            let found = Command::new(self.name).arg("--version").output().is_ok();
            if !found {
                println!("skipped: {} is not installed (make bench-setup)", self.name);
            }
            found
        }

        fn per_second(&self, core: usize, arguments: &[&str]) -> f64 {
            let mut command = Command::new("taskset");
            command.args(["-c", &core.to_string(), self.name]).args(arguments);
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            let figure = self.figure.0.iter().try_fold(&*text, |rest, word| Some(rest.split_once(word)?.1));
            let figure = figure.and_then(|rest| rest.split(self.figure.1).next()?.trim().parse().ok());
            figure.unwrap_or_else(|| panic!("{text}"))
        }
    }

    /// The smallest proxy, on the backend's core: with it the target is the limit. Without it, `wrk` itself would be.
    struct Floor {
        child: Child,
        address: SocketAddr,
    }

    impl Floor {
        fn start(upstream: SocketAddr, core: usize) -> Self {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let mut command = Command::new("taskset");
            command.args(["-c", &core.to_string(), env!("CARGO_BIN_EXE_outrider-floor-tcp")]);
            let child = command.args([address.to_string(), upstream.to_string()]).spawn().unwrap();
            let floor = Self { child, address };
            let end = Instant::now() + PATIENCE;
            while TcpStream::connect(address).is_err() {
                assert!(Instant::now() < end, "the floor does not listen");
                std::thread::yield_now();
            }
            floor
        }
    }

    impl Drop for Floor {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// The median ratio of ours to theirs.
    fn compare(peer: &Peer, spec: &Spec, core: usize, arguments: &[&str]) -> f64 {
        let mut ratios: Vec<f64> = (0..ROUNDS)
            .map(|round| {
                let theirs = || peer.per_second(core, arguments);
                let ours = || {
                    let outcome = run(spec).unwrap();
                    assert_eq!(outcome.errors.total(), 0, "{}", outcome.errors);
                    outcome.per_second()
                };
                // Who goes first changes.
                let (ours, theirs) = if round % 2 == 0 { (ours(), theirs()) } else { (theirs(), ours()) };
                let (ours, theirs) = if round % 2 == 0 { (ours, theirs) } else { (theirs, ours) };
                println!("{:8} ours {ours:9.0} per second, theirs {theirs:9.0}", peer.name);
                ours / theirs
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        ratios[ROUNDS / 2]
    }

    fn agree(peer: &Peer, protocol: Protocol, connections: usize, bytes: usize, arguments: &[&str]) {
        if !peer.is_there() {
            return;
        }
        let cores = Cores::divide().unwrap();
        if cores.is_shared() {
            println!("skipped: the generator and the backend need a core each");
            return;
        }
        let backend = Backend::start(Options { core: Some(cores.subject), ..Options::default() }).unwrap();
        let floor = Floor::start(backend.ports.http, cores.subject);
        let spec = Spec {
            connections,
            response_bytes: bytes,
            duration: Duration::from_secs(SECONDS),
            warmup: Duration::from_millis(100),
            core: Some(cores.load),
            ..Spec::new(floor.address, protocol)
        };
        let url = format!("http://{}/bytes/{bytes}", floor.address);
        let seconds = SECONDS.to_string();
        let arguments: Vec<&str> = arguments
            .iter()
            .map(|word| word.strip_prefix("SECONDS").map_or(*word, |_| &seconds))
            .chain([&*url])
            .collect();
        let mut ratio = 0.0;
        for _ in 0..ATTEMPTS {
            ratio = compare(peer, &spec, cores.load, &arguments);
            println!("{:8} {bytes} B over {connections} connections: median ratio {ratio:.3}", peer.name);
            if (ratio - 1.0).abs() <= TOLERANCE {
                return;
            }
        }
        panic!("{} and ours differ: {ratio:.3}", peer.name);
    }

    #[test]
    #[ignore = "measures time; make bench-check runs it"]
    fn http1_agrees_with_wrk() {
        for (connections, bytes) in [("64", 12), ("64", 65_536), ("1", 12)] {
            let words = ["-t", "1", "-c", connections, "-d", "SECONDS"];
            agree(&WRK, Protocol::Http1, connections.parse().unwrap(), bytes, &words);
        }
    }

    #[test]
    #[ignore = "measures time; make bench-check runs it"]
    fn http2_agrees_with_h2load() {
        for bytes in [12, 65_536] {
            let words = ["-t", "1", "-c", "8", "-m", "16", "-D", "SECONDS"];
            agree(&H2LOAD, Protocol::Http2 { streams: 16 }, 8, bytes, &words);
        }
    }
}
