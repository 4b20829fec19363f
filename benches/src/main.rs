//! The `outrider-bench` binary.

fn main() {}
