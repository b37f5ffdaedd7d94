"""``dqo-eval``: sample the held-out prompts with each policy and each decoding, judge the completions, measure all.

Completions are kept prompt by prompt (``files.answers_store``), and what they depend on in ``inputs.json``: whenever a
process is killed, ``resume=`` goes on with the prompts that are not finished.
"""

import contextlib
import gc
import json
import logging
import re
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import dqo
from dqo import distributed
from dqo.capabilities import Closing, Concurrent
from dqo.config.schema import EvalConfig
from dqo.config.typed import arguments
from dqo.errors import ConfigError
from dqo.evaluation import judge
from dqo.files.answers_store import AnswersStore, recover
from dqo.files.answers_table import DECODING, Cell, Decoding
from dqo.files.atomic import replacing
from dqo.progress import LoggedBar
from dqo.records import Prompt, Rollouts
from dqo.rollout.sampling.reusing import Adopting, Redecoding
from dqo.run import measure
from dqo.run.build import Answering, Policy, make_answering
from dqo.run.exit_codes import FRESH_PROCESS
from dqo.run.inputs import Inputs
from dqo.run.job import Job
from dqo.run.load_policy import Prepared, prepare_policy
from dqo.run.report import task_name
from dqo.stages import Checkable, Rollout

log = logging.getLogger(__name__)

INPUTS = "inputs.json"  # of a run's folder
CHUNK = 1000  # prompts that an engine gets at a time
JUDGED = 8  # records that wait for the reward, at most: their completions are not on the disk yet
SHORT = {"temperature": "t", "top_p": "p", "top_k": "k", "min_p": "m"}  # in the names of folders


@dataclass(frozen=True, kw_only=True)
class Work:
    """The sampling of one cell."""

    folder: Path
    cell: Cell
    about: Mapping[str, Any]  # metadata of the files
    missing: Sequence[Prompt] = ()  # prompts without completions


def run(job: Job) -> int:
    """Samples what is not there yet, then measures. Exit code: FRESH_PROCESS where the next policy needs an engine of
    its own. A collective.

    Nothing is written before everything that may be refused has been checked, and eval.json comes last.
    """
    config = job.config
    assert isinstance(config, EvalConfig)
    instruments = None
    if not config.from_:
        instruments = measure.prepare(config, job.folder) if distributed.is_rank_0() else None
        if not sample(job, config):
            return FRESH_PROCESS
        distributed.barrier()  # all completions are on the disk
    if distributed.is_rank_0():  # the others end: this may take longer than a barrier waits, and needs no other rank
        (job.folder / "eval.json").unlink(missing_ok=True)  # of other metrics: the folder is complete once it is there
        measure.run(config, job.folder, instruments)
    return 0


def sample(job: Job, config: EvalConfig) -> bool:
    """Complete the cells of all policies, one policy after the other. False: a fresh process has to go on. A
    collective."""
    saved = distributed.broadcast(_read_inputs(job.folder) if distributed.is_rank_0() else {})
    policies = [prepare_policy(of_policy(config, p), saved.get(each.name)) for p, each in enumerate(config.policies)]
    _refuse_other_prompts(config, policies)
    works = [_works(job.folder, config, p, prepared) for p, prepared in enumerate(policies)]
    engine: Rollout | None = None
    for source, prepared, cells in zip(config.policies, policies, works, strict=True):
        if not any(work.missing for work in cells):
            continue
        policy = prepared.load(saved.get(source.name))
        if isinstance(engine, Adopting) and not engine.adopt(policy.model, policy.tokenizer):
            return False
        saved = {**saved, source.name: dict(policy.inputs)}
        with contextlib.ExitStack() as stack:
            stages = _stages(prepared, policy, engine, stack)
            del policy  # the rollout has a copy
            _begin(job, saved)
            for work in cells:
                _sample_cell(config, stages, work)
            engine = stages.rollout if isinstance(stages.rollout, Adopting) else None
            del stages
        _free_memory()
    if engine:
        engine.pause()
    return True


def _begin(job: Job, inputs: Mapping[str, Inputs]) -> None:
    """From now on the folder holds something worth keeping."""
    if distributed.is_rank_0():
        with replacing(job.folder / INPUTS) as path:
            path.write_text(json.dumps(inputs, indent=1), "utf-8")
    job.begin()


def of_policy(config: EvalConfig, p: int) -> EvalConfig:
    """The configuration with policy ``p`` as the model, as it is: without a warm start."""
    return config.model_copy(update={"model": config.policies[p].model, "warm_start": False})


def _works(folder: Path, config: EvalConfig, p: int, prepared: Prepared) -> list[Work]:
    """The cells of a policy, with the prompts that no rank has finished. A collective."""
    works = [_work(folder, config, p, prepared, settings) for settings in config.decodings or [{}]]
    prompts = _prompts(config, prepared)
    stored = [recover(each.folder, cell=each.cell, about=each.about) for each in works if distributed.is_rank_0()]
    stored = distributed.broadcast(stored)
    return [
        replace(work, missing=[prompt for prompt in prompts if prompt.position not in done])
        for work, done in zip(works, stored, strict=True)
    ]


