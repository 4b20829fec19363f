//! The generator beside `wrk` (HTTP/1.1) and `h2load` (HTTP/2), on the same core, against the same target on another: they are to agree
//! on the throughput within 10 %.
//!
//! This measures time, so it is not among the tests that always run; `make bench-check` runs it, built for speed:
//! `cargo test --profile harness -p outrider-bench --test crosscheck -- --ignored`. Asked for by name, it fails where it cannot be done.

#[cfg(test)]
mod crosscheck {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::process::{Child, Command};
    use std::sync::{Mutex, PoisonError};
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
    /// A machine that is busy with something else may spoil many rounds: so often are as many added, and the median of all
    /// counts, never of those that suit.
    const EXTENSIONS: usize = 3;
    /// Two measurements at a time on the same cores would each measure the other.
    static ALONE: Mutex<()> = Mutex::new(());

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
        fn demand(&self) {
            let found = Command::new(self.name).arg("--version").output().is_ok();
            assert!(found, "{} is not installed: make bench-setup installs it", self.name);
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

    /// Ratios of ours to theirs, one for each pair of runs.
    fn compare(peer: &Peer, spec: &Spec, core: usize, arguments: &[&str]) -> Vec<f64> {
        let pair = |round: usize| {
            let theirs = || peer.per_second(core, arguments);
            let ours = || {
                let outcome = run(spec).unwrap();
                assert_eq!(outcome.errors.total(), 0, "{}", outcome.errors);
                outcome.per_second()
            };
            // Who goes first changes.
            let (ours, theirs) = if round.is_multiple_of(2) {
                let ours = ours();
                (ours, theirs())
            } else {
                let theirs = theirs();
                (ours(), theirs)
            };
            println!("{:8} ours {ours:9.0} per second, theirs {theirs:9.0}", peer.name);
            ours / theirs
        };
        (0..ROUNDS).map(pair).collect()
    }

    fn median(values: &mut [f64]) -> f64 {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    fn agree(peer: &Peer, protocol: Protocol, connections: usize, bytes: usize, arguments: &[&str]) {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        peer.demand();
        let cores = Cores::divide().unwrap();
        assert!(!cores.is_shared(), "the generator and the target need a core each, and there is one");
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
        let mut ratios = Vec::new();
        let mut ratio = 0.0;
        for _ in 0..=EXTENSIONS {
            ratios.extend(compare(peer, &spec, cores.load, &arguments));
            ratio = median(&mut ratios);
            let pairs = ratios.len();
            println!(
                "{:8} {bytes} B, {connections} connections: median {ratio:.3} of {pairs} pairs",
                peer.name
            );
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
