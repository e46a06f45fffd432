"""Python in a process of its own, for tests of what may crash, hang or end the interpreter."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRASH = ROOT / "tests" / "crash"
SECONDS = 60  # the time limit of a child; far above what it needs


def command(source: str | Path, *arguments: str, flags: tuple[str, ...] = ("-W", "error")) -> list[str]:
    """The command line of an interpreter that runs *source*: a script's path, or its text."""
    script = [str(source)] if isinstance(source, Path) else ["-c", textwrap.dedent(source)]
    return [sys.executable, "-X", "faulthandler", *flags, *script, *arguments]


def environment(**changes: str) -> dict[str, str]:
    """This process's, with this greenio to be found and *changes*; an empty one takes its variable out."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    merged = {**os.environ, "PYTHONPATH": path, **changes}
    return {name: value for name, value in merged.items() if value}


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


def run_script(
    name: str, *arguments: str, stdin: str = "", cwd: Path | None = None, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run tests/crash/*name* to its end, however it ends."""
    return subprocess.run(
        command(CRASH / name, *arguments, flags=()),
        env=environment(**changes),
        input=stdin,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def check_script(name: str, *arguments: str, stdin: str = "", cwd: Path | None = None, **changes: str) -> str:
    """Run a script whose last line is "ok" if all was well; return its output."""
    done = run_script(name, *arguments, stdin=stdin, cwd=cwd, **changes)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.endswith("ok\n"), f"{done.stdout}\n{done.stderr}"
    return done.stdout
