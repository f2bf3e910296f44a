#!/usr/bin/env bash
# Builds the page and tests it in headless Chromium on SwiftShader: every row of the verify table, the probe, the bench and
# the fluid. Screenshots go to web/target/screenshots, or to the folder that OUT names.
#
# Exit code: 0 it passed; 1 it failed; 3 skipped, and the last line says why.
set -u

web=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1

skip() {
    printf 'SKIPPED: the page in Chromium: %s\n' "$1"
    exit 3
}

browser=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome)} ||
    skip 'there is no Chromium on the PATH, nor does CHROMIUM name one (Debian: apt-get install chromium)'
command -v node >/dev/null || skip 'there is no node on the PATH'
[ "$(node -p 'parseInt(process.versions.node)')" -ge 18 ] || skip "node $(node --version) is too old: 18 is needed"

"$web/build.sh" || exit
node "$web/test.mjs" "$browser" "${OUT:-$web/target/screenshots}"
