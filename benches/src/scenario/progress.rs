//! Says how far a run is: a bar that is drawn over itself on a terminal, one line for each scenario elsewhere.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

/// Width of the bar.
const WIDTH: usize = 24;
/// Longest text beside it, so that it stays in one line of 80 letters.
const TEXT: usize = 40;

/// How far a run is.
#[derive(Debug)]
pub struct Progress {
    done: usize,
    total: usize,
    begin: Instant,
    terminal: bool,
}

impl Progress {
    /// Of so many steps, each a pass of one subject.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self { done: 0, total: total.max(1), begin: Instant::now(), terminal: stderr().is_terminal() }
    }

    /// A scenario begins.
    pub fn scenario(&self, title: &str) {
        if !self.terminal {
            self.write(&format!("{title}\n"));
        }
    }

    /// A step begins; what is being done.
    pub fn step(&mut self, text: &str) {
        self.done = (self.done + 1).min(self.total);
        if self.terminal {
            let line = line(self.done - 1, self.total, self.begin.elapsed(), text);
            self.write(&format!("\r\x1b[2K{line}"));
        }
    }

    /// Steps that are not taken after all.
    pub fn skip(&mut self, steps: usize) {
        self.total = self.total.saturating_sub(steps).max(self.done).max(1);
    }

    /// Makes room for other output.
    pub fn clear(&self) {
        if self.terminal {
            self.write("\r\x1b[2K");
        }
    }

    fn write(&self, text: &str) {
        // Nobody to be told when the terminal is gone.
        let _ = stderr().write_all(text.as_bytes());
    }
}

fn line(done: usize, total: usize, elapsed: Duration, text: &str) -> String {
    let filled = WIDTH * done / total;
    let text: String = text.chars().take(TEXT).collect();
    let left = if done == 0 {
        String::new()
    } else {
        let seconds = elapsed.as_secs_f64() / done as f64 * (total - done) as f64;
        format!(", {:.0}:{:02.0} left", (seconds / 60.0).floor(), (seconds % 60.0).floor())
    };
    format!("[{}{}] {:3} %{left}  {text}", "#".repeat(filled), ".".repeat(WIDTH - filled), 100 * done / total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_share_and_time() {
        let text = line(30, 120, Duration::from_secs(60), "h1-12b-64: haproxy");
        assert_eq!(text, "[######..................]  25 %, 3:00 left  h1-12b-64: haproxy");
        assert!(line(0, 1, Duration::ZERO, &"x".repeat(200)).len() < 80);
    }
}
