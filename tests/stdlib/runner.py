"""Runs one test module in child interpreters until each of its tests has an outcome; a crash or a hang costs the test it was in."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).with_name("child.py")
POLL = 0.05  # seconds
SETTLE = 30.0  # seconds for an interpreter to exit
LEAST = 20.0  # seconds that any test may take, however quick it is in the plain interpreter
TIMES_PLAIN = 10  # and otherwise this many times as long
LOG = 4000  # characters of the child's output that are kept with a crash or a hang
FAILED_FIXTURE = re.compile(r"(setUp|tearDown)(Class|Module) \((.*)\)")


@dataclass
class Outcome:
    """What became of a test: pass, fail, error, skip, hang or crash; and why."""

    outcome: str
    seconds: float = 0.0
    text: str = ""
    second_try: bool = False


@dataclass
class Selection:
    """Which tests of the module to run, by index in its own order; *matching* by patterns of their ids' parts."""

    only: list[int] | None = None
    without: list[int] = field(default_factory=list)
    matching: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        return json.dumps({"only": self.only, "without": self.without, "matching": self.matching})


@dataclass
class ModuleRun:
    """The outcomes of a module's tests by id. Ids with a colon are no tests: <module>:exit, <module>:tearDownModule ..."""

    module: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)  # ids by index
    whole: Outcome | None = None  # instead of tests: why there are none

    def outcome_of(self, test: str) -> Outcome:
        """The outcome of a test that another run of this module has, whether or not this one came to it."""
        found = self.outcomes.get(test)
        if found is None:
            found = self.whole or (
                Outcome("pass") if ":" in test else Outcome("error", text="the module does not have it")
            )
        return found

    def note(self, test: str, outcome: Outcome) -> None:
        """Several tests may have the same id; the worst outcome stands for them."""
        before = self.outcomes.get(test)
        if before is None or before.outcome in ("pass", "skip"):
            self.outcomes[test] = outcome


class Runner:
    """Runs modules on one interpreter in one mode.

    Args:
        python: the interpreter.
        mode: "plain", "greenio" or "gevent".
        timeout: seconds that a test may take at most.
        path: further folders to import from.
        max_lost: crashes and hangs in one module after which the rest of it is not run, and counts as they do.
    """

    def __init__(
        self, python: str, mode: str, *, timeout: float = 120.0, path: tuple[Path, ...] = (), max_lost: int = 25
    ) -> None:
        self.python = python
        self.mode = mode
        self.timeout = timeout
        self.path = path
        self.max_lost = max_lost

    def run(self, module: str, *, matching: list[str] | None = None, plain: ModuleRun | None = None) -> ModuleRun:
        """Run the module's tests, or those that match; *plain* says how long each may take."""
        return self._run(ModuleRun(module), Selection(matching=list(matching or ())), plain)

    def run_again(self, before: ModuleRun, tests: list[str], plain: ModuleRun | None = None) -> ModuleRun:
        """Run these tests of a module that was run before."""
        wanted = set(tests)
        only = [index for index, test in enumerate(before.order) if test in wanted]
        return self._run(ModuleRun(before.module), Selection(only=only), plain)

    def _run(self, run: ModuleRun, selection: Selection, plain: ModuleRun | None) -> ModuleRun:
        lost = 0
        while True:
            attempt = _Attempt(self, run, selection, plain)
            attempt.run()
            selection.without = sorted({*selection.without, *attempt.finished})
            if attempt.complete:
                return run
            lost += 1
            left = [index for index in attempt.selected if index not in selection.without]
            if lost >= self.max_lost:
                for index in left:
                    reason = f"not run: {lost} tests of this module hung or crashed before it"
                    run.note(run.order[index], Outcome(attempt.ending, text=reason))
            if not left or lost >= self.max_lost:
                return run


