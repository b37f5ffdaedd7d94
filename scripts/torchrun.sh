#!/usr/bin/env bash
# dqo-train on several machines without a scheduler: run this on each machine, with the same arguments.
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=host0 scripts/torchrun.sh task=gsm8k run_dir=/shared/run
#
# run_dir must be on a file system that all machines share. GPUS: number of workers on this machine; unset: one a GPU.
set -euo pipefail
: "${NNODES:?number of machines}" "${NODE_RANK:?number of this machine, from 0}" "${MASTER_ADDR:?name of machine 0}"
exec torchrun --nnodes "$NNODES" --node-rank "$NODE_RANK" --nproc-per-node "${GPUS:-gpu}" \
  --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}" --max-restarts 0 -m dqo.cli train "$@"
