//! The `outrider-proxy` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrider_proxy::cli::main()
}
