"""One figure of benchmarks.contention, as JSON: `contend.py KIND INTERVAL_MS SECONDS`, in a process of its own.

    switches  switches/s of two fibers that do nothing else, alone and beside one OS thread that computes
    work      the same with 20 µs of work in each turn, and the fibers' share of the time
    threads   steps/s of two OS threads in pure Python beside a run whose fibers wait: what a shorter interval costs them

A second is one of processor time of the OS threads that take part, so that other processes count for little. One at
a time has the GIL: on an idle machine it is the clock's, but for the moments in which the GIL changes hands.
"""

import json
import sys
import threading
import time

import greenio

WORK_US = 20.0


def work_for(loops: int) -> None:
    for _ in range(loops):
        pass


def loops_of(microseconds: float) -> int:
    """How many of work_for's loops that takes, from the best of several."""
    best = min(timed(100_000) for _ in range(5))
    return max(1, int(100_000 * microseconds * 1e-6 / best))


def timed(loops: int) -> float:
    start = time.perf_counter()
    work_for(loops)
    return time.perf_counter() - start


def turns_and_seconds(loops: int, seconds: float) -> tuple[float, float]:
    """Two fibers take turns until the time is up: their turns, and this OS thread's processor time."""
    counts = [0, 0]
    ends = time.perf_counter() + seconds

    def turn(index: int) -> None:
        yield_now, now = greenio.yield_now, time.perf_counter
        many = 1 if loops else 20
        while now() < ends:
            for _ in range(many):
                work_for(loops)
                yield_now()
            counts[index] += many

    start = time.thread_time()
    fibers = [greenio.spawn(turn, index) for index in range(2)]
    for fiber in fibers:
        fiber.join()
    return sum(counts), time.thread_time() - start


def beside_a_computing_thread(loops: int, seconds: float) -> dict[str, float]:
    over = threading.Event()
    theirs: list[float] = []

    def compute() -> None:
        while not over.is_set():
            work_for(1000)
        theirs.append(time.thread_time())

    alone, ours = turns_and_seconds(loops, seconds)
    alone /= ours
    thread = threading.Thread(target=compute)
    thread.start()
    turns, ours = turns_and_seconds(loops, seconds)
    over.set()
    thread.join()
    both = ours + theirs[0]
    return {"alone": alone, "beside": turns / both, "share": ours / both}


def two_computing_threads(seconds: float) -> dict[str, float]:
    counts = [0, 0]
    taken = [0.0, 0.0]
    start = time.perf_counter()

    def compute(index: int) -> None:
        while time.perf_counter() < start + seconds:
            work_for(1000)
            counts[index] += 1000
        taken[index] = time.thread_time()

    threads = [threading.Thread(target=compute, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        greenio.sleep(0.01)
    return {"steps": sum(counts) / sum(taken)}


def main(kind: str, seconds: float) -> dict[str, float]:
    if kind == "threads":
        return two_computing_threads(seconds)
    return beside_a_computing_thread(loops_of(WORK_US) if kind == "work" else 0, seconds)


if __name__ == "__main__":
    kind, interval_ms, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    print(json.dumps(greenio.run(main, kind, seconds, switch_interval=interval_ms / 1000)))
