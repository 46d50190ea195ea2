#!/bin/bash
#SBATCH --job-name=llama-3.1-8b
#SBATCH --comment=portal:5f0c1d2e-0001
#SBATCH --partition=gpu-a800
#SBATCH --qos=high
#SBATCH --account=physics
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --mem=921600M
#SBATCH --gres=gpu:a800:8
#SBATCH --time=90
#SBATCH --signal=B:USR1@300
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
export PORTAL_NODES=4
export PORTAL_DEVICES_PER_NODE=8
export PORTAL_TENSOR_PARALLEL=4
export PORTAL_PIPELINE_PARALLEL=2
export PORTAL_DATA_PARALLEL=4
export PORTAL_CONTEXT_PARALLEL=1
export PORTAL_EXPERT_PARALLEL=1
export PORTAL_MICRO_BATCH_SIZE=2
export PORTAL_GRADIENT_ACCUMULATION_STEPS=16
export PORTAL_GLOBAL_BATCH_SIZE=128
export PORTAL_ZERO_STAGE=1
export PORTAL_SEQUENCE_LENGTH=8192
export PORTAL_RECOMPUTATION=selective
export PORTAL_PRECISION=bf16
export OMP_NUM_THREADS=8

# The user's variables
export NCCL_DEBUG=INFO

: "${SLURM_JOB_NODELIST:?a job on several nodes needs Slurm, which names them}"
IFS= read -r first_node < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000))
exec srun --nodes=4 --ntasks=4 --ntasks-per-node=1 --cpus-per-task=64 --kill-on-bad-exit=1 \
  bash -c 'trap '"'"''"'"' USR1; exec "$@"' bash \
  torchrun --nnodes=4 --nproc_per_node=8 \
  --rdzv_backend=c10d --rdzv_endpoint="$first_node:$port" --rdzv_id="$SLURM_JOB_ID" \
  train.py --config 'my run.yaml'
