#!/usr/bin/env bash
# Holds the shaders against a second implementation of WebGPU: Dawn, Chrome's, with its compiler Tint, as the npm package
# `webgpu` carries it built. No browser is needed.
set -u

usage() {
    cat <<'TEXT'
Usage: scripts/dawn-check.sh [shaders]

  shaders  every variant of every shader as shipped goes before Tint, and each entry point becomes a pipeline; needs
           no driver (the default)

Needs Node 20 or later and npm's registry; about 130 MB are kept under target/dawn.
Exit code: 0 all passed; 1 something failed; 3 skipped, and the last line says why.
TEXT
}

part=${1:-shaders}
case $part in
    shaders) ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
cd "$root" || exit 1
build=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$build/dawn" || exit 1
work=$(cd "$build/dawn" && pwd) || exit 1

skip() {
    printf 'SKIPPED: Dawn, %s: %s\n' "$part" "$1"
    exit 3
}

say() {
    printf 'dawn: %s\n' "$1"
}

# npm's packages stand where its lock file's copy says that they are complete.
prepare_dawn() {
    command -v node >/dev/null && command -v npm >/dev/null || skip 'no Node with npm on the PATH'
    local major
    major=$(node --print 'process.versions.node.split(".")[0]')
    [ "${major:-0}" -ge 20 ] || skip "Node 20 or later is needed, this is $(node --version)"
    cp scripts/dawn/*.mjs scripts/dawn/*.json "$work" || exit 1
    if ! cmp -s scripts/dawn/package-lock.json "$work/ready"; then
        say 'fetching Dawn (npm package webgpu)'
        (cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null) ||
            skip 'npm cannot download the package webgpu (see above)'
        cp scripts/dawn/package-lock.json "$work/ready" || exit 1
    fi
    local problem
    problem=$(cd "$work" && node --input-type=module --eval 'await import("webgpu")' 2>&1) ||
        skip "Dawn does not load here: $(printf '%s\n' "$problem" | grep -m 1 Error)"
}

check_shaders() {
    # The suite knows every variant, and is built already where the tests have run.
    rm -rf "$work/shaders"
    mkdir "$work/shaders" || exit 1
    if ! MACHEPS_SHADERS_TO=$work/shaders cargo test --locked --features cli --test suite \
        shaders::sources_have_names_of_their_own </dev/null >"$work/shaders.log" 2>&1; then
        tail -n 30 "$work/shaders.log" >&2
        say 'the shaders could not be written down'
        exit 1
    fi
    (cd "$work" && exec node tint.mjs "$work/shaders")
}

prepare_dawn
check_shaders
