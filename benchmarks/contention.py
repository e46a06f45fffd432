"""`python -m benchmarks.contention [--interpreters PYTHON ...]`: fibers beside an OS thread that computes, by switch interval.

    switches  thousands of switches/s of two fibers that do nothing else: beside such a thread (bar: 300), and alone
    work      the fibers' share of the time, with 20 µs of work between two switches (bar: 40 %)
    threads   what two computing OS threads get done beside a run that waits, against an interval of 5 ms

Medians of --rounds; each figure from a process of its own, the intervals in turns. Seconds are of processor time, as the program
(programs/contend.py) says. Each interpreter needs its build of greenio.
"""

import argparse
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from .outside import median, run
from .toolchain import ROOT

PROGRAM = str(ROOT / "benchmarks" / "programs" / "contend.py")
INTERVALS_MS = (5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05)
SECONDS = 0.3  # of one figure
BARS = {"switches": ("beside", 300e3), "work": ("share", 0.4)}


def samples_of(python: str, intervals: list[float], rounds: int) -> dict[tuple[float, str], list[Any]]:
    """What the program says, by interval and kind."""
    samples: dict[tuple[float, str], list[Any]] = {
        (each, kind): [] for each in intervals for kind in ("switches", "work", "threads")
    }
    for _ in range(rounds):
        for (interval, kind), found in samples.items():
            found.append(run([python, PROGRAM, kind, str(interval), str(SECONDS)]))
    return samples


def met(found: list[Any], kind: str) -> str:
    name, bar = BARS[kind]
    text = median(found, name)
    try:
        return "met" if float(text.replace(",", "")) >= bar else "MISSED"
    except ValueError:
        return "-"


def thousands(text: str) -> str:
    try:
        return f"{float(text.replace(',', '')) / 1e3:,.0f}"
    except ValueError:
        return text


def main() -> int:
    """Run what the command line asks for and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.contention", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--interpreters", nargs="+", default=[sys.executable], metavar="PYTHON")
    parser.add_argument("--intervals", nargs="+", type=float, default=list(INTERVALS_MS), metavar="MS")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every figure (%(default)s)")
    options = parser.parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=150)
    table = Table(
        *("Python", "interval ms", "1,000 switches/s beside", "alone", "bar: >= 300", "share at 20 µs", "bar: >= 0.4"),
        "two threads",
    )
    for python in options.interpreters:
        version = run([python, "-c", "import json, platform; print(json.dumps(platform.python_version()))"])
        samples = samples_of(python, options.intervals, options.rounds)
        longest = samples[max(options.intervals), "threads"]
        for interval in options.intervals:
            switches, work, threads = (samples[interval, kind] for kind in ("switches", "work", "threads"))
            ratios = [
                {"ratio": ours["steps"] / theirs["steps"]}
                for ours, theirs in zip(threads, longest, strict=True)
                if isinstance(ours, dict) and isinstance(theirs, dict)
            ]
            table.add_row(
                *(str(version), f"{interval:g}"),
                *(thousands(median(switches, name)) for name in ("beside", "alone")),
                met(switches, "switches"),
                median(work, "share"),
                met(work, "work"),
                f"{median(ratios or threads, 'ratio')} times",
            )
        table.add_section()
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
