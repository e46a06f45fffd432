"""Fibers by the hundred thousand that sleep, raise, cancel, are cancelled, and run generators inside each other.

    python tests/crash/soak.py --spawns 1000000

The collector runs at every chance it gets. Objects, stacks and resident memory must stay flat; prints "flat", else fails.
"""

import argparse
import contextvars
import gc
import random
import sys
import threading

import greenio
from greenio import debug
from greenio.testing import VirtualClock

variable = contextvars.ContextVar("variable")
local = threading.local()


class Cycle:
    def __init__(self):
        self.myself = self


def generate(depth, numbers):
    if depth == 0:
        if numbers.random() < 0.5:
            greenio.yield_now()
        yield numbers.random()
        return
    for item in generate(depth - 1, numbers):
        if numbers.random() < 0.3:
            greenio.sleep(numbers.random())
        yield item
    yield depth


def work(seed, friends):
    numbers = random.Random(seed)
    variable.set(seed)
    local.seed = seed
    cycle = Cycle()
    cycle.fiber = greenio.current_fiber()
    choice = numbers.random()
    try:
        if choice < 0.3:
            greenio.sleep(numbers.random() * 10)
        elif choice < 0.4:
            raise ValueError(seed)
        elif choice < 0.6:
            list(generate(numbers.randrange(5), numbers))
        elif choice < 0.7:
            [friend.cancel(seed) for friend in friends]
        elif choice < 0.8:
            for friend in friends:
                try:
                    friend.join(timeout=numbers.random() * 3)
                except TimeoutError:
                    pass
        elif choice < 0.85:
            greenio.spawn(work, seed + 1_000_003, []).cancel()
        elif choice < 0.9:
            unfinished = generate(3, numbers)
            next(unfinished)
            cycle.generator = unfinished  # closed by the collector
        elif choice < 0.95:
            sorted(range(5), key=lambda number: greenio.checkpoint() or -number)
        else:
            greenio.spawn(work, seed + 2_000_003, friends).result(timeout=5)
    except (ValueError, TimeoutError) as error:
        cycle.error = error  # a cycle through the traceback
        if choice < 0.35:
            raise
    finally:
        if numbers.random() < 0.2:
            try:
                greenio.sleep(0)
            except greenio.Cancelled:
                pass
        assert variable.get() == seed
        assert local.seed == seed
    return cycle


def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


def measure():
    gc.collect()
    gc.collect()
    return len(gc.get_objects()), debug.stack_stats()["in_use"], resident_bytes()


def main(spawns, seed):
    numbers = random.Random(seed)
    marks = []
    done = 0
    while done < spawns:
        batch = []
        for _ in range(500):
            friends = numbers.sample(batch, min(len(batch), 3))
            batch.append(greenio.spawn(work, numbers.randrange(10**9), friends))
            done += 1
        for fiber in batch:
            fiber.join()
            try:
                fiber.exception()
            except Exception:
                pass
        del batch, fiber, friends
        greenio.sleep(100)
        if done % (spawns // 10 // 500 * 500 or 500) == 0:
            marks.append(measure())
    return marks


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--spawns", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    import logging

    logging.getLogger("greenio").setLevel(logging.CRITICAL)
    gc.set_threshold(1)
    marks = greenio.run(main, options.spawns, options.seed, clock=VirtualClock())
    for mark in marks:
        print(*mark)
    early, late = marks[len(marks) // 2], marks[-1]
    assert late[0] - early[0] < 1200, "objects leak"  # up to 1000 failures are remembered until seen
    assert late[1] == early[1], "stacks leak"
    assert late[2] - early[2] < 8 << 20, "memory leaks"
    print("flat")
    sys.exit(0)
