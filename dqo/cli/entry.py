"""What every console command shares: compose the configuration, refuse what is wrong in one line, start the workers.

Exit codes: 0 done, 1 failed while running, 2 wrong input (nothing was trained), 130 interrupted. Imports no
stage and no torch, and nothing but Hydra until a configuration has been composed.
"""

import logging
import os
import re
import sys
from itertools import pairwise
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dqo.cli.commands import Command
from dqo.cli.report import report
from dqo.config import GROUPS, conf_dir
from dqo.config.credentials import refuse_secrets
from dqo.errors import ConfigError

INPUT_ERRORS = (ConfigError, HydraException, OmegaConfBaseException, YAMLError, OSError, UnicodeDecodeError)


class JobFailed(HydraException):
    """A job of a sweep failed, and has already said why."""


def run(command: Command) -> None:
    """Compose ``conf/<command>.yaml`` with the command line and start its workers. Never returns."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us instead of Hydra's own report
    if not {"", str(Path.cwd())} & {*sys.path}:
        sys.path.append(str(Path.cwd()))  # for the user's own classes; the worker has it, too
    logging.getLogger("hydra").setLevel(logging.CRITICAL)  # it logs an error before it raises it
    code = 0
    try:
        refuse_secrets((key, value) for key, _, value in (argument.partition("=") for argument in sys.argv[1:]))
        _refuse_lists(sys.argv[1:])
        sys.argv[1:] = [_quoted(argument) for argument in _all_arguments(command, _flags_first(sys.argv[1:]))]
        hydra.main(version_base="1.3", config_path=conf_dir(), config_name=command.name)(_job(command))()
    except JobFailed:
        code = 2
    except INPUT_ERRORS as error:
        report(command.name, readable(error, command.name))
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _all_arguments(command: Command, arguments: list[str]) -> list[str]:
    """The arguments; with ``resume=`` the overrides that the run was started with are put before it."""
    if not command.resumable or not any(argument.startswith("resume=") for argument in arguments):
        return arguments
    from dqo.config.resume import with_saved_overrides

    return with_saved_overrides(arguments)


def _job(command: Command):
    def job(config: DictConfig) -> None:
        try:
            code = _start(command, config)
        except INPUT_ERRORS as error:
            report(command.name, f"{readable(error, command.name)}{_which_job()}")
            code = 2
        if code and HydraConfig.get().mode is RunMode.RUN:
            sys.exit(code)
        if code:  # the other jobs of the sweep still run
            raise JobFailed(f"exit code {code}")

    return job


def _which_job() -> str:
    hydra_now = HydraConfig.get()
    if hydra_now.mode is RunMode.RUN:
        return ""
    return f"; job {hydra_now.job.num} of the sweep ({hydra_now.job.override_dirname}) was left out"


def _start(command: Command, config: DictConfig) -> int:
    from dqo.config import resume
    from dqo.config.typed import check
    from dqo.config.validate import validate
    from dqo.run import launch, workers

    sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    if sweep:
        config.run_dir = os.path.relpath(HydraConfig.get().runtime.output_dir)
    if config.resume is not None and not command.resumable:
        raise ConfigError(f"resume={config.resume}: dqo-{command.name} starts anew each time; leave resume out")
    if not command.multi_rank and (workers.launched() or config.nproc not in (None, 1)):
        raise ConfigError(f"dqo-{command.name} is one process; start it without torchrun and without nproc")
    if settled := resume.settle(config, sweep=sweep):
        print(f"dqo-{command.name}: {settled}", file=sys.stderr)
    resolved = check(config)
    validate(resolved)
    if resolved.resume is not None:
        changed = resume.changes(config, resolved)
        if changed:
            print(f"dqo-{command.name}: going on with other {', '.join(changed)}", file=sys.stderr)
        if resume.is_complete(resolved, changed):
            print(f"dqo-{command.name}: {resolved.run_dir} is complete; type steps={2 * resolved.steps} to train on")
            return 0
    overrides = [*_search_path(), *HydraConfig.get().overrides.task]
    count = workers.worker_count(resolved) if command.multi_rank else 1
    if count > 1:
        workers.check_workers(resolved)
    return launch.start(
        command.name, resolved, overrides=overrides, workers=count, holds=command.holds, resumable=command.resumable
    )


def _search_path() -> list[str]:
    """The user's own conf folders (--config-dir, hydra.searchpath) as an override, which ``resume=`` finds again."""
    ours = ("hydra", "main", "schema")
    folders = [source.path for source in HydraConfig.get().runtime.config_sources if source.provider not in ours]
    paths = ", ".join("'file://{}'".format(folder.replace("'", r"\'")) for folder in folders)
    return [f"hydra.searchpath=[{paths}]"] if folders else []


