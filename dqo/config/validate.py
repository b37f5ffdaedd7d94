"""What types cannot say: keys that contradict each other. Every message ends in what to type."""

import difflib
import sys
from pathlib import Path

from dqo.config.schema import COMPLETIONS, Config, EvalConfig, RmConfig, SampleConfig, ServeConfig
from dqo.config.stage_answers import (
    correct_example,
    has_critic,
    needs_values,
    pays_tokens,
    says,
    silent_about_correct,
    term_that_says,
)
from dqo.config.typed import nodes
from dqo.errors import ConfigError
from dqo.metrics.names import FAMILIES, METRICS, SCORERS, evaluation_metrics, find_family, metric_of, needs_correct


def validate(config: Config) -> None:
    """Raises ConfigError for the first contradiction found. Imports a stage, and torch with it, only where its class
    has to be asked; ``run.workers`` and ``run.build`` check what the stages' classes decide."""
    _folder(config)
    _metrics(config)
    _scorers(config)
    if isinstance(config, SampleConfig):
        _sample(config)
    if isinstance(config, EvalConfig):
        _alone(config)
    if isinstance(config, ServeConfig):
        _serve(config)
    if isinstance(config, EvalConfig | RmConfig | SampleConfig | ServeConfig):  # nothing is trained
        return
    _judged(config)
    _batch(config)
    _checkpoints(config)
    _diversity(config)
    _credit_size(config)
    _token_credits(config)
    _critic(config)
    _mini_batches(config)
    _redraws(config)
    _adaptive_kl(config)
    _correct(config)
    _centring(config)
    _ahead(config)
    _objective(config)


def asks_terminal(config: SampleConfig) -> bool:
    """Whether dqo-sample has no prompt and no stdin to read prompts from, but a terminal."""
    return config.prompt is None and config.index is None and sys.stdin is not None and sys.stdin.isatty()


def _sample(config: SampleConfig) -> None:
    if config.prompt is not None and config.index is not None:
        raise ConfigError(f"prompt and index={config.index}: one prompt is asked; leave one of the two out")
    if config.prompt is not None and not config.prompt.strip():
        raise ConfigError("prompt is empty; type prompt='Recommend a city.', or index=0 for a prompt of the task")
    if config.k > COMPLETIONS:
        raise ConfigError(f"k={config.k}: at most {COMPLETIONS} completions are sampled; type k=8")
    if config.choose is not None and config.choose > config.k:
        raise ConfigError(
            f"choose={config.choose}: {config.k} completions are sampled; type choose={max(1, config.k // 2)}, or "
            f"k={2 * config.choose}"
        )
    if asks_terminal(config) and (config.json_ or not sys.stdout.isatty()):
        what = "json=true" if config.json_ else "stdout is no terminal"
        raise ConfigError(f"{what}: no prompt is typed; type prompt='…', index=0, or pipe one a line into dqo-sample")


def _serve(config: ServeConfig) -> None:
    if config.max_texts > config.waiting_texts:
        raise ConfigError(
            f"max_texts={config.max_texts}: a request of so many texts never fits into waiting_texts="
            f"{config.waiting_texts}; type max_texts={config.waiting_texts}, or waiting_texts={config.max_texts}"
        )
    if "reward" in config.serve and len(config.reward) == 1 and says(config, "reward", "judges_nothing", of="score"):
        raise ConfigError("reward=none judges nothing; type reward=check, or serve=[embed]")


def _judged(config: Config) -> None:
    if len(config.reward) == 1 and says(config, "reward", "judges_nothing", of="score"):
        raise ConfigError(
            "reward=none judges nothing, so there is nothing to train for; type dqo-eval to measure a policy, or "
            "reward=python reward.function=my_module.score"
        )


def _batch(config: Config) -> None:
    largest = max("k", "prompts_per_step", key=lambda key: getattr(config, key))
    completions = config.prompts_per_step * config.k
    if completions > COMPLETIONS:
        raise ConfigError(
            f"{largest}={getattr(config, largest)}: prompts_per_step * k is {completions} completions a step; at most "
            f"{COMPLETIONS} are allowed; type {largest}=8"
        )


def _checkpoints(config: Config) -> None:
    every, keep_every = config.checkpoint.every, config.checkpoint.keep_every
    if keep_every and (not every or keep_every % every):
        raise ConfigError(
            f"checkpoint.keep_every={keep_every}: must be a multiple of checkpoint.every={every}; type "
            f"checkpoint.keep_every={max(1, keep_every // every) * every if every else 0}"
        )


