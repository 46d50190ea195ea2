#!/bin/bash
#SBATCH --job-name=llama-3.1-8b
#SBATCH --comment=portal:5f0c1d2e-0001
#SBATCH --partition=gpu-a800
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8
#SBATCH --time=90
#SBATCH --signal=B:USR1@120
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

# The user's variables
export GREETING='it'"'"'s $(date) `now`'
export WANDB_MODE=offline

rm -f -- ./user_script
(umask 077 && cat > ./user_script) <<'END_OF_USER_SCRIPT_3a293bc1a6ba9cd8'
#!/usr/bin/env python3
#SBATCH --nodes=64
print('$HOME `id` \'quoted\'')
END_OF_USER_SCRIPT_3a293bc1a6ba9cd8
chmod 0700 ./user_script
exec ./user_script
