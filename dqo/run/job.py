"""What a worker process is started to do."""

from dataclasses import dataclass
from pathlib import Path

from dqo.config.schema import Config
from dqo.files.ownership import Ownership
from dqo.run.stopping import Stopping


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a command on one rank."""

    config: Config
    folder: Path  # of the run; in a dry run a temporary one
    ownership: Ownership | None  # rank 0's right to write into the folder; None: another rank, or a dry run
    stopping: Stopping

    def begin(self) -> None:
        """Say that from now on the folder holds something worth keeping: until then the launcher removes what a refused
        run has left there. To be called once everything that may be refused has been checked."""
        if self.ownership:
            self.ownership.begin()

    @property
    def has_begun(self) -> bool:
        """Whether ``begin`` was called; False on ranks other than 0."""
        return self.ownership is not None and self.ownership.has_begun