class _Attempt:
    """One child. What it did not come to is for the next one."""

    def __init__(self, runner: Runner, run: ModuleRun, selection: Selection, plain: ModuleRun | None) -> None:
        self.runner = runner
        self.result = run
        self.selection = selection
        self.plain = plain
        self.complete = False  # nothing of the module is left to be run
        self.ending = "crash"
        self.finished: list[int] = []
        self.selected: list[int] = []
        self._running: int | None = None
        self._ended = False
        self._without: dict[str, Outcome] = {}  # by the prefix of the tests' ids: setUpClass failed

    def run(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="stdlib-"))
        (folder / "cwd").mkdir()
        try:
            with (folder / "log").open("wb") as log:
                child = self._start(folder, log.fileno())
                try:
                    status = self._follow(child, folder / "results")
                finally:
                    _end_session(child)
            self._settle(status, _tail(folder / "log"))
        finally:
            _remove(folder)

    def _start(self, folder: Path, log: int) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(map(str, [ROOT, *self.runner.path]))
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GREENIO_", "GEVENT"))
        }
        arguments = [self.runner.mode, self.result.module, str(folder / "results"), self.selection.as_json()]
        return subprocess.Popen(
            [self.runner.python, "-u", "-X", "faulthandler", "-W", "default", "-bb", str(CHILD), *arguments],
            cwd=folder / "cwd",
            env={**kept, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_as_from_a_terminal,
        )

    # --- while it runs -----------------------------------------------------------------------------------------------

    def _follow(self, child: subprocess.Popen[bytes], path: Path) -> int | None:
        """Read what it writes; its exit status, None if it hung."""
        seen, rest, since = 0, b"", time.monotonic()
        while True:
            status = child.poll()
            with contextlib.suppress(FileNotFoundError), path.open("rb") as results:
                results.seek(seen)
                new = results.read()
                seen += len(new)
                *lines, rest = (rest + new).split(b"\n")
                for line in lines:
                    self._take(json.loads(line))
                if lines:
                    since = time.monotonic()
            if status is not None:
                return status
            if time.monotonic() - since > self._limit():
                # faulthandler writes where each thread and fiber is.
                child.send_signal(signal.SIGABRT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(5)
                return None
            time.sleep(POLL)

    def _limit(self) -> float:
        if self._ended:
            return SETTLE
        if self._running is None or self.plain is None:
            return self.runner.timeout
        known = self.plain.outcomes.get(self.result.order[self._running])
        return min(self.runner.timeout, max(LEAST, TIMES_PLAIN * known.seconds)) if known else self.runner.timeout

    def _take(self, what: dict[str, Any]) -> None:
        result = self.result
        if "tests" in what:
            result.order = what["tests"]
        elif "selected" in what:
            self.selected = what["selected"]
        elif "start" in what:
            self._running = what["start"]
        elif "done" in what:
            result.note(result.order[what["done"]], Outcome(what["outcome"], what["seconds"], what["text"]))
            self.finished.append(what["done"])
            self._running = None
        elif "module" in what:
            result.whole = Outcome(what["module"], text=what["text"])
        elif "end" in what:
            self._ended = True
        elif found := FAILED_FIXTURE.fullmatch(what["fixture"]):
            outcome = Outcome(what["outcome"], text=what["text"])
            if found[1] == "setUp":
                self._without["" if found[2] == "Module" else found[3] + "."] = outcome
            else:
                result.note(f"{found[3]}:tearDown{found[2]}", outcome)

    # --- afterwards --------------------------------------------------------------------------------------------------

    def _settle(self, status: int | None, log: str) -> None:
        """Give what has none an outcome: setUpClass failed, or it crashed, or hung."""
        result = self.result
        self.ending = "hang" if status is None else "crash"
        how = "no progress within the time limit" if status is None else f"the interpreter ended with {status}"
        lost = Outcome(self.ending, text=f"{how}\n{log}")
        for index in self.selected:
            if index not in self.finished and index != self._running:
                test = result.order[index]
                for prefix, outcome in self._without.items():
                    if test.startswith(prefix):
                        result.note(test, outcome)
                        self.finished.append(index)
                        break
        left = [index for index in self.selected if index not in self.finished]
        if self._ended:
            for index in left:
                result.note(result.order[index], Outcome("error", text="the module's suite left it out"))
            if status != 0:
                result.note(f"{result.module}:exit", lost)
            self.complete = True
        elif not result.order:
            result.whole = lost  # while it was imported
            self.complete = True
        else:
            # Between two tests, the setUp of the next one's class is to blame; after the last, a tearDown.
            blamed = self._running if self._running is not None else next(iter(left), None)
            if blamed is None:
                result.note(f"{result.module}:tearDown", lost)
                self.complete = True
            else:
                result.note(result.order[blamed], lost)
                self.finished.append(blamed)


def _as_from_a_terminal() -> None:
    # A job in the background inherits these as ignored, and so would Python.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _end_session(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # itself, and what its tests left running
    child.wait()


def _tail(path: Path) -> str:
    return path.read_bytes()[-LOG:].decode(errors="replace")


def _remove(folder: Path) -> None:
    def make_writable(function: Any, path: str, _: Any) -> None:
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(path), 0o700)
            function(path)

    shutil.rmtree(folder, onerror=make_writable)
