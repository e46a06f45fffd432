"""docs/stdlib-score.md: the table of what was last run, from the store."""

import importlib.metadata
from collections.abc import Iterable
from pathlib import Path

from . import store
from .expected import Entry, compare
from .modules import ALL
from .runner import ROOT

FILE = ROOT / "docs" / "stdlib-score.md"
HEAD = """# CPython's own tests under greenio

How many of the tests that pass in the plain interpreter also pass when `greenio.monkey.patch_all()` ran first and the main thread is a
fiber{beside}. Each interpreter's columns: `{command}`; this file: `python -m tests.stdlib --from-store --write-score`.
A test that did not pass at first was run once more by itself, in the plain interpreter as under the patch, where no more than {most}
of its module failed; it counts as passed if it passed then. Skipped under the patch is not passed. Network: loopback only. An empty
cell: that interpreter comes without the module's tests, or it was not run. The columns may have been filled in several runs.

"""


def write_score(entries: list[Entry], path: Path = FILE, folder: Path = store.FOLDER) -> str:
    """Write the table; its text."""
    releases = sorted(each.name for each in folder.iterdir() if (each / "greenio").is_dir())
    columns = [
        (release, mode) for release in releases for mode in ("greenio", "gevent") if (folder / release / mode).is_dir()
    ]
    cells: dict[tuple[str, str, str], tuple[int, int]] = {}
    days: dict[str, set[str]] = {}
    failing: dict[tuple[str, str], list[str]] = {}  # by a test's id and what is said of it: the releases
    again: dict[tuple[str, str], list[str]] = {}
    for release, mode in columns:
        for saved in sorted((folder / release / mode).glob("*.json")):
            plain, _ = store.load(folder / release / "plain", saved.stem)
            patched, about = store.load(folder / release / mode, saved.stem)
            if not plain or not patched:
                continue
            name = saved.stem.removeprefix("test.test_").partition(".")[0]
            version = ".".join(release.split(".")[:2])
            found = compare(plain, patched[0], entries if mode == "greenio" else [], version)
            before = cells.get((name, release, mode), (0, 0))
            cells[name, release, mode] = (before[0] + found.passed, before[1] + found.passed_plain)
            if mode == "greenio":
                for test in found.failing:
                    about_it = [entry for entry in entries if entry.covers(test, version)]
                    outcome = patched[0].outcome_of(test).outcome
                    flaky = ", at times" if any(entry.flaky for entry in about_it) else ""
                    reason = about_it[0].reason if about_it else "not explained yet, a defect"
                    failing.setdefault((test, f"{outcome}{flaky}: {reason}"), []).append(release)
                for test, each in patched[0].outcomes.items():
                    if each.second_try:
                        again.setdefault((test, ""), []).append(release)
            days.setdefault(f"{release}, {mode}", set()).add(about.get("day", "?"))
    gevent = (
        f", and the same with `gevent.monkey.patch_all()` of gevent{_gevent_version()}"
        if any(mode == "gevent" for _, mode in columns)
        else ""
    )
    text = HEAD.format(
        beside=gevent, command="python -m tests.stdlib --gevent --jobs 3 --timeout 60 --python PATH", most=40
    )
    text += _table(columns, cells)
    text += "\nEach cell: passed / passed in the plain interpreter.\n\n| run | day |\n|---|---|\n"
    text += "".join(f"| CPython {run} | {', '.join(sorted(each))} |\n" for run, each in sorted(days.items()))
    text += _list("What does not pass under greenio", failing)
    text += _list("What passed under greenio only the second time, by itself, and counts as passed", again)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return text


def _table(columns: list[tuple[str, str]], cells: dict[tuple[str, str, str], tuple[int, int]]) -> str:
    rows = [("module", [f"{release} {mode}" for release, mode in columns])]
    rows += [
        (name, [_cell(cells.get((name, *column))) for column in columns])
        for name in ALL
        if any((name, *column) in cells for column in columns)
    ]
    totals = [_sum(cells[key] for key in cells if key[1:] == column) for column in columns]
    rows.append(("**all**", [f"**{_cell(each)}**" for each in totals]))
    rows.append(("**%**", [f"**{100 * each[0] / each[1]:.2f}**" if each[1] else "" for each in totals]))
    lines = [f"| {name} | {' | '.join(row)} |" for name, row in rows]
    lines.insert(1, "|---" * (len(columns) + 1) + "|")
    return "\n".join(lines) + "\n"


def _list(title: str, tests: dict[tuple[str, str], list[str]]) -> str:
    if not tests:
        return ""
    lines = [
        f"- `{test.removeprefix('test.')}` on {', '.join(releases)}{f': {said}' if said else ''}\n"
        for (test, said), releases in sorted(tests.items())
    ]
    return f"\n## {title}\n\n" + "".join(lines)


def _gevent_version() -> str:
    try:
        return f" {importlib.metadata.version('gevent')}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cell(counts: tuple[int, int] | None) -> str:
    return "" if counts is None else f"{counts[0]} / {counts[1]}"


def _sum(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    both = list(counts)
    return sum(each[0] for each in both), sum(each[1] for each in both)
