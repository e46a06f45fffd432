"""The standard io module's names, for fibers: files on pipes, FIFOs, ttys and sockets park the fiber instead of blocking the OS thread.

`open`, and the classes that it returns: FileIO, BufferedReader, BufferedWriter, BufferedRandom, TextIOWrapper. They are subclasses of
the standard's (FileIO of io.RawIOBase) which several fibers can share. Everything else is the standard's.
"""

import io as _standard
from typing import Any as _Any

from greenio._file_buffers import BufferedRandom, BufferedReader, BufferedWriter
from greenio._file_text import TextIOWrapper
from greenio._files import open, wrap_file
from greenio._io import FdIO as FileIO

__all__ = ["BufferedRandom", "BufferedReader", "BufferedWriter", "FileIO", "TextIOWrapper", "open", "wrap_file"]


def __getattr__(name: str) -> _Any:
    return getattr(_standard, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_standard)})
