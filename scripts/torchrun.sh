#!/usr/bin/env bash
# dqo-train on several machines, by hand: run this on each, with the same arguments.
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=host0 scripts/torchrun.sh task=gsm8k run_dir=/shared/run
#
# run_dir must lie on a file system that all machines see. GPUS: workers of this machine, all of its GPUs if unset.
set -euo pipefail
: "${NNODES:?how many machines}" "${NODE_RANK:?this machine, from 0}" "${MASTER_ADDR:?the first machine}"
exec torchrun --nnodes "$NNODES" --node-rank "$NODE_RANK" --nproc-per-node "${GPUS:-gpu}" \
  --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}" --max-restarts 0 -m dqo.cli.train "$@"
