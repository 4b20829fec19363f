//! The backend as a process of its own, on the generator's core.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use crate::backend::Ports;
use crate::measure::{Cores, Family, spawn_on};

/// The backend as a child process. It ends when this is dropped.
#[derive(Debug)]
pub struct Backend {
    child: Child,
    /// Where it listens.
    pub ports: Ports,
}

impl Backend {
    /// Starts it on the generator's core.
    ///
    /// # Errors
    /// When it cannot be started or does not say its ports.
    pub fn start(cores: Cores) -> Result<Self> {
        let own = std::env::current_exe().context("where this program is")?;
        Self::spawn(&mut Command::new(own), cores)
    }

    /// The same with another command for the harness itself.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn spawn(command: &mut Command, cores: Cores) -> Result<Self> {
        command.arg("backend").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = spawn_on(command, cores.load, cores.load)?;
        let output = child.stdout.take().context("the backend's output")?;
        let mut line = String::new();
        let read = BufReader::new(output).read_line(&mut line);
        // From here on the child ends with the value, whatever comes.
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut backend = Self { child, ports: Ports { http: unknown, tcp: unknown } };
        read?;
        backend.ports = serde_json::from_str(&line).context("the backend does not say its ports")?;
        Ok(backend)
    }

    /// Its process.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.child.id())
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