def _work(folder: Path, config: EvalConfig, p: int, prepared: Prepared, settings: Mapping[str, float]) -> Work:
    """The cell of policy ``p`` with these sampling settings. Raises ConfigError as ``_decoding``."""
    source, decoding = config.policies[p], _decoding(config, settings)
    name = "_".join([f"{p}", source.name[:80], *(f"{SHORT[key]}{value:.12g}" for key, value in settings.items())])
    return Work(
        folder=folder / "completions" / re.sub(r"[^\w.,=+-]+", "-", name),
        cell=Cell(policy=source.name, decoding=decoding),
        about={
            "dqo": dqo.__version__, "task": task_name(config), "n": config.n, "seed": config.eval.seed,
            "path": source.path, "settings": source.settings, "other_rendering": prepared.other_rendering,
        },
    )  # fmt: skip


def _decoding(config: EvalConfig, settings: Mapping[str, float]) -> Decoding:
    """The rollout's sampling settings, with ``settings`` in their place. Raises ConfigError for settings that the
    rollout does not have or take, and for greedy decoding of several completions."""
    whole = {key: int(value) for key, value in settings.items() if key == "top_k" and value == int(value)}
    node: dict[str, Any] = {**config.rollout, **settings, **whole}
    greedy = node.get("temperature") == 0
    kind, _ = arguments({**node, "temperature": 1.0} if greedy else node, "rollout")
    if greedy and config.n > 1:
        raise ConfigError(
            f"temperature=0 is greedy decoding, and all n={config.n} completions of a prompt would be the same; type "
            "n=1 eval.metrics=[reward,pass,finished,mean_length], or leave temperature 0 out"
        )
    if settings and not issubclass(kind, Redecoding):
        raise ConfigError(
            f"decodings: {kind.__name__} lacks set_decoding (dqo.rollout.sampling.reusing.Redecoding); type one value "
            "of temperature, top_p, top_k and min_p"
        )
    return Decoding(**{key: node[key] for key in DECODING if key in node})


def _prompts(config: EvalConfig, prepared: Prepared) -> Sequence[Prompt]:
    """The prompts to complete. Raises ConfigError for more than the task holds out."""
    prompts = prepared.task.held_out()
    if config.prompts is not None and config.prompts > len(prompts):
        raise ConfigError(
            f"prompts={config.prompts}: the task holds {len(prompts)} prompts out; type prompts={len(prompts)}, or "
            "task.held_out=NUMBER"
        )
    return prompts[: config.prompts]


def _refuse_other_prompts(config: EvalConfig, policies: Sequence[Prepared]) -> None:
    """Raises ConfigError where the policies would be asked different prompts: those too long for one are left out."""
    asked = [[(prompt.position, prompt.text) for prompt in _prompts(config, prepared)] for prepared in policies]
    for source, prompts in zip(config.policies, asked, strict=True):
        if prompts != asked[0]:
            raise ConfigError(
                f"{config.policies[0].name} and {source.name} would be asked different prompts ({len(asked[0])} and "
                f"{len(prompts)}), since some are too long for one of them; type a smaller max_completion_length"
            )


def _stages(prepared: Prepared, policy: Policy, engine: Rollout | None, stack: contextlib.ExitStack) -> Answering:
    """The stages that answer for a policy; ``stack`` will close them. ``engine``: one that has adopted the policy. A
    collective."""
    stages = make_answering(prepared.config, policy, prepared.task, rollout=engine)
    for stage in (stages.reward, stages.rollout):
        if isinstance(stage, Closing) and not isinstance(stage, Adopting):  # which the next policy may need
            stack.callback(stage.close)
    if isinstance(stages.rollout, Checkable):
        for name in stages.rollout.stale(iter(policy.model.state_dict().items()))[:5]:
            log.warning("%s: the engine's tensor %s differs from the policy's", policy.name, name)
    return stages


def _sample_cell(config: EvalConfig, stages: Answering, work: Work) -> None:
    """Sample and judge this rank's share of the missing prompts. The reward works while the next ones are sampled. A
    collective where ranks share an engine."""
    if isinstance(stages.rollout, Redecoding):
        stages.rollout.set_decoding(**work.cell.decoding.settings())
    rank, world = distributed.rank(), distributed.world_size()
    mine, most = work.missing[rank::world], -(-len(work.missing) // world)
    waiting, lock = deque[Future[None]](), threading.Lock()
    calls = stages.reward.calls_at_a_time if isinstance(stages.reward, Concurrent) else 1
    with (
        LoggedBar(total=len(mine), desc=work.folder.name, unit="prompts") as bar,
        AnswersStore(work.folder, rank=rank, cell=work.cell, about=work.about) as store,
        distributed.thread_pool(calls) as judging,
    ):

        def keep(rollouts: Rollouts) -> None:
            judged = judge(stages, rollouts)
            with lock:
                for answers in judged:
                    store.add(answers)
                bar.update(len(rollouts.prompts))

        for start in range(0, most, CHUNK):  # as many calls on each rank
            for rollouts in stages.rollout.generate(mine[start : start + CHUNK], k=config.n, seed=config.eval.seed):
                waiting.append(judging.submit(keep, rollouts))
                while waiting and (len(waiting) > max(JUDGED, calls) or waiting[0].done()):
                    waiting.popleft().result()
        for last in waiting:
            last.result()


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _read_inputs(folder: Path) -> dict[str, Inputs]:
    """What the completions in the folder depend on, by policy; empty for a new run."""
    file = folder / INPUTS
    return json.loads(file.read_text("utf-8")) if file.exists() else {}
