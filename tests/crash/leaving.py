"""How a process ends whose fibers have not: leaving.py CASE. What must be printed is in tests/test_switch.py."""

import atexit
import sys
import threading


def say(text: str) -> None:
    print(text, flush=True)


atexit.register(say, "atexit")  # before greenio's own, so it runs after that

import greenio  # noqa: E402
from greenio import run, sleep, spawn  # noqa: E402

FOR_EVER = float("inf")


def wait(text: str = "finally") -> None:
    try:
        sleep(FOR_EVER)
    finally:
        say(text)


def daemon_thread() -> None:
    """The interpreter exits while another OS thread's run goes on; its fibers' blocks run before earlier atexit handlers."""
    begun = threading.Event()

    def main() -> None:
        for number in range(3):
            spawn(wait, f"finally {number}")
        greenio.yield_now()
        begun.set()
        sleep(FOR_EVER)

    threading.Thread(target=run, args=(main,), daemon=True).start()
    begun.wait()


def after_main_run() -> None:
    def main() -> None:
        spawn(wait)
        greenio.yield_now()

    run(main)
    say("run ended")


def exit_in_fiber() -> None:
    def main() -> None:
        spawn(wait)
        spawn(sys.exit, 5)
        wait("finally of main")

    run(main)


def exit_in_main() -> None:
    def main() -> None:
        spawn(wait)
        greenio.yield_now()
        sys.exit(6)

    run(main)


def unhandled() -> None:
    def main() -> None:
        spawn(wait)
        greenio.yield_now()
        raise KeyError("nobody catches it")

    run(main)


def generator_at_exit() -> None:
    """A generator that a fiber began outlives the run and is closed by the interpreter's end, its thread state gone."""

    def numbers():  # type: ignore[no-untyped-def]
        try:
            yield 1
            yield 2
        finally:
            say("generator closed")

    global kept
    kept = numbers()
    run(lambda: spawn(next, kept).result())


def spawn_at_exit() -> None:
    """An atexit handler may run fibers."""
    atexit.register(run, lambda: spawn(say, "fiber at exit").result())
    run(lambda: spawn(greenio.yield_now).result())


globals()[sys.argv[1]]()
