"""Celery on redis: a worker with the pool of threads, and its clients, in one process."""

import contextlib
import threading
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
    )

    @app.task(name="slow")  # type: ignore[untyped-decorator, unused-ignore]
    def slow(number: int) -> int:
        time.sleep(0.2)
        return number

    @app.task(name="fails")  # type: ignore[untyped-decorator, unused-ignore]
    def fails() -> None:
        raise ValueError("as asked")

    return app


@contextlib.contextmanager
def worker(app: Any) -> Iterator[None]:
    instance = app.Worker(
        pool="threads", concurrency=COUNT, loglevel="ERROR", quiet=True, without_gossip=True, without_mingle=True
    )
    thread = threading.Thread(target=instance.start, name="worker")
    thread.start()
    try:
        yield
    finally:
        instance.stop()
        thread.join(20)
        assert not thread.is_alive(), "the worker does not stop"


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    # A client's result backend is not made for several threads that wait at the same time: each has its own.
    apps = [application(address) for _ in range(COUNT)]

    def operation(number: int) -> None:
        assert apps[number].send_task("slow", (number,)).get(timeout=20) == number

    with worker(application(address)):
        in_parallel(operation)
        yield operation


def errors(address: dict[str, Any]) -> None:
    """A task's exception arrives; one that does not end in time; both leave the client usable."""
    app = application(address)
    with worker(app):
        with raises(ValueError) as caught:
            app.tasks["fails"].delay().get(timeout=20)
        assert str(caught.error) == "as asked"
        with raises(celery.exceptions.TimeoutError):
            app.tasks["slow"].delay(1).get(timeout=0.05)
        assert app.tasks["slow"].delay(2).get(timeout=20) == 2
