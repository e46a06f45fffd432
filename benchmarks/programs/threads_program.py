"""The workloads on the standard library's threads, as far as those yield to order."""

import threading
import time

from ._program import Census, Figures, lateness_of, park_three_deep, run_program, timed


def spawn(count: int) -> Figures:
    def nothing() -> None:
        pass

    start_ns = time.perf_counter_ns()
    for _ in range(count):
        thread = threading.Thread(target=nothing)
        thread.start()
        thread.join()
    return timed(count, start_ns)


def lateness(count: int) -> Figures:
    return lateness_of(time.sleep, count)


def memory(fibers: int) -> Figures:
    gate = threading.Event()
    census = Census(fibers)
    parked = [threading.Thread(target=park_three_deep, args=(census, gate.wait)) for _ in range(fibers)]
    for thread in parked:
        thread.start()
    while not census.complete:
        time.sleep(0.001)
    time.sleep(0.1)  # From the count to the wait it is a few bytecodes more.
    census.weigh()
    gate.set()
    for thread in parked:
        thread.join()
    return census.figures()


def lock(count: int) -> Figures:
    lock = threading.Lock()
    start_ns = time.perf_counter_ns()
    for _ in range(count):
        lock.acquire()
        lock.release()
    return timed(count, start_ns)


if __name__ == "__main__":
    run_program(spawn, lateness, memory, lock)
