"""What every console command shares: compose the configuration, refuse what is wrong in one line, start the workers.

Exit codes: 0 done, 1 failed while running, 2 wrong input (nothing was trained), 130 interrupted. Imports no
stage and no torch, and nothing but Hydra until a configuration has been composed.
"""

import argparse
import contextlib
import json
import logging
import os
import pkgutil
import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

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
from dqo.cli.messages import SEVERAL, readable
from dqo.cli.report import report
from dqo.cli.sweep import JobFailed, Sweep, SweepStopped, left_out
from dqo.config import GROUPS, conf_dir
from dqo.config.credentials import refuse_secrets
from dqo.config.open_keys import with_plus
from dqo.config.other_toolkits import in_our_words
from dqo.errors import ConfigError
from dqo.run.exit_codes import FAILED, STOPPED, WRONG_INPUT

SHOWING = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}
INPUT_ERRORS = (ConfigError, HydraException, OmegaConfBaseException, YAMLError, OSError, UnicodeDecodeError)


def run(command: Command) -> None:
    """Compose ``conf/<command>.yaml`` with the command line and start its workers. Never returns."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us instead of Hydra's own report
    if not {"", str(Path.cwd())} & {*sys.path}:
        sys.path.append(str(Path.cwd()))  # for the user's own classes; the worker has it, too
    logging.getLogger("hydra").setLevel(logging.CRITICAL)  # it logs an error before it raises it
    typed = _flags_first(sys.argv[1:])
    sweep = Sweep(command, typed)
    code = FAILED  # of an error that is shown with its traceback
    try:
        code = _run_hydra(command, typed, sweep)
    finally:
        if sweep.folder is not None:
            code = sweep.end(code)
        if code == STOPPED:  # what a plugin raises where its jobs are stopped is no fault
            sys.exit(code)
    sys.exit(code)


def _run_hydra(command: Command, typed: list[str], sweep: Sweep) -> int:
    """Exit code of the job, or of the sweep without regard to its jobs."""
    try:
        refuse_secrets((key, value) for key, _, value in (argument.partition("=") for argument in typed))
        _refuse_flags(sys.argv[1:], _with_values(typed))
        _refuse_bytes(typed)
        _refuse_lists(typed)
        _refuse_sweep(command, typed)
        complete = _all_arguments(command, _with_keys(command, _with_values(typed)))
        sys.argv[1:] = [_quoted(with_plus(argument)) for argument in complete]
        hydra.main(version_base="1.3", config_path=conf_dir(), config_name=command.name)(_job(command, sweep))()
    except (JobFailed, SweepStopped):
        return FAILED
    except INPUT_ERRORS as error:
        report(command.name, readable(error, command.name))
        return WRONG_INPUT
    except KeyboardInterrupt:
        return STOPPED
    return 0


def _with_keys(command: Command, arguments: list[str]) -> list[str]:
    """The arguments, with keys for those that are typed without one: policies, run folders. Flags stay in front."""
    if command.takes is None:
        return arguments
    flags = [argument for before, argument in zip(["", *arguments], arguments, strict=False)
             if argument.startswith("-") or _is_value(before, argument)]  # fmt: skip
    others = [argument for argument in arguments if argument not in flags]
    if not others and {*flags} & SHOWING:
        return arguments
    from dqo.config import policies

    overrides = policies.with_values(others, command.takes)
    if command.takes == policies.POLICIES:
        overrides = policies.with_policies(overrides, several=command.takes_several)
    return [*flags, *overrides]


def _refuse_bytes(typed: list[str]) -> None:
    """An argument that is not UTF-8 reaches us with lone surrogates, which no file and no tokenizer takes."""
    for argument in typed:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"{argument} is not UTF-8; convert it, for example with iconv") from error


def _refuse_sweep(command: Command, typed: list[str]) -> None:
    if not command.has_folder and any(
        each == "-m" or "--multirun".startswith(each) for each in typed if each[:3] in ("-m", "--m")
    ):
        raise ConfigError("-m: this command makes no sweep; type several commands")


def _all_arguments(command: Command, arguments: list[str]) -> list[str]:
    """The arguments; with ``resume=`` the overrides that the run was started with are put before it."""
    if not command.resumable or not any(argument.startswith("resume=") for argument in arguments):
        return arguments
    from dqo.config.resume import with_saved_overrides

    complete = with_saved_overrides(arguments)
    if command.takes is None and any(text.startswith(("policies=", "from=")) for text in complete):
        raise ConfigError("resume= names the folder of an evaluation; type dqo-eval in place of dqo-train")
    return complete


def _job(command: Command, sweep: Sweep):
    def job(config: DictConfig) -> Any:
        """The objective of a sweep's job; a single run ends with its exit code."""
        if HydraConfig.get().mode is RunMode.RUN:
            if code := _exit_code(command, config):
                sys.exit(code)
            return None
        config.run_dir = os.path.relpath(HydraConfig.get().runtime.output_dir)
        alone = shlex.join([f"dqo-{command.name}", *_overrides(), f"run_dir={config.run_dir}"])
        return sweep.run_job(lambda stop: _exit_code(command, config, stop), alone, lambda: _objective(config))

    return job


