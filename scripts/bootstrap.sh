#!/usr/bin/env bash
# Create .venv beside the checkout's files and install napari-busref with everything it can use.
# Does nothing when that was done before and setup.cfg has not changed since.
#
#   PYTHON=python3.12        the interpreter to use (3.11 or newer; default: python3)
#   BUSREF_TORCH="torch --index-url https://download.pytorch.org/whl/cu128"
#                            what pip installs as torch (default: a CPU build)
#
# 2 to 5 minutes on two cores and 2 GB of disk, nearly all of it torch and napari.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-python3}"
VENV=.venv
STAMP="$VENV/.busref-installed"
# What Qt, OpenGL and a virtual screen need on Debian and Ubuntu.
GUI_PACKAGES=(libgl1 libegl1 libfontconfig1 libglib2.0-0 libxkbcommon0 libdbus-1-3 xvfb xauth
    libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-shape0 libxkbcommon-x11-0)

say() { printf '\n== %s\n' "$*"; }
fail() { printf '\nbootstrap: %s\n' "$*" >&2; exit 1; }

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
may_apt() {
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}
apt_install() {
    "${as_root[@]}" apt-get update -qq || echo "apt-get update failed; going on" >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

command -v "$PYTHON" >/dev/null || fail "no $PYTHON: install Python 3.11 or newer, or set PYTHON"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$PYTHON" --version) is too old: set PYTHON to Python 3.11 or newer"

wanted="$(cksum setup.cfg pyproject.toml; "$PYTHON" --version; echo "$PWD ${BUSREF_TORCH:-cpu}")"
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$wanted" ] && "$VENV/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

# 1. System packages
if command -v dpkg-query >/dev/null; then
    missing=()
    for package in "${GUI_PACKAGES[@]}"; do
        dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
            missing+=("$package")
    done
    if [ "${#missing[@]}" -gt 0 ]; then
        if may_apt; then
            say "apt: ${missing[*]}"
            apt_install "${missing[@]}" || echo "apt could not install them: napari may not open" >&2
        else
            echo "napari and its tests need these Debian packages (no right to install them here):" >&2
            echo "  sudo apt-get install ${missing[*]}" >&2
        fi
    fi
fi

# 2. The environment. Debian splits venv's pip into a package of its own.
if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
    if may_apt; then
        say "apt: python3-venv"
        apt_install python3-venv
    else
        fail "Python has no venv: sudo apt-get install python3-venv"
    fi
fi
if [ "$("$VENV/bin/python" --version 2>&1)" != "$("$PYTHON" --version)" ] ||
    ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    say "Creating $VENV with $("$PYTHON" --version)"
    "$PYTHON" -m venv --clear "$VENV"
fi
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }

# 3. torch first and alone: asked for by another package, pip would take the newest CUDA build.
if [ -n "${BUSREF_TORCH:-}" ]; then
    say "torch, as BUSREF_TORCH says"
    # shellcheck disable=SC2086 # the words of BUSREF_TORCH are pip's arguments
    pip install -qq $BUSREF_TORCH
elif ! "$VENV/bin/python" -c 'from importlib.metadata import version; version("torch")' 2>/dev/null; then
    say "torch, CPU build (about 1 minute)"
    # a wheel in a folder that pip is set up to look in, else torch's own index of CPU builds
    if ! pip install -qq --no-index --no-deps torch 2>/dev/null; then
        cpu=(--index-url https://download.pytorch.org/whl/cpu)
        if [ "$(uname)" = Darwin ]; then cpu=(); fi
        pip install -qq --retries 2 ${cpu[@]+"${cpu[@]}"} torch ||
            fail "no CPU build of torch found; name one yourself, for example BUSREF_TORCH=torch"
    fi
fi
"$VENV/bin/python" - >"$VENV/constraints.txt" <<'PY'
from importlib.metadata import version
print(f"torch=={version('torch')}")
PY

# 4. napari-busref with all extras that a user or a tester needs
say "napari-busref, napari and the test tools (about 3 minutes)"
pip install -qq -c "$VENV/constraints.txt" -e '.[all,train,testing]'

printf '%s\n' "$wanted" >"$STAMP"
say "Installed in $VENV, $(cat "$VENV/constraints.txt")"
