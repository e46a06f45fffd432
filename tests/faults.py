"""System calls that fail or do less than asked, in a process of its own: tests/native/faults.c, built and steered.

A test takes the fixture `faults`, which skips it where there is no compiler, and runs a child under the library:

    def test_x(faults: Faults) -> None:
        faults.run(SCRIPT, "recv=EINTR:0.1,short:0.5;accept=ECONNABORTED:0.2", seed=7)

In the child, faults happen inside `with faults.active():` only, so that the interpreter starts and ends without. `count` tells
how often each happened: a test that met none has shown nothing. The groups of calls and the faults stand at the head of faults.c.
"""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from child import ROOT, run_child

SOURCE = ROOT / "tests" / "native" / "faults.c"


class Faults:
    """The library that injects them, and children that run under it."""

    def __init__(self, library: Path) -> None:
        self.library = library

    def environment(self, text: str, seed: int = 0, *, armed: bool = False) -> dict[str, str]:
        """What to add to a child's environment; *armed*: faults happen from its first call on, for programs that are not ours."""
        changes = {"LD_PRELOAD": str(self.library), "GREENIO_FAULTS": f"seed={seed};{text}"}
        return changes | ({"GREENIO_FAULTS_ARMED": "1"} if armed else {})

    def run(
        self, source: str | Path, text: str, *arguments: str, seed: int = 0, **changes: str
    ) -> subprocess.CompletedProcess[str]:
        """Run *source*, a script's path or its text, to its end, which must be a good one. It can `import faults`."""
        path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
        return run_child(source, *arguments, **self.environment(text, seed), **({"PYTHONPATH": path} | changes))


# --- in the child ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def active() -> Iterator[None]:
    """Faults happen in this process: in every OS thread, and in children that it forks meanwhile."""
    here = ctypes.CDLL(None)
    here.greenio_faults_arm(1)
    try:
        yield
    finally:
        here.greenio_faults_arm(0)


def choose(text: str, seed: int = 0) -> None:
    """From now on other faults than the environment says. ValueError: *text* makes no sense."""
    if ctypes.CDLL(None).greenio_faults_set(f"seed={seed};{text}".encode()) < 0:
        raise ValueError(f"no such faults: {text!r}")


def count(group: str, fault: str) -> int:
    """How often *fault* has happened to calls of *group*. ValueError: it was not asked for."""
    ask = ctypes.CDLL(None).greenio_faults_count
    ask.restype = ctypes.c_long
    found: int = ask(group.encode(), fault.encode())
    if found < 0:
        raise ValueError(f"nobody asked for {fault} in {group}")
    return found
