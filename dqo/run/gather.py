"""The numbers of every prompt's completions, policy by policy, in bounded memory."""

import logging
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import itemgetter

from dqo.errors import ConfigError
from dqo.evaluation import SHOWN, Measured, measure
from dqo.files.answers_table import Cell
from dqo.metrics.controls import degenerate
from dqo.progress import LoggedBar
from dqo.records import Answers
from dqo.run.read_completions import Source
from dqo.scorers.bundle import Scorers
from dqo.stages import Embed

log = logging.getLogger(__name__)

GROUPS = 64  # prompts whose completions are in memory and measured at a time


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """What metrics are computed with."""

    families: tuple[str, ...]
    embed: Embed | None  # None: no chosen metric needs it
    scorers: Scorers

    def measure(self, groups: Sequence[Answers]) -> list[Measured]:
        """The chosen metrics of each group."""
        return measure(groups, families=self.families, embed=self.embed, scorers=self.scorers) if groups else []


@dataclass(kw_only=True)
class Gathered:
    """What is kept of one policy with one decoding: the numbers of each prompt, and the first groups to look at."""

    cell: Cell
    source: Source  # that it comes from
    is_control: bool = False
    prompts: list[tuple[int, int]] = field(default_factory=list)  # position, and hash of the text
    shown: list[Measured] = field(default_factory=list)  # of the first positions
    left_out: Counter[int] = field(default_factory=Counter)  # prompts by their number of completions, where not n
    _values: dict[str, "array[float]"] = field(default_factory=dict)  # by metric, in the order of ``prompts``
    _correct: "array[float]" = field(default_factory=lambda: array("d"))  # their number; NaN: not defined

    def add(self, measured: Measured) -> None:
        """Keep the numbers of one group."""
        answers = measured.answers
        self.prompts.append((answers.prompt.position, hash(answers.prompt.text)))
        self._correct.append(math.nan if answers.correct is None else sum(answers.correct))
        for name, value in measured.metrics.items():
            self._values.setdefault(name, array("d")).append(value)
        self.shown = sorted([*self.shown, measured], key=lambda each: each.answers.prompt.position)[:SHOWN]

    def values(self) -> dict[str, list[float]]:
        """The values of every metric, by the prompts' positions."""
        order = sorted(range(len(self.prompts)), key=self.prompts.__getitem__)
        return {name: [values[i] for i in order] for name, values in self._values.items()}

    def by_prompt(self) -> dict[tuple[int, int], dict[str, float]]:
        """The values of every metric, of each prompt."""
        columns = self._values.items()
        return {prompt: {name: values[i] for name, values in columns} for i, prompt in enumerate(self.prompts)}

    def correct_counts(self) -> dict[tuple[int, int], int] | None:
        """Correct completions of each prompt; None where correctness is not defined."""
        if not self._correct or any(map(math.isnan, self._correct)):
            return None
        return dict(zip(self.prompts, map(int, self._correct), strict=True))


def gather(sources: Sequence[Source], n: int, instruments: Instruments, *, controls: bool) -> list[Gathered]:
    """Each policy with each decoding, in the order they are read; with ``controls``, degenerate answers made of the
    first one's come last. Prompts that have not ``n`` completions are left out, and a warning says how many.

    Raises ConfigError if that leaves a policy no prompt, and for a prompt that a policy has answered in two tables.
    """
    gathered: dict[tuple[int, Cell], Gathered] = {}
    fooling: dict[str, Gathered] = {}
    total = sum(sum(source.counts().values()) for source in sources)
    with LoggedBar(total=total, desc="measuring", unit="prompts") as bar:
        for number, cell, groups in _chunks(sources):
            first = not gathered or (number, cell) == next(iter(gathered))
            here = gathered.setdefault((number, cell), Gathered(cell=cell, source=sources[number]))
            whole = [group for group in groups if len(group.texts) == n]
            here.left_out.update(len(group.texts) for group in groups if len(group.texts) != n)
            for measured in instruments.measure(whole):
                here.add(measured)
            if controls and first:
                _add_controls(fooling, here, whole, instruments)
            bar.update(len(groups))
    _check(list(gathered.values()), n)
    return [*gathered.values(), *fooling.values()]


def _chunks(sources: Sequence[Source]) -> Iterator[tuple[int, Cell, list[Answers]]]:
    """Up to GROUPS groups of one source and cell at a time, in the order they are read."""
    for number, source in enumerate(sources):
        for cell, groups in groupby(source.groups(), key=itemgetter(0)):
            while some := [answers for _, answers in islice(groups, GROUPS)]:
                yield number, cell, some


def _add_controls(
    fooling: dict[str, Gathered], of: Gathered, groups: Sequence[Answers], instruments: Instruments
) -> None:
    made = [degenerate(group) for group in groups]
    for name in made[0] if made else ():
        cell = Cell(policy=name, decoding=of.cell.decoding)
        here = fooling.setdefault(name, Gathered(cell=cell, source=of.source, is_control=True))
        for measured in instruments.measure([each[name] for each in made]):
            here.add(measured)


def _check(cells: Sequence[Gathered], n: int) -> None:
    for each in cells:
        if len({*each.prompts}) < len(each.prompts):
            (position, _), times = Counter(each.prompts).most_common(1)[0]
            raise ConfigError(
                f"from=: {each.source.name} has the completions of {each.cell.policy} for prompt {position} {times} "
                "times, with the same temperature …; type the folders or files apart: from=[ONE,OTHER]"
            )
        if not each.prompts:
            raise ConfigError(
                f"{each.cell.policy} has {' or '.join(map(str, sorted(each.left_out)))} completions of a prompt, and "
                f"most prompts have {n}: metrics that depend on their number cannot be compared; type from= with "
                "tables of equally many completions"
            )
        if each.left_out:
            left_out = each.left_out.total()
            log.warning("%s: %d prompts have not %d completions and are left out", each.cell.policy, left_out, n)
