"""Says what was measured: a table, the bars, a JSON file, a chart."""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .bars import Verdict
from .cases import UNITS, Metric
from .contenders import CONTENDERS, GREENIO
from .harness import Figure, Results, cores

TABLE_COLUMNS = 220  # characters where the terminal does not say, as in a file
LEADING = frozenset({Metric.NS, Metric.CPU_US, Metric.LATE_US, Metric.RSS_BYTES, Metric.REQUESTS_PER_S})
"""The metrics that the chart shows."""


def print_report(results: Results, verdicts: Sequence[Verdict], console: Console) -> None:
    """Print the table, what is missing, and the bars."""
    console.print(_table(results))
    for name, why in results.missing.items():
        console.print(f"[yellow]{name} is missing:[/] {why}", highlight=False)
    for (case, name), why in results.failed.items():
        console.print(f"[red]{name} failed in {case.group} {case.label}:[/] {why}", highlight=False)
    if results.interrupted:
        console.print("[red]interrupted: this is what was measured until then[/]")
    if cores()[0] == cores()[1]:
        console.print("[yellow]One core only: servers and load generator share it.[/]")
    console.print(_bars_table(verdicts))


def _table(results: Results) -> Table:
    columns = _columns(results)
    table = Table(title=f"greenio and its peers, {_interpreter()}; medians, ± half the range")
    table.add_column("case", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", style="bold" if name == GREENIO else None)
    for group, units in UNITS.items():
        for case in (case for case in results.cases() if case.group == group):
            for metric in case.metrics:
                cells = [_cell(results.figure(case, name, metric)) for name in columns]
                table.add_row(f"{group} {case.label}", units[metric], *cells)
            table.add_section()
    return table


def _columns(results: Results) -> list[str]:
    """The contenders with a figure or with a reason why there is none, in their usual order."""
    named = {name for _, name in (*results.rounds, *results.failed)} | set(results.missing)
    return [contender.name for contender in CONTENDERS if contender.name in named]


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    return f"{_rounded(figure.median)} ±{figure.spread:.0%}"


def _rounded(value: float) -> str:
    """Three digits that mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _bars_table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(title="bars")
    for heading in ("bar", "wanted", "measured", "verdict"):
        table.add_column(heading)
    colours = {True: "green", False: "red", None: "dim"}
    for verdict in verdicts:
        wanted = f"{'≥' if verdict.bar.faster else '≤'} {verdict.bar.limit:,g}"
        if verdict.bar.theirs is not None:
            wanted += " times"
        measured = "-" if verdict.measured is None else _rounded(verdict.measured)
        if verdict.beside is not None:
            measured += f" ({_rounded(verdict.beside)})"
        table.add_row(verdict.bar.title, wanted, measured, f"[{colours[verdict.met]}]{verdict.text}[/]")
    return table


def write_json(results: Results, verdicts: Sequence[Verdict], path: Path) -> None:
    """Write everything that was measured, each sample of it, and the verdicts."""
    figures: list[dict[str, Any]] = []
    for case, name in results.rounds:
        for metric in case.metrics:
            figure = results.figure(case, name, metric)
            assert figure is not None, "a case without samples is not in `rounds`"
            figures.append(
                {
                    "group": case.group,
                    "case": case.label,
                    **dict(case.parameters),
                    "contender": name,
                    "metric": metric,
                    "unit": UNITS[case.group][metric],
                    "median": figure.median,
                    "spread": figure.spread,
                    "samples": results.samples(case, name, metric),
                }
            )
    document = {
        "machine": _machine(),
        "versions": _versions(),
        "missing": results.missing,
        "failed": [
            {"group": case.group, "case": case.label, "contender": name, "why": why}
            for (case, name), why in results.failed.items()
        ],
        "bars": [
            {
                "title": verdict.bar.title,
                "limit": verdict.bar.limit,
                "at_least": verdict.bar.faster,
                "measured": verdict.measured,
                "beside": verdict.beside,
                "verdict": verdict.text,
            }
            for verdict in verdicts
        ],
        "figures": figures,
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def draw_chart(results: Results, path: Path) -> None:
    """Draw a panel for each of the leading metrics: contenders side by side, as lines where there are several cases."""
    import matplotlib

    matplotlib.use("Agg")  # A file is wanted, whatever display there may be.
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    panels = [
        (group, metric, cases)
        for group, units in UNITS.items()
        for metric in units
        if metric in LEADING
        if (cases := [case for case in results.cases() if case.group == group and metric in case.metrics])
    ]
    if not panels:
        return
    names = _columns(results)
    # Ten colours of matplotlib's cycle, and black: as many as there are contenders.
    colours = {name: f"C{index}" if index < 10 else "black" for index, name in enumerate(names)}
    rows = (len(panels) + 1) // 2
    figure, axes = pyplot.subplots(rows, 2, squeeze=False, figsize=(16, 5 * rows), layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (group, metric, cases) in zip(axes.flat, panels, strict=False):
        for name in names:
            figures = [results.figure(case, name, metric) for case in cases]
            medians = [each.median if each else float("nan") for each in figures]
            if not any(figures):
                continue
            if len(cases) == 1:
                axis.bar(name, medians[0], color=colours[name])
            else:
                width = 3 if name == GREENIO else 1
                axis.plot([case.label for case in cases], medians, "o-", color=colours[name], linewidth=width)
        title = UNITS[group][metric] + (f" ({cases[0].label})" if len(cases) == 1 else "")
        axis.set_title(f"{group}: {title}")
        pyplot.setp(axis.get_xticklabels(), rotation=30, ha="right")
        axis.set_yscale("log")
        axis.grid(axis="y", which="both", alpha=0.3)
    legend = [Line2D([], [], marker="o", color=colours[name], label=name) for name in names]
    figure.legend(handles=legend, loc="outside lower center", ncols=len(names))
    figure.suptitle(f"greenio and its peers, {_interpreter()}; medians")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _interpreter() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"


def _machine() -> dict[str, Any]:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as cpuinfo:
        models = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "load": os.getloadavg(),
    }


def _versions() -> dict[str, str]:
    """The interpreter and the Python contenders; what is missing has its reason elsewhere."""
    versions = {"python": sys.version}
    for module in dict.fromkeys(contender.module for contender in CONTENDERS if contender.module):
        try:
            versions[module] = importlib.metadata.version(module)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
