#!/usr/bin/env bash
# Runs every check and test on what this machine has, and says what it had to skip.
set -u

usage() {
    cat <<'TEXT'
Usage: scripts/test.sh [--install-drivers] [--release]

Runs the style checks, the documentation, the test suite on every adapter found, the suite's GPU part again at
lavapipe's other subgroup widths, the build without any backend, the shaders in Dawn's compiler, the kernels on Dawn, and the
wasm32 check, and the page in headless Chromium.

  --install-drivers  first install the software drivers (lavapipe, GL, SwiftShader) with apt; needs root
  --release          also run the README's first command as on a machine without any Vulkan driver

REQUIRE_ADAPTERS=llvmpipe,swiftshader,gl makes a missing adapter a failure.
The last line is "N passed, N failed, N skipped": the test runners' own counts added up; a failed group that counts no tests
is one failure, a group that could not run is one skipped.
TEXT
}

install_drivers=false
release=false
for argument in "$@"; do
    case $argument in
        --install-drivers) install_drivers=true ;;
        --release) release=true ;;
        -h | --help)
            usage
            exit 0
            ;;
        *)
            printf 'test.sh: unknown argument %s\n\n' "$argument" >&2
            usage >&2
            exit 2
            ;;
    esac
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
cd "$root" || exit 1
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

driver_packages=(mesa-vulkan-drivers libvulkan1 libegl1 libgl1-mesa-dri libgles2 chromium)

install_missing_drivers() {
    if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
        echo 'test.sh: --install-drivers knows apt only, and it is not here; install lavapipe, EGL and GLES by hand' >&2
        return 1
    fi
    local package missing=()
    for package in "${driver_packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
    done
    if [ "${#missing[@]}" -eq 0 ]; then
        echo 'Software drivers: all there'
        return 0
    fi
    if [ "$(id -u)" -ne 0 ]; then
        echo "test.sh: --install-drivers needs root for: apt-get install ${missing[*]}" >&2
        return 1
    fi
    echo "Software drivers: installing ${missing[*]}"
    local install=(apt-get install -qq -y --no-install-recommends "${missing[@]}")
    export DEBIAN_FRONTEND=noninteractive
    # The package lists are fetched only where they are absent or out of date.
    "${install[@]}" </dev/null >"$scratch/apt" 2>&1 && return 0
    { apt-get update -qq && "${install[@]}"; } </dev/null >"$scratch/apt" 2>&1 && return 0
    tail -n 15 "$scratch/apt" >&2
    echo 'test.sh: apt could not install the drivers' >&2
    return 1
}

# Vulkan drivers: what the loader finds by itself, and SwiftShader beside it, which Chromium brings along unannounced.
find_drivers() {
    local manifest manifests=()
    lavapipe=
    for manifest in /usr/share/vulkan/icd.d/*.json /usr/local/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json \
        /usr/lib/chromium/vk_swiftshader_icd.json; do
        [ -f "$manifest" ] || continue
        manifests+=("$manifest")
        case $manifest in
            */lvp_icd*) lavapipe=$manifest ;;
        esac
    done
    if [ -z "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] && [ "${#manifests[@]}" -gt 0 ]; then
        VK_DRIVER_FILES=$(IFS=: && echo "${manifests[*]}")
        export VK_DRIVER_FILES
    fi
    # Mesa wants a private folder there, and its device selection layer talks on stderr.
    if [ -z "${XDG_RUNTIME_DIR:-}" ]; then
        export XDG_RUNTIME_DIR=$scratch/runtime
        mkdir -m 700 "$XDG_RUNTIME_DIR"
    fi
    export NODEVICE_SELECT=1
    # GL without a window system.
    if [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
        export EGL_PLATFORM=${EGL_PLATFORM:-surfaceless}
    fi
    echo "Vulkan drivers: ${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-what the loader finds}}"
    echo "Required adapters: ${REQUIRE_ADAPTERS:-none, what is not there is skipped}"
}

passed=0
failed=0
skipped=0
rows=()
notes=()

# Adds up the closing lines of cargo's test runner in a log.
count() {
    awk -v which="$2" '/^test result: / {
        for (i = 2; i <= NF; i++) if ($i ~ "^" which ";?$") sum += $(i - 1)
    } END { print sum + 0 }' "$1"
}

# group NAME COMMAND...: runs a command, counts its tests, remembers how it went. Exit code 3 means skipped.
group() {
    local name=$1
    shift
    printf '\n== %s\n' "$name"
    local log=$scratch/log start=$SECONDS code
    "$@" </dev/null 2>&1 | tee "$log"
    code=${PIPESTATUS[0]}
    local good bad ignored verdict
    good=$(count "$log" passed)
    bad=$(count "$log" failed)
    ignored=$(count "$log" ignored)
    case $code in
        0) verdict=ok ;;
        3)
            verdict=SKIPPED
            ignored=$((ignored + 1))
            ;;
        *)
            verdict=FAILED
            # A runner that died, or a check that counts nothing, is a failure all the same.
            [ "$bad" -gt 0 ] || bad=1
            ;;
    esac
    # A test that said SKIPPED counts as passed for the runner.
    local silent
    silent=$(grep -a '^SKIPPED' "$log" | sort -u | wc -l)
    if [ "$code" -ne 3 ] && [ "$silent" -gt 0 ] && [ "$good" -ge "$silent" ]; then
        good=$((good - silent))
        ignored=$((ignored + silent))
    fi
    passed=$((passed + good))
    failed=$((failed + bad))
    skipped=$((skipped + ignored))
    rows+=("$(printf '%-44s %-8s %5d s  %5d passed' "$name" "$verdict" $((SECONDS - start)) "$good")")
    local line
    while IFS= read -r line; do
        notes+=("$name: $line")
    done < <(grep -a '^SKIPPED' "$log" | sort -u)
}

