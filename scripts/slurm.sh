#!/usr/bin/env bash
# dqo-train under SLURM: one torchrun a machine, one worker a GPU.
#
#   sbatch --nodes 2 scripts/slurm.sh task=gsm8k run_dir=/shared/run resume=auto
#
# resume=auto goes on with the run where the job was requeued. SIGTERM comes two minutes before the limit: a step that
# ends within torchrun's 30 s is followed by a checkpoint; else the newest one is gone on from.
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
