"""What tasks and rewards may offer beside their Protocols in ``stages``: rows that are checked, prompts of any text."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from dqo.records import Prompt


@runtime_checkable
class HasRows(Protocol):
    """A task with a fixed number of rows. They are checked before the first step, if the reward asks for it."""

    def rows(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Where each row comes from ("my.jsonl, line 3") and its columns: the training rows, then the held-out ones."""
        ...

    def leave_out(self, rows: Collection[int]) -> None:
        """Drop the rows with these indices in ``rows()``. Called once, before the first prompt is drawn. Raises
        ConfigError if no training row or no held-out row is left."""
        ...


@runtime_checkable
class RefusingTokens(Protocol):
    """A task that can say which of its prompts have certain tokens."""

    def refuse_tokens(self, tokens: Mapping[str, int]) -> None:
        """Raises ConfigError, naming the row, for a prompt with one of ``tokens`` (name: number): the model has no row
        for them. Called once, before the weights are read."""
        ...


@runtime_checkable
class Fingerprinted(Protocol):
    """A task that says what its data are: a checkpoint keeps it, and a run is not resumed with other data."""

    def fingerprints(self) -> Mapping[str, str]:
        """Short texts by what they are of ("training rows"); equal texts mean equal content."""
        ...


@runtime_checkable
class Rendered(Protocol):
    """A task that can say how it turns a row into tokens. The folder of a trained policy records it: a policy that is
    asked otherwise answers worse, and a warning says so."""

    def rendering(self) -> Mapping[str, Any]:
        """JSON: ``chat`` (False: plain text), ``template`` (a hash of the chat template; None: plain text), ``system``
        (the system turn; None: there is none) and ``chat_template_kwargs``."""
        ...


@runtime_checkable
class ChecksRows(Protocol):
    """A reward's class that needs something of the rows, such as a right answer that it can read."""

    @classmethod
    def bad_rows(cls, rows: Sequence[tuple[str, Mapping[str, Any]]], **keys: Any) -> Sequence[int]:
        """Indices of the rows to leave out. ``rows`` is what ``HasRows.rows`` returns; ``keys`` are the constructor's
        keyword arguments. Raises ConfigError for rows that the reward cannot judge. Called on rank 0, before the
        reward is constructed and the model is loaded."""
        ...


@runtime_checkable
class Explaining(Protocol):
    """A reward that can say how it understands the data: ``dry_run=true`` prints it."""

    def explained(self, prompts: Sequence[Prompt]) -> Sequence[str]:
        """A few lines. Example: ``["right answer '3 1/2' is read as 7/2"]``."""
        ...


@runtime_checkable
class TakesText(Protocol):
    """A task that makes a prompt of any text, rendered like its own ones."""

    def prompt_of(self, text: str, *, position: int, source: str) -> Prompt:
        """The prompt; ``source`` says in messages where the text comes from. A text that is a prompt of the task has
        that row's columns, any other text has none. Raises ConfigError for an empty text and one that is too long."""
        ...
