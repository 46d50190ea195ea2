#!/bin/bash
# Submit this file as the job's script. The portal runs a copy of it in the job's own directory, so the example
# is found through PORTAL_EXAMPLES (the directory that holds char_transformer/); run from a checkout, beside it.
# --resume continues the chain: each segment goes on from the checkpoint of the one before.
set -euo pipefail
examples="${PORTAL_EXAMPLES:-$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)}"
example="$examples/char_transformer"
# glibc would give each step's arrays back to the system and fault them in again: a quarter of the time of a step.
export MALLOC_TRIM_THRESHOLD_=500000000 MALLOC_MMAP_THRESHOLD_=500000000
# One BLAS thread, whatever number of processors the job has: threads that wait for each other on shared cores
# made a step 15 times slower.
export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-1}"
exec "${PORTAL_PYTHON:-python3}" "$example/train.py" --config "$example/config.json" --resume "$@"