def _flags_first(arguments: list[str]) -> list[str]:
    """The arguments with flags before overrides: Hydra's parser refuses ``k=4 --config-dir mine credit=mine``."""
    takes = {name: action for action in get_args_parser()._actions for name in action.option_strings}
    flags, overrides = [], []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        action = takes.get(before)
        is_value = action is not None and action.nargs != 0 and (not action.choices or argument in action.choices)
        (flags if argument.startswith("-") or is_value else overrides).append(argument)
    return flags + overrides


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
    """The argument with quotes around a value that Hydra cannot parse: a Jinja template, a sweep's folder
    ``0_alpha=0,k=4``."""
    key, is_override, value = argument.partition("=")
    if not is_override or not re.fullmatch(r"[\w.@/+~]+", key):
        return argument
    try:
        OverridesParser.create().parse_overrides([argument])
    except OverrideParseException:
        return f"{key}={QuotedString(text=value, quote=Quote.single).with_quotes()}"
    return argument


def readable(error: BaseException, command: str) -> str:
    """What is wrong and what to type, in one line, whichever library raised it."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, UnicodeDecodeError):
        return f"{_not_utf8(error)} is not UTF-8 ({error.reason}); convert it"
    if found := re.search(r"use \+experiment=(\S+)", text):  # a group of ours without an option of ours
        return _no_option("experiment", found[1], [])
    if found := re.match(r"Could not override '([^']+)'", text):
        return f"unknown key {found[1]}{_close_keys(found[1], command)}"
    if found := re.search(r"Could not find '([^']+)'", text):
        group, _, option = found[1].rpartition("/")
        return _no_option(group, option, re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE))
    if found := re.match(r"Error parsing override '([^'=]+)'\s+missing EQUAL", text):
        return f"{found[1]} has no value; type {found[1]}=VALUE"
    if found := re.match(r"Ambiguous value for argument '(([^=]+)=([^']*))'", text):
        return f"{found[1]}: several values need a sweep or a list; type -m {found[1]}, or {found[2]}=[{found[3]}]"
    return text


def _no_option(group: str, option: str, options: list[str]) -> str:
    what = " | ".join(options) or f"OPTION with --config-dir FOLDER, where FOLDER/{group}/OPTION.yaml is"
    return f"{group}={option}: there is no such option; type {group}={what}"


def _not_utf8(error: UnicodeDecodeError) -> str:
    """The file that cannot be decoded: Python does not say which, so look in the folders that were typed."""
    folders = [Path(folder) for flag, folder in pairwise(sys.argv) if flag in ("--config-dir", "-cd")]
    files = [path for folder in folders for path in folder.rglob("*.yaml")]
    return next((str(path) for path in files if path.read_bytes().startswith(error.object)), "a YAML file")


def _close_keys(key: str, command: str) -> str:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from dqo.config.refusal import suggestion
    from dqo.config.typed import flat, plain

    GlobalHydra.instance().clear()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        known = flat(plain(compose(command)))
    node = key.rpartition(".")[0]
    return suggestion(key, [k for k in known if not node or k.startswith(f"{node}.")] or list(known))
