//! The `outrider-control` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrider_control::server::main()
}
