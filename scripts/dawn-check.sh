#!/usr/bin/env bash
# Holds the shaders against a second implementation of WebGPU: Dawn, Chrome's, with its compiler Tint, as the npm package
# `webgpu` carries it built. No browser is needed.
set -u

usage() {
    cat <<'TEXT'
Usage: scripts/dawn-check.sh [shaders]
       scripts/dawn-check.sh kernels [--every N] [OPERATION]

  shaders  every variant of every shader as shipped goes before Tint, and each entry point becomes a pipeline; needs
           no driver (the default)
  kernels  the crate's own `verify` cases, compiled to wasm32 (scripts/wasm-toolchain.sh), run through Dawn on lavapipe,
           with and without subgroups and native f16, within the bounds that hold natively; with --every, one case in N,
           others each time

Dawn needs lavapipe of Mesa 25. Where the one installed is older, Debian's backports serve: the driver is unpacked (nothing is
installed) into the work folder. Where it cannot be had, that is said in a line SKIPPED, and SwiftShader serves.
Node 20 or later is needed, and npm's registry; about 200 MB are kept under target/dawn.
Exit code: 0 all passed; 1 something failed; 3 skipped, and the last line says why.
TEXT
}

part=${1:-shaders}
case $part in
    shaders | kernels) ;;
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

# npm's packages stand complete where `ready` is a copy of their lock file.
prepare_dawn() {
    command -v node >/dev/null && command -v npm >/dev/null || skip 'no Node with npm on the PATH'
    local major
    major=$(node --print 'process.versions.node.split(".")[0]')
    [ "${major:-0}" -ge 20 ] || skip "Node 20 or later is needed, this is $(node --version)"
    cp scripts/dawn/*.mjs scripts/dawn/*.json "$work" || exit 1
    if ! cmp -s scripts/dawn/package-lock.json "$work/ready"; then
        say 'fetching Dawn (npm package webgpu)'
        rm -f "$work/ready"
        (cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null) ||
            skip 'npm cannot download the package webgpu (see above)'
        cp scripts/dawn/package-lock.json "$work/ready" || exit 1
    fi
    local problem
    problem=$(cd "$work" && node --input-type=module --eval 'await import("webgpu")' 2>&1) ||
        skip "Dawn does not load here: $(grep -m 1 Error <<<"$problem")"
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

# takes MANIFEST: whether Dawn takes the driver, whose name is then in `device`.
takes() {
    [ -f "$1" ] && device=$(cd "$work" && VK_DRIVER_FILES=$1 node verify.mjs --adapter 2>/dev/null)
}

# Debian's backports have a newer Mesa, linked with the libraries of the release.
fetch_mesa() {
    local codename
    codename=$(. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME:-}")
    [ "$codename" = bookworm ] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    say "fetching Mesa's lavapipe from the backports (12 MB)"
    rm -rf "$mesa"
    mkdir -p "$mesa/lists/partial" "$mesa/packages" "$mesa/root" || return 1
    cat >"$mesa/backports.sources" <<'TEXT'
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
TEXT
    # Lists and caches of its own: the system's stay as they are.
    local apt=(apt-get -qq -o APT::Sandbox::User=root -o "Dir::Etc::SourceList=$mesa/backports.sources" -o Dir::Etc::SourceParts=-
        -o "Dir::State::Lists=$mesa/lists" -o Dir::Cache::PkgCache= -o Dir::Cache::SrcPkgCache=)
    "${apt[@]}" update </dev/null || return 1
    (cd "$mesa/packages" && "${apt[@]}" download mesa-vulkan-drivers libdrm2 </dev/null) || return 1
    local package
    for package in "$mesa"/packages/*.deb; do
        dpkg-deb --fsys-tarfile "$package" |
            tar -x -C "$mesa/root" --wildcards './usr/lib/*/libdrm.so*' './usr/lib/*/libvulkan_lvp.so' 2>/dev/null
    done
    local driver
    driver=$(echo "$mesa"/root/usr/lib/*/libvulkan_lvp.so)
    [ -f "$driver" ] || return 1
    rm -rf "$mesa/lists" "$mesa/packages"
    printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.4.0"}}\n' "$driver" >"$mesa/lavapipe.json"
}

# Sets VK_DRIVER_FILES to a driver that Dawn takes.
find_driver() {
    local manifest mesa=$work/mesa
    for manifest in /usr/share/vulkan/icd.d/lvp_icd*.json; do
        takes "$manifest" && export VK_DRIVER_FILES=$manifest && return
    done
    if [ -f "$mesa/lavapipe.json" ] || fetch_mesa; then
        local before=${LD_LIBRARY_PATH:-}
        export LD_LIBRARY_PATH
        LD_LIBRARY_PATH=$(echo "$mesa"/root/usr/lib/*-linux-gnu*)${before:+:$before}
        takes "$mesa/lavapipe.json" && export VK_DRIVER_FILES=$mesa/lavapipe.json && return
        LD_LIBRARY_PATH=$before
    fi
    manifest=/usr/lib/chromium/vk_swiftshader_icd.json
    if takes "$manifest"; then
        printf 'SKIPPED: Dawn on lavapipe: there is none that it takes; on SwiftShader instead\n'
        export VK_DRIVER_FILES=$manifest
        return
    fi
    skip 'there is no driver that Dawn takes: neither lavapipe of Mesa 25 nor SwiftShader'
}

check_kernels() {
    find_driver
    say "on $device"
    # The page's own module, so that there is one.
    web/build.sh || exit
    (cd "$work" && exec node verify.mjs "$root/web/pkg/macheps_web.js" "$@")
}

# Mesa looks for a private folder.
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$work}
prepare_dawn
[ $# -eq 0 ] || shift
"check_$part" "$@"
