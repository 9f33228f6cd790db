#!/usr/bin/env bash
# Starts `python -m benchmarks gpu-check` from any folder, with PYTHON if set, else python3, else python: see docs/gpu.md.
set -u
PYTHON=${PYTHON:-$(command -v python3 || command -v python)} || {
  echo "gpu_check: there is no python3; name one with PYTHON" >&2
  exit 2
}
export PYTHON
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd) || exit 2
# Not -m: that would look into the folder of the caller first.
exec "$PYTHON" -c 'import sys; sys.path[0] = sys.argv.pop(1); from benchmarks.gpu.gpu_check import main; sys.exit(main())' \
  "$checkout" "$@"
