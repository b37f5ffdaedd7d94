"""How many workers a run gets."""

import pytest

from dqo.errors import ConfigError
from dqo.run import workers
from dqo.run.workers import check_workers, environments, worker_count
from tests.helpers.composing import composed, composed_evaluation, with_class


class Everywhere:
    """A learner of one's own that runs on several ranks."""

    multi_rank = True

    def __init__(self, policy): ...


def test_one_worker_without_a_gpu_and_as_many_as_typed_with_nproc(monkeypatch):
    monkeypatch.setattr(workers, "has_gpu", lambda: False)
    assert worker_count(composed()) == 1
    assert worker_count(composed("nproc=3")) == 3


@pytest.mark.parametrize(("gpus", "prompts", "count"), [(2, 4, 2), (3, 4, 2), (8, 4, 4), (3, 5, 1), (1, 4, 1)])
def test_one_worker_a_gpu_as_far_as_prompts_can_be_shared_out(monkeypatch, gpus, prompts, count):
    monkeypatch.setattr(workers, "has_gpu", lambda: True)
    monkeypatch.setattr(workers, "_gpus", lambda: gpus)
    config = composed(f"prompts_per_step={prompts}", "device=auto")
    assert worker_count(with_class(config, "learner", Everywhere)) == count
    assert worker_count(config) == 1  # torch_single is one process
    assert worker_count(with_class(composed(f"prompts_per_step={prompts}"), "learner", Everywhere)) == 1  # device=cpu


def test_each_worker_has_a_group_for_every_mini_batch(monkeypatch):
    monkeypatch.setattr(workers, "has_gpu", lambda: True)
    monkeypatch.setattr(workers, "_gpus", lambda: 8)
    config = with_class(composed("prompts_per_step=8", "num_mini_batches=3", "device=auto"), "learner", Everywhere)
    assert worker_count(config) == 2
    message = r"num_mini_batches=3: each of 4 workers has 2 groups .*; type num_mini_batches=2, or prompts_per_step=12"
    with pytest.raises(ConfigError, match=message):
        check_workers(config.model_copy(update={"nproc": 4}))
    check_workers(config.model_copy(update={"nproc": 2}))


def test_a_launcher_that_has_started_us_decides(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert workers.launched() and worker_count(composed("nproc=2")) == 4


def test_workers_get_torchruns_variables():
    first, second = environments(2)
    assert (first["RANK"], second["RANK"], first["WORLD_SIZE"]) == ("0", "1", "2")
    assert first["MASTER_PORT"] == second["MASTER_PORT"]
    assert not {"RANK", "MASTER_PORT"} & set(environments(1)[0])


def test_dqo_eval_has_one_worker_a_gpu_whatever_the_learner_and_the_prompts_of_a_step(monkeypatch):
    monkeypatch.setattr(workers, "has_gpu", lambda: True)
    monkeypatch.setattr(workers, "_gpus", lambda: 5)
    sampling = composed_evaluation("task=cities", "device=auto", "learner=torch_single", "rollout=vllm")
    assert worker_count(sampling) == 5
    check_workers(sampling.model_copy(update={"nproc": 3}))
    shared = sampling.model_copy(update={"rollout": {**sampling.rollout, "tensor_parallel_size": 2}})
    assert worker_count(shared) == 4
    assert worker_count(sampling.model_copy(update={"from_": ["a.parquet"]})) == 1
