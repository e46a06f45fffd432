"""`python -m benchmarks.outside GROUP`: unchanged programs and libraries under the patch, beside the same on OS threads.

    drivers   100 operations of 0.2 s each, from 100 threads, with each client library against its real server; bar: < 1 s. Those that
              wait inside a C library (mysqlclient, gRPC) in a run with stall="handoff" and its default bounds
    stuck     50 fibers with one call each that waits 0.3 s inside a C library, stall="handoff", nothing patched; bar: < 1 s, OS
              threads <= 64
    parking   the longest pause of a ticker of 1 ms beside each kind of blocking call (tests/parks.py); bar: < 30 ms
    start     what patch_all() takes in a fresh process that has imported what it imports; bar: 15 ms
    web       http.server and Flask's threaded server: requests/s with 200 clients that are kept alive (bar: 1.0 times OS threads), and
              with 5,000 whose handlers wait 0.2 s (2 times), memory per connection beyond the idle process (half). Werkzeug answers
              "Connection: close" whatever the protocol's version, so that Flask's clients connect for each request; few of the
              5,000 are being served at one time then, and their memory is not compared

Needs what tests/drivers needs: the list `drivers` of optional-dependencies, and the servers (tests/servers.py names them). Medians
of --rounds; each figure from a process of its own.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from .toolchain import ROOT, Missing, built

TESTS = ROOT / "tests"
SECONDS = 120.0  # of one program
MODES = ("fibers", "threads")


def run(command: list[str], **environment: str) -> Any:
    """The last line that a program prints, as JSON; what it said instead, as text, if it failed."""
    merged = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    try:
        done = subprocess.run(command, env=merged, capture_output=True, text=True, timeout=SECONDS, check=False)
        return json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return "no figure in time"
    except (IndexError, ValueError):
        return done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"


def median(samples: list[Any], name: str) -> str:
    """Of the rounds that came to a figure; else why there is none."""
    figures = [each[name] for each in samples if isinstance(each, dict)]
    return f"{statistics.median(figures):,.3g}" if figures else str(samples[-1])[:60]


def drivers(rounds: int, console: Console, names: list[str]) -> None:
    """Each client library, under both."""
    sys.path[:0] = [str(TESTS), str(TESTS / "drivers")]
    servers, clients = __import__("servers"), __import__("table").CLIENTS
    table = Table("client", "fibers s", "threads s", "fibers CPU s", "threads CPU s", "longest pause s", "bar: < 1 s")
    with contextlib.ExitStack() as stack:
        addresses: dict[str | None, Any] = {None: {}}
        for client in clients:
            if names and client.name not in names:
                continue
            if absent := [name for name in client.needs if importlib.util.find_spec(name) is None]:
                table.add_row(client.name, f"no {absent[0]}")
                continue
            try:
                if client.server not in addresses:
                    addresses[client.server] = stack.enter_context(servers.SERVERS[client.server]())
            except servers.Missing as missing:
                table.add_row(client.name, str(missing))
                continue
            program = str(TESTS / "drivers" / "clients" / "run.py")
            samples: dict[str, list[Any]] = {mode: [] for mode in MODES}
            for _ in range(rounds):
                for mode in MODES:
                    how = client.mode if mode == "fibers" else mode
                    command = [sys.executable, program, how, client.module, "hundred"]
                    found = run([*command, json.dumps(addresses[client.server])], **dict(client.environment))
                    if isinstance(found, dict) and found["errors"]:
                        found = found["errors"][0]
                    samples[mode].append(found)
            figures = [median(samples[mode], name) for name in ("seconds", "cpu") for mode in MODES]
            seconds = [each["seconds"] for each in samples["fibers"] if isinstance(each, dict)]
            met = "met" if seconds and statistics.median(seconds) < 1 else "MISSED"
            table.add_row(client.name, *figures, median(samples["fibers"], "gap"), met)
    console.print(table)


def stuck(rounds: int, console: Console, names: list[str]) -> None:
    """Fifty at once inside each C library."""
    sys.path[:0] = [str(TESTS), str(TESTS / "drivers")]
    servers, rows = __import__("servers"), __import__("table").STUCK
    program = str(TESTS / "drivers" / "clients" / "stuck.py")
    table = Table("client", "seconds", "OS threads", "at once in the server", "bar: < 1 s, <= 64", title=load_now())
    for name, kind, module in rows:
        if names and name not in names:
            continue
        if importlib.util.find_spec(module) is None:
            table.add_row(name, f"no {module}")
            continue
        try:
            with servers.SERVERS[kind]() as address:
                command = [sys.executable, program, name, "50", "0.3", json.dumps(address)]
                samples = [run(command) for _ in range(rounds)]
        except servers.Missing as missing:
            table.add_row(name, str(missing))
            continue
        good = [each for each in samples if isinstance(each, dict) and not each["errors"]]
        met = len(good) == len(samples) and all(each["os_threads"] <= 64 for each in good)
        met = met and statistics.median(each["seconds"] for each in good) < 1
        figures = [median(samples, each) for each in ("seconds", "os_threads", "together")]
        table.add_row(name, *figures, "met" if met else "MISSED")
    console.print(table)


def load_now() -> str:
    return f"load {os.getloadavg()[0]:.1f}"


def parking(rounds: int, console: Console, names: list[str]) -> None:
    """The ticker's longest pause beside each kind."""
    samples = [run([sys.executable, str(TESTS / "parks.py"), "gaps", "0.2"]) for _ in range(rounds)]
    table = Table("kind", "longest pause ms", "least ms", "bar: < 30 ms")
    if not isinstance(samples[-1], dict):
        console.print(f"parking: {samples[-1]}")
        return
    for name in samples[-1]:
        pauses = [each[name] * 1000 for each in samples if isinstance(each, dict)]
        met = "met" if statistics.median(pauses) < 30 else "MISSED"
        table.add_row(name, f"{statistics.median(pauses):.1f}", f"{min(pauses):.1f}", met)
    console.print(table)


