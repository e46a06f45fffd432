"""docs/stdlib-score.md: the table of what was last run, from the store."""

from collections.abc import Iterable
from pathlib import Path

from . import store
from .expected import Entry, compare
from .modules import ALL
from .runner import ROOT

FILE = ROOT / "docs" / "stdlib-score.md"
HEAD = """# CPython's own tests under greenio

How many of the tests that pass in the plain interpreter also pass when `greenio.monkey.patch_all()` ran first and the main thread is a
fiber: `{command}`, written by `python -m tests.stdlib --write-score`. A test that did not pass at first was run once more by itself, in
the plain interpreter as under the patch. Skipped under the patch is not passed. Network: loopback only. What does not pass, and
why, is in [tests/stdlib/expected.toml](../tests/stdlib/expected.toml).

"""


def write_score(entries: list[Entry], path: Path = FILE, folder: Path = store.FOLDER) -> str:
    """Write the table; its text."""
    releases = sorted(each.name for each in folder.iterdir() if (each / "greenio").is_dir())
    columns = [
        (release, mode) for release in releases for mode in ("greenio", "gevent") if (folder / release / mode).is_dir()
    ]
    cells: dict[tuple[str, str, str], tuple[int, int]] = {}
    days: dict[str, set[str]] = {}
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
            days.setdefault(f"{release}, {mode}", set()).add(about.get("day", "?"))
    text = HEAD.format(command="python -m tests.stdlib --plain-runs 2 --gevent")
    text += _table(columns, cells)
    text += "\nEach cell: passed / passed in the plain interpreter.\n\n| run | day |\n|---|---|\n"
    text += "".join(f"| CPython {run} | {', '.join(sorted(each))} |\n" for run, each in sorted(days.items()))
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


def _cell(counts: tuple[int, int] | None) -> str:
    return "" if counts is None else f"{counts[0]} / {counts[1]}"


def _sum(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    both = list(counts)
    return sum(each[0] for each in both), sum(each[1] for each in both)