def _diversity(config: Config) -> None:
    if config.alpha == 0:
        return
    alone = f"alpha={config.alpha:g} pays completions for differing from the others of their group"
    if config.k == 1:
        raise ConfigError(f"k=1: {alone}, and a group of one has no others; type k=8, or alpha=0")
    # a stage is imported, and torch with it, only where its answer can matter: a credit that pays nothing has no keys
    if len(config.credit) == 1 and says(config, "credit", "pays_nothing", of="assign"):
        raise ConfigError(f"credit=none: {alone}, and this credit pays nothing; type credit=dpp, or alpha=0")
    if config.credit.get("gate") == "none" and says(config, "credit", "pays_for_passing", of="assign"):
        raise ConfigError(
            f"credit.gate=none: {alone}, and this credit pays for passing the gate alone, the same to all; type "
            "credit.gate=correct, or credit=dpp"
        )
    if (
        config.k == 2
        and _compares_within_group(config)
        and config.credit.get("embedding") != "reference_centred"  # whose vectors differ in length
        and (says(config, "credit", "pairs_tie", of="assign") or config.credit.get("form") == "add")
    ):
        raise ConfigError(
            f"k=2: {alone}, but in a group of two similarity has equal parts in both credits, and the group's mean as "
            "the baseline removes them entirely; type k=3 or more, or advantage=unbiased, or alpha=0"
        )


def _credit_size(config: Config) -> None:
    keys = config.advantage
    scale, baseline = keys.get("scale_rewards", "none"), keys.get("credit_baseline")
    if keys.get("normalize_credit") == "spread" and baseline == "group" and scale != "none":
        raise ConfigError(
            f"advantage.normalize_credit=spread: advantage.scale_rewards={scale} divides credits already; type "
            "advantage.normalize_credit=none, or advantage.scale_rewards=none"
        )


def _token_credits(config: Config) -> None:
    for key, plain in (("normalize_credit", "none"), ("credit_baseline", "group")):
        value = config.advantage.get(key, plain)
        if value != plain and config.alpha and says(config, "credit", "pays_tokens_alone", of="assign"):
            raise ConfigError(
                f"advantage.{key}={value}: this credit pays single tokens, and their credits are added to the "
                f"advantages as they are; type advantage.{key}={plain}, or credit=dpp"
            )


def _compares_within_group(config: Config) -> bool:
    keys = config.advantage
    if keys.get("credit_baseline") == "none":
        return False
    return keys.get("baseline") == "group" or says(config, "advantage", "compares_within_group", of="__call__")


def _critic(config: Config) -> None:
    if needs_values(config) and not has_critic(config):
        raise ConfigError(
            "critic=none: this advantage needs a critic's values; type critic=model, or critic=head, which takes less "
            "memory, or algorithm=ppo"
        )
    if has_critic(config) and not needs_values(config):
        raise ConfigError(
            "critic: this advantage has no use for a critic's values; type algorithm=ppo (advantage=gae), or "
            "critic=none"
        )
    warmup = config.critic.get("warmup", 0)
    if warmup >= config.steps and warmup:
        raise ConfigError(
            f"critic.warmup={warmup}: the policy would learn in none of steps={config.steps}; type critic.warmup=0, or "
            f"steps={warmup + config.steps}"
        )
    if needs_values(config) and config.alpha and pays_tokens(config):
        raise ConfigError(
            f"credit: this credit pays single tokens past the advantage, so with alpha={config.alpha:g} the critic "
            "would learn nothing of it; type credit=dpp, or algorithm=grpo, or alpha=0"
        )


def mini_batches(config: Config) -> int:
    """Parts of a step's batch: the learner's key, which follows the top level's unless it is typed. What is no number
    there is refused with the learner's other keys, and does not count here."""
    parts = config.learner.get("num_mini_batches")
    return parts if isinstance(parts, int) else config.num_mini_batches


def _mini_batches(config: Config) -> None:
    parts = mini_batches(config)
    if parts > config.prompts_per_step:
        raise ConfigError(
            f"num_mini_batches={parts}: mini-batches are whole groups, and a step has "
            f"prompts_per_step={config.prompts_per_step}; type num_mini_batches={config.prompts_per_step}, or "
            f"prompts_per_step={parts}"
        )


def _redraws(config: Config) -> None:
    if config.redraw_signal and not config.redraws:
        raise ConfigError(
            f"redraw_signal={config.redraw_signal:g}: redraws=0 draws nothing anew; type redraws=3, or redraw_signal=0"
        )


def _adaptive_kl(config: Config) -> None:
    horizon, completions = config.advantage.get("kl_horizon"), config.prompts_per_step * config.k
    if config.advantage.get("kl_target") is not None and horizon is not None and horizon < completions:
        raise ConfigError(
            f"advantage.kl_horizon={horizon}: the coefficient would change by more than a fifth in one step of "
            f"{completions} completions; type advantage.kl_horizon={max(10_000, completions)}"
        )


def _correct(config: Config) -> None:
    key = silent_about_correct(config.reward, "reward")
    asking = _asking_what_is_correct(config) if key else None
    if key and asking:
        asks, instead = asking
        raise ConfigError(
            f"{key}=null: {asks} asks which completions are correct, and this reward does not say; type "
            f"{key}={correct_example(key)}, or {instead}"
        )


