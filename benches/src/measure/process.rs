//! CPU time and memory of a process and its descendants, from `/proc` (proc(5)).

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Deepest nesting of children that is looked at: a wrapper, a master, its workers.
const MAX_DEPTH: usize = 4;

/// The processes that make up one subject (nginx is a master and a worker).
#[derive(Clone, Debug, Default)]
pub struct Family {
    pids: Vec<u32>,
}

/// Memory of a family, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident now (`VmRSS`), summed over the processes.
    pub resident_bytes: u64,
    /// The most that was ever resident (`VmHWM`), summed over the processes.
    pub peak_bytes: u64,
}

impl Family {
    /// A process and its descendants as they are now.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let mut pids = vec![pid];
        let mut row = vec![pid];
        for _ in 0..MAX_DEPTH {
            row = row.iter().flat_map(|one| children(*one)).collect();
            pids.extend(&row);
        }
        Self { pids }
    }

    /// One process without its descendants.
    #[must_use]
    pub fn only(pid: u32) -> Self {
        Self { pids: vec![pid] }
    }

    /// Their ids.
    #[must_use]
    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// Two families as one, for a pair of proxies.
    pub fn join(&mut self, other: &Self) {
        self.pids.extend(&other.pids);
    }

    /// User and system time of all threads, those that ended included. The kernel counts it exactly and shows it in
    /// ticks of 10 ms, so a pass has to take some hundred of them.
    ///
    /// # Errors
    /// When a process is gone: the subject has died under load.
    pub fn cpu(&self) -> Result<Duration> {
        let mut ticks = 0;
        for pid in &self.pids {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("the subject has ended")?;
            ticks += cpu_ticks(&text).context("/proc/PID/stat is not what proc(5) says")?;
        }
        let per_second = rustix::param::clock_ticks_per_second();
        Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
    }

    /// Their memory.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn memory(&self) -> Result<Memory> {
        let mut sum = Memory::default();
        for pid in &self.pids {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).context("the subject has ended")?;
            sum.resident_bytes += status_bytes(&text, "VmRSS:").unwrap_or(0);
            sum.peak_bytes += status_bytes(&text, "VmHWM:").unwrap_or(0);
        }
        Ok(sum)
    }
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|one| one.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Fields 14 and 15, counted after the name, which may hold spaces and brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(name))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_a_name_with_brackets() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 17 5 0 0 20 0 1 0 1 1 1";
        assert_eq!(cpu_ticks(stat), Some(22));
        assert_eq!(cpu_ticks("42 (cut"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(status_bytes(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(status_bytes(status, "VmRSS:"), Some(1 << 20));
        assert_eq!(status_bytes(status, "VmSwap:"), None);
    }

    #[test]
    fn the_own_process_uses_cpu_and_memory() {
        // Other tests have children that come and go.
        let own = Family::only(std::process::id());
        let before = own.cpu().unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(20);
        let mut sum = 0_u64;
        while own.cpu().unwrap() < before + Duration::from_millis(20) {
            assert!(std::time::Instant::now() < end, "no CPU time is counted");
            sum = (0..100_000_u64).fold(sum, |sum, one| sum.wrapping_mul(31).wrapping_add(one));
        }
        let memory = own.memory().unwrap();
        assert!(
            memory.peak_bytes >= memory.resident_bytes && memory.resident_bytes > 100_000,
            "{memory:?} {sum}"
        );
    }
}
