"""The workloads on bare greenlets, as far as they need no scheduler."""

import time

from greenlet import getcurrent, greenlet

from ._program import Census, Figures, Lap, nested, park_three_deep, run_program, timed


def switch(fibers: int, depth: int, yields: int) -> Figures:
    lap = Lap()
    main = getcurrent()

    def member(index: int) -> None:
        switch_to_next = ring[(index + 1) % fibers].switch

        def loop() -> None:
            main.switch()
            if index == 0:
                lap.mark()
            for _ in range(yields):
                switch_to_next()
            if index == 0:
                lap.mark()

        nested(depth, loop)

    ring = [greenlet(member) for _ in range(fibers)]
    # Each is started from main, as a hub starts them.  Started from each other they would lie one
    # below the other on the C stack, and half of the copying would not show.
    for index, fiber in enumerate(ring):
        fiber.switch(index)
    ring[0].switch()  # Until the first member has ended and so returned to main.
    return lap.figures(fibers * yields)


def spawn(count: int) -> Figures:
    def nothing() -> None:
        pass

    start_ns = time.perf_counter_ns()
    for _ in range(count):
        greenlet(nothing).switch()
    return timed(count, start_ns)


def memory(fibers: int) -> Figures:
    census = Census(fibers)
    back_to_main = getcurrent().switch
    parked = [greenlet(park_three_deep) for _ in range(fibers)]
    for fiber in parked:
        fiber.switch(census, back_to_main)
    census.weigh()
    for fiber in parked:
        fiber.switch()
    return census.figures()


if __name__ == "__main__":
    run_program(switch, spawn, memory)
