"""From a configuration to stages, with classes of one's own in every seam: this module's classes are named in
``_target_`` as a user's would be."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from dqo.advantage.joint import Joint
from dqo.contracts import failure_counts
from dqo.embed.fake import Fake as FakeEmbed
from dqo.errors import ConfigError
from dqo.evaluation import evaluate
from dqo.files.checkpoint import Checkpoints, restore
from dqo.learner.torch_single import TorchSingle
from dqo.learner.update.settings import LearnerSettings
from dqo.loop import train
from dqo.records import Targets
from dqo.rollout.fake import Fake as FakeRollout
from dqo.run.build import make_collectors, make_plan, make_stages
from dqo.run.load_policy import load_policy
from dqo.run.report import memory_line
from dqo.run.workers import check_workers
from dqo.stages import Checkable, Collectors, Stages
from tests.helpers.composing import composed, with_class
from tests.helpers.families import OF_TRAINING


def built(config) -> Stages:
    policy, task = load_policy(config)
    return make_stages(config, policy, task)


def run_one_step(stages: Stages, config, **start):
    steps = []
    train(stages, make_plan(config), [steps.append], **start)
    return steps[0]


class Engine(FakeRollout):
    """A third-party engine with a state and counters, beside what is compared."""

    check_every, tolerance = 0, 1e9

    def __init__(self, tokenizer, *, max_completion_length: int, cut: float):
        super().__init__(tokenizer, max_completion_length=max_completion_length, cut=cut)
        self.requests, self.compared = 0, 0

    def generate(self, prompts, *, k: int, seed: int):
        self.requests += len(prompts)
        yield from super().generate(prompts, k=k, seed=seed)

    def score(self, rollouts):
        self.compared += 1
        return rollouts.logprobs_BT

    def stale(self, weights) -> list[str]:
        return [name for name, _ in weights]

    def state_dict(self):
        return {"requests": self.requests}

    def load_state_dict(self, state) -> None:
        self.requests = state["requests"]

    def counters(self):
        return {"retries": 3}

    def memory(self):
        return {"cache": 2_000_000_000}


def engine_config(**changes):
    return with_class(composed(), "rollout", Engine, max_completion_length=12, cut=0.1).model_copy(update=changes)


def test_an_engine_that_is_compared_keeps_its_state_and_its_counters(tmp_path):
    config = engine_config()
    stages = built(config)
    assert isinstance(stages.rollout, Checkable) and stages.rollout.compared == 0
    step = run_one_step(stages, config)
    assert stages.rollout.compared == 1  # the first transfer of weights
    assert step.report["rollout/retries"] == 3
    path = Checkpoints(tmp_path, keep_last=1).save(1, step.cursor, stages, {})
    again = built(config)
    restore(path, again)
    assert again.rollout.requests == stages.rollout.requests == 2


class Deaf:
    """A learner that lacks ``score``."""

    def __init__(self, policy):
        self.policy = policy

    def estimate(self, rollouts): ...
    def update(self, experience, estimates, targets): ...
    def weights(self): ...
    def save(self, folder): ...
    def load(self, folder): ...


def test_an_engine_that_is_compared_needs_a_learner_that_scores():
    with pytest.raises(ConfigError, match="learner: Deaf lacks score, by which Engine is compared"):
        built(with_class(engine_config(), "learner", Deaf))
    assert built(with_class(composed(), "learner", Deaf)).check_engine is None  # nothing is compared


class AsksForReference(Joint):
    """An advantage of one's own that looks at the reference's log-probabilities."""

    needs_reference = True

    def __init__(self):
        self.seen: list[bool] = []

    def __call__(self, experience, estimates, *, alpha):
        self.seen.append(estimates.ref_logprobs_BT is not None)
        scores_PK = experience.rewards.total_PK + alpha * experience.credits_PK
        advantages_BT = scores_PK.view(-1, 1) * experience.rollouts.sampled_BT
        return Targets(advantages_BT=advantages_BT, returns_BT=advantages_BT * 2)


class Regression:
    """A loss of one's own that looks at everything that a critic would need."""

    needs_reference, names = False, ("seen/returns", "seen/largest/max")

    def __init__(self):
        self.inputs = []

    def token_weights(self, sampled_BT, valid_B, *, rows: int, tokens: int):
        return (sampled_BT & valid_B[:, None]) / tokens

    def __call__(self, inputs):
        self.inputs.append(inputs)
        squares_N = (inputs.logprobs_N - inputs.returns_N).square()
        count = torch.tensor(float(len(squares_N)))
        return (inputs.weights_N * squares_N).sum(), {
            "seen/returns": (inputs.returns_N.sum(), count),
            "seen/largest/max": (inputs.returns_N.max(), count),
        }


def test_a_loss_and_an_advantage_of_ones_own_see_reference_returns_and_entropies():
    config = with_class(with_class(composed(), "advantage", AsksForReference), "loss", Regression)
    stages = built(config)
    step = run_one_step(stages, config)
    (inputs,) = stages.learner.loss.inputs
    assert stages.advantage.seen == [True] and inputs.ref_logprobs_N is not None
    torch.testing.assert_close(inputs.returns_N, 2 * inputs.advantages_N)
    assert inputs.values_N is None and (inputs.entropies_N > 0).all() and not inputs.stale_N.any()
    assert step.report["seen/largest/max"] == pytest.approx(float(inputs.returns_N.max()))
    assert step.report["seen/returns"] == pytest.approx(float(inputs.returns_N.mean()))


