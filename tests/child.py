"""Python in a process of its own, for tests of what may crash, hang or end the interpreter."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 60  # the time limit of a child; far above what it needs


def command(source: str | Path, *arguments: str, flags: tuple[str, ...] = ("-W", "error")) -> list[str]:
    """The command line of an interpreter that runs *source*: a script's path, or its text."""
    script = [str(source)] if isinstance(source, Path) else ["-c", textwrap.dedent(source)]
    return [sys.executable, "-X", "faulthandler", *flags, *script, *arguments]


def environment(**changes: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **changes}


def run_child(
    source: str | Path,
    *arguments: str,
    flags: tuple[str, ...] = ("-W", "error"),
    status: int | None = 0,
    **changes: str,
) -> subprocess.CompletedProcess[str]:
    """Run *source* to its end; *status* is what it must end with (None: whatever), *changes* are for its environment."""
    child = subprocess.run(
        command(source, *arguments, flags=flags),
        env=environment(**changes),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert status is None or child.returncode == status, (
        f"exit status {child.returncode}, expected {status}\n--- stdout\n{child.stdout}\n--- stderr\n{child.stderr}"
    )
    return child