def _exit_code(command: Command, config: DictConfig, stop: Path | None = None) -> int:
    """Start a run; what is wrong with its input is reported. ``stop``: see ``launch.start``."""
    try:
        if not command.has_worker:
            from dqo.config.typed import plain, typed_value

            pkgutil.resolve_name(command.run)(typed_value(plain(config, resolve=True), command.config_class(), ""))
            return 0
        return _start(command, config, stop)
    except INPUT_ERRORS as error:
        report(command.name, f"{readable(error, command.name)}{left_out() if stop else ''}")
        return WRONG_INPUT


def _objective(config: DictConfig) -> tuple[float | list[float] | None, str]:
    """The metrics that ``objective`` names, from the run's summary.json, and what is wrong with them."""
    summary = Path(config.run_dir) / "summary.json"
    if config.objective is None or config.dry_run:
        return None, ""
    after = json.loads(summary.read_text("utf-8"))["after"] if summary.exists() else {}
    names = [config.objective] if isinstance(config.objective, str) else list(config.objective)
    if missing := next((name for name in names if after.get(name) is None), None):
        return None, f"objective={missing}: {summary} has no value for it"
    values = [after[name] for name in names]
    return values[0] if isinstance(config.objective, str) else values, ""


def _overrides() -> list[str]:
    """What this run or job was started with, except the keys that name its folder; the user's conf folders included."""
    from dqo.config.resume import OF_THE_FOLDER

    typed = [text for text in HydraConfig.get().overrides.task if text.partition("=")[0] not in OF_THE_FOLDER]
    return [*_search_path(), *typed]


def _refuse_unread(command: Command, config: DictConfig) -> None:
    """Raises ConfigError for a key of conf/train.yaml that the command does not read. A run that goes on was asked when
    it was started, and has keys that were not typed (``task.date``)."""
    for text in HydraConfig.get().overrides.task if command.reads and config.resume is None else ():
        key, _, value = text.lstrip("+~").partition("=")
        if re.split(r"[.@]", key)[0] not in command.reads:
            ours = f"type {command.name}.{key}={value}" if key in config[command.name] else f"leave {key} out"
            raise ConfigError(f"{key}={value}: dqo-{command.name} does not read {key}; {ours}")


def _start(command: Command, config: DictConfig, stop: Path | None) -> int:
    from dqo.config import paths, policies, resume
    from dqo.config.schema import EvalConfig, SampleConfig
    from dqo.config.typed import check
    from dqo.config.validate import validate
    from dqo.run import launch, workers

    if config.resume is not None and not command.resumable:
        raise ConfigError(f"resume={config.resume}: dqo-{command.name} starts anew each time; leave resume out")
    if config.objective is not None and command.name != "train":
        raise ConfigError(f"objective={config.objective}: dqo-train alone has one; leave objective out")
    if config.dry_run and (command.takes or command.reads or not command.has_folder):
        raise ConfigError(f"dqo-{command.name} has no dry run; leave dry_run out")
    _refuse_unread(command, config)
    if not command.multi_rank and (workers.launched() or config.nproc not in (None, 1)):
        raise ConfigError(f"dqo-{command.name} is one process; start it without torchrun and without nproc")
    if settled := resume.settle(config, sweep=stop is not None):
        print(f"dqo-{command.name}: {settled}", file=sys.stderr)
    resolved, here = check(config, command.config_class()), Path(HydraConfig.get().runtime.cwd)
    started_in = resume.started_in(resolved)
    kept = {**paths.absolute_paths(resolved, here, moved_from=started_in), **resume.date_of_start(resolved)}
    resolved = paths.with_values(resolved, kept)
    if isinstance(resolved, EvalConfig | SampleConfig):
        resolved = policies.complete(resolved)
    validate(resolved)
    if resolved.resume is not None:
        changed = resume.changes(config, resolved)
        if changed:
            print(f"dqo-{command.name}: going on with other {', '.join(changed)}", file=sys.stderr)
        if resume.is_complete(resolved, changed):
            more = command.when_complete or f"steps={2 * resolved.steps} to train on"
            print(f"dqo-{command.name}: {resolved.run_dir} is complete; type {more}")
            return 0
    overrides = [*_search_path(), *paths.with_overrides(HydraConfig.get().overrides.task, kept)]
    folder = here if started_in is None else _folder_of_start(command, started_in, here)
    if folder != Path.cwd():
        folders = {"run_dir": resolved.run_dir, "resume": resolved.resume}
        resolved = resolved.model_copy(
            update={key: text and str(Path(text).resolve()) for key, text in folders.items()}
        )
    with contextlib.chdir(folder):
        count = workers.worker_count(resolved) if command.multi_rank else 1
        if count > 1:
            workers.check_workers(resolved)
        return launch.start(
            command.name, resolved, overrides=[*overrides, f"{resume.STARTED_IN}={folder}"], workers=count,
            holds=command.holds, resumable=command.resumable, stop=stop,
            is_temporary=resolved.dry_run or not command.has_folder,
        )  # fmt: skip


