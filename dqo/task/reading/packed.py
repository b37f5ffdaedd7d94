"""Compressed files: gzip, zstandard, bzip2 and xz, known by their first bytes."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterable
from typing import IO, BinaryIO, cast

ENDINGS = (".gz", ".zst", ".bz2", ".xz")
ERRORS = (EOFError, zlib.error, lzma.LZMAError, OSError)  # OSError: of gzip, bz2 and pyarrow


def is_packed(start: bytes) -> bool:
    """Whether a file that begins with these bytes is compressed."""
    return start.startswith(tuple(FORMATS))


def unpacked(file: BinaryIO) -> Iterable[bytes]:
    """The lines of a file that is open at its beginning, unpacked if it is compressed. Reading them raises one of
    ``ERRORS`` where the file is damaged or cut; the file may be closed once they are gone."""
    start = file.read(max(map(len, FORMATS)))
    file.seek(0)
    return next((opened(file) for magic, opened in FORMATS.items() if start.startswith(magic)), file)


def without_ending(name: str) -> str:
    """A file's name without the ending that says how the file is compressed: "my.csv" of "my.csv.gz"."""
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)


def _zstandard(file: BinaryIO) -> Iterable[bytes]:
    import pyarrow  # imported here: it takes a moment, and Python 3.14 is the first with zstandard of its own

    stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")
    return io.BufferedReader(cast(io.RawIOBase, stream))


FORMATS: dict[bytes, Callable[[BinaryIO], Iterable[bytes]]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"\x28\xb5\x2f\xfd": _zstandard,
    b"BZh": lambda file: bz2.BZ2File(file),
    b"\xfd7zXZ": lambda file: lzma.LZMAFile(cast(IO[bytes], file)),  # noqa: SIM115  closed with the file below it
}
