"""expected.toml: the tests that pass in the plain interpreter and not under greenio, each with its reason; and what differs from it."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from .runner import ModuleRun

FILE = Path(__file__).with_name("expected.toml")
RESULTS = ("fail", "error", "skip", "hang", "crash")
KEYS = {"id", "versions", "result", "reason", "flaky"}


@dataclass
class Entry:
    """One [[test]] of expected.toml."""

    id: str  # a test's id, or a pattern as of fnmatch
    result: tuple[str, ...]  # one of RESULTS, or several
    reason: str
    versions: tuple[str, ...] = ()  # "3.13"; none: all
    flaky: bool = False  # passes at times

    def covers(self, test: str, version: str) -> bool:
        """Whether it speaks of this test, on this version ("3.13")."""
        return (not self.versions or version in self.versions) and (self.id == test or fnmatchcase(test, self.id))


@dataclass
class Comparison:
    """One module under greenio beside the same without it."""

    passed_plain: int = 0
    passed: int = 0  # of those
    unexpected: list[str] = field(default_factory=list)  # a line each
    failing: list[str] = field(default_factory=list)  # ids of what passes plain and not here, expected or not
    used: set[int] = field(default_factory=set)  # indices of entries that spoke of some test


def load_expected(path: Path = FILE) -> list[Entry]:
    """The entries; ValueError names what is wrong with one."""
    entries = []
    for number, row in enumerate(tomllib.loads(path.read_text()).get("test", []), 1):
        where = f"{path.name}, entry {number} ({row.get('id', 'without id')})"
        if unknown := row.keys() - KEYS:
            raise ValueError(f"{where}: unknown key {', '.join(sorted(unknown))}")
        results = row.get("result", ())
        results = (results,) if isinstance(results, str) else tuple(results)
        if not results or (wrong := set(results) - set(RESULTS)):
            raise ValueError(
                f"{where}: result must be of {', '.join(RESULTS)}, not {', '.join(wrong) if results else 'missing'}"
            )
        if not row.get("id") or not row.get("reason", "").strip():
            raise ValueError(f"{where}: id and reason are needed")
        versions = row.get("versions", [])
        if not isinstance(versions, list) or not all(
            isinstance(each, str) and each.count(".") == 1 for each in versions
        ):
            raise ValueError(f'{where}: versions is a list such as ["3.11", "3.13"], not {versions!r}')
        entries.append(Entry(row["id"], results, row["reason"], tuple(versions), bool(row.get("flaky", False))))
    return entries


def compare(plain: Iterable[ModuleRun], patched: ModuleRun, entries: list[Entry], version: str) -> Comparison:
    """What passes in every plain run, beside the patched one and what is expected of it."""
    runs = list(plain)
    result = Comparison()
    for test in runs[0].outcomes:
        if any(run.outcome_of(test).outcome != "pass" for run in runs):
            continue
        outcome = patched.outcome_of(test).outcome
        if ":" not in test:
            result.passed_plain += 1
            result.passed += outcome == "pass"
        _judge(result, test, outcome, entries, version)
    # What the patched run alone has: an interpreter that does not end, a tearDownClass that fails.
    for test, outcome in patched.outcomes.items():
        if ":" in test and all(test not in run.outcomes for run in runs):
            _judge(result, test, outcome.outcome, entries, version)
    return result


def _judge(result: Comparison, test: str, outcome: str, entries: list[Entry], version: str) -> None:
    if outcome != "pass":
        result.failing.append(test)
    covering = [(index, entry) for index, entry in enumerate(entries) if entry.covers(test, version)]
    result.used.update(index for index, _ in covering)
    if not covering:
        if outcome != "pass":
            result.unexpected.append(f"{test}: {outcome}")
        return
    wanted = sorted({each for _, entry in covering for each in entry.result})
    if outcome == "pass":
        if not any(entry.flaky for _, entry in covering):
            result.unexpected.append(f"{test}: passes, though {FILE.name} expects {' or '.join(wanted)}")
    elif outcome not in wanted:
        result.unexpected.append(f"{test}: {outcome}, where {FILE.name} expects {' or '.join(wanted)}")


def unused(entries: list[Entry], used: set[int], modules: Iterable[str], version: str) -> list[Entry]:
    """Entries for these modules, all of whose tests were run, that speak of no test that passes in the plain interpreter."""
    ran = list(modules)
    return [
        entry
        for index, entry in enumerate(entries)
        if index not in used
        and (not entry.versions or version in entry.versions)
        and any(entry.id.startswith((f"{module}.", f"{module}:")) for module in ran)
        # Without versions it may be meant for others only where the test exists at all.
        and entry.versions
    ]
