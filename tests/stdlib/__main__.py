"""python -m tests.stdlib [module or group ...]: CPython's own tests in the plain interpreter and under greenio, compared.

Exit status 1 if a test passes plain and not under greenio and tests/stdlib/expected.toml does not say so, or if it says so and the
test passes. The plain interpreter's results are kept in build/stdlib and used again; --fresh runs it anew.
"""

import argparse
import concurrent.futures
import datetime
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import modules, store
from .expected import Comparison, Entry, compare, load_expected, unused
from .interpreters import Interpreter, ask, find_interpreters
from .runner import ModuleRun, Runner
from .score import write_score

MOST_AGAIN = (
    40  # tests of one module that are run once more by themselves; with more, something is wrong with all of them
)


@dataclass
class Job:
    """One module on one interpreter, in every mode."""

    interpreter: Interpreter
    module: str
    options: argparse.Namespace
    entries: list[Entry]
    plain: list[ModuleRun] = field(default_factory=list)
    patched: dict[str, ModuleRun] = field(default_factory=dict)
    compared: dict[str, Comparison] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> "Job":
        """Run it, unless its results are there."""
        self._run_plain()
        for mode in self.options.modes:
            self._run_patched(mode)
            entries = self.entries if mode == "greenio" else []
            self.compared[mode] = compare(self.plain, self.patched[mode], entries, self.interpreter.version)
        return self

    @property
    def folder(self) -> Path:
        return self.options.store / self.interpreter.release

    def _runner(self, mode: str) -> Runner:
        return Runner(self.interpreter.path, mode, timeout=self.options.timeout, path=tuple(self.options.path))

    def _save(self, mode: str, runs: list[ModuleRun]) -> None:
        store.save(self.folder / mode, runs, python=self.interpreter.path, day=str(datetime.date.today()))

    def _run_plain(self) -> None:
        options = self.options
        if not options.fresh or options.from_store:
            self.plain, about = store.load(self.folder / "plain", self.module)
            if about.get("python") != self.interpreter.path and not options.from_store:
                self.plain = []
        if options.from_store:
            return
        began = time.monotonic()
        runner = self._runner("plain")
        matching = options.match if not self.plain else []
        while len(self.plain) < options.plain_runs:
            run = runner.run(self.module, matching=matching)
            self._try_again(
                runner, run, [test for test, each in run.outcomes.items() if each.outcome in ("fail", "error")], None
            )
            self.plain.append(run)
            self.seconds["plain"] = time.monotonic() - began
            if not matching:
                self._save("plain", self.plain)

    def _run_patched(self, mode: str) -> None:
        options = self.options
        stored, _ = store.load(self.folder / mode, self.module)
        if options.from_store:
            self.patched[mode] = stored[0] if stored else ModuleRun(self.module)
            return
        began = time.monotonic()
        runner = self._runner(mode)
        if options.only_failing and stored:
            run = stored[0]
            failing = compare(self.plain, run, [], self.interpreter.version).failing
            if failing:
                run.outcomes.update(runner.run_again(run, failing, self.plain[0]).outcomes)
        else:
            run = runner.run(self.module, matching=options.match, plain=self.plain[0])
        if options.match:
            ran = set(run.outcomes)
            for each in self.plain:
                each.outcomes = {test: outcome for test, outcome in each.outcomes.items() if test in ran}
        found = compare(self.plain, run, self.entries if mode == "greenio" else [], self.interpreter.version)
        unexpected = {line.partition(": ")[0] for line in found.unexpected}
        self._try_again(runner, run, [test for test in found.failing if test in unexpected], self.plain[0])
        self.seconds[mode] = time.monotonic() - began
        self.patched[mode] = run
        if not options.match:
            self._save(mode, [run])

    def _try_again(self, runner: Runner, run: ModuleRun, tests: list[str], plain: ModuleRun | None) -> None:
        """What passes by itself passes: other processes may have taken the time that it had."""
        tests = [test for test in tests if ":" not in test and test in run.outcomes]
        if not 0 < len(tests) <= MOST_AGAIN or self.options.no_second_try:
            return
        again = runner.run_again(run, tests, plain)
        for test in tests:
            outcome = again.outcome_of(test)
            if outcome.outcome == "pass":
                outcome.second_try = True
                run.outcomes[test] = outcome


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.stdlib",
        description="Run CPython's own tests in the plain interpreter and under greenio, and compare.",
    )
    add = parser.add_argument
    add(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"modules or groups ({', '.join([*modules.GROUPS, 'core', 'quick', 'slow'])})",
    )
    add(
        "--python",
        action="append",
        metavar="PATH",
        help="an interpreter; may be given again; default: those with a test suite",
    )
    add(
        "-k",
        "--match",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only tests whose id contains this (fnmatch)",
    )
    add("--gevent", action="store_true", help="also under gevent, where the interpreter has it")
    add("--timeout", type=float, default=120.0, metavar="SECONDS", help="the most that one test may take (%(default)s)")
    add("--jobs", type=int, default=1, metavar="N", help="modules at a time (%(default)s)")
    add(
        "--plain-runs", type=int, default=1, metavar="N", help="a test passes plain if it does so N times (%(default)s)"
    )
    add("--fresh", action="store_true", help="run the plain interpreter again, though its results are kept")
    add("--only-failing", action="store_true", help="only what passed plain and not under greenio the last time")
    add("--no-second-try", action="store_true", help="do not run what fails once more by itself")
    add("--from-store", action="store_true", help="run nothing; judge the results that are kept")
    add("--part", metavar="I/N", help="only every Nth of the modules, from the Ith on, counted from 0")
    add("--write-score", action="store_true", help="write docs/stdlib-score.md from all results that are kept")
    add("--list", action="store_true", help="list groups, modules and what is expected not to pass")
    add("-v", "--verbose", action="store_true", help="print the tracebacks of what fails unexpectedly")
    add("--path", action="append", default=[], type=Path, help=argparse.SUPPRESS)
    add("--library", type=Path, help=argparse.SUPPRESS)
    add("--store", type=Path, default=store.FOLDER, help=argparse.SUPPRESS)
    add("--expected", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        options.names = modules.chosen_names(options.names)
        if options.part:
            index, count = map(int, options.part.split("/"))
            options.names = options.names[index % count :: count]
    except ValueError as error:
        parser.error(str(error))
    return options


def choose_interpreters(options: argparse.Namespace) -> list[Interpreter]:
    if not options.python:
        return find_interpreters()
    found = []
    for path in options.python:
        try:
            each = ask(path)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise SystemExit(f"{path} is no interpreter that can be asked: {error}") from None
        if each.suite is None:
            raise SystemExit(f"{path} ({each.release}) has no test.test_socket: its test suite is not installed")
        if each.greenio_missing is not None:
            raise SystemExit(f"{path} ({each.release}) cannot import greenio: {each.greenio_missing}")
        found.append(each)
    return found


def list_all(entries: list[Entry]) -> None:
    for group, names in modules.GROUPS.items():
        print(f"{group}: {' '.join(names)}")
    print(f"core: {' '.join(modules.CORE)}\nslow: {' '.join(modules.SLOW)}")
    for entry in entries:
        print(f"expected {'/'.join(entry.result)} on {', '.join(entry.versions) or 'all'}: {entry.id}: {entry.reason}")


def report(job: Job, verbose: bool) -> None:
    for mode, found in job.compared.items():
        share = f"{100 * found.passed / found.passed_plain:.1f} %" if found.passed_plain else "-"
        seconds = ", ".join(f"{name} {each:.0f} s" for name, each in job.seconds.items())
        again = sum(each.second_try for each in job.patched[mode].outcomes.values())
        print(
            f"{job.interpreter.release:>8} {mode:>8} {job.module:<42} {found.passed:>5} / {found.passed_plain:<5} {share:>8}"
            f"  {seconds}" + (f"; {again} at the second try" if again else "")
        )
        if mode != "greenio":
            continue
        for line in found.unexpected:
            print(f"    unexpected: {line}")
            if verbose:
                text = job.patched[mode].outcome_of(line.partition(": ")[0]).text
                print("\n".join(f"        {each}" for each in text.splitlines()[-40:]))
    sys.stdout.flush()


def summarize(jobs: list[Job], entries: list[Entry], whole: bool) -> bool:
    """Print the totals; whether all is as expected."""
    good = True
    for interpreter in dict.fromkeys(job.interpreter for job in jobs):
        own = [job for job in jobs if job.interpreter == interpreter]
        for mode in own[0].options.modes:
            passed = sum(job.compared[mode].passed for job in own if mode in job.compared)
            plain = sum(job.compared[mode].passed_plain for job in own if mode in job.compared)
            print(f"CPython {interpreter.release}, {mode}: {passed} of {plain}, {100 * passed / max(plain, 1):.2f} %")
        unexpected = [line for job in own for line in job.compared["greenio"].unexpected]
        if whole:
            used = {index for job in own for index in job.compared["greenio"].used}
            ran = [job.module for job in own]
            for entry in unused(entries, used, ran, interpreter.version):
                unexpected.append(f"{entry.id}: expected.toml speaks of no test that passes in the plain interpreter")
        if unexpected:
            good = False
            print(f"CPython {interpreter.release}: {len(unexpected)} unexpected:")
            print("\n".join(f"    {line}" for line in unexpected))
    return good


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    entries = load_expected(options.expected) if options.expected else load_expected()
    if options.list:
        list_all(entries)
        return 0
    interpreters = choose_interpreters(options)
    if not interpreters:
        raise SystemExit("no interpreter here has both CPython's test suite and this greenio; give one with --python")
    jobs: list[Job] = []
    for interpreter in interpreters:
        chosen = argparse.Namespace(**vars(options))
        chosen.modes = ["greenio", "gevent"] if options.gevent and interpreter.has_gevent else ["greenio"]
        for name in options.names:
            assert interpreter.suite is not None
            for module in modules.find_modules(options.library or interpreter.suite, name):
                jobs.append(Job(interpreter, module, chosen, entries))
    if options.from_store:
        jobs = [job for job in jobs if (job.folder / "greenio" / f"{job.module}.json").exists()]
    printing = threading.Lock()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for future in concurrent.futures.as_completed([pool.submit(job.run) for job in jobs]):
            with printing:
                report(future.result(), options.verbose)
    good = summarize(jobs, entries, whole=not options.match and not options.only_failing)
    if options.write_score:
        write_score(entries)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
