"""Celery on redis: a worker with the pool of threads in a process of its own, and its clients."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import celery
from run import COUNT, in_parallel, raises


def application(address: dict[str, Any]) -> Any:
    url = f"redis://{address['host']}:{address['port']}"
    app = celery.Celery("tasks", set_as_current=False, broker=f"{url}/2", backend=f"{url}/3")
    app.conf.update(
        worker_prefetch_multiplier=1,
        redis_max_connections=COUNT * 2 + 10,
        broker_pool_limit=COUNT,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )

    @app.task(name="slow")  # type: ignore[untyped-decorator, unused-ignore]
    def slow(number: int) -> int:
        time.sleep(0.2)
        return number

    @app.task(name="fails")  # type: ignore[untyped-decorator, unused-ignore]
    def fails() -> None:
        raise ValueError("as asked")

    return app


def work(address: dict[str, Any]) -> None:
    """The worker's process: with the pool of threads, until SIGTERM."""
    application(address).worker_main(
        ["worker", "-P", "threads", "-c", str(COUNT), "-l", "ERROR", "--without-gossip", "--without-mingle"]
    )


@contextlib.contextmanager
def worker(address: dict[str, Any]) -> Iterator[None]:
    """A worker that is patched as this process is."""
    command = [sys.executable, sys.argv[0], sys.argv[1], "celery_client", "work", json.dumps(address)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=20)
            assert process.returncode == 0, said
        finally:
            process.kill()


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    # A client's result backend is not made for several threads that wait at the same time: each has its own.
    apps = [application(address) for _ in range(COUNT)]
    for app in apps:
        assert app.producer_pool  # they share kombu's pools, whose limits it sets without a lock

    def operation(number: int) -> None:
        assert apps[number].send_task("slow", (number,)).get(timeout=20) == number

    with worker(address):
        in_parallel(operation)
        yield operation


def errors(address: dict[str, Any]) -> None:
    """A task's exception arrives; one that does not end in time; both leave the client usable."""
    app = application(address)
    with worker(address):
        with raises(ValueError) as caught:
            app.tasks["fails"].delay().get(timeout=20)
        assert str(caught.error) == "as asked"
        with raises(celery.exceptions.TimeoutError):
            app.send_task("slow", (1,), queue="nobody").get(timeout=0.1)
        assert app.tasks["slow"].delay(2).get(timeout=20) == 2
