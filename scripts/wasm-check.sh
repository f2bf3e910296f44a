#!/usr/bin/env bash
# Checks the library for wasm32-unknown-unknown (the browser, through wgpu's WebGPU backend).
#
# Where the toolchain has the target (`rustup target add wasm32-unknown-unknown`), that is used. Where it
# has not, and cannot download it, the distribution's packages serve: a compiler and the sources of
# its standard library are unpacked (nothing is installed) into a work folder, and the standard
# library's metadata, which is all that a check reads, is made from the sources. About 140 MB are downloaded
# and 450 MB kept under target/wasm-std, or in the folder that MACHEPS_WASM_STD names.
#
# Exit code: 0 the check passed; 1 it failed; 3 skipped, and the last line says why.
set -u

target=wasm32-unknown-unknown
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
cd "$root" || exit 1
build=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$build" || exit 1
build=$(cd "$build" && pwd) || exit 1
work=${MACHEPS_WASM_STD:-$build/wasm-std}

skip() {
    printf 'SKIPPED: wasm32 check: %s\n' "$1"
    exit 3
}

say() {
    printf 'wasm32: %s\n' "$1"
}

check() {
    # A build folder of its own: another compiler in the usual one would rebuild everything there.
    # Optimised procedural macros would cost more to build than they give back here.
    # `rustc` with the profile `check` gives its flags to this crate alone.
    CARGO_TARGET_DIR=$build/wasm-check cargo rustc --profile check --locked --lib --target "$target" \
        --no-default-features --features webgpu \
        --config 'profile.dev.package."*".opt-level=0' -- -D warnings </dev/null || exit 1
    say 'the library checks'
    exit 0
}

has_target() {
    compgen -G "$1/lib/rustlib/$target/lib/libstd-*.r*" >/dev/null
}

command -v cargo >/dev/null || skip 'no cargo on the PATH'
if has_target "$(rustc --print sysroot)"; then
    say 'with the standard library of the toolchain'
    check
fi

case $work in
    /*) ;;
    *) work=$root/$work ;;
esac
packages=$work/packages
tree=$work/root
compiler=$work/rustc
stamp=$work/ready

# The packages by their present names: those of the library and of LLVM carry a version.
package_names() {
    apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances rustc-web 2>/dev/null |
        grep -E '^(rustc-web|libstd-rust-web-[a-z0-9.]+|libllvm[0-9]+)$' | sort -u
}

# A dependency may exist in several versions; only what the newest rustc-web needs is fetched.
fetch_packages() {
    mkdir -p "$packages" || return 1
    rm -f "$packages"/*.deb
    local names
    mapfile -t names < <(package_names)
    [ "${#names[@]}" -ge 4 ] || return 1
    (cd "$packages" && apt-get -qq download "${names[@]}" rust-web-src </dev/null)
}

prepare() {
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        skip "the toolchain lacks the target and there is no apt (try: rustup target add $target)"
    fi
    local free
    free=$(df -Pk "$work" | awk 'NR == 2 { print $4 }')
    [ "${free:-0}" -ge 1200000 ] || skip "1.2 GB of disk are needed in $work"

    say 'fetching a compiler with the sources of its standard library (140 MB)'
    if ! fetch_packages 2>/dev/null; then
        [ "$(id -u)" -eq 0 ] && apt-get -qq update </dev/null
        fetch_packages || skip 'the packages rustc-web and rust-web-src cannot be had'
    fi

    say 'unpacking it'
    rm -rf "$tree" "$work/std"
    mkdir -p "$tree" || return 1
    local package
    for package in "$packages"/*.deb; do
        case ${package##*/} in
            rust-web-src*)
                dpkg-deb --fsys-tarfile "$package" |
                    tar -x -C "$tree" --wildcards --exclude '*/library/vendor' './usr/src/rustc-*/library' || return 1
                ;;
            *)
                dpkg-deb --fsys-tarfile "$package" |
                    tar -x -C "$tree" --exclude './usr/share' --exclude './usr/bin/rustdoc' || return 1
                ;;
        esac
    done
    rm -rf "$packages"

    local libraries
    libraries=$(cd "$tree/usr/lib" && echo "$PWD"/*-linux-gnu*)
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' "$libraries" "$tree/usr/bin/rustc" >"$compiler"
    chmod +x "$compiler"
    local version
    version=$("$compiler" --version 2>&1) ||
        skip "the packaged compiler does not start: $(printf '%s' "$version" | head -n 1)"

    say "making the standard library's metadata with $version"
    local library
    library=$(echo "$tree"/usr/src/rustc-*/library)
    # The sources use unstable features and mark what is not for users; both flags are the ones that
    # the compiler's own build uses.
    RUSTC=$compiler RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zforce-unstable-if-unmarked CARGO_TARGET_DIR=$work/std \
        cargo check --quiet --release --config profile.release.debug=0 --manifest-path "$library/std/Cargo.toml" \
        --target "$target" </dev/null || return 1
    local kept=$tree/usr/lib/rustlib/$target/lib
    mkdir -p "$kept" && cp "$work/std/$target"/release/deps/*.rmeta "$kept" || return 1
    rm -rf "$work/std" "$tree/usr/src"
    printf '%s\n' "$version" >"$stamp"
}

if ! [ -f "$stamp" ]; then
    mkdir -p "$work" || skip "cannot write to $work"
    prepare || skip 'the standard library could not be made from the packages (see above)'
fi
say "with $(cat "$stamp") in $work"
export RUSTC=$compiler
check