def _asking_what_is_correct(config: Config) -> tuple[str, str] | None:
    """What needs to know which completions are correct, and what to type in its place."""
    if config.credit.get("gate") == "correct":
        gated = says(config, "credit", "pays_for_passing", of="assign")
        return "credit.gate=correct", f"credit.gate={'threshold credit.threshold=0.5' if gated else 'none'}"
    f, modes = config.advantage.get("f"), config.advantage.get("modes")
    if f == "minority" or (f == "mean_distinct" and modes != "all"):
        return f"advantage.f={f}", "advantage.f=max"
    if says(config, "advantage", "needs_correct", of="__call__"):
        return "this advantage", "advantage=joint"
    return _term_asking_what_is_correct(config)


def _term_asking_what_is_correct(config: Config) -> tuple[str, str] | None:
    for key, node in nodes(config.loss.get("terms"), "loss.terms"):
        if node.get("tokens") == "correct":
            return f"{key}.tokens=correct", f"{key}.tokens=all"
    asking = term_that_says(config, "needs_correct")
    return (asking, "loss=clip") if asking else None


def _centring(config: Config) -> None:
    embedding = config.credit.get("embedding", "plain")
    if embedding != "plain" and config.credit.get("kernel") == "rbf":
        raise ConfigError(
            f"credit.embedding={embedding} with credit.kernel=rbf: a distance is the same after a mean was subtracted; "
            "type credit.embedding=plain, or credit.kernel=cosine"
        )


def _ahead(config: Config) -> None:
    if config.ahead and config.rollout.get("tensor_parallel_size") not in (None, 1, "1"):
        raise ConfigError(
            f"ahead={config.ahead}: workers that share an engine would wait in it for one another's learners; type "
            "ahead=0, or rollout.tensor_parallel_size=1"
        )


def _folder(config: Config) -> None:
    if not config.run_dir.strip():
        raise ConfigError("run_dir= names no folder; type run_dir=FOLDER")
    if config.run_dir.startswith("~"):  # a shell that leaves it (zsh), or quotes: a folder called ~ is hardly meant
        raise ConfigError(f"run_dir={config.run_dir}: ~ stays as it is here; type run_dir=$HOME/FOLDER")
    folder = Path(config.run_dir)
    try:
        is_file = folder.exists() and not folder.is_dir()
    except OSError as error:  # the name is too long
        raise ConfigError(
            f"run_dir={folder}: cannot be written ({error.strerror}); type run_dir=ANOTHER_FOLDER"
        ) from error
    if is_file:
        raise ConfigError(f"run_dir={folder} is a file; type run_dir=ANOTHER_FOLDER")


def _metrics(config: Config) -> None:
    for name in config.eval.metrics:
        if find_family(name) is None:
            shown = [family.replace("vendi@", "vendi@ORDER") for family in FAMILIES]
            near = difflib.get_close_matches(name, FAMILIES, n=1, cutoff=0.5)
            example = near[0].replace("vendi@", "vendi@2") if near else "reward,pass,cosine_distance"
            raise ConfigError(
                f"eval.metrics: there is no metric {name}; there are {', '.join(shown)}; type eval.metrics=[{example}]"
            )


def _scorers(config: Config) -> None:
    judge = config.eval.judge
    if (judge.base_url is None) != (judge.model is None):
        one, other = ("model", "base_url") if judge.base_url is None else ("base_url", "model")
        raise ConfigError(
            f"eval.judge.{one}={getattr(judge, one)} alone names no judge: eval.judge.{other} is null; type "
            f"{SCORERS['judge']}"
        )
    absent = {"nli": config.eval.nli is None, "judge": judge.base_url is None}
    families = {find_family(name) for name in config.eval.metrics}
    for metric in METRICS.values():
        for need in metric.needs:
            if metric.family in families and absent.get(need):
                raise ConfigError(
                    f"eval.metrics: {metric.family} asks a model that is not named; type {SCORERS[need]}, or leave "
                    f"{metric.family} out of eval.metrics"
                )


def _alone(config: EvalConfig) -> None:
    compares = [name for name in evaluation_metrics(1, config.eval.metrics) if metric_of(name).kind == "diversity"]
    if config.n == 1 and compares and not config.from_:
        raise ConfigError(
            f"n=1: {compares[0]} compares the completions of a prompt, and one has no others; type n=10, or "
            "eval.metrics=[reward,pass,finished,mean_length]"
        )


def _objective(config: Config) -> None:
    names = [config.objective] if isinstance(config.objective, str) else config.objective or []
    known = evaluation_metrics(config.eval.n, config.eval.metrics)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            example = near[0] if near else known[0]
            raise ConfigError(
                f"objective={name}: no evaluation with eval.n={config.eval.n} and eval.metrics="
                f"[{','.join(config.eval.metrics)}] has this metric; there are {', '.join(known)}; type "
                f"objective={example}"
            )
        if needs_correct(name) and (key := silent_about_correct(config.reward, "reward")):
            raise ConfigError(
                f"objective={name}: this reward does not say which completions are correct; type {key}=0.5, or "
                "objective=reward"
            )
