#!/usr/bin/env bash
# dqo-train under SLURM: one torchrun on each machine, one worker on each GPU.
#
#   sbatch --nodes 2 scripts/slurm.sh task=gsm8k run_dir=/shared/run resume=auto
#
# With resume=auto a requeued job continues the run. SIGTERM comes two minutes before the time limit: if the current step
# ends within torchrun's grace period of 30 s, a checkpoint is saved; else the job continues from the newest one.
#SBATCH --job-name=dqo
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR NNODES=$SLURM_NNODES GPUS=$SLURM_GPUS_ON_NODE
srun bash -c 'NODE_RANK=$SLURM_NODEID exec scripts/torchrun.sh "$@"' dqo "$@"
