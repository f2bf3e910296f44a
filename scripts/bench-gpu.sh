#!/usr/bin/env bash
# Measures one device and keeps the result, on a machine that needs no Rust: only a built binary.
set -u

usage() {
    cat <<'TEXT'
Usage: scripts/bench-gpu.sh [DEVICE [BINARY [FOLDER]]]

  DEVICE  as `macheps --device` takes it: an index or a part of an adapter's name; default auto, which must then
          find a hardware GPU
  BINARY  a release build of macheps; default target/release/macheps
  FOLDER  where the results go; default benches/results

Writes FOLDER/<adapter>-<date>.json, the benchmark as `macheps bench --compare` reads it, and beside it
<adapter>-<date>.context.json with the commit, the devices, the numerics probe and the verification.
MACHEPS_COMMIT names the commit where there is no git.
TEXT
}

case ${1:-} in
    -h | --help)
        usage
        exit 0
        ;;
esac
device=${1:-auto}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
binary=${2:-$root/target/release/macheps}
folder=${3:-$root/benches/results}

fail() {
    printf 'bench-gpu.sh: %s\n' "$1" >&2
    exit 2
}

[ -x "$binary" ] || fail "no program at $binary (build it with: cargo build --release --features cli)"
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$folder" || exit 1

# The first value of a key in a JSON document; enough for the adapter's name, and needs no other program.
first_value() {
    tr -d '\n' <"$1" | grep -oE "\"$2\"[[:space:]]*:[[:space:]]*\"([^\"\\\\]|\\\\.)*\"" | head -n 1 |
        sed -E 's/^"[^"]*"[[:space:]]*:[[:space:]]*"//; s/"$//'
}

# step NAME ARGUMENTS...: the table on the screen, the document in the scratch folder.
failures=0
step() {
    local name=$1
    shift
    printf '\n== macheps %s\n' "$name"
    "$binary" "$name" "$@" --json "$scratch/$name.json" </dev/null || {
        printf 'bench-gpu.sh: macheps %s ended with exit code %d\n' "$name" "$?" >&2
        failures=$((failures + 1))
    }
}

step devices
if [ "$device" = auto ] && ! grep -qiE '"kind"[[:space:]]*:[[:space:]]*"(discrete|integrated|virtual|other)"' "$scratch/devices.json"; then
    fail 'there is no hardware GPU; name a device to measure it all the same'
fi
step probe --device "$device"
step verify --device "$device"
step bench --device "$device"
[ -s "$scratch/bench.json" ] || fail 'the benchmark wrote no result'

# Everything from the key `adapter` on, so that another `name` before it does not count.
tr -d '\n' <"$scratch/bench.json" | sed -E 's/^.*"adapter"[[:space:]]*:/"adapter":/' >"$scratch/adapter"
adapter=$(first_value "$scratch/adapter" name)
[ -n "$adapter" ] || fail 'the benchmark does not name its adapter'

clean=$(printf '%s' "$adapter" | tr '[:upper:]' '[:lower:]' | sed -E 's/\([^)]*\)//g; s/[^a-z0-9]+/-/g; s/^-+//; s/-+$//')
date=$(date -u +%Y-%m-%d)
commit=${MACHEPS_COMMIT:-$(git -C "$root" rev-parse HEAD 2>/dev/null)}
if [ -z "${MACHEPS_COMMIT:-}" ] && [ -n "$commit" ] && [ -n "$(git -C "$root" status --porcelain -uno 2>/dev/null)" ]; then
    commit=$commit-modified
fi
result=$folder/$clean-$date.json
context=$folder/$clean-$date.context.json

document() {
    if [ -s "$scratch/$1.json" ]; then
        cat "$scratch/$1.json"
    else
        echo null
    fi
}

cp "$scratch/bench.json" "$result" || exit 1
{
    printf '{\n"schema": "macheps.bench-context.1",\n"commit": "%s",\n"date": "%s",\n"result": "%s"' \
        "${commit:-unknown}" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "${result##*/}"
    for part in devices probe verify; do
        printf ',\n"%s": ' "$part"
        document "$part"
    done
    printf '}\n'
} >"$context" || exit 1
printf '\n%s\n%s\n' "$result" "$context"
[ "$failures" -eq 0 ]
