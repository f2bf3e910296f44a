#!/usr/bin/env bash
# Builds the page: the WebAssembly file and its JavaScript go to web/pkg. After that web/ is a folder of static files.
#
# Exit code: 0 it is built; 1 it failed; 3 there is no toolchain to be had, and the last line says why.
set -u

web=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
environment=$("$web/../scripts/wasm-toolchain.sh" build "$web/Cargo.lock") || exit
eval "$environment"

cd "$web" || exit 1
target=wasm32-unknown-unknown
cargo rustc --locked --release --lib --target "$target" -- -D warnings </dev/null || exit 1
rm -rf pkg
wasm-bindgen --target web --no-typescript --out-dir pkg "$CARGO_TARGET_DIR/$target/release/macheps_web.wasm" || exit 1
printf 'web: built, %s KiB of WebAssembly; serve %s with any static server\n' "$(du -k pkg/macheps_web_bg.wasm | cut -f1)" "$web"
