"""The policies that dqo-eval and dqo-sample load: from what was typed without a key to nodes of the group ``model``.

A run folder gives its task and its settings as well: the overrides of its command line come before what is typed.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from dqo.config import conf_dir
from dqo.config.resume import holds_run, saved_overrides
from dqo.config.schema import EvalConfig, PolicySource, SampleConfig
from dqo.config.typed import fields_of, flat, plain, typed_value
from dqo.errors import ConfigError
from dqo.rollout.sampling.settings import Sampling

KEPT_OF_MODEL = ("model.trust_remote_code", "model.attn_implementation")  # the others are in the policy's own folder
# groups and keys of a run that measuring its policy does not ask for
OF_TRAINING = (
    "model", "advantage", "algorithm", "loss", "critic", "optim", "learner", "eval", "log", "checkpoint",
    "warm_start", "sft", "steps", "num_iterations", "num_mini_batches", "nproc", "device", "objective",
    "ahead", "redraws", "redraw_signal", "experiment",
)  # fmt: skip
SHOWN = ("alpha", "k", "seed", "steps", "beta", "learning_rate")  # settings of a run that are kept beside its numbers
# what must be equal in two runs that are measured side by side
COMPARED = ("task.", "reward.", "temperature", "max_completion_length", "rollout.top_p", "rollout.top_k",
            "rollout.min_p", "rollout.repetition_penalty", "rollout.stop_tokens")  # fmt: skip
OF_TASK = ("reward", "max_completion_length")  # what the file of a task sets beside its own keys
KEPT_OF_HYDRA = ("hydra.searchpath",)
NOT_COMPARED = ("task.seed", "task.date", "task.phrasings")  # of the training prompts alone
DECODING = ("temperature", "top_p", "top_k", "min_p")
GREEDY = ("temperature", 0)  # of a decoding
OF_SAMPLING = ("n", "prompts", "max_completion_length", *DECODING)
POLICIES = "policies"
VARIABLE = re.compile(r"(\\*)\$\{")  # OmegaConf's


def with_values(arguments: Sequence[str], key: str) -> list[str]:
    """The arguments, those without a key as a list of values of ``key``; the path of a folder is none of KEY=VALUE."""
    values, others = [], []
    for argument in arguments:
        is_value = not argument.startswith(("-", "+")) and (
            "=" not in argument or argument.startswith(("/", "./", "../", "~/")) or _exists(argument)
        )
        (values if is_value else others).append(argument)
    return others if not values else [*others, f"{key}=[{','.join(map(_quoted, values))}]"]


def with_policies(arguments: Sequence[str], *, several: bool = True) -> list[str]:
    """The arguments of dqo-eval or dqo-sample as Hydra takes them: policies as nodes, run folders replaced by their
    overrides, lists of sampling settings by ``decodings``. ``several``: whether several policies and sampling settings
    are allowed.

    Raises ConfigError without a policy, for a run without one, and for runs that are not comparable."""
    typed = _split(arguments)
    keys = [key for key, _ in typed]
    if first := next((key for key in ("resume", "from") if key in keys), None):
        if POLICIES in keys:
            what = "goes on with the run's own policies" if first == "resume" else "measures completions that are there"
            raise ConfigError(f"{first}= {what}; leave the policy out, or {first}=")
        sampled = next((key for key in keys if key.removeprefix("rollout.") in OF_SAMPLING), None)
        if first == "from" and sampled:
            raise ConfigError(f"from= measures completions that are there, so {sampled}= has no effect; leave it out")
        return [text for _, text in _with_decodings(typed)]
    paths = [path for key, text in typed if key in (POLICIES, "model.path") for path in _values(text)]
    options = [text.partition("=")[2] for key, text in typed if key == "model"]
    if not paths:
        paths = [name for name in options if name != "hf"]
    if not paths:
        raise ConfigError("no policy is named; type a run folder, a model folder, a name on the hub, or model=smollm2")
    if len(paths) > 1 and not several:
        raise ConfigError("dqo-sample shows one policy; type one, or dqo-eval to measure several")
    sources = _sources(paths, several=several)
    rest = [(key, _as_is(key, text)) for key, text in typed if key not in (POLICIES, "model.path", "model")]
    saved = _shared_overrides([source for source in sources if source.run], {key for key, _ in rest})
    nodes = [{key: value for key, value in source.model_dump().items() if value} for source in sources]
    decoded = _with_decodings(rest)
    if any(key == "decodings" for key, _ in decoded) and not several:
        raise ConfigError(
            "dqo-sample takes one value of temperature, top_p, top_k and min_p, and no temperature of 0, at which all "
            "completions are equal; type temperature=0.7, or dqo-eval to compare several"
        )
    option = None if len(sources) > 1 or sources[0].run else _option_name(sources[0].path)
    model = f"model={option or 'hf'}"
    return [*saved, model, *(text for _, text in decoded), f"{POLICIES}={_literal(nodes)}"]


def complete(config: EvalConfig | SampleConfig) -> EvalConfig | SampleConfig:
    """The configuration with the node of ``model`` for each policy; ``model`` itself is that of the first. Raises
    ConfigError for sampling settings that are out of range."""
    if isinstance(config, EvalConfig):
        allowed = fields_of(Sampling)
        for name, value in (pair for decoding in config.decodings for pair in decoding.items() if pair != GREEDY):
            typed_value(int(value) if value == int(value) and name == "top_k" else value, allowed[name][0], name)
    alone = len(config.policies) == 1 and _option_name(config.policies[0].path) is not None  # it was composed
    policies = [
        each.model_copy(update={"model": config.model if alone else _node(each.path, config)})
        for each in config.policies
    ]
    return config.model_copy(update={"policies": policies, "model": policies[0].model if policies else config.model})


def _split(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """(key, argument); top_p is a key of ``rollout`` elsewhere."""
    pairs = [(argument.partition("=")[0].lstrip("+"), argument) for argument in arguments]
    return [(f"rollout.{key}", f"rollout.{text}") if key in DECODING[1:] else (key, text) for key, text in pairs]


def _as_is(key: str, argument: str) -> str:
    """The argument; a prompt with what the shell gave, in which Hydra would see lists, numbers and variables."""
    text = argument.partition("=")[2]
    if key != "prompt" or "=" not in argument or text == "null":
        return argument
    literal = VARIABLE.sub(lambda found: rf"{2 * found[1]}\${{", text)  # a backslash is escaped in front of ${ alone
    return f"prompt={_quoted(literal)}"


def _values(argument: str) -> list[str]:
    """The texts of KEY=VALUE or KEY=[VALUE,…]."""
    try:
        value: Any = OverridesParser.create().parse_overrides([argument])[0].value()
    except OverrideParseException:  # runs/0_alpha=0,k=4 without quotes
        value = argument.partition("=")[2]
    return [str(each) for each in (value if isinstance(value, list) else [value]) if each not in (None, "")]


def _sources(paths: Sequence[str], *, several: bool) -> list[PolicySource]:
    found = [_source(path.rstrip("/") or path, several=several) for path in paths]
    if repeated := [path for path, count in Counter(source.path for source in found).items() if count > 1]:
        raise ConfigError(f"{repeated[0]} is named twice; type each policy once")
    names = Counter(source.name for source in found)
    places = [_place(source) for source in found]
    return [
        source if names[source.name] == 1 else source.model_copy(update={"name": _name_among(place, places)})
        for source, place in zip(found, places, strict=True)
    ]


def _source(path: str, *, several: bool) -> PolicySource:
    folder = Path(path).expanduser()
    if not folder.exists():
        if _option_name(path) is None and path.startswith((".", "/", "~")):
            raise ConfigError(
                f"{path}: there is no such folder; type a run folder, a model folder or a name on the hub"
            )
        return PolicySource(name=path.rpartition("/")[2], path=path)
    folder = folder.absolute()
    if folder.name == "policy" and holds_run(folder.parent):  # a run gives its task and settings as well
        folder = folder.parent
    if not holds_run(folder):
        if (folder / "multirun.yaml").exists():
            what = f"{path}/* for the policies of all its runs" if several else "the folder of one of its runs"
            raise ConfigError(f"{path} is the folder of a sweep; type {what}")
        return PolicySource(name=folder.parent.name if folder.name == "policy" else folder.name, path=str(folder))
    if (folder / "completions").is_dir() and not (folder / "metrics.jsonl").exists():
        raise ConfigError(f"{path} is the folder of an evaluation; type from={path}/completions to measure it again")
    if not (folder / "policy").is_dir():
        raise ConfigError(f"{path} is a run without a policy/ yet; type dqo-train resume={path}, or another folder")
    settings = _saved_config(folder)
    shown = {key: settings[key] for key in SHOWN if key in settings}
    return PolicySource(
        name=folder.name, path=str(folder / "policy"), run=str(folder),
        settings={**shown, "credit": str(settings.get("credit._target_", "")).rpartition(".")[2].lower()},
    )  # fmt: skip


def _place(source: PolicySource) -> Path:
    """The folder that a policy is named after, or its name on the hub."""
    path = Path(source.run or source.path)
    return path.parent if path.name == "policy" and path.is_absolute() else path


def _name_among(place: Path, places: Sequence[Path]) -> str:
    """The last two parts of a path, or as many as tell it apart from the other paths."""
    for count in range(2, len(place.parts)):
        tail = place.parts[-count:]
        if sum(other.parts[-count:] == tail for other in places) == 1:
            return "/".join(tail)
    return str(place)


def _shared_overrides(runs: Sequence[PolicySource], typed: set[str]) -> list[str]:
    """The overrides of the first run that say what is asked and how it is sampled. Raises ConfigError where another run
    differs in that, and nothing typed decides it."""
    if not runs:
        return []
    groups = {key.partition(".")[0] for key in typed}
    decided = {*groups, *(OF_TASK if "task" in typed else ())}
    first = _asked(Path(str(runs[0].run)))
    for other in runs[1:]:
        now = _asked(Path(str(other.run)))
        for key in sorted(first.keys() | now.keys(), key=lambda key: (not key.endswith("_target_"), key)):
            if first.get(key) != now.get(key) and not {key, key.partition(".")[0], key.rpartition(".")[2]} & decided:
                raise _not_comparable((runs[0].name, first), (other.name, now), key)
    kept = []
    for text in saved_overrides(Path(str(runs[0].run))):
        key = text.partition("=")[0].lstrip("+~")
        group = key.partition(".")[0]
        of_training = group in OF_TRAINING and key not in KEPT_OF_MODEL
        if not of_training and key not in typed and group not in typed and (group != "hydra" or key in KEPT_OF_HYDRA):
            kept.append(text)
    return kept


def _not_comparable(
    some: tuple[str, Mapping[str, Any]], others: tuple[str, Mapping[str, Any]], key: str
) -> ConfigError:
    (name, first), (other, now) = some, others
    what = key.removesuffix("._target_")
    values = [str(config.get(key)).rpartition(".")[2] if what != key else config.get(key) for config in (first, now)]
    return ConfigError(
        f"{name} and {other} are runs of different {what} ({values[0]} and {values[1]}): their numbers would not be "
        f"comparable; type {what}=… to measure both alike, or measure them apart"
    )


def _asked(run: Path) -> dict[str, Any]:
    """What a run asked its policy, and how it sampled."""
    return {
        key: value
        for key, value in _saved_config(run).items()
        if key not in NOT_COMPARED and any(key == each or key.startswith(each) for each in COMPARED)
    }


def _saved_config(run: Path) -> dict[str, Any]:
    return flat(plain(cast(Any, OmegaConf.load(run / "config.yaml"))))


def _with_decodings(typed: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The arguments, with lists of sampling settings as all their combinations."""
    lists: dict[str, list[Any]] = {}
    for key, text in typed:
        is_greedy = key == "temperature" and re.fullmatch(r"[^=]*=\s*0(\.0*)?\s*", text)  # no value of a training run
        if key.removeprefix("rollout.") in DECODING and (is_greedy or re.match(r"[^=]*=\s*\[", text)):
            value: Any = [0] if is_greedy else OverridesParser.create().parse_overrides([text])[0].value()
            if not value or not all(isinstance(each, int | float) and not isinstance(each, bool) for each in value):
                raise ConfigError(f"{text}: a list of numbers is needed; type {key}=[0.7,1.0]")
            lists[key.removeprefix("rollout.")] = list(dict.fromkeys(value))
    if not lists:
        return list(typed)
    others = [(key, text) for key, text in typed if key.removeprefix("rollout.") not in lists]
    combined = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
    return [*others, ("decodings", f"decodings={_literal(combined)}")]


def _node(path: str, config: EvalConfig | SampleConfig) -> dict[str, Any]:
    """The node of ``model`` that loads a policy. ``config.model`` is that of model=hf with what was typed for it."""
    name = _option_name(path)
    if name is None:
        return {**config.model, "path": path}
    option = _options()[name]
    own = {key: value for key, value in option.items() if key != "defaults"}
    node = OmegaConf.create({"task": config.task, "model": own if "_target_" in own else {**config.model, **own}})
    return plain(node, resolve=True)["model"]  # model=tiny asks for the task


def _option_name(path: str) -> str | None:
    """The option of conf/model that has this name, or loads what has this name on the hub; None for a folder."""
    if Path(path).is_dir():
        return None
    return next((name for name, node in _options().items() if path in (name, node.get("path"))), None)


def _options() -> dict[str, dict[str, Any]]:
    """The files of conf/model by name, but that of any model."""
    files = sorted(Path(conf_dir(), "model").glob("*.yaml"))
    return {file.stem: yaml.safe_load(file.read_text("utf-8")) for file in files if file.stem != "hf"}


def _literal(value: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_literal(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_literal, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError):  # too long, or no such user
        return False
