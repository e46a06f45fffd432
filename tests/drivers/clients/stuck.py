"""`python stuck.py CLIENT COUNT SECONDS ADDRESS`: COUNT fibers wait at once inside a C library, SECONDS each; nothing is patched.

By run(stall="handoff") alone: its bounds are the defaults, 64 OS threads. Each answer has the server's own clock at its beginning and
end, so that what was under way at one time is the server's word. Prints as JSON {seconds: from the first call to the last answer,
together: the most in the server at one time, os_threads: the most that there were, ticks: of a ticker of 1 ms meanwhile,
errors: texts}.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import greenio

Call = Callable[[int, float], tuple[int, float, float]]  # (number, seconds) -> (number, begun, ended)


def psycopg2(address: dict[str, Any]) -> Call:
    import psycopg2

    connection = psycopg2.connect(**address)

    def call(number: int, seconds: float) -> tuple[int, float, float]:
        clock = "extract(epoch from clock_timestamp())::float"
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {clock}, pg_sleep(%s), %s, {clock}", (seconds, number))
            begun, _, same, ended = cursor.fetchone()
        return same, begun, ended

    return call


def mysqlclient(address: dict[str, Any]) -> Call:
    import MySQLdb

    connection = MySQLdb.connect(**address)

    def call(number: int, seconds: float) -> tuple[int, float, float]:
        clock = "UNIX_TIMESTAMP(SYSDATE(6))"
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {clock}, SLEEP(%s), %s, {clock}", (seconds, number))
            begun, _, same, ended = cursor.fetchone()
        return same, float(begun), float(ended)

    return call


def grpc(address: dict[str, Any]) -> Call:
    import grpc

    if not channels:
        channels.append(grpc.insecure_channel(f"{address['host']}:{address['port']}"))
        grpc.channel_ready_future(channels[0]).result(30)
    slow = channels[0].unary_unary("/greenio/slow")

    def call(number: int, seconds: float) -> tuple[int, float, float]:
        same, begun, ended = json.loads(slow(json.dumps([number, seconds]).encode()))
        return same, begun, ended

    return call


channels: list[Any] = []  # gRPC's calls share one, as programs do it


def os_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def main(client: str, count: int, seconds: float, address: dict[str, Any]) -> dict[str, Any]:
    calls = [globals()[client](address) for _ in range(count)]
    intervals: list[tuple[float, float]] = []
    errors: list[str] = []
    most = ticks = 0

    def use(number: int) -> None:
        try:
            same, begun, ended = calls[number](number, seconds)
            assert same == number, f"the answer to {same}"
            intervals.append((begun, ended))
        except Exception as error:
            errors.append(f"{number}: {error!r}")

    def tick() -> None:
        nonlocal most, ticks
        while True:
            most = max(most, os_threads())
            ticks += 1
            greenio.sleep(0.001)

    ticker = greenio.spawn(tick)
    from_here = time.monotonic()
    for fiber in [greenio.spawn(use, number) for number in range(count)]:
        fiber.join()
    took = time.monotonic() - from_here
    ticker.cancel()
    together = max((sum(a <= begun < b for a, b in intervals) for begun, _ in intervals), default=0)
    return {"seconds": took, "together": together, "os_threads": most, "ticks": ticks, "errors": errors}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # the watch names each call, which is its own tests' matter
    name, many, long, where = sys.argv[1:]
    print(json.dumps(greenio.run(main, name, int(many), float(long), json.loads(where), stall="handoff")))
