"""`python -m benchmarks.stall`: how long a ticker of 1 ms waits beside fibers that are stuck; nothing is patched.

    usleep      2 fibers, each 200 ms in a C call (ctypes)                                     bar: p99 < 30 ms, longest < 60 ms
    sqlite      a statement that waits 0.9 s for another connection's lock                     the same
    lookup      getaddrinfo with a name server that never answers                              the same
    file        a file of 1 GB by readinto of one reused buffer                                the same
    scrypt      hashlib.scrypt                                                                 the same
    compute-2   2 fibers that compute in pure Python for 1 s; compute-8: 8                     bar: p99 < 60 ms, longest < 150 ms
    idle        nobody is stuck
    echo        an echo server with 50 connections of 1 KiB under load beside one fiber of each kind above, again and again:
                a reply's p99 and the replies, every byte compared                            bar: p99 < 50 ms, no byte differs

Medians of --rounds, each from a process of its own, under each of --modes. `lookup` and `echo` need a program that binds port 53 in a
network namespace of its own (unshare -rn); where that is not allowed `lookup` is left out, and `echo` goes without it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from rich.console import Console
from rich.table import Table

from .toolchain import LOAD_GENERATOR, ROOT, Missing, built

BARS = {"compute-2": (60, 150), "compute-8": (60, 150), "echo": (50, float("inf"))}
BAR = (30, 60)
SECONDS = 120.0

PROGRAM = """
import ctypes, hashlib, json, logging, os, socket, sqlite3, sys, threading, time
import greenio

kind, mode, folder = sys.argv[1:]
logging.disable(logging.CRITICAL)
libc = ctypes.CDLL(None)


def compute():
    until = time.perf_counter() + 1
    while time.perf_counter() < until:
        pass


def sqlite():
    path = os.path.join(folder, "one.db")
    locker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    locker.execute("create table if not exists t (x)")
    locker.execute("begin exclusive")
    unlock = threading.Timer(0.9, locker.execute, ("commit",))
    unlock.start()
    other = sqlite3.connect(path, timeout=30, isolation_level=None)
    other.execute("insert into t values (1)")
    other.close()
    unlock.join()


def lookup():
    try:
        socket.getaddrinfo("nobody.answers.example", 80)
    except OSError:
        pass


def read():
    buffer = bytearray(64 << 20)
    with open(os.path.join(folder, "large"), "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def scrypt():
    for _ in range(3):
        hashlib.scrypt(b"password", salt=b"salt", n=2**15, r=8, p=4, maxmem=2**28)


STUCK = {
    "usleep": [lambda: libc.usleep(200_000)] * 2, "sqlite": [sqlite], "lookup": [lookup], "file": [read], "scrypt": [scrypt],
    "compute-2": [compute] * 2, "compute-8": [compute] * 8, "idle": [lambda: greenio.sleep(0.5)],
}


def main():
    gaps, over = [], False

    def tick():
        last = time.perf_counter()
        while not over:
            greenio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    ticker = greenio.spawn(tick)
    greenio.sleep(0.05)
    gaps.clear()
    for fiber in [greenio.spawn(each) for each in STUCK[kind]]:
        fiber.result()
    greenio.sleep(0.02)
    over = True
    ticker.join()
    gaps.sort()
    return {"p99": gaps[int(len(gaps) * 0.99)] * 1e3, "longest": gaps[-1] * 1e3, "ticks": len(gaps)}


if kind == "lookup":
    deaf = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    deaf.bind(("127.0.0.1", 53))
print(json.dumps(greenio.run(main, stall=mode)))
"""
IN_NAMESPACE = """mount --bind "$1/resolv.conf" /etc/resolv.conf && ip link set lo up && shift && exec "$@" """


def one(kind: str, mode: str, folder: str) -> dict[str, float] | str:
    command = [sys.executable, "-c", PROGRAM, kind, mode, folder]
    if kind == "echo":
        return echo(mode, folder)
    if kind == "lookup":
        command = ["unshare", "-rnm", "sh", "-c", IN_NAMESPACE, "sh", folder, *command]
    return figures_of(command)


def echo(mode: str, folder: str) -> dict[str, float] | str:
    """The load generator's word; its p99 stands for the ticker's."""
    try:
        load = [str(built(LOAD_GENERATOR)), "50", "1024", "1", "4", "10000000", "0"]
    except Missing as missing:
        return str(missing)
    kinds = ["usleep", "sqlite", "file", "scrypt", "compute"]
    command = [sys.executable, "-m", "benchmarks.programs.stuck_echo", mode, folder]
    inside = ["unshare", "-rnm", "sh", "-c", IN_NAMESPACE, "sh", folder, *command, ",".join([*kinds, "lookup"]), *load]
    allowed = subprocess.run([*inside[:5], "sh", folder, "true"], capture_output=True, check=False).returncode == 0
    found = figures_of(inside if allowed else [*command, ",".join(kinds), *load])
    if isinstance(found, str):
        return found
    return {"p99": found["p99_us"] / 1e3, "longest": float("nan"), "ticks": found["requests"]}


def figures_of(command: list[str]) -> dict[str, float] | str:
    merged = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(command, env=merged, capture_output=True, text=True, timeout=SECONDS, check=False)
        figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return "no figure in time"
    except (IndexError, ValueError):
        return done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
    return figures


def prepare(folder: str, kinds: list[str]) -> None:
    with open(os.path.join(folder, "resolv.conf"), "w") as settings:
        settings.write("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    if "file" in kinds or "echo" in kinds:
        with open(os.path.join(folder, "large"), "wb") as large:
            for _ in range(16):
                large.write(bytes(64 << 20))


def main() -> None:
    kinds = ["usleep", "sqlite", "lookup", "file", "scrypt", "compute-2", "compute-8", "idle", "echo"]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stall", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kinds", nargs="*", default=kinds, help=f"of {', '.join(kinds)}; all")
    parser.add_argument("--modes", nargs="+", default=["off", "handoff"])
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    console = Console()
    table = Table("stuck", "mode", "p99 ms", "longest ms", "ticks", "bar", title=f"load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder, chosen.kinds)
        for kind in chosen.kinds:
            for mode in chosen.modes:
                samples = [one(kind, mode, folder) for _ in range(chosen.rounds)]
                good = [each for each in samples if isinstance(each, dict)]
                if not good or (kind == "echo" and len(good) < len(samples)):  # a byte differs, or a reply did not come
                    samples.sort(key=lambda each: isinstance(each, str))
                    table.add_row(kind, mode, str(samples[-1])[:60])
                    continue
                p99, longest, ticks = (statistics.median(e[name] for e in good) for name in ("p99", "longest", "ticks"))
                bars = BARS.get(kind, BAR)
                table.add_row(
                    *(kind, mode, f"{p99:.1f}", "-" if kind == "echo" else f"{longest:.1f}", f"{ticks:.0f}"),
                    "" if mode != "handoff" else "met" if p99 < bars[0] and not longest >= bars[1] else "missed",
                )
    console.print(table)


if __name__ == "__main__":
    main()
