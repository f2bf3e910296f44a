#!/usr/bin/env bash
# Checks the library for wasm32-unknown-unknown (the browser, through wgpu's WebGPU backend), with the toolchain that
# scripts/wasm-toolchain.sh finds or makes.
#
# Exit code: 0 the check passed; 1 it failed; 3 skipped, and the last line says why.
set -u

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
cd "$root" || exit 1
environment=$(scripts/wasm-toolchain.sh check) || exit
eval "$environment"

# Optimised procedural macros would cost more to build than they give back here.
# `rustc` with the profile `check` gives its flags to this crate alone.
cargo rustc --profile check --locked --lib --target wasm32-unknown-unknown --no-default-features --features webgpu \
    --config 'profile.dev.package."*".opt-level=0' -- -D warnings </dev/null || exit 1
printf 'wasm32: the library checks\n'
