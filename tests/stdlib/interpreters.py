"""The interpreters that have CPython's test package."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .runner import ROOT

VERSIONS = ("3.11", "3.12", "3.13", "3.14", "3.15")
ASK = """
import json, platform, sys, importlib.util as util
try:
    import test.support
    suite = test.__path__[0] if util.find_spec("test.test_socket") else None
except ImportError:
    suite = None
try:
    import greenio
    missing = None
except ImportError as error:
    missing = str(error)
print(json.dumps([platform.python_version(), hasattr(sys, "gettotalrefcount"), suite, missing, bool(util.find_spec("gevent"))]))
"""


@dataclass(frozen=True)
class Interpreter:
    """One that was asked about itself."""

    path: str
    release: str  # "3.13.0", "3.14.0 debug"
    suite: Path | None  # its test package; None: it has none
    greenio_missing: str | None  # why greenio cannot be imported by it
    has_gevent: bool

    @property
    def version(self) -> str:
        """As expected.toml has it: "3.13"."""
        return ".".join(self.release.split(".")[:2])


def ask(path: str) -> Interpreter:
    """What the interpreter says of itself; OSError, CalledProcessError, TimeoutExpired if it cannot be asked."""
    # The link itself, not where it leads: an environment's leads out of it.
    found = os.path.abspath(shutil.which(path) or path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    said = subprocess.run(
        [found, "-W", "ignore", "-c", ASK],
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    version, debug, suite, missing, gevent = json.loads(said.stdout.splitlines()[-1])
    release = f"{version} debug" if debug else version
    return Interpreter(found, release, Path(suite) if suite else None, missing, gevent)


def find_interpreters() -> list[Interpreter]:
    """This one, and python3.11 to python3.15 on the PATH, of each release one: those that have a suite and a greenio built."""
    found: dict[str, Interpreter] = {}
    for path in [sys.executable, *filter(None, (shutil.which(f"python{version}") for version in VERSIONS))]:
        try:
            each = ask(path)
        except (OSError, subprocess.SubprocessError, ValueError):
            continue
        if each.suite is not None and each.greenio_missing is None:
            found.setdefault(each.release, each)
    return list(found.values())
