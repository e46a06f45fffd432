"""Who is measured, as data: the programs and servers of each contender and what it needs."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from .toolchain import ROOT, Missing, built

GREENIO = "greenio"


@dataclass(frozen=True, slots=True)
class Contender:
    """One column of the table."""

    name: str
    module: str | None = None
    """The Python package that it needs, by its import name; None for none."""
    program: Sequence[str] = ()
    """The micro-benchmarks: a module of `programs/` or a source file to build, then arguments."""
    workloads: frozenset[str] = frozenset()
    """The workloads that the program offers."""
    server: Sequence[str] = ()
    """The echo server, given like `program`."""
    tls_server: Sequence[str] = ()
    """The echo server over TLS."""
    everywhere: bool = True
    """Whether it is measured in rows that do not name their contenders, too."""
    pace: float = 1.0
    """Its share of the operations that the fastest are asked for, so that rounds stay short."""

    def offers(self, workload: str) -> bool:
        """Whether this contender can be measured doing *workload*."""
        servers = {"echo": self.server, "tls": self.tls_server}
        return bool(servers[workload]) if workload in servers else workload in self.workloads

    def command(self, workload: str) -> list[str]:
        """The command that measures *workload*, or for `echo` and `tls` the one that serves.

        Raises:
            Missing: the contender cannot run here.
        """
        program, *arguments = {"echo": self.server, "tls": self.tls_server}.get(workload, self.program)
        if program.endswith((".c", ".go")):
            return [str(built(program)), *arguments]
        if self.module is not None:
            _import_elsewhere(self.module)
        return [sys.executable, "-m", f"{__package__}.{program}", *arguments]


_failed_imports: dict[str, str] = {}  # why a module cannot be imported; empty where it can


def _import_elsewhere(module: str) -> None:
    """Import *module* in a child process, which tells more than that its files are there.

    Raises:
        Missing: it cannot be imported.
    """
    if module not in _failed_imports:
        command = [sys.executable, "-c", f"import {module}"]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        error = result.stderr.strip().rpartition("\n")[2] or f"exit status {result.returncode}"
        _failed_imports[module] = error if result.returncode != 0 else ""
    if error := _failed_imports[module]:
        how = "python setup.py build_ext --inplace" if module == GREENIO else f"python -m pip install {module}"
        raise Missing(f"{error}: {how}")


_SCHEDULED = frozenset({"switch", "spawn", "sleep", "lateness", "memory", "sleepers", "channel", "timeout"})

CONTENDERS = (
    Contender(
        GREENIO,
        GREENIO,
        ["programs.greenio_program"],
        _SCHEDULED | {"nested switch", "lock"},
        ["servers.greenio_server"],
        ["servers.greenio_stream_server", "tls"],
    ),
    Contender("greenio streams", GREENIO, server=["servers.greenio_stream_server"]),
    Contender(
        "greenlet",
        "greenlet",
        ["programs.greenlet_program"],
        frozenset({"switch", "nested switch", "spawn", "memory"}),
        pace=0.2,
    ),
    Contender(
        "gevent",
        "gevent",
        ["programs.gevent_program"],
        _SCHEDULED | {"nested switch"},
        ["servers.gevent_server"],
        ["servers.gevent_server", "tls"],
        pace=0.05,
    ),
    Contender(
        "asyncio",
        None,
        ["programs.asyncio_program"],
        _SCHEDULED,
        ["servers.asyncio_server", "protocol"],
        ["servers.asyncio_server", "protocol", "tls"],
        pace=0.05,
    ),
    Contender("asyncio streams", server=["servers.asyncio_server", "streams"]),
    Contender(
        "uvloop",
        "uvloop",
        ["programs.asyncio_program", "uvloop"],
        _SCHEDULED,
        ["servers.asyncio_server", "protocol", "uvloop"],
        ["servers.asyncio_server", "protocol", "uvloop", "tls"],
        pace=0.1,
    ),
    Contender(
        "uvloop buffered", "uvloop", server=["servers.asyncio_server", "buffered protocol", "uvloop"], everywhere=False
    ),
    Contender("uvloop streams", "uvloop", server=["servers.asyncio_server", "streams", "uvloop"]),
    Contender("trio", "trio", ["programs.trio_program"], _SCHEDULED, ["servers.trio_server"], pace=0.03),
    Contender(
        "threads",
        None,
        ["programs.threads_program"],
        frozenset({"spawn", "lateness", "memory", "lock"}),
        ["servers.threads_server"],
        pace=0.01,
    ),
    Contender("Go", None, ["programs/go_program.go"], _SCHEDULED, ["servers/go_server.go"]),
    Contender("C epoll", server=["servers/epoll_server.c"]),
)
