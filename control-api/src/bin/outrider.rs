//! The `outrider` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrider_control::cli::main()
}
