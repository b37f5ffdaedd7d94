"""A sweep (``-m``): the names of its jobs, how it is stopped, its table and exit code.

Jobs run in this process one after the other (Hydra's own launcher), in other processes (joblib, submitit) or on other
machines (SLURM). Jobs and the process that started the sweep meet in the folder ``SWEEP/.jobs``: each job leaves a
record there, and the file ``stop`` asks the launcher of each job to end it (``run.launch``).
"""

import contextlib
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write
from omegaconf.errors import OmegaConfBaseException

from dqo.cli.commands import Command
from dqo.cli.messages import readable
from dqo.cli.report import TOLD, report
from dqo.cli.sweep_table import Record, Result, print_table, read, write
from dqo.errors import ConfigError
from dqo.run.exit_codes import FAILED, SIGNALLED, STOPPED, WRONG_INPUT
from dqo.run.stopping import SIGNALS, SWEEP_JOBS, silence

STOP = "stop"  # file in the folder of the records
OPTIMISERS = ("optuna", "nevergrad", "ax_sweeper", "orion")  # in the class names of sweepers that need a number
GO_ON = "; go on with "  # in what a worker reports, before the command

log = logging.getLogger(__name__)


class JobFailed(HydraException):
    """What a sweeper that counts failures (Optuna's) gets of a job, which has already said why it failed."""


class SweepStopped(BaseException):
    """The sweep was asked to stop. Not an Exception: Hydra would take it for a failure of the job."""