START = """
import importlib, json, time
from_here = time.perf_counter()
{imports}
import greenio.monkey
for name in greenio.monkey._MODULES:
    importlib.import_module(f"greenio.compat.{{name}}")
imported = time.perf_counter()
greenio.monkey.patch_all()
print(json.dumps({{"imports_ms": (imported - from_here) * 1e3, "patch_ms": (time.perf_counter() - imported) * 1e3}}))
"""
PROGRAMS = {
    "nothing else": "",
    "much of the standard library": "import asyncio, http.server, logging.config, multiprocessing, sqlite3, unittest, urllib.request",
}


def start(rounds: int, console: Console, names: list[str]) -> None:
    """patch_all() in fresh processes, with few and with many modules to look through."""
    table = Table("program imports", "imports ms", "patch_all() ms", "bar: <= 15 ms")
    for name, imports in PROGRAMS.items():
        command = [sys.executable, "-c", START.format(imports=imports)]
        samples = [run(command) for _ in range(max(20, rounds))]
        figures = [each["patch_ms"] for each in samples if isinstance(each, dict)]
        met = "met" if figures and statistics.median(figures) <= 15 else "MISSED"
        table.add_row(name, median(samples, "imports_ms"), median(samples, "patch_ms"), met)
    console.print(table)


@contextlib.contextmanager
def web_server(mode: str, kind: str) -> Iterator[tuple[int, int]]:
    """(process id, port) of a server on the first core."""
    command = [sys.executable, str(ROOT / "benchmarks" / "servers" / "web_server.py"), mode, kind]
    first = min(os.sched_getaffinity(0))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # What it says when the load's connections break off at the end is nobody's interest.
    with subprocess.Popen(
        ["taskset", "-c", str(first), *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


def web(rounds: int, console: Console, names: list[str]) -> None:
    """Both servers, both loads."""
    load = built("load/http_load_generator.c")
    second = max(os.sched_getaffinity(0))
    columns = ("requests_per_s", "cpu_us", "slowest_s", "errors", "bytes_per_connection", "os_threads")
    table = Table(
        "server", "load", "", "requests/s", "CPU µs/request", "slowest s", "errors", "bytes/connection", "OS threads"
    )
    for kind in ("http", "flask"):
        if names and kind not in names:
            continue
        for connections, path, bar in ((200, "/quick", 1.0), (5_000, "/slow", 2.0)):
            samples: dict[str, list[Any]] = {mode: [] for mode in MODES}
            for _ in range(rounds):
                for mode in MODES:
                    with web_server(mode, kind) as (pid, port):
                        window = ["1", "4"] if path == "/quick" else ["3", "6"]
                        arguments = [str(port), str(pid), str(connections), *window, path, "text"]
                        samples[mode].append(run(["taskset", "-c", str(second), str(load), *arguments]))
            for mode in MODES:
                table.add_row(kind, f"{connections:,} {path}", mode, *(median(samples[mode], name) for name in columns))
            faster = ratio(samples, "requests_per_s")
            told = ["", "", "fibers / threads", times(faster), times(ratio(samples, "cpu_us")), "", "", "", ""]
            kept = path == "/slow" and kind == "http"
            smaller = ratio(samples, "bytes_per_connection") if kept else None
            if kept:
                told[7] = times(smaller)
            table.add_row(*told)
            served = all(isinstance(each, dict) and not each["errors"] for each in samples["fibers"])
            answered = {
                mode: any(isinstance(each, dict) and each["requests_per_s"] for each in samples[mode]) for mode in MODES
            }
            # Threads that have answered nobody within the window have no rate to compare with.
            met = faster >= bar if faster else answered["fibers"] and not answered["threads"]
            verdict = ["", "", "bar", f">= {bar} {'met' if met else 'MISSED'}", "", "", "", "", ""]
            verdict[6] = "0 met" if served else "0 MISSED"
            if kept:
                verdict[7] = f"<= 0.5 {'met' if smaller and smaller <= 0.5 else 'MISSED'}"
            table.add_row(*verdict)
            table.add_section()
    console.print(table)


def ratio(samples: dict[str, list[Any]], name: str) -> float | None:
    """The median of the rounds' ratios of fibers to threads; None without any."""
    ratios = [
        ours[name] / theirs[name]
        for ours, theirs in zip(samples["fibers"], samples["threads"], strict=True)
        if isinstance(ours, dict) and isinstance(theirs, dict) and theirs[name]
    ]
    return statistics.median(ratios) if ratios else None


def times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f} times"


GROUPS = {"drivers": drivers, "stuck": stuck, "parking": parking, "start": start, "web": web}


def main() -> int:
    """Run what the command line asks for and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.outside", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {' '.join(GROUPS)}; all without any")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every figure (%(default)s)")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="of drivers and stuck: these; of web: http, flask"
    )
    options = parser.parse_args()
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"no group {', '.join(sorted(unknown))}; there are {' '.join(GROUPS)}")
    console = Console() if sys.stdout.isatty() else Console(width=150)
    for name in options.groups or GROUPS:
        try:
            GROUPS[name](options.rounds, console, options.only)
        except Missing as missing:
            console.print(f"{name}: {missing}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
