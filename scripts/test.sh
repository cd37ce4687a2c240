#!/usr/bin/env bash
# Set everything up, then lint, type check and test, the napari tests on a virtual screen
# (make test). Arguments go to both runs of pytest. Everything runs; any failure fails it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/bootstrap.sh || exit 1

bin="$PWD/.venv/bin"
failed=()
step() {
    local name="$1"
    shift
    printf '\n== %s\n' "$name"
    "$@" || failed+=("$name")
}

# napari must draw with OpenGL on an X server; Qt's offscreen platform has none
unset QT_QPA_PLATFORM
screen=()
if command -v xvfb-run >/dev/null; then
    screen=(xvfb-run -a -s "-screen 0 1600x1200x24")
elif [ "$(uname)" = Linux ] && [ -z "${DISPLAY:-}" ]; then
    echo "No display and no xvfb-run, so the napari tests will fail: apt-get install xvfb xauth" >&2
fi

step "ruff" "$bin/ruff" check .
step "ruff format" "$bin/ruff" format --check .
step "mypy" "$bin/mypy"
step "import contracts" "$bin/lint-imports"
# without the Qt plugins: the core, the command line and the training must not need them;
# one process for each core, with one thread each
step "tests without Qt" env OMP_NUM_THREADS=1 "$bin/python" -m pytest -p no:pytest-qt \
    -p no:napari --ignore=tests/gui --numprocesses auto --dist loadscope --durations=10 "$@"
step "napari tests" ${screen[@]+"${screen[@]}"} "$bin/python" -m pytest tests/gui \
    --require-gui --durations=10 "$@"

if [ "${#failed[@]}" -gt 0 ]; then
    printf '\nFAILED: %s\n' "${failed[*]}" >&2
    exit 1
fi
printf '\nAll checks passed.\n'
