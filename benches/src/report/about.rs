//! The head of a report: the machine, the versions, the command, the commit.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::measure::Cores;
use crate::subject::Subject;

/// Where and how a report was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Model of the processor.
    pub cpu: String,
    /// Cores that the harness may use.
    pub cores: usize,
    /// Which core did what.
    pub division: String,
    /// Main memory in MiB.
    pub memory_mb: u64,
    /// Kernel and its release.
    pub kernel: String,
    /// Distribution.
    pub system: String,
    /// Load of the machine (`/proc/loadavg`, 1 minute) before the run: whether others used it too.
    pub load_before: String,
    /// Commit of the checkout, with `+` if it had changes.
    pub commit: String,
    /// Day and time (UTC) of the start.
    pub started: String,
    /// The command as it was given, paths shortened to their last part.
    pub command: String,
    /// Rounds, and the length of a pass in milliseconds.
    pub rounds: usize,
    /// Length of a pass in milliseconds.
    pub pass_ms: u64,
    /// What counted system calls.
    pub syscalls_by: String,
    /// Names and versions.
    pub subjects: Vec<Program>,
}

/// A subject's name and version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// What it says of itself.
    pub version: String,
}

/// Looks at the machine and the checkout.
#[must_use]
pub fn gather(cores: Cores, subjects: &[Subject]) -> About {
    About {
        cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(1, usize::from).max(available()),
        division: division(cores),
        memory_mb: field("/proc/meminfo", "MemTotal")
            .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
            / 1024,
        kernel: format!(
            "{} {}",
            first_line("/proc/sys/kernel/ostype"),
            first_line("/proc/sys/kernel/osrelease")
        ),
        system: field("/etc/os-release", "PRETTY_NAME").unwrap_or_default().trim_matches('"').to_owned(),
        load_before: first_line("/proc/loadavg").split_whitespace().next().unwrap_or_default().to_owned(),
        commit: commit(),
        started: output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        command: command(std::env::args()),
        subjects: subjects
            .iter()
            .map(|subject| Program { name: subject.name.clone(), version: subject.version.clone() })
            .collect(),
        ..About::default()
    }
}

fn division(cores: Cores) -> String {
    if cores.is_shared() {
        return format!(
            "everything on core {}: the generator takes its time from the subject",
            cores.subject
        );
    }
    format!("subject on core {}, generator and backend on core {}", cores.subject, cores.load)
}

/// The processors of the machine, whatever this thread is pinned to.
fn available() -> usize {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().filter(|line| line.starts_with("processor")).count()
}

/// The value behind `NAME:` or `NAME=` in a file of such lines.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let (_, value) = line.split_once([':', '='])?;
    Some(value.trim().to_owned())
}

fn first_line(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

fn commit() -> String {
    let hash = output("git", &["rev-parse", "--short=12", "HEAD"]);
    let changed = !output("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
    if changed { format!("{hash}+") } else { hash }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// No folder of the machine stands in a report.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let short = arguments.map(|argument| {
        let (option, value) = argument.split_once('=').map_or(("", argument.as_str()), |(a, b)| (a, b));
        let value = if value.starts_with('/') { value.rsplit('/').next().unwrap_or_default() } else { value };
        if option.is_empty() { value.to_owned() } else { format!("{option}={value}") }
    });
    short.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_shows_no_folder() {
        let given = ["/a/b/outrider-bench", "run", "--subject", "old=/c/d/outrider-proxy", "--out", "/e/f"];
        assert_eq!(
            command(given.map(str::to_owned).into_iter()),
            "outrider-bench run --subject old=outrider-proxy --out f"
        );
    }
}
