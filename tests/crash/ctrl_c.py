"""Ctrl-C while fibers compute: ctrl_c.py CASE. Says "ready" when the signal may come; ends with "interrupted" and what it found.

Each case would go on for a minute by itself, so that one that does not hear of the signal is told from one that does.
"""

import sys
import time

import greenio
from greenio import run, spawn, yield_now

PATIENCE = 40  # seconds; whoever computes for so long was not interrupted


def say(text: str) -> None:
    print(text, flush=True)


def compute() -> None:
    say("ready")
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for _ in range(1000):
            pass
    say("not interrupted")


def fiber() -> None:
    """A fiber computes, main waits for it: raised in the fiber, unhandled there, main's and run's end."""
    order = []

    def work() -> None:
        try:
            compute()
        except KeyboardInterrupt:
            order.append("fiber")
            raise

    def main() -> None:
        other = spawn(greenio.sleep, float("inf"))
        try:
            spawn(work).join()
        finally:
            order.append("main")
            other.cancel()

    try:
        run(main)
    except KeyboardInterrupt:
        assert order == ["fiber", "main"], order
        say("interrupted")


def catches() -> None:
    """The computing fiber catches it: nobody else hears of it, and the run goes on."""

    def work() -> str:
        try:
            compute()
        except KeyboardInterrupt:
            return "interrupted"
        return "not interrupted"

    def main() -> None:
        computing = spawn(work)
        text = computing.result()
        for _ in range(200):
            yield_now()
        say(text)

    run(main)


def main_fiber() -> None:
    def main() -> None:
        spawn(greenio.sleep, float("inf"))
        try:
            compute()
        except KeyboardInterrupt:
            say("interrupted")

    run(main)


def switching() -> None:
    """Many fibers that switch all the time, none for long."""
    ended = []

    def work() -> None:
        end = time.monotonic() + PATIENCE
        try:
            while time.monotonic() < end:
                yield_now()
        finally:
            ended.append(sys.exc_info()[0])

    def main() -> None:
        fibers = [spawn(work) for _ in range(100)]
        for _ in range(10):
            yield_now()
        say("ready")
        for each in fibers:
            each.join()
        say("not interrupted")

    try:
        run(main)
    except KeyboardInterrupt:
        assert len(ended) == 100
        assert set(ended) <= {KeyboardInterrupt, greenio.Cancelled}, set(ended)
        say("interrupted")


def parked() -> None:
    """Nobody runs: main gets it at once, whoever hosts the idle loop."""

    def main() -> None:
        fibers = [spawn(greenio.sleep, PATIENCE) for _ in range(3)]
        spawn(say, "ready")
        for each in fibers:
            each.join()
        say("not interrupted")

    try:
        run(main)
    except KeyboardInterrupt:
        say("interrupted")


def after_run() -> None:
    """A run that ended leaves signals as they were."""
    run(lambda: [spawn(yield_now).result() for _ in range(3)])
    try:
        compute()
    except KeyboardInterrupt:
        say("interrupted")


def in_thread() -> None:
    """A run on another OS thread computes; the main OS thread, without fibers, is the one that is interrupted."""
    import threading

    stop = []

    def work() -> None:
        while not stop:
            yield_now()

    thread = threading.Thread(target=run, args=(lambda: spawn(work).result(),))
    thread.start()
    try:
        compute()
    except KeyboardInterrupt:
        stop.append(True)
        thread.join()
        say("interrupted")


globals()[sys.argv[1]]()
