"""Runs measured programs and keeps what they say: processes, cores, rounds, medians.

Each figure comes from a process of its own, so that no contender meets another one's heap.  Rounds
are interleaved (every contender once, then every contender again), so that a change in the
machine's speed meets all of them.  Only one measured program runs at a time.

    programs/   print their figures themselves, pinned to the first core
    servers/    are pinned to the first core and loaded from the second; the load generator prints
"""

import contextlib
import json
import os
import selectors
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from .cases import SERVED, Case, Metric
from .contenders import CONTENDERS, Contender
from .toolchain import LOAD_GENERATOR, ROOT, TLS_LOAD_GENERATOR, Missing, built

PROGRAM_TIMEOUT = 300.0  # seconds; the slowest, a million goroutines, took 11 on a busy machine
SERVER_START_TIMEOUT = 30.0  # seconds
MAX_REQUESTS = 10_000_000  # in one window


class ProgramFailed(Exception):
    """A measured program did not come to a figure; the message is its last line on stderr."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How thoroughly to measure."""

    rounds: int
    thoroughness: float = 1.0
    """Share of the full number of operations in a micro-benchmark."""
    warm_up_seconds: float = 0.2
    window_seconds: float = 1.0
    """How long each echo server is measured."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What all rounds of one case and contender say of one metric."""

    median: float
    spread: float
    """Half the distance from least to greatest sample, as a share of the median."""


@dataclass(slots=True)
class Results:
    """All samples of a run; those of round n are at index n."""

    rounds: dict[tuple[Case, str], list[dict[str, float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """What could not run at all, by the contender's name, to the reason and how to get it."""
    failed: dict[tuple[Case, str], str] = field(default_factory=dict)
    """Why a contender that is here came to no (further) figure in a case."""
    interrupted: bool = False
    """The run was ended before all was measured; the last rounds may lack a contender."""

    def samples(self, case: Case, contender: str, metric: Metric) -> list[float]:
        """One number a round, empty where nothing was measured."""
        return [sample[metric] for sample in self.rounds.get((case, contender), [])]

    def figure(self, case: Case, contender: str, metric: Metric) -> Figure | None:
        """The median of all rounds, or None."""
        samples = self.samples(case, contender, metric)
        if not samples:
            return None
        median = statistics.median(samples)
        return Figure(median, (max(samples) - min(samples)) / 2 / median if median else 0.0)

    def cases(self) -> list[Case]:
        """The cases that have at least one sample, in the order measured."""
        return list(dict.fromkeys(case for case, _ in self.rounds))


def measure(cases: Iterable[Case], plan: Plan, tell: Callable[[str], None]) -> Results:
    """Run all *cases* with all contenders that suit them; on Ctrl-C, return with what there is by then.

    Args:
        tell: called with a short line before each program starts.
    """
    results = Results()
    try:
        for case in cases:
            _measure_case(case, plan, tell, results)
    except KeyboardInterrupt:
        results.interrupted = True
    return results


def _measure_case(case: Case, plan: Plan, tell: Callable[[str], None], results: Results) -> None:
    if case.workload in SERVED:
        try:
            _load_generator(case)
        except Missing as error:
            results.missing[f"the load generator for {case.group}"] = str(error)
            return
    rounds = min(plan.rounds, case.most_rounds or plan.rounds)
    for turn in range(rounds):
        for contender in filter(case.suits, CONTENDERS):
            key = case, contender.name
            if contender.name in results.missing or key in results.failed:
                continue
            tell(f"{case.group} {case.label}, round {turn + 1} of {rounds}: {contender.name}")
            try:
                sample = _sample(case, contender, plan)
            except Missing as error:
                results.missing[contender.name] = str(error)
            except ProgramFailed as error:
                results.failed[key] = str(error)
            else:
                results.rounds.setdefault(key, []).append(sample)


def _sample(case: Case, contender: Contender, plan: Plan) -> dict[str, float]:
    command = contender.command(case.workload)
    first, second = cores()
    if case.workload not in SERVED:
        return _run([*command, *case.arguments(contender, plan.thoroughness)], first)
    parameters = dict(case.parameters)
    load_generator = _load_generator(case)
    with _server(command, first) as (pid, port):
        window = (plan.warm_up_seconds, plan.window_seconds, MAX_REQUESTS)
        load = (parameters["connections"], parameters["request_bytes"], *window, parameters.get("requests_each", 0))
        arguments = [port, pid, *load]
        return _run([str(load_generator), *map(str, arguments)], second)


def _load_generator(case: Case) -> Path:
    return built(TLS_LOAD_GENERATOR if case.workload == "tls" else LOAD_GENERATOR)


def cores() -> tuple[int, int]:
    """The core of programs and servers, and the load generator's; the same one where there is but one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[1 % len(usable)]


@contextlib.contextmanager
def _pinned(core: int) -> Iterator[None]:
    """Processes started within the block run on *core* only: affinity is inherited."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _run(command: Sequence[str], core: int) -> dict[str, float]:
    """Run a program to its end and return the figures that it prints.

    Raises:
        ProgramFailed: it failed or took too long.
    """
    with _process(command, core) as (process, errors):
        try:
            output, _ = process.communicate(timeout=PROGRAM_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"no figure within {PROGRAM_TIMEOUT:.0f} s") from None
        if process.returncode != 0:
            raise ProgramFailed(_last_line(errors) or f"exit status {process.returncode}")
        figures: dict[str, float] = json.loads(output)
        return figures


@contextlib.contextmanager
def _server(command: Sequence[str], core: int) -> Iterator[tuple[int, int]]:
    """A server that has said its port: (process id, port).  It ends with the block.

    Raises:
        ProgramFailed: it said none.
    """
    with _process(command, core) as (process, errors):
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            ready = selector.select(SERVER_START_TIMEOUT)
        line = process.stdout.readline() if ready else b""
        if not line.strip().isdigit():
            raise ProgramFailed(_last_line(errors) or "the server does not start")
        yield process.pid, int(line)


@contextlib.contextmanager
def _process(command: Sequence[str], core: int) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A process on *core* and the file of its stderr; it does not outlive the block."""
    with tempfile.TemporaryFile() as errors:
        with _pinned(core):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT)
        with process:
            try:
                yield process, errors
            finally:
                process.kill()


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace").strip().rpartition("\n")[2]
