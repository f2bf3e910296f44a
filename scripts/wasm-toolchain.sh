#!/usr/bin/env bash
# Finds or makes a toolchain for wasm32-unknown-unknown and prints, as lines for `eval`, the environment that uses it:
#
#     environment=$(scripts/wasm-toolchain.sh build web/Cargo.lock) || exit
#     eval "$environment"
#     cargo build --release --target wasm32-unknown-unknown
set -u

usage() {
    cat <<'TEXT'
Usage: scripts/wasm-toolchain.sh check
       scripts/wasm-toolchain.sh build [LOCKFILE]

  check     what `cargo check` reads: the standard library's metadata
  build     what a program is linked from: the standard library and a linker
  LOCKFILE  besides, the program wasm-bindgen, of the version that this Cargo.lock names

Where the toolchain has the target (`rustup target add wasm32-unknown-unknown`), that is used. Where it has not, and
cannot download it, the distribution's packages serve: a compiler and the sources of its standard library are unpacked
(nothing is installed) into a work folder, and the library is made from the sources. About 140 MB are downloaded and 700 MB
kept under target/wasm-std, or in the folder that MACHEPS_WASM_STD names.

The environment has RUSTC, the linker, PATH, and a CARGO_TARGET_DIR of its own, since another compiler in the usual one
would rebuild everything there.
Exit code: 0 standard output has the environment; 1 it failed; 3 there is no toolchain to be had, and the last line of
standard error says why.
TEXT
}

want=${1:-}
lock=${2:-}
case $want in
    check | build) ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
esac

absolute() {
    case $1 in
        /*) printf '%s\n' "$1" ;;
        *) printf '%s/%s\n' "$PWD" "$1" ;;
    esac
}
[ -z "$lock" ] || lock=$(absolute "$lock")

# Standard output is for the environment alone.
exec 3>&1 1>&2

skip() {
    printf 'SKIPPED: wasm32: %s\n' "$1"
    exit 3
}

say() {
    printf 'wasm32: %s\n' "$1"
}

target=wasm32-unknown-unknown
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
cd "$root" || exit 1
build=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$build" || exit 1
build=$(cd "$build" && pwd) || exit 1
work=$(absolute "${MACHEPS_WASM_STD:-$build/wasm-std}")
packages=$work/packages
tree=$work/root
compiler=$work/rustc
libraries=$tree/usr/lib/rustlib/$target/lib
environment=()

use() {
    environment+=("export $1=$(printf '%q' "$2")")
}

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

unpack_compiler() {
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        skip "the toolchain lacks the target and there is no apt (try: rustup target add $target)"
    fi
    local free
    free=$(df -Pk "$work" | awk 'NR == 2 { print $4 }')
    [ "${free:-0}" -ge 1500000 ] || skip "1.5 GB of disk are needed in $work"

    say 'fetching a compiler with the sources of its standard library (140 MB)'
    if ! fetch_packages 2>/dev/null; then
        [ "$(id -u)" -eq 0 ] && apt-get -qq update </dev/null
        fetch_packages || skip 'the packages rustc-web and rust-web-src cannot be had'
    fi

    say 'unpacking it'
    rm -rf "$tree" "$work"/*.ready
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

    local found
    found=$(cd "$tree/usr/lib" && echo "$PWD"/*-linux-gnu*)
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' "$found" "$tree/usr/bin/rustc" >"$compiler"
    chmod +x "$compiler"
    local version
    version=$("$compiler" --version 2>&1) ||
        skip "the packaged compiler does not start: $(printf '%s' "$version" | head -n 1)"
    printf '%s\n' "$version" >"$work/compiler.ready"
}

# make_library CARGO_COMMAND FILES STAMP
make_library() {
    local library
    library=$(echo "$tree"/usr/src/rustc-*/library)
    # Another standard library takes the old one's place, and what was built with that does not fit it.
    rm -rf "$work/std" "$libraries" "$build/wasm-check" "$build/wasm-build" "$work/check.ready" "$work/build.ready"
    # The sources use unstable features and mark what is not for users; both flags are the ones that the compiler's own
    # build uses. Bitcode is for programs with link-time optimisation.
    RUSTC=$compiler RUSTC_BOOTSTRAP=1 RUSTFLAGS='-Zforce-unstable-if-unmarked -Cembed-bitcode=yes' CARGO_TARGET_DIR=$work/std \
        cargo "$1" --quiet --release --config profile.release.debug=0 --manifest-path "$library/std/Cargo.toml" \
        --target "$target" </dev/null || return 1
    mkdir -p "$libraries" && cp "$work/std/$target"/release/deps/$2 "$libraries" || return 1
    rm -rf "$work/std"
    cp "$work/compiler.ready" "$work/$3"
}