class Sweep:
    """The sweep that this call of a command starts, if it starts one."""

    current: "Sweep"  # of this process, for Hydra's callback

    def __init__(self, command: Command, typed: Sequence[str]):
        """``typed``: the arguments of the command."""
        Sweep.current = self
        self.command, self._typed = command, list(typed)
        self.folder: Path | None = None  # None: no sweep
        self._jobs = Path()
        self._made: list[Path] = []  # folders that were not there
        self._before: dict[int, Any] = {}  # handlers of signals
        self._planned: list[str] = []  # the swept overrides of each job; empty where the sweeper chooses as it goes
        self._asked = self._in_job = self._in_this_process = False

    def begin(self, config: DictConfig) -> None:
        """Prepare the jobs: names of their folders, a place for their records, signals. Changes ``config``, from which
        Hydra composes each job. Raises ConfigError where the folder cannot be written, or the sweeper needs an
        objective and none is given."""
        hydra, folder = config.hydra, Path(str(config.hydra.sweep.dir))
        _check_objective(config)
        params = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        overrides = parser.parse_overrides([*params, *hydra.overrides.task])
        is_swept = {each.key_or_group: each.is_sweep_override() for each in overrides}  # of several, the last counts
        constant = [key for key in is_swept if not is_swept[key]]
        excluded = [*hydra.job.config.override_dirname.exclude_keys, *constant]
        if _is_basic(hydra.sweeper):
            self._planned = [_swept(job, excluded) for job in BasicSweeper.split_arguments(overrides, None)[0]]
        self._in_this_process = _is_basic(hydra.launcher)
        self._jobs = (folder / ".jobs").absolute()
        try:
            self._made = [path for path in (folder, *folder.parents) if not path.exists()]
            if _is_first():
                self._jobs.mkdir(parents=True, exist_ok=True)
                self._forget()  # an earlier start of the same sweep
        except OSError as error:
            raise ConfigError(
                f"run_dir={folder}: cannot be written ({error.strerror}); type run_dir=ANOTHER_FOLDER"
            ) from error
        place = QuotedString(text=str(self._jobs), quote=Quote.single).with_quotes()
        with read_write(config):
            hydra.overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(excluded)}]")
            hydra.overrides.hydra.append(f"+hydra.job.env_set.{SWEEP_JOBS}={place}")
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, a job in the background
                self._before[number] = signal.signal(number, self._ask)
        self.folder = folder

    def run_job(self, start: Callable[[Path], int], retry: str, objective: Callable[[], Any]) -> Any:
        """Run a job and leave its record; returns its objective, None where it failed.

        ``start`` returns the exit code, and ends the job once the file that it is given exists. ``retry``: the command
        that starts this job alone. Raises SweepStopped if the sweep is asked to stop and its jobs run in this process,
        JobFailed where the sweeper counts failures.
        """
        hydra, jobs = HydraConfig.get(), Path(os.environ[SWEEP_JOBS])
        if (jobs / STOP).exists():
            return self._leave()
        folder = os.path.relpath(hydra.runtime.output_dir)
        swept = _swept(hydra.overrides.task, hydra.job.config.override_dirname.exclude_keys)
        job = {"number": hydra.job.num, "swept": swept, "folder": folder}
        self._in_job = True
        try:
            _leave_record(Record(**job, result=Result.UNFINISHED, cause="", retry=""), jobs)
            code, cause, retry = self._run(start, jobs, retry)
            value, cause = objective() if code == 0 else (None, cause)
            record = Record(**job, result=_result(code, cause), cause=cause, retry=retry)
            _leave_record(record, jobs)
        finally:
            self._in_job = False
        _remove_if_empty(Path(folder))
        if record.result is Result.STOPPED or (jobs / STOP).exists():
            return self._leave()
        if record.result is not Result.DONE and not _is_basic(hydra.sweeper):
            raise JobFailed(cause)
        return value

    def _run(self, start: Callable[[Path], int], jobs: Path, retry: str) -> tuple[int, str, str]:
        """Exit code of a job, the first line that its processes have reported, and the command that goes on."""
        hydra = HydraConfig.get()
        told = jobs / f"{hydra.job.num}.txt"
        os.environ[TOLD] = str(told)
        try:
            code = start(jobs / STOP)
        finally:
            del os.environ[TOLD]
        lines = told.read_text("utf-8").splitlines() if told.exists() else []
        cause, _, go_on = (lines or [_signal_of(code)])[0].partition(GO_ON)
        if not lines and code > SIGNALLED and self.command.resumable:
            go_on = f"dqo-{self.command.name} resume={shlex.quote(os.path.relpath(hydra.runtime.output_dir))}"
        return (
            code,
            cause.removeprefix(f"dqo-{self.command.name}: ").removesuffix(left_out()),
            retry if code == WRONG_INPUT else go_on,
        )

    def _leave(self) -> None:
        """Ends the sweep if its jobs run in this process; elsewhere the jobs after this one end as they begin."""
        if self._in_this_process:
            raise SweepStopped

    def _ask(self, number: int, frame: FrameType | None) -> None:
        """A signal. The launcher of a job that runs in this process hands it on, and calls this (``run.launch``)."""
        if number == signal.SIGHUP:
            silence()
        self._asked = True
        (self._jobs / STOP).touch()
        if self._in_job:
            return
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        self._leave()
        report(self.command.name, "stopping the jobs of the sweep; once more to leave without waiting for them")

    def end(self, code: int) -> int:
        """Print the table and what to type; returns the exit code. ``code``: that of Hydra's end, without the jobs."""
        assert self.folder is not None
        if not _is_first():
            return code
        records = read(self._jobs)
        started = {record.swept for record in records}
        rest = [swept for swept in self._planned if swept not in started]
        stopped = self._asked or any(record.result is Result.STOPPED for record in records)
        failed = [record for record in records if record.result is not Result.DONE]
        has_numbers = (records or stopped) and print_table(
            f"dqo-{self.command.name}: the sweep in {self.folder}", records, rest
        )
        if (results := self.folder / "optimization_results.yaml").exists():
            report(self.command.name, f"{results}: {' '.join(results.read_text('utf-8').split())}")
        left = rest or any(record.result is not Result.REFUSED for record in failed)
        if (records or stopped) and left and self._planned and self.command.resumable:
            report(self.command.name, f"what is not done goes on with {self._again()}")
        if has_numbers:
            report(self.command.name, f"figures and comparison: dqo-report {shlex.quote(str(self.folder))}")
        self._forget()
        self._remove_if_nothing_is_there()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if stopped:
            return STOPPED
        if failed and len(failed) == len(records) and all(each.result is Result.REFUSED for each in failed):
            return WRONG_INPUT
        return FAILED if failed else code

    def _again(self) -> str:
        """The sweep's command, which goes on with its jobs."""
        from dqo.config.resume import OF_THE_FOLDER

        kept = [each for each in self._typed if each.partition("=")[0] not in OF_THE_FOLDER]
        return shlex.join([f"dqo-{self.command.name}", *kept, f"run_dir={self.folder}", "resume=auto"])

    def _forget(self) -> None:
        """Remove the records."""
        for file in self._jobs.iterdir():
            if file.suffix in (".json", ".txt") or file.name == STOP:
                file.unlink()

    def _remove_if_nothing_is_there(self) -> None:
        """Every job was refused, or a dry run: nothing is left of a sweep either."""
        assert self.folder is not None
        _remove_if_empty(self._jobs)
        if {path.name for path in self.folder.iterdir()} <= {"multirun.yaml"}:  # Hydra's
            (self.folder / "multirun.yaml").unlink(missing_ok=True)
        for folder in self._made:
            _remove_if_empty(folder)


