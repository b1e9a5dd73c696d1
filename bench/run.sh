#!/usr/bin/env bash
# Builds everything in release form and measures it. `make bench` is this; arguments are the
# runner's: bench/run.sh --help
set -euo pipefail
bench=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# The Python that Reactor embeds is the one that its peers run on.
python=$(command -v "${PYO3_PYTHON:-python3}") || {
    echo "${PYO3_PYTHON:-python3} is not installed" >&2
    exit 1
}
target=${CARGO_TARGET_DIR:-$bench/load/target}
venv=$bench/.venv

cargo build --release --locked --quiet \
    --manifest-path "$bench/load/Cargo.toml" --target-dir "$target"

# A virtual environment belongs to one interpreter: made anew when that has changed.
version() { "$1" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null; }
if [ "$(version "$venv/bin/python")" != "$(version "$python")" ]; then
    "$python" -m venv --clear "$venv"
fi
if ! "$venv/bin/python" -c 'import uvloop' 2>/dev/null; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uvloop ||
        echo "uvloop cannot be installed for $("$python" --version): measured without it" >&2
fi

# If this fails nothing is measured: figures of an older build would be worse than none.
(cd "$bench/.." && MIX_ENV=prod mix compile)

exec "$python" "$bench/runner" \
    --load "$target/release/reactor_load" --python "$venv/bin/python" "$@"
