//! Configuration from a control server while traffic runs: how long until a push has an effect, and what many of them cost.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Bench;
use super::bench::{Part, each, finish};
use super::control::{Control, HEADER};
use crate::drive::{self, Kind, Load, Pace};
use crate::measure::Family;
use crate::report::{Figure, Row};
use crate::subject::{Mode, Running, Setup, start};

/// Pushes of a round whose effect is awaited.
const PUSHES: usize = 100;
/// How long a configuration may take to have its effect.
const PATIENCE: Duration = Duration::from_secs(30);
const MIB: f64 = 1024.0 * 1024.0;

/// What a round gave, by figure.
type Samples = BTreeMap<String, BTreeMap<Figure, Vec<f64>>>;

/// One change at a time: the time until traffic shows it.
pub(super) fn push(bench: &mut Bench, services: usize, row: &mut Row) -> Result<()> {
    rounds(bench, services, row, |_, lab, put| {
        put(Figure::ReadyMs, lab.ready.as_secs_f64() * 1e3);
        let mut prober = Prober::connect(lab.running.target)?;
        let mut effects = Vec::new();
        for _ in 0..PUSHES {
            let begin = Instant::now();
            let version = lab.control.push();
            while prober.version()? < version {
                if begin.elapsed() > PATIENCE {
                    bail!("a push has no effect after {} s", PATIENCE.as_secs());
                }
            }
            effects.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        effects.sort_by(f64::total_cmp);
        put(Figure::EffectMs, *effects.get(PUSHES / 2).context("no push")?);
        put(Figure::EffectP99Ms, *effects.get(PUSHES * 99 / 100 - 1).context("no push")?);
        Ok(())
    })
}

/// Many changes each second: what each costs alone, then what requests cost beside them.
pub(super) fn churn(bench: &mut Bench, (services, per_second): (usize, u32), row: &mut Row) -> Result<()> {
    let load = Load { kind: Kind::Get, connections: 64, bytes: 12 };
    rounds(bench, services, row, |pass, lab, put| {
        let before = lab.family.cpu()?;
        let (pushes, ()) = lab.pushing(per_second, || {
            std::thread::sleep(pass);
            Ok(())
        })?;
        let spent = lab.family.cpu()?.saturating_sub(before);
        put(Figure::CpuUsPerUpdate, spent.as_secs_f64() * 1e6 / pushes.max(1) as f64);
        let before = lab.family.cpu()?;
        let (_, done) =
            lab.pushing(per_second, || drive::pass(&lab.running.towards(), load, Pace::Closed, pass))?;
        let spent = lab.family.cpu()?.saturating_sub(before);
        if done.requests == 0 || done.errors > 0 {
            bail!("{} requests were answered, {} failed", done.requests, done.errors);
        }
        put(Figure::CpuUs, spent.as_secs_f64() * 1e6 / done.requests as f64);
        put(Figure::RequestsPerSecond, done.per_second);
        put(Figure::P99Ms, done.percentile_ms(99.0));
        put(Figure::PeakRssMb, lab.family.memory()?.peak_bytes as f64 / MIB);
        Ok(())
    })
}

/// A subject with its control server.
struct Lab {
    control: Control,
    running: Running,
    family: Family,
    /// From start to the first answer.
    ready: Duration,
}

impl Lab {
    fn start(bench: &Bench, part: &Part, setup: &Setup) -> Result<Self> {
        let control = Control::start(setup)?;
        let setup = Setup { control: Some(control.address), ..*setup };
        let begin = Instant::now();
        let running = start(&part.subject, &setup, bench.cores)?;
        let family = running.family().context("it has no process")?;
        while Prober::connect(running.target).and_then(|mut prober| prober.version()).is_err() {
            if let Some(reason) = control.refused() {
                bail!("it refuses: {reason}");
            }
            if begin.elapsed() > PATIENCE {
                bail!("it does not serve after {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Self { control, running, family, ready: begin.elapsed() })
    }

    /// Does something while versions are pushed at a fixed rate; says how many were.
    fn pushing<T>(&self, per_second: u32, work: impl FnOnce() -> Result<T>) -> Result<(u64, T)> {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let pusher = scope.spawn(|| {
                let (begin, mut pushes) = (Instant::now(), 0);
                while !done.load(Ordering::Relaxed) {
                    let due = Duration::from_secs(1) / per_second * pushes;
                    std::thread::sleep(due.saturating_sub(begin.elapsed()));
                    self.control.push();
                    pushes += 1;
                }
                u64::from(pushes)
            });
            let worked = work();
            done.store(true, Ordering::Relaxed);
            let Ok(pushes) = pusher.join() else { bail!("the thread that pushes has failed") };
            Ok((pushes, worked?))
        })
    }
}

fn rounds(
    bench: &mut Bench,
    services: usize,
    row: &mut Row,
    mut measure: impl FnMut(Duration, &Lab, &mut dyn FnMut(Figure, f64)) -> Result<()>,
) -> Result<()> {
    let upstream = bench.upstream();
    let setup = Setup { clusters: services, ..Setup::plain(Mode::Http1, upstream) };
    // Who takes no xDS at all is no part of this, whatever its configuration.
    let mut parts = bench.parts(&Setup { control: Some(upstream), ..setup }, row);
    let mut samples = Samples::new();
    let id = row.id.clone();
    for round in 0..bench.pacing.rounds {
        each(&mut parts, row, round, |part| {
            bench.progress.step(&format!("{id}: {}, round {}", part.subject.name, round + 1));
            let lab = Lab::start(bench, part, &setup)?;
            let own = samples.entry(part.subject.name.clone()).or_default();
            measure(bench.pacing.pass, &lab, &mut |figure, value| {
                own.entry(figure).or_default().push(value);
            })
        });
    }
    for part in &mut parts {
        for (figure, values) in samples.remove(&part.subject.name).unwrap_or_default() {
            part.cell.put(figure, values);
        }
    }
    finish(&bench.subjects, parts, row);
    Ok(())
}

/// Asks over one kept connection which version is in force.
struct Prober {
    stream: BufReader<TcpStream>,
}

impl Prober {
    fn connect(target: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// The version that an answer carries.
    fn version(&mut self) -> Result<u64> {
        self.stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
        let (mut version, mut length, mut line) = (None, 0, String::new());
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the connection was closed");
            }
            let Some((name, value)) = line.trim_end().split_once(':') else {
                if line.trim().is_empty() {
                    break;
                }
                continue;
            };
            match name.to_ascii_lowercase().as_str() {
                HEADER => version = value.trim().parse().ok(),
                "content-length" => length = value.trim().parse()?,
                _ => {}
            }
        }
        std::io::copy(&mut (&mut self.stream).take(length), &mut std::io::sink())?;
        version.context("an answer without a version")
    }
}