class Prepare(Callback):
    """Hydra's callback (conf/train.yaml): it calls this once a sweep's configuration is composed."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See ``Sweep.begin``. Exits for wrong input: Hydra makes a warning of what a callback raises."""
        try:
            Sweep.current.begin(config)
        except (ConfigError, HydraException, OmegaConfBaseException) as error:
            name = Sweep.current.command.name
            report(name, readable(error, name))
            sys.exit(WRONG_INPUT)


def _check_objective(config: DictConfig) -> None:
    optimiser = next((name for name in OPTIMISERS if name in config.hydra.sweeper._target_.lower()), None)
    if optimiser and config.objective is None:
        raise ConfigError(
            f"hydra/sweeper={optimiser} needs a number from each job; type objective=METRIC, a metric of the last "
            "evaluation, as in objective=pass@1"
        )
    if optimiser == "optuna" and str(config.hydra.sweeper.direction).rpartition(".")[2] == "minimize":
        log.warning(
            "hydra.sweeper.direction=minimize, which is Optuna's default: the smallest %s wins; for the largest type "
            "hydra.sweeper.direction=maximize",
            config.objective,
        )


def left_out() -> str:
    """What is added to the message about a job that is refused."""
    job = HydraConfig.get().job
    return f"; job {job.num} of the sweep ({job.override_dirname}) was left out"


def _leave_record(record: Record, folder: Path) -> None:
    if _is_first():
        write(record, folder)


def _is_first() -> bool:
    """Whether this process is the only one of its kind, or rank 0 of several that torchrun has started."""
    from dqo.run.workers import launched

    return not launched() or os.environ.get("RANK") == "0"


def _is_basic(plugin: DictConfig) -> bool:
    """Whether a sweeper or launcher is Hydra's own."""
    return str(plugin._target_).startswith("hydra._internal.core_plugins.basic_")


def _swept(overrides: Iterable[str], excluded: Iterable[str]) -> str:
    """The overrides whose keys are swept: "alpha=0,k=4"."""
    excluded = {*excluded}
    return ",".join(text for text in overrides if text.partition("=")[0].lstrip("+~").partition("@")[0] not in excluded)


def _result(code: int, cause: str) -> Result:
    if code == 0:
        return Result.FAILED if cause else Result.DONE
    if code == WRONG_INPUT:
        return Result.REFUSED
    return Result.STOPPED if code - SIGNALLED in SIGNALS else Result.FAILED


def _signal_of(code: int) -> str:
    if code - SIGNALLED not in {*signal.Signals}:
        return f"exit code {code}" if code else ""
    name = signal.Signals(code - SIGNALLED).name
    return f"ended by {name}{'; was it the memory?' if name == 'SIGKILL' else ''}"


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
