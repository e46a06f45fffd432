"""Many connections to an echo server at once, one fiber each; every byte that comes back is compared with what was sent."""

import argparse
import random
import statistics
import sys

import greenio
from greenio import socket


def converse(address: tuple[str, int], requests: int, size: int, latencies: list[float]) -> None:
    with socket.create_connection(address) as connection:
        for _ in range(requests):
            message = random.randbytes(size)
            started = greenio.current_time()
            connection.sendall(message)
            echo = b""
            while len(echo) < size:
                part = connection.recv(size - len(echo))
                if not part:
                    raise ConnectionError(f"closed after {len(echo)} of {size} bytes")
                echo += part
            latencies.append(greenio.current_time() - started)
            if echo != message:
                raise ValueError("the echo differs from what was sent")


def show_progress(latencies: list[float], total: int) -> None:
    while True:
        print(f"\r{len(latencies)} of {total} requests", end="", file=sys.stderr, flush=True)
        greenio.sleep(0.1)


def main(arguments: argparse.Namespace) -> int:
    address, requests, size = (arguments.host, arguments.port), arguments.requests, arguments.size
    latencies: list[float] = []
    started = greenio.current_time()
    fibers = [
        greenio.spawn(converse, address, requests, size, latencies, name=f"client {number}")
        for number in range(arguments.connections)
    ]
    progress = None
    if sys.stderr.isatty():
        progress = greenio.spawn(show_progress, latencies, len(fibers) * requests, name="progress")
    failures = [error for fiber in fibers if (error := fiber.exception()) is not None]
    elapsed = greenio.current_time() - started
    if progress is not None:
        progress.cancel()
        print("\r", end="\x1b[K", file=sys.stderr, flush=True)

    print(f"{len(fibers)} connections, {len(latencies)} requests of {size} bytes, every byte compared: ", end="")
    if len(latencies) > 1:
        percentiles = statistics.quantiles(latencies, n=100, method="inclusive")
        print(f"{len(latencies) / elapsed:.0f} requests/s, ", end="")
        print(f"p50 {percentiles[49] * 1e3:.2f} ms, p99 {percentiles[98] * 1e3:.2f} ms, ", end="")
    print(f"{len(failures)} failed")
    for error in failures[:5]:
        print(f"  {type(error).__name__}: {error}")
    return 1 if failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7007)
    parser.add_argument("--connections", type=int, default=100, metavar="N", help="open at the same time")
    parser.add_argument("--requests", type=int, default=50, metavar="N", help="on each connection, one after the other")
    parser.add_argument("--size", type=int, default=1024, metavar="BYTES", help="of each request, 1 to 65536")
    options = parser.parse_args()
    if not 1 <= options.size <= 65536:
        # Beyond what the kernel buffers, each side would wait for the other to read.
        parser.error(f"--size must be 1 to 65536, not {options.size}")
    sys.exit(greenio.run(main, options))
