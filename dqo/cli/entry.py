"""What every console command shares: compose the configuration, refuse what is wrong in one line, start the workers.

Exit codes: 0 done, 1 failed while running, 2 wrong input (nothing was trained), 130 interrupted. Imports neither torch
nor a stage until a configuration has been composed, so ``--help`` and ``--cfg job`` answer at once.
"""

import os
import re
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dqo.config import conf_dir
from dqo.config.schema import GROUPS
from dqo.errors import ConfigError

WRONG_INPUT = (ConfigError, HydraException, OmegaConfBaseException, YAMLError, OSError)


class JobFailed(HydraException):
    """A job of a sweep failed, and said so already."""


def run(command: str) -> None:
    """Compose ``conf/<command>.yaml`` with the command line and start its workers. Never returns."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us instead of Hydra's own report
    code = 0
    try:
        _refuse_lists(sys.argv[1:])
        sys.argv[1:] = [_quoted(argument) for argument in _with_saved_overrides(sys.argv[1:])]
        hydra.main(version_base="1.3", config_path=conf_dir(), config_name=command)(_job(command))()
    except JobFailed:
        code = 2
    except WRONG_INPUT as error:
        print(one_line(error, command), file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _job(command: str):
    def job(config: DictConfig) -> None:
        try:
            code = _start(command, config)
        except WRONG_INPUT as error:
            print(one_line(error, command), file=sys.stderr)
            code = 2
        if code and HydraConfig.get().mode is RunMode.RUN:
            sys.exit(code)
        if code:  # the other jobs of the sweep still run
            raise JobFailed(f"exit code {code}")

    return job


def _start(command: str, config: DictConfig) -> int:
    from dqo import launch
    from dqo.config.resume import refuse_changes
    from dqo.config.typed import check
    from dqo.config.validate import validate

    if HydraConfig.get().mode is RunMode.MULTIRUN:
        config.run_dir = os.path.relpath(HydraConfig.get().runtime.output_dir)
    if config.resume is not None:
        config.run_dir = config.resume
    resolved = check(config)
    validate(resolved)
    if config.resume is not None:
        refuse_changes(config, resolved)
    return launch.start(command, resolved, overrides=list(HydraConfig.get().overrides.task))


def _refuse_lists(arguments: list[str]) -> None:
    for argument in arguments:
        group, _, value = argument.partition("=")
        if group.lstrip("+~") in GROUPS and value.startswith("["):
            options = value.strip("[]").split(",")
            more = (
                "; several rewards are summed by reward=weighted, see docs/configuration.md"
                if group == "reward"
                else ""
            )
            raise ConfigError(f"{argument}: one option of a group is taken; type {group}={options[0].strip()}{more}")


def _quoted(argument: str) -> str:
    """A value that is no expression of Hydra's is text: a Jinja template, a sweep's folder ``0_alpha=0,k=4``."""
    key, is_override, value = argument.partition("=")
    if not is_override or not re.fullmatch(r"[\w.@/+~]+", key):
        return argument
    try:
        OverridesParser.create().parse_overrides([argument])
    except OverrideParseException:
        text = value.replace("'", r"\'")
        return f"{key}='{text}'"
    return argument


def _with_saved_overrides(arguments: list[str]) -> list[str]:
    """With ``resume=RUN``: what the run was started with, then what is typed now."""
    from dqo.config.resume import saved_overrides

    folders = [argument.partition("=")[2] for argument in arguments if argument.startswith("resume=")]
    return saved_overrides(Path(folders[-1])) + arguments if folders and folders[-1] != "null" else arguments


def one_line(error: BaseException, command: str) -> str:
    """``dqo-train: what is wrong; what to type``, whichever library said it."""
    text = str(error).strip() or type(error).__name__
    if found := re.match(r"Could not override '([^']+)'", text):
        text = f"unknown key {found[1]}{_close_keys(found[1], command)}"
    elif found := re.search(r"Could not find '([^']+)'", text):
        group, _, option = found[1].rpartition("/")
        options = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
        text = f"{group}={option}: there is no such option; " + (
            f"type {group}=" + " | ".join(options) if options else text
        )
    return f"dqo-{command}: {' '.join(text.split())}"


def _close_keys(key: str, command: str) -> str:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from dqo.config.typed import flat, plain, suggestion

    GlobalHydra.instance().clear()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        known = flat(plain(compose(command)))
    node = key.rpartition(".")[0]
    return suggestion(key, [k for k in known if not node or k.startswith(f"{node}.")] or list(known))
