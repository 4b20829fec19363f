#!/usr/bin/env bash
# Runs every fuzz target for FUZZ_SECONDS. Needs a nightly toolchain, which cargo-fuzz asks for.
set -eu
cd "$(dirname "$0")/../proxy"
if ! cargo +nightly --version >/dev/null 2>&1; then
  echo "fuzz: no nightly toolchain; 'rustup toolchain install nightly' brings one"
  exit 1
fi
command -v cargo-fuzz >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
for target in $(cargo +nightly fuzz list); do
  echo "fuzz: $target for ${FUZZ_SECONDS:-60} s"
  cargo +nightly fuzz run "$target" -- -max_total_time="${FUZZ_SECONDS:-60}" -rss_limit_mb=2048 -verbosity=0
done
