#!/usr/bin/env bash
# What a GPU makes of it, in under eight minutes: writes benchmarks/gpu.json and prints its tables.
#
#     bash benchmarks/gpu.sh
#     PYTHON=python3 bash benchmarks/gpu.sh --json FILE --imagenette FOLDER_OR_ZIP
#     bash benchmarks/gpu.sh --device cpu --tiny --json FILE     # the script itself, tried anywhere
set -eu
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
  PYTHON=.venv/bin/python
  [ -x "$PYTHON" ] || PYTHON=python3
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" benchmarks/gpu.py "$@"
