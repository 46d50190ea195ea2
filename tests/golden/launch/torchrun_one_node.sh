#!/bin/bash
#SBATCH --job-name=llama-3.1-8b
#SBATCH --comment=portal:5f0c1d2e-0001
#SBATCH --partition=gpu-a800
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --gres=gpu:a800:8
#SBATCH --time=90
#SBATCH --output=stdout.log
#SBATCH --open-mode=append
#SBATCH --no-requeue
#SBATCH --export=NONE

set -eu
if [ -n "${SLURM_JOB_ID:-}" ] && ! mkdir ./.started 2>/dev/null && [ -d ./.started ]; then
  echo "portal: the scheduler has started this job before; it is not run a second time" >&2
  exit 87
fi

unset SLURM_EXPORT_ENV
export PATH="${PATH:-/usr/local/bin:/usr/bin:/bin}"
export PORTAL_METRICS_FILE="${PORTAL_METRICS_FILE:-$PWD/metrics.jsonl}"
export PORTAL_CHECKPOINT_DIR="${PORTAL_CHECKPOINT_DIR:-$PWD/checkpoints}"
export PORTAL_JOB_KEY=5f0c1d2e-0001
export PORTAL_NODES=1
export PORTAL_DEVICES_PER_NODE=8
export OMP_NUM_THREADS=8

exec -- torchrun --standalone --nnodes=1 --nproc_per_node=8 train.py --epochs 3
