"""What a message there and back costs on a socket pair, beside two threads in the same process."""

import socket
import threading

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import greenio
import greenio.socket

Socket = socket.socket | greenio.socket.socket

MESSAGE = bytes(1024)
READ_BYTES = 64 * 1024
ROUNDS, ITERATIONS = 30, 1_000


def echo(end: Socket) -> None:
    while data := end.recv(READ_BYTES):
        end.sendall(data)


def time_requests(benchmark: BenchmarkFixture, end: Socket) -> None:
    def request() -> None:
        end.sendall(MESSAGE)
        end.recv(READ_BYTES)

    benchmark.pedantic(request, rounds=ROUNDS, iterations=ITERATIONS, warmup_rounds=1)


@pytest.mark.benchmark(group="1 KiB there and back")
def bench_greenio(benchmark: BenchmarkFixture) -> None:
    """µs per message to another fiber and back."""

    def main() -> None:
        near, far = greenio.socket.socketpair()
        fiber = greenio.spawn(echo, far)
        with far:
            with near:
                time_requests(benchmark, near)
            fiber.join()

    greenio.run(main)


@pytest.mark.benchmark(group="1 KiB there and back")
def bench_threads(benchmark: BenchmarkFixture) -> None:
    """µs per message to another thread and back: the baseline."""
    near, far = socket.socketpair()
    thread = threading.Thread(target=echo, args=(far,))
    thread.start()
    with far:
        with near:
            time_requests(benchmark, near)
        thread.join()
