"""``${job_folder:NUMBER,SWEPT}`` in conf/: the name of a sweep's job, which any file system takes."""

import hashlib
import re

from omegaconf import OmegaConf

LONGEST = 120  # bytes of UTF-8; file systems allow 143 (eCryptfs) to 255, and tools add endings
DIGITS = 8  # of the hash


def register() -> None:
    """Make the resolver known to OmegaConf."""
    OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)


def job_folder(number: object, swept: str) -> str:
    """``0_alpha=0,k=4`` for job 0 and the swept overrides ``alpha=0,k=4``.

    A character that a file name or a shell may not take becomes ``-``. If the text is changed or cut, a hash of the
    whole text follows, so that two values never share a name.
    """
    name = re.sub(r"[^\w.,=+-]+", "-", swept)
    room = LONGEST - len(f"{number}_")
    if name != swept or len(name.encode()) > room:
        digest = hashlib.sha256(swept.encode(errors="surrogateescape")).hexdigest()[:DIGITS]
        kept = name.encode()[: room - DIGITS - 1].decode(errors="ignore").rstrip("-,=")
        name = f"{kept}-{digest}"
    return f"{number}_{name}" if name else str(number)
