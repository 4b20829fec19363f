//! `outrider-bench backend`: serves until it is killed.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use clap::Args;

use super::{Options, serve};

/// Arguments of `backend`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Where HTTP/1.1, WebSocket and HTTP/2 are served; port 0 is any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    http: SocketAddr,
    /// Where raw frames are served.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    tcp: SocketAddr,
    /// Run on this core.
    #[arg(long)]
    core: Option<usize>,
}

/// Prints the ports as one line of JSON, and serves.
///
/// # Errors
/// When it cannot listen, run where it is to, or print.
pub fn backend(arguments: &Arguments) -> Result<()> {
    let options = Options { http: arguments.http, tcp: arguments.tcp, core: arguments.core };
    serve(options, std::future::pending(), |ports| {
        let mut output = std::io::stdout();
        writeln!(output, "{}", serde_json::to_string(&ports)?)?;
        output.flush().context("nobody reads the ports")
    })
}
