//! System calls of a subject in a short pass of their own: `perf` counts them without stopping the subject, `strace` is
//! the way where `perf` may not be used, and slows it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::Family;

/// How long a tool may take to be attached, or to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// The tracepoint that every system call passes.
const EVENT: &str = "raw_syscalls:sys_enter";

/// What counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `perf stat` on a tracepoint.
    Perf,
    /// `strace -c`.
    Strace,
}

impl Tool {
    /// The better one of those that work here.
    #[must_use]
    pub fn find() -> Option<Self> {
        let works = |command: &mut Command| {
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        if works(Command::new("perf").args(["stat", "-e", EVENT, "true"])) {
            return Some(Self::Perf);
        }
        works(Command::new("strace").args(["-c", "-o", "/dev/null", "true"])).then_some(Self::Strace)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Perf => "perf",
            Self::Strace => "strace",
        }
    }
}

/// Counts the system calls of a family while `work` runs, and hands back what it gave.
///
/// # Errors
/// When the tool cannot be attached or its output is not understood; whatever `work` fails with.
pub fn count<T>(tool: Tool, family: &Family, work: impl FnOnce() -> Result<T>) -> Result<(u64, T)> {
    let pids: Vec<String> = family.pids().iter().map(ToString::to_string).collect();
    let mut command = match tool {
        Tool::Perf => {
            let mut command = Command::new("perf");
            command.args(["stat", "-x,", "-e", EVENT, "-p", &pids.join(",")]);
            command
        }
        Tool::Strace => {
            let mut command = Command::new("strace");
            command.args(["-c", "-f", "-q"]).args(pids.iter().flat_map(|pid| ["-p", pid.as_str()]));
            command
        }
    };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", tool.name()))?;
    let done = attached(tool, &mut child, family).and_then(|()| work());
    kill_process(Pid::from_child(&child), Signal::INT).context("cannot stop the counter")?;
    let output = child.wait_with_output().context("the counter's output")?;
    let text = String::from_utf8_lossy(&output.stderr);
    let counted = match tool {
        Tool::Perf => perf_total(&text),
        Tool::Strace => strace_total(&text),
    };
    let done = done?;
    match counted {
        Some(counted) => Ok((counted, done)),
        None => bail!("{} said: {}", tool.name(), text.lines().next_back().unwrap_or("nothing")),
    }
}

/// Waits until the tool is at work: `strace` is when the subject says that it is traced, `perf` when it sleeps.
fn attached(tool: Tool, child: &mut Child, family: &Family) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if child.try_wait()?.is_some() {
            bail!("{} ended at once", tool.name());
        }
        let ready = match tool {
            Tool::Strace => family.pids().iter().all(|pid| traced(*pid)),
            Tool::Perf => waits(child.id()),
        };
        if ready {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("{} does not get attached", tool.name())
}

fn traced(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
}

/// Whether a `perf stat` has set its counters up: from then on it waits in `poll` or `nanosleep` (the first field of
/// `/proc/PID/syscall` on x86-64 and arm64).
fn waits(pid: u32) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = call.split_whitespace().next().unwrap_or_default();
    let counting = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .map(|files| files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok()))
        .is_ok_and(|mut links| links.any(|link| link.to_string_lossy().contains("perf_event")));
    counting && ["7", "35", "230", "271", "73", "101", "115"].contains(&number)
}

/// `COUNT,,EVENT,...`, one line.
fn perf_total(text: &str) -> Option<u64> {
    text.lines().find(|line| line.contains(EVENT))?.split(',').next()?.trim().parse().ok()
}

/// `100.00 SECONDS USECS CALLS [ERRORS] total`.
fn strace_total(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.trim_end().ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_are_understood() {
        assert_eq!(perf_total("1234,,raw_syscalls:sys_enter,99,100.00,,\n"), Some(1234));
        assert_eq!(perf_total("<not counted>,,raw_syscalls:sys_enter,0,0.00,,\n"), None);
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     100.00    0.001234           1       567        89 total\n";
        assert_eq!(strace_total(table), Some(567));
    }

    #[test]
    fn the_calls_of_a_process_are_counted() {
        let Some(tool) = Tool::find() else {
            println!("SKIPPED: neither perf nor strace may be used here");
            return;
        };
        // It sleeps for as long as its input is open, and writes one line for each that it reads.
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cat");
        let family = Family::of(child.id());
        let (calls, ()) = count(tool, &family, || {
            use std::io::{BufRead as _, Write as _};
            let mut input = child.stdin.take().context("input")?;
            let mut output = std::io::BufReader::new(child.stdout.take().context("output")?);
            for _ in 0..100 {
                input.write_all(b"x\n")?;
                output.read_line(&mut String::new())?;
            }
            Ok(())
        })
        .unwrap();
        child.wait().unwrap();
        assert!((200..260).contains(&calls), "{calls} calls by {}", tool.name());
    }
}