class WithCritic(TorchSingle):
    """A learner of one's own that trains a second model."""

    def __init__(self, policy, device, loss, optim, needs_reference, *, settings: LearnerSettings):
        super().__init__(policy, device, loss, optim, needs_reference, settings=settings)
        self.add_model("critic", torch.nn.Linear(3, 1))

    def _backward(self, name, loss, *, last: bool) -> None:
        super()._backward(name, loss, last=last)
        self.models["critic"](torch.ones(3)).sum().backward()


class Planned:
    """An optimizer factory of one's own; remembers for which parameters it was asked."""

    max_grad_norm = None

    def __init__(self):
        self.asked: list[list[str]] = []

    def make(self, parameters):
        named = dict(parameters)
        self.asked.append(list(named))
        return torch.optim.SGD(named.values(), lr=0.0, momentum=0.5)

    def rate(self, step: int) -> float:
        return 0.1


def test_a_second_trained_model_has_a_name_an_optimizer_a_norm_and_a_folder(tmp_path):
    config = composed()
    learner = {key: value for key, value in config.learner.items() if key != "_target_"}
    config = with_class(with_class(config, "learner", WithCritic, **learner), "optim", Planned)
    stages = built(config)
    policy, critic = stages.learner.optim.asked
    assert critic == ["weight", "bias"] and "model.embed_tokens.weight" in policy
    step = run_one_step(stages, config)
    passes = step.report["micro_batches"]
    assert step.report["grad_norm"] > 0
    assert step.report["grad_norm/critic"] == pytest.approx(2.0 * passes)  # |(1, 1, 1, 1)| a pass
    path = Checkpoints(tmp_path, keep_last=1).save(1, step.cursor, stages, {})
    assert {folder.name for folder in (path / "learner").iterdir() if folder.is_dir()} == {"policy", "critic"}
    again = built(config)
    restore(path, again)
    one, other = again.learner.models["critic"].state_dict(), stages.learner.models["critic"].state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert stages.learner.checkpoint_bytes() == again.learner.checkpoint_bytes() > 0


class CareTaker(FakeEmbed):
    """An encoder of one's own that gives its memory away between steps."""

    def __init__(self, *, dim: int):
        super().__init__(dim=dim)
        self.paused = 0
        CARE_TAKERS.append(self)

    def pause(self) -> None:
        self.paused += 1

    def counters(self) -> Mapping[str, int]:
        return {"cut_texts": 7}


def test_an_encoder_of_ones_own_is_paused_and_counted():
    config = with_class(composed(), "embed", CareTaker, dim=16)
    stages = built(config)
    assert run_one_step(stages, config).report["embed/cut_texts"] == 7
    assert stages.embed.paused == 2  # before the learner is built, and before its update
    assert failure_counts(stages, {"embed/cut_texts": 3})["embed/cut_texts"] == 10


class Watching(TorchSingle):
    """A learner of one's own that looks whether the encoder has given its memory away when it is built."""

    def __init__(self, policy, device, loss, optim, needs_reference, *, settings: LearnerSettings):
        self.paused = [each.paused for each in CARE_TAKERS]
        super().__init__(policy, device, loss, optim, needs_reference, settings=settings)


CARE_TAKERS: list[CareTaker] = []


def test_what_samples_and_judges_gives_its_memory_back_before_the_learner_is_built():
    config = with_class(composed(), "embed", CareTaker, dim=16)
    learner = {key: value for key, value in config.learner.items() if key != "_target_"}
    CARE_TAKERS.clear()
    assert built(with_class(config, "learner", Watching, **learner)).learner.paused == [1]


def test_evaluating_needs_neither_learner_nor_optimizer():
    config = composed("rollout=hf")
    policy, task = load_policy(config)
    collectors = make_collectors(config, policy, task)
    assert type(collectors) is Collectors
    evaluation = evaluate(collectors, task.held_out()[:2], n=4, seed=1, families=OF_TRAINING)
    assert len(evaluation.texts) == 8
    trained = evaluate(built(config), task.held_out()[:2], n=4, seed=1, families=OF_TRAINING)
    assert evaluation.metrics == pytest.approx(trained.metrics, nan_ok=True)


def test_a_dry_run_asks_every_stage_for_its_memory():
    text = memory_line(built(engine_config()))
    assert "rollout 2.00 GB (cache 2.00)" in text and "learner 0.0" in text and "optimizer" in text


class Everywhere(Deaf):
    """A learner of one's own that runs on several ranks."""

    multi_rank = True


def test_a_learner_says_itself_whether_it_runs_on_several_ranks():
    config = composed("nproc=2")
    with pytest.raises(ConfigError, match="nproc=2: TorchSingle is one process; type learner=deepspeed_zero"):
        check_workers(config)
    with pytest.raises(ConfigError, match="nproc=2: Deaf is one process"):
        check_workers(with_class(config, "learner", Deaf))
    check_workers(with_class(config, "learner", Everywhere))
    with pytest.raises(ConfigError, match="prompts_per_step=2: 3 workers share them equally; type prompts_per_step=3"):
        check_workers(with_class(composed("nproc=3"), "learner", Everywhere))


def test_a_class_that_lacks_a_method_is_refused_before_it_is_called():
    with pytest.raises(ConfigError, match=r"reward: Blank lacks score; a class for reward is a Reward of dqo\.stages"):
        built(with_class(composed(), "reward", Blank))


def test_a_users_class_that_raises_is_one_line_with_its_place():
    config = with_class(composed(), "credit", Raising, scale=0.0)
    with pytest.raises(ConfigError, match=rf"credit: Raising\(…\) raised ZeroDivisionError.*{Path(__file__).name}"):
        built(config)


class Raising:
    uses_embeddings = False

    def __init__(self, *, scale: float):
        self.scale = 1 / scale

    def assign(self, rollouts, rewards, embeddings_PKD): ...


class Blank:
    """Lacks everything."""
