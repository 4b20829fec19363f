#!/usr/bin/env bash
# Licences, bans and sources of all dependencies. Advisories need a network and are left to a scheduled job.
set -eu
cd "$(dirname "$0")/.."
command -v cargo-deny >/dev/null 2>&1 || cargo install --quiet --locked cargo-deny
# The graph of all platforms is looked at, so all of its crates must be there.
cargo fetch --quiet --locked
cargo deny --offline --log-level error check licenses bans sources