skip_group() {
    printf '\n== %s\nSKIPPED: %s\n' "$1" "$2"
    skipped=$((skipped + 1))
    rows+=("$(printf '%-44s %-8s' "$1" SKIPPED)")
    notes+=("$1: $2")
}

build_docs() {
    RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --features cli
}

run_examples() {
    local example arguments
    for example in examples/*.rs; do
        [ -f "$example" ] || continue
        example=${example##*/}
        printf -- '-- %s\n' "${example%.rs}"
        # The document of the repository is written by a release build, by hand.
        arguments=()
        case $example in
            accuracy.rs) arguments=("$scratch/accuracy.md" --quick) ;;
            iteration_cost.rs) arguments=(--quick) ;;
            solvers_table.rs)
                local matrices=${MACHEPS_SHARED_DATA:-../shared/data}/matrices
                if [ ! -f "$matrices/index.json" ]; then
                    echo 'SKIPPED: no matrices outside the package'
                    continue
                fi
                arguments=("$matrices" "$scratch/solvers.md" --only wathen96)
                ;;
        esac
        cargo run --locked --quiet --features cli --example "${example%.rs}" -- "${arguments[@]}" || return 1
    done
}

# Packages beside the crate, with their own lock files; what they share with it is built once. Clippy is the compiler of their test builds:
# as a command of its own it would go over all their dependencies once more.
linted_test() {
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
    cargo fmt --check || return
    local driver
    driver=$(dirname "$(rustup which cargo 2>/dev/null || command -v cargo)")/clippy-driver
    RUSTC_WORKSPACE_WRAPPER=$driver CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__ \
        cargo test --locked --no-fail-fast "$@"
}

# With a window, too, as far as that goes without a display.
renderer() {
    cd examples/renderer && linted_test && linted_test --features window --bin smoke
}

macheps_burn() {
    cd integrations/burn && linted_test
}

# Burn's default on wgpu: operations are put off and run together.
macheps_burn_with_fusion() {
    cd integrations/burn && linted_test --features fusion --lib --test suite
}

page() {
    (cd web && cargo fmt --check) && web/test.sh
}

# Lavapipe's subgroups are as wide as its vectors: 4, 8 (where nothing is said) and 16 lanes. What says nothing about them is left to
# the first run: data sets, limits, windows, one-shots, kernels that work element by element. A driver that has not seen these widths
# compiles every kernel anew, which is nearly all the time that this takes.
suite_at_vector_width() {
    local name without=()
    for name in conformance:: two_to_the_31 data hard_rows onnx any_axis one_shots real_matrices gpu_activation gpu_beyond_a_buffer \
        gpu_eigenvalues gpu_elementary gpu_gradcheck gpu_mixed_precision gpu_pagerank gpu_planted gpu_probe gpu_robust gpu_windows \
        planted refused wrong caught; do
        without+=(--skip "$name")
    done
    env LP_NATIVE_VECTOR_WIDTH="$1" MACHEPS_BITS_FILE="$scratch/bits" VK_DRIVER_FILES="$lavapipe" REQUIRE_ADAPTERS=llvmpipe \
        cargo test --locked --no-fail-fast --features cli --test suite gpu_ -- "${without[@]}"
}

# The README's first command where no Vulkan driver can be found: the CPU path.
first_command() {
    local printed
    printed=$(env VK_DRIVER_FILES=/dev/null VK_ICD_FILENAMES=/dev/null WGPU_BACKEND=vulkan MACHEPS_DEVICE=auto \
        cargo run --locked --release --features cli) || return 1
    printf '%s\n' "$printed"
    # Without a driver it has to choose the CPU path and say so.
    grep -q '^\* default: CPU path' <<<"$printed"
}

if $install_drivers; then
    if ! install_missing_drivers; then
        echo '0 passed, 1 failed, 0 skipped'
        exit 2
    fi
fi
find_drivers

group 'format' cargo fmt --check
group 'clippy' cargo clippy --locked --all-targets --features cli -- -D warnings
group 'documentation' build_docs
# The widths that follow must give the bits that this run notes down.
group 'tests, every adapter' env MACHEPS_BITS_FILE="$scratch/bits" \
    cargo test --locked --no-fail-fast --features cli --lib --bins --tests
group 'documentation tests' cargo test --locked --no-fail-fast --features cli --doc
for width in 128 512; do
    if [ -n "$lavapipe" ]; then
        group "tests, lavapipe with $((width / 32)) lanes" suite_at_vector_width "$width"
    else
        skip_group "tests, lavapipe with $((width / 32)) lanes" 'lavapipe is not installed (--install-drivers)'
    fi
done
group 'examples' run_examples
group 'renderer' renderer
group 'macheps-burn' macheps_burn
group 'macheps-burn with fusion' macheps_burn_with_fusion
group 'library without backends' cargo clippy --locked --lib --no-default-features -- -D warnings
group 'shaders in Tint (Dawn)' scripts/dawn-check.sh shaders
# All of them take half an hour, as Dawn compiles every shader anew.
group 'kernels on Dawn, a sample' scripts/dawn-check.sh kernels --every 23
# After the one before: the standard library that it is linked with serves the check too.
group 'library for wasm32' scripts/wasm-check.sh
group 'page in headless Chromium' page
if $release; then
    group 'first command of the README, no driver' first_command
fi

printf '\n== summary\n'
printf '%s\n' "${rows[@]}"
printf 'total %d s\n' "$SECONDS"
if [ "${#notes[@]}" -gt 0 ]; then
    printf '\nSkipped:\n'
    printf '  %s\n' "${notes[@]}"
fi
printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
