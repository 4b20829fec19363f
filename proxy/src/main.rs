//! The `outrider-proxy` binary.

fn main() {}
