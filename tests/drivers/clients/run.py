"""`python run.py MODE CLIENT WHAT [ADDRESS]`: a child interpreter in which one client library is used by 100 threads at once.

MODE "fibers" patches the standard library in the program's first line, "threads" leaves it as it is, "handoff" patches in a run that
hands off, as `python -m greenio --stall handoff` does. CLIENT is a module beside this one. WHAT it does:

    hundred   its `operations(address)`, a context manager that gives operation(number): about 0.2 s, and checks its answer. Called
              from 100 threads at once, beside a ticker. Prints what there was to see, as JSON.
    NAME      another function of the module: calls it with the address. It ends with an error if something was not right.
"""

import sys

if sys.argv[1] != "threads":
    import greenio.monkey

    if sys.argv[1] == "handoff":
        greenio.enter_run(stall="handoff")
    greenio.monkey.patch_all()

import importlib
import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

COUNT = 100
TICK = 0.001


def hundred(operation: Callable[[int], None]) -> dict[str, Any]:
    """Call operation(0 … 99) from as many threads.

    Returns:
        {seconds: from the first call to the last answer, cpu: the process's meanwhile, together: the most that were under way at one
        time, ticks: of the ticker while all but ten were, gap: its longest pause, os_threads: the process's then, errors: texts}.
    """
    begun = threading.Barrier(COUNT + 1)
    lock = threading.Lock()
    underway = together = ticks = 0
    gap = 0.0
    os_threads = 0
    errors: list[str] = []
    over = threading.Event()

    def call(number: int) -> None:
        nonlocal underway, together
        begun.wait()
        with lock:
            underway += 1
            together = max(together, underway)
        try:
            operation(number)
        except BaseException as error:
            errors.append(f"{number}: {error!r}")
        finally:
            with lock:
                underway -= 1

    def tick() -> None:
        nonlocal ticks, gap, os_threads
        last = time.monotonic()
        while not over.is_set():
            time.sleep(TICK)
            now = time.monotonic()
            if underway:
                gap = max(gap, now - last)
            if underway >= COUNT - 10:
                ticks += 1
                if ticks == 10:
                    os_threads = len(os.listdir("/proc/self/task"))
            last = now

    threads = [threading.Thread(target=call, args=(number,)) for number in range(COUNT)]
    ticker = threading.Thread(target=tick)
    for thread in threads:
        thread.start()
    ticker.start()
    begun.wait()
    from_here, cpu_from_here = time.monotonic(), time.process_time()
    for thread in threads:
        thread.join()
    seconds, cpu = time.monotonic() - from_here, time.process_time() - cpu_from_here
    over.set()
    ticker.join()
    return {
        "seconds": seconds,
        "cpu": cpu,
        "together": together,
        "ticks": ticks,
        "gap": gap,
        "os_threads": os_threads,
        "errors": errors,
    }


def in_parallel(fn: Callable[[int], Any], numbers: range = range(COUNT)) -> list[Any]:
    """[fn(number) for number in numbers], each in a thread: for connections to be made."""
    results: dict[int, Any] = {}
    errors: list[BaseException] = []

    def call(number: int) -> None:
        try:
            results[number] = fn(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[number] for number in numbers]


class raises:
    """As pytest.raises; the exception is its `error`."""

    def __init__(self, *expected: type[BaseException]) -> None:
        self.expected = expected
        self.error: Any = None

    def __enter__(self) -> "raises":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        assert error is not None, f"{self.expected} was not raised"
        self.error = error
        return isinstance(error, self.expected)


def interrupted(fn: Callable[[], Any], seconds: float = 0.1) -> str:
    """Call fn() in a thread of its own, and cancel it as fibers are cancelled; how it ended. Without fibers: "cancelled"."""
    import greenio

    if not greenio.can_park():
        return "cancelled"
    fiber = greenio.spawn(fn)
    time.sleep(seconds)
    assert not fiber.done(), "it ended before it could be cancelled"
    fiber.cancel()
    try:
        fiber.join(10)
        assert fiber.done(), "it was cancelled, and goes on"
    finally:
        fiber.exception() if fiber.done() and not fiber.cancelled() else None
    return "cancelled" if fiber.cancelled() else repr(fiber.exception())


def main() -> None:
    _, _, client, what, *rest = sys.argv
    address = json.loads(rest[0]) if rest else {}
    module = importlib.import_module(client)
    if what != "hundred":
        getattr(module, what)(address)
        print("ok")
        return
    from_here = time.monotonic()
    with module.operations(address) as operation:
        figures = {"preparation": time.monotonic() - from_here, **hundred(operation)}
    print(json.dumps(figures))


if __name__ == "__main__":
    sys.modules["run"] = sys.modules["__main__"]  # for the clients
    main()