packaged_toolchain() {
    mkdir -p "$work" || skip "cannot write to $work"
    # Two callers at once would unpack over each other.
    exec 9>"$work/lock"
    ! command -v flock >/dev/null || flock 9
    if ! [ -f "$work/compiler.ready" ]; then
        unpack_compiler || skip 'the packages could not be unpacked (see above)'
    fi
    if ! [ -f "$work/build.ready" ]; then
        if [ "$want" = build ]; then
            say "making the standard library with $(cat "$work/compiler.ready")"
            make_library build '*.rlib' build.ready || skip 'the standard library could not be made (see above)'
        elif ! [ -f "$work/check.ready" ]; then
            say "making the standard library's metadata with $(cat "$work/compiler.ready")"
            make_library check '*.rmeta' check.ready || skip "the standard library's metadata could not be made (see above)"
        fi
    fi
    say "with $(cat "$work/compiler.ready") in $work"
    use RUSTC "$compiler"
    [ "$want" = build ] || return 0
    local host linker
    host=$(rustc -vV | sed -n 's/^host: //p')
    linker=$(rustc --print sysroot)/lib/rustlib/$host/bin/rust-lld
    [ -x "$linker" ] || linker=$(command -v rust-lld || command -v wasm-ld) ||
        skip 'there is no linker for it: neither rust-lld in the toolchain nor wasm-ld on the PATH'
    use CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER "$linker"
}

# The program and the library that it works on must be of one version.
bindgen() {
    local version bin
    version=$(awk '$0 == "name = \"wasm-bindgen\"" { getline; gsub(/[^0-9.]/, ""); print }' "$lock")
    if [ -z "$version" ]; then
        say "no wasm-bindgen in $lock"
        exit 1
    fi
    if [ "$(wasm-bindgen --version 2>/dev/null)" = "wasm-bindgen $version" ]; then
        return
    fi
    bin=$build/wasm-bindgen-$version
    if ! [ -f "$bin/ready" ]; then
        say "building wasm-bindgen $version"
        (
            unset RUSTC
            # Without the TLS that only its test runner could want, and at the optimisation that builds and runs soonest.
            CARGO_TARGET_DIR=$build/wasm-bindgen-build CARGO_PROFILE_RELEASE_OPT_LEVEL=1 cargo install --quiet \
                wasm-bindgen-cli --version "=$version" --no-default-features --bin wasm-bindgen \
                --root "$bin" --force </dev/null
        ) || skip "wasm-bindgen $version could not be built (see above)"
        rm -rf "$build/wasm-bindgen-build"
        touch "$bin/ready"
    fi
    use PATH "$bin/bin:$PATH"
}

command -v cargo >/dev/null || skip 'no cargo on the PATH'
if compgen -G "$(rustc --print sysroot)/lib/rustlib/$target/lib/libstd-*.rlib" >/dev/null; then
    say 'with the standard library of the toolchain'
else
    packaged_toolchain
fi
[ -z "$lock" ] || bindgen
use CARGO_TARGET_DIR "$build/wasm-$want"
printf '%s\n' "${environment[@]}" >&3
