"""Fibers that are switched out at random, some thousands of times a second: `preempted.py PREEMPTIONS [SECONDS]`. Prints "ok".

Each works at something whose state the interpreter keeps per thread, or in C below a call back, and checks it all the time.
"""

import contextvars
import functools
import gc
import json
import re
import sys
import threading
import time
import weakref

import greenio
from greenio import _slices

WANTED = int(sys.argv[1])
PATIENCE = float(sys.argv[2]) if sys.argv[2:] else 20.0  # seconds
variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
local = threading.local()
lock = threading.Lock()
rlock = threading.RLock()
shared = [0]
rounds: dict[str, int] = {}
refusals = [0]


def worker(fn):
    @functools.wraps(fn)
    def work(number):
        while not over.is_set():
            try:
                fn(number)
            except BaseException:
                over.set()
                raise
            rounds[fn.__name__] = rounds.get(fn.__name__, 0) + 1

    workers.append(work)
    names.add(fn.__name__)
    return work


workers = []
names = set()
over = greenio.Event()


def raise_and_look(kind, *arguments):
    """Whether the exception that is handled is the one that was raised here, with what was handled before as its context."""
    before = sys.exc_info()[1]
    try:
        raise kind(*arguments)
    except kind as error:
        for _ in range(5):
            if sys.exc_info()[1] is not error or error.__context__ is not before or error.args != arguments:
                return False
        inside = kind is ValueError or raise_and_look(ValueError, *arguments)
        return inside and sys.exc_info()[1] is error
    finally:
        lost.extend([kind] * (sys.exc_info()[1] is not before))


lost = []


@worker
def handled_exceptions(number):
    for index in range(50):
        assert raise_and_look(KeyError, number, index)
    assert not lost


@worker
def generators(number):
    def numbers(count):
        try:
            for index in range(count):
                assert (yield number * 1000 + index) == index
        finally:
            ends.append(number)

    def nested(count):
        yield from numbers(count)

    ends = []
    generator = nested(100)
    assert next(generator) == number * 1000
    for index in range(60):
        assert generator.send(index) == number * 1000 + index + 1
    generator.close()
    assert ends == [number]


@worker
def calls_back_from_c(number):
    def key(depth, value):
        if depth:
            return max(sorted([value, value - 1], key=functools.partial(key, depth - 1)))
        return value

    assert sorted(range(20, 0, -1), key=functools.partial(key, 3)) == list(range(1, 21))
    assert re.sub(r"\d+", lambda match: str(int(match[0]) + number), "1 22 333 " * 20).startswith(
        f"{1 + number} {22 + number} "
    )
    text = json.dumps({"a": [number] * 30}, default=str, indent=1)
    assert json.loads(text, object_hook=lambda found: {**found, "b": 1}) == {"a": [number] * 30, "b": 1}


@worker
def thread_and_context_variables(number):
    variable.set(number)
    local.value = number
    for index in range(200):
        assert variable.get() == number
        assert local.value == number
        assert contextvars.copy_context().run(lambda value: [variable.set(value), variable.get()][1], index) == index


@worker
def recursion(number):
    def depth(levels):
        return 1 + depth(levels - 1) if levels else 0

    def without_end():
        return without_end() + 1

    assert depth(300) == 300
    try:
        without_end()
    except RecursionError:
        pass
    else:
        raise AssertionError("recursed for ever")


class Node:
    def __init__(self):
        self.me = self
        self.table = {index: str(index) for index in range(5)}

    def __del__(self):
        assert len(self.table) == 5
        for _ in range(20):
            pass


@worker
def garbage(number):
    seen = []
    node = Node()
    weakref.finalize(node, seen.append, number)
    del node
    gc.collect(0)


@worker
def standard_locks(number):
    for _ in range(50):
        with lock:
            before = shared[0]
            for _ in range(10):
                pass
            shared[0] = before + 1
            assert shared[0] == before + 1
        with rlock, rlock:
            assert shared[0] >= before


@worker
def atomic_blocks(number):
    for _ in range(50):
        before = greenio.current_scheduler().switch_count
        with greenio.atomic():
            inside = greenio.current_scheduler().switch_count
            for _ in range(50):
                pass
            with greenio.atomic():
                pass
            assert greenio.current_scheduler().switch_count == inside
        assert greenio.current_scheduler().switch_count >= before


@worker
def traced(number):
    lines = []

    def trace(frame, event, argument):
        if frame.f_code is three_lines.__code__:  # not of what the garbage collector calls in between
            lines.append(number)
        return trace

    def three_lines():
        a = number
        b = a + 1
        return a + b

    sys.settrace(trace)
    three_lines()
    three_lines()
    sys.settrace(None)
    assert lines == [number] * 10, len(lines)


@worker
def waits(number):
    channel = greenio.Channel(1)
    fiber = greenio.spawn(lambda: [channel.send(index) for index in range(20)])
    assert [channel.receive() for _ in range(20)] == list(range(20))
    fiber.join()
    with greenio.move_on_after(0.0005) as scope:
        while True:
            greenio.checkpoint()
    assert scope.cancelled_caught
    greenio.sleep(0.0001)


@worker
def imports(number):
    sys.modules.pop("this_is_not", None)
    for name in ("colorsys", "sndhdr_of_nowhere"):
        sys.modules.pop(name, None)
        try:
            __import__(name)
        except ImportError:
            refusals[0] += 1


def main():
    gc.set_threshold(1)
    _slices.begin(greenio.current_scheduler(), 0.00005)
    before = _slices.statistics()[0]
    with greenio.TaskGroup() as group:
        for index, work in enumerate(workers * 2):
            group.spawn(work, index)
        started = time.monotonic()
        while _slices.statistics()[0] - before < WANTED and time.monotonic() - started < PATIENCE:
            greenio.sleep(0.01)
        over.set()
    done, held = _slices.statistics()
    _slices.end(greenio.current_scheduler())
    gc.set_threshold(700)
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is Node]
    assert set(rounds) == names, rounds
    assert refusals[0] > 0 or "imports" not in names
    print(done - before, "preemptions,", held, "held off in", round(time.monotonic() - started, 1), "s", rounds)
    assert done - before >= WANTED or time.monotonic() - started >= PATIENCE
    return done - before


if __name__ == "__main__":
    assert greenio.run(main, stall="off") > 100
    print("ok")
