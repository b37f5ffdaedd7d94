"""Errors of Hydra and of the file system in one line that says what to type."""

import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from dqo.config import GROUPS, conf_dir

PLUGINS = {  # options of hydra/launcher and hydra/sweeper by how their names begin: the package that has them
    "optuna": "hydra-optuna-sweeper",
    "ax": "hydra-ax-sweeper",
    "nevergrad": "hydra-nevergrad-sweeper",
    "joblib": "hydra-joblib-launcher",
    "submitit": "hydra-submitit-launcher",
    "ray": "hydra-ray-launcher",
}

# endings of files that task=jsonl reads
DATA = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".gz", ".zst", ".bz2", ".xz")

SEVERAL = {  # how several options of a group combine, where they do
    "reward": "; several rewards are summed by reward=weighted, see docs/configuration.md",
    "loss": "; docs/credits.md says how terms of the loss combine",
}


def readable(error: BaseException, command: str) -> str:
    """What is wrong and what to type, in one line, whichever library raised it."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, UnicodeDecodeError):
        return f"{_not_utf8(error)} is not UTF-8 ({error.reason}); convert it"
    if found := re.match(r"Could not (?:override|delete from config\.) '([^']+)'", text):
        return _unknown_key(found[1], command)
    if found := re.search(r"Could not find '([^']+)'", text):
        group, option = _group_and_option(found[1])
        return _no_option(group, option, re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE))
    if found := re.match(r"Error parsing override '([^'=]+)'\s+missing EQUAL", text):
        if Path(found[1]).suffix in DATA:
            return f"{found[1]} is no KEY=VALUE; type {'rm' if command == 'rm' else 'task=jsonl task'}.path={found[1]}"
        return f"{found[1]} has no value; type {found[1]}=VALUE"
    if found := re.match(r"LexerNoViableAltException: (.*)", text):
        return f"{found[1]}: what is typed is KEY=VALUE, as in alpha=1.0"
    if found := re.match(r"Ambiguous value for argument '(([^=]+)=([^']*))'", text):
        if found[2] in GROUPS:  # one option is taken, so a list would be refused, too
            return f"{found[1]}: several options need a sweep; type -m {found[1]}{SEVERAL.get(found[2], '')}"
        return f"{found[1]}: several values need a sweep or a list; type -m {found[1]}, or {found[2]}=[{found[3]}]"
    if (found := re.match(r"Error merging override (\+*)([^=]+)=(.*)", text)) and "DictConfig" in str(error.__cause__):
        return f"{found[2]}={found[3]}: a value for each name is needed; type '{found[2]}={{NAME: VALUE}}'"
    if "does not support sweep type" in text:
        return f"{text}; an interval needs hydra/sweeper=optuna; type values, as in alpha=0,0.5,1"
    return text


def _group_and_option(path: str) -> tuple[str, str]:
    """Of ``model/Qwen/Qwen3-0.6B`` or ``hydra/sweeper/optuna``."""
    group, _, option = path.partition("/")
    return (group, option) if group in GROUPS else (path.rpartition("/")[0], path.rpartition("/")[2])


def _no_option(group: str, option: str, options: list[str]) -> str:
    said = f"{group}={option}: there is no such option"
    if package := next(
        (PLUGINS[name] for name in PLUGINS if group.startswith("hydra/") and option.startswith(name)), ""
    ):
        return f"{said} without its plugin; type pip install {package}"
    if own := _own(group, option):
        return f"{said}; for one of yours type {own}"
    yours = f"with --config-dir FOLDER, where FOLDER/{group}/OPTION.yaml is"
    what = " | ".join(options) or f"OPTION {yours}"
    if group == "experiment" and options:
        what += f"; or for one of yours experiment=OPTION {yours}"
    return f"{said}; type {group}={what}"


def _own(group: str, option: str) -> str | None:
    """What to type for a model, a file or a function of the user's that was typed as the name of an option."""
    if group == "model" and ("/" in option or Path(option).exists()):
        return f"model=hf model.path={option}"
    if group == "task" and (Path(option).suffix in DATA or Path(option).exists()):
        return f"task=jsonl task.path={option}"
    if group == "task" and re.fullmatch(r"[\w.-]+/[\w.-]+", option):
        return f"task=hf_dataset task.name={option}"
    if group == "reward" and re.fullmatch(r"[\w./-]+[.:]\w+", option):
        return f"reward=python reward.function={option}"
    return None


def _not_utf8(error: UnicodeDecodeError) -> str:
    """The file that cannot be decoded: Python does not say which, so look in the folders that were typed."""
    folders = [Path(folder) for flag, folder in pairwise(sys.argv) if flag in ("--config-dir", "-cd")]
    files = [path for folder in folders for path in folder.rglob("*.yaml")]
    return next((str(path) for path in files if path.read_bytes().startswith(error.object)), "a YAML file")


def _unknown_key(key: str, command: str) -> str:
    """The line for a key that the composed configuration does not have."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from dqo.config.refusal import unknown_key
    from dqo.config.typed import flat, plain

    if part := re.fullmatch(r"(?:reward@)?reward\.parts\.(\w+)(\..+)?", key):
        return _missing_part(key, part[1], "OPTION" if part[2] else _typed_value(key))
    if options := _options_with(key):
        group = key.partition(".")[0]
        return f"unknown key {key}: it belongs to {group}={' | '.join(options)}; type {group}={options[0]} beside it"
    GlobalHydra.instance().clear()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        known = flat(plain(compose(command)))
    others = [f"{group}.{name}" for group in GROUPS for node in _options(group).values() for name in node]
    return str(unknown_key(key, dict.fromkeys([*known, *others]), _typed_value(key), command=command))


def _missing_part(key: str, name: str, option: str | None) -> str:
    """The line for a part of a sum of rewards that was not added."""
    added = f"+reward@reward.parts.{name}={option or 'OPTION'} reward.reward_weights.{name}=1"
    return f"unknown key {key}: the sum has no part {name} yet; type reward=weighted {added}"


def _options_with(key: str) -> list[str]:
    """The options of a group of ours whose file has the key, or else the keys' first part."""
    group, *names = key.split(".")
    if group not in GROUPS or not names:
        return []
    options = _options(group)
    return _having(options, names) or _having(options, names[:1])


def _having(options: dict[str, dict[str, Any]], names: list[str]) -> list[str]:
    def has(node: Any, names: list[str]) -> bool:
        return not names or (isinstance(node, dict) and names[0] in node and has(node[names[0]], names[1:]))

    return [option for option, node in options.items() if has(node, names)]


def _options(group: str) -> dict[str, dict[str, Any]]:
    """Our options of a group, each with the keys of its file."""
    files = sorted(Path(conf_dir(), group).glob("*.yaml"))
    nodes = {file.stem: yaml.safe_load(file.read_text("utf-8")) for file in files}
    return {  # a file with "# @package _global_" has other groups' keys, too
        option: {name: value for name, value in node.get(group, node).items() if name not in ("_target_", "defaults")}
        for option, node in nodes.items()
    }


def _typed_value(key: str) -> Any:
    """The value that the command line gives a key, as text; None: it gives none."""
    arguments = (argument.lstrip("+").partition("=") for argument in sys.argv[1:])
    return next((value for name, _, value in arguments if name == key), None)