def _folder_of_start(command: Command, started_in: Path, here: Path) -> Path:
    """The folder in which a resumed run works: that in which it was started, whose modules and files it reads."""
    if started_in.is_dir():
        if started_in != here:
            print(f"dqo-{command.name}: going on in {started_in}, where the run was started", file=sys.stderr)
        return started_in
    print(f"dqo-{command.name}: {started_in}, where the run was started, is gone: going on in {here}", file=sys.stderr)
    return here


def _search_path() -> list[str]:
    """The user's own conf folders (--config-dir, hydra.searchpath) as an override, which ``resume=`` finds again."""
    ours, runtime = ("hydra", "main", "schema"), HydraConfig.get().runtime
    sources = [source for source in runtime.config_sources if source.provider not in ours]
    places = [
        f"file://{Path(runtime.cwd) / source.path}" if source.schema == "file" else f"{source.schema}://{source.path}"
        for source in sources
    ]
    paths = ", ".join("'{}'".format(place.replace("'", r"\'")) for place in places)
    return [f"hydra.searchpath=[{paths}]"] if places else []


def _flags_first(arguments: list[str]) -> list[str]:
    """The arguments with flags before overrides: Hydra's parser refuses ``k=4 --config-dir mine credit=mine``."""
    flags, overrides = [], []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        (flags if argument.startswith("-") or _is_value(before, argument) else overrides).append(argument)
    return flags + overrides


def _with_values(arguments: list[str]) -> list[str]:
    """The arguments, in which ``--info`` has a value: it would take the first override for it."""
    complete = []
    for argument, after in pairwise([*arguments, ""]):
        action = _action(argument)
        optional = action is not None and action.nargs == "?" and not _is_value(argument, after)
        complete += [argument, str(action.const)] if action is not None and optional else [argument]
    return complete


def _is_value(flag: str, argument: str) -> bool:
    """Whether an argument is the value of the flag before it."""
    action = _action(flag)
    if action is None or action.nargs == 0 or not argument:
        return False
    typo = action.nargs is None and "=" not in argument  # --cfg yaml: the parser will name it
    return typo or argument in (action.choices or [argument])


def _action(flag: str) -> argparse.Action | None:
    """What Hydra's parser does with a flag, which it takes abbreviated, too: ``--multi``."""
    names = {name: action for action in get_args_parser()._actions for name in action.option_strings}
    matching = [name for name in names if flag.startswith("--") and name.startswith(flag)]
    return names.get(flag) or (names[matching[0]] if len(matching) == 1 else None)


def _refuse_flags(arguments: list[str], ordered: list[str]) -> None:
    """Raises ConfigError for what Hydra's parser would refuse in many lines. Users of other toolkits know
    ``--learning_rate 1e-5``. ``ordered``: the arguments with flags first."""
    parser = get_args_parser()
    flags = [name for action in parser._actions for name in action.option_strings]
    for argument, after in pairwise([*arguments, "--"]):
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or any(flag.startswith(name) for flag in flags):  # argparse takes abbreviations
            continue
        if not equals and not after.startswith("-") and "=" not in after:
            value = after
        raise ConfigError(
            f"{name}: there is no such flag; keys are typed without dashes; type {in_our_words(name[2:], value)}"
        )

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; --hydra-help lists the flags")

    parser.error = refuse
    given = parser.parse_args(ordered)
    if sum([given.run, given.multirun, given.cfg is not None, given.info is not None, given.shell_completion]) > 1:
        raise ConfigError("of the flags --run, --multirun, --cfg, --info and --shell-completion, one is taken")
    if given.resolve and given.cfg is None and not given.help:
        raise ConfigError("--resolve belongs to --cfg; type --cfg job --resolve")


def _refuse_lists(arguments: list[str]) -> None:
    for argument in arguments:
        group, _, value = argument.partition("=")
        if group.lstrip("+~") in GROUPS and value.startswith("["):
            options = value.strip("[]").split(",")
            more = SEVERAL.get(group, "")
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
