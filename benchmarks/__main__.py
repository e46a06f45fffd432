"""`python -m benchmarks`: measure greenio beside its peers; print one table, write JSON and a chart."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from .bars import judge
from .cases import CONNECTIONS, GROUPS, REQUEST_BYTES, chosen
from .harness import Plan, measure
from .report import TABLE_COLUMNS, draw_chart, print_report, write_json
from .toolchain import HERE


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; *arguments* None for the process's own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {' '.join(GROUPS)}; all without any")
    parser.add_argument("--quick", action="store_true", help="two short rounds without the large cases: does it run?")
    parser.add_argument("--rounds", type=int, help="rounds of every figure (5; quick: 2)")
    parser.add_argument("--seconds", type=float, help="window of an echo figure (1; quick: 0.3)")
    parser.add_argument(
        "--connections", type=int, nargs="+", metavar="N", help="echo connections (1 10 100 1000; quick: 100)"
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", metavar="BYTES", help="echo requests (64 1024 10240 102400; quick: 1024)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=HERE / "results",
        metavar="DIRECTORY",
        help="where the files go (benchmarks/results)",
    )
    parser.add_argument("--json", default="benchmarks.json", metavar="NAME", help="the JSON file (%(default)s)")
    parser.add_argument("--png", default="benchmarks.png", metavar="NAME", help="the chart (%(default)s)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    options = parser.parse_args(arguments)
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"no group {', '.join(sorted(unknown))}; there are {' '.join(GROUPS)}")
    return options


def main() -> int:
    """Run what the command line asks for and return the exit status."""
    options = parse_arguments()
    quick = options.quick
    cases = chosen(
        options.groups or GROUPS,
        options.connections or ((100,) if quick else CONNECTIONS),
        options.sizes or ((1_024,) if quick else REQUEST_BYTES),
        quick,
    )
    plan = Plan(
        rounds=options.rounds or (2 if quick else 5),
        thoroughness=0.1 if quick else 1.0,
        window_seconds=options.seconds or (0.3 if quick else 1.0),
    )
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_COLUMNS)
    with Console(stderr=True).status("starting") as status:
        results = measure(cases, plan, status.update)
    verdicts = judge(results)
    print_report(results, verdicts, console)
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(results, verdicts, options.output / options.json)
    draw_chart(results, options.output / options.png)
    console.print(f"written: {options.output / options.json}, {options.output / options.png}")
    if results.interrupted:
        return 130  # as a shell says it of a program ended by SIGINT
    return int(options.strict and any(verdict.met is False for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
