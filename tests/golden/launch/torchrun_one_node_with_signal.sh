#!/bin/bash
#SBATCH --job-name=llama-3.1-8b
#SBATCH --comment=portal:5f0c1d2e-0001
#SBATCH --partition=gpu-a800
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8
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
export PORTAL_NODES=1
export PORTAL_DEVICES_PER_NODE=8

trap '' USR1
torchrun --standalone --nnodes=1 --nproc_per_node=8 -m trainer.main &
agent=$!
signal_workers() {
  local workers=""
  read -r workers < "/proc/$agent/task/$agent/children" || true
  # One word per worker is wanted here.
  # shellcheck disable=SC2086
  [ -z "$workers" ] || kill -s USR1 $workers || true
}
trap 'interrupted=1; signal_workers' USR1
trap 'interrupted=1; kill -s TERM "$agent" || true' TERM
trap 'interrupted=1; kill -s INT "$agent" || true' INT
# A trapped signal ends wait early; the agent's own status is what counts.
interrupted=1
while [ -n "$interrupted" ]; do
  interrupted=""
  status=0
  wait "$agent" || status=$?
done
exit "$status"
