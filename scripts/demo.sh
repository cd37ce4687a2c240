#!/usr/bin/env bash
# Set everything up, then register and fuse the built-in infrared-visible pair (make demo).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/bootstrap.sh
exec .venv/bin/napari-busref demo --output demo-output "$@"
