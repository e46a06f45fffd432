"""Forking: fork.py CASE. The child goes on with the fiber that forked and no other; parent and child each check, then "ok"."""

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from typing import Any

from greenio import current_fiber, debug, on_big_stack, run, sleep, spawn, yield_now

idents: list[Any] = []


def fork_and_check() -> bool:
    """Whether this is the child."""
    me = current_fiber()
    before = me.ident
    pid = os.fork()
    assert me.ident == before, "the same ident again, in both"
    assert me.ident in sys._current_frames()
    if pid:
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, status
        return False
    assert debug.fibers() == [me]
    assert set(sys._current_frames()) == {me.ident}
    return True


def work_in_child() -> None:
    """New fibers of every size that was pooled run in the child as anywhere, on new thread states."""
    for size in (None, 8 * 1024 * 1024, 1024 * 1024):
        fibers = [spawn(busy, stack_size=size) for _ in range(5)]
        sleep(0.001)
        assert [fiber.result() for fiber in fibers] == [45] * 5
    on_big_stack(yield_now)


def busy() -> int:
    total = 0
    for number in range(10):
        yield_now()
        total += number
    return total


def wait(held: object) -> None:
    try:
        sleep(float("inf"))
    finally:
        idents.append(os.getpid())


def others() -> None:
    """Parked fibers, some on a second stack, and pooled stacks of every size: what the child must not touch."""
    work_in_child()
    for _ in range(5):
        spawn(wait, object())
        spawn(on_big_stack, wait, object())
    for _ in range(3):
        yield_now()


def in_fiber() -> None:
    def work() -> bool:
        child = fork_and_check()
        if child:
            work_in_child()
        return child

    def main() -> None:
        others()
        assert spawn(work).result() is False, "the child ends with the fiber that forked"

    run(main)
    assert idents == [os.getpid()] * 10


def in_main() -> None:
    def main() -> bool:
        others()
        child = fork_and_check()
        work_in_child()
        return child

    child = run(main)
    assert idents == ([] if child else [os.getpid()] * 10)
    run(work_in_child)


def in_big_stack() -> None:
    def work() -> None:
        ident = current_fiber().ident
        child = on_big_stack(on_big_stack, fork_and_check)
        assert current_fiber().ident == ident
        work_in_child() if child else yield_now()

    def main() -> None:
        others()
        spawn(work).result()
        spawn(work).result()

    run(main)


def in_big_stack_of_main() -> None:
    def main() -> None:
        others()
        on_big_stack(on_big_stack, fork_and_check)
        work_in_child()

    run(main)


def without_run() -> None:
    run(lambda: [others(), spawn(yield_now).result()])
    pid = on_big_stack(os.fork)
    run(work_in_child)
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def again_in_the_child() -> None:
    def work(depth: int) -> None:
        if fork_and_check():
            work_in_child()
            if depth:
                spawn(work, depth - 1).result()

    def main() -> None:
        others()
        spawn(work, 3).result()

    run(main)


def signal_in_the_child() -> None:
    """A computing fiber of the child hears of a signal, and so does the fiber that forked."""
    handled: list[Any] = []
    signal.signal(signal.SIGUSR1, lambda *_: handled.append(current_fiber()))

    def compute() -> None:
        count = len(handled)
        ctypes.CDLL(None).kill(os.getpid(), signal.SIGUSR1)
        while len(handled) == count:
            pass
        assert handled[-1] is current_fiber()

    def work() -> None:
        if fork_and_check():
            compute()
            for _ in range(3):
                spawn(compute).result()

    def main() -> None:
        others()
        spawn(work).result()
        sleep(0.001)  # the monitor starts again when the scheduler looks around
        spawn(compute).result()
        if fork_and_check():
            spawn(compute).result()

    run(main)


def exit_of_the_child() -> None:
    """What an interpreter does at its end: threads joined, atexit, output flushed, the status of SystemExit or of a traceback."""

    def work(how: str) -> None:
        pid = os.fork()
        if pid:
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            return
        atexit.register(os.write, written, b"atexit ")
        threading.Thread(target=lambda: (time.sleep(0.01), os.write(written, b"thread "))).start()
        sys.stdout = os.fdopen(written, "w", closefd=False)
        print("unflushed", end=" ")
        if how == "exit":
            sys.exit(7)
        if how == "raise":
            sys.stderr = sys.stdout
            raise KeyError("the child's")

    statuses: list[int] = []
    read, written = os.pipe()
    run(lambda: [spawn(work, how).result() for how in ("return", "exit", "raise")])
    os.close(written)
    text = os.read(read, 10_000).decode()
    assert statuses == [0, 7, 1], statuses
    # The third child's traceback comes before its thread has ended.
    assert text.startswith("thread atexit unflushed thread atexit unflushed "), text
    assert [text.count(word) for word in ("thread ", "atexit ", "unflushed", 'KeyError: "the child\'s"')] == [
        3,
        3,
        3,
        1,
    ], text


globals()[sys.argv[1]]()
print("ok")
