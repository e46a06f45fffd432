"""Recursion until something gives: recursion.py CASE [ARGUMENT]. Each recursion must end in RecursionError, never in a crash.

A fiber's C stack is small, so what stops C code is made for its size: see the row of the version in greenio/pystate/.
"""

import functools
import json
import pickle
import re
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from greenio import on_big_stack, run, spawn, yield_now

DEEP = 150_000


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


deep = nested(DEEP)
twins = [(one, nested(0)) for one in [nested(0)]]
for _ in range(DEEP):
    twins.append(([twins[-1][0]], [twins[-1][1]]))


def fails(function: Callable[..., Any], *arguments: Any) -> None:
    """It raises RecursionError, three times over, and the stack is good again after each."""
    for _ in range(3):
        try:
            function(*arguments)
        except RecursionError:
            pass
        else:
            raise AssertionError(f"{function} did not raise")
        assert repr(nested(20)) == "[" * 21 + "]" * 21
        assert json.loads(json.dumps(nested(20))) == nested(20)
        yield_now()


def depth() -> int:
    """How deep two lists may be for ==, which takes C stack and little else."""
    low, high = 0, DEEP
    while high - low > 1:
        middle = (low + high) // 2
        try:
            assert twins[middle][0] == twins[middle][1]
        except RecursionError:
            high = middle
        else:
            low = middle
    return low


def through_max() -> Any:
    return max([1], key=lambda _: through_max())


def through_sorted() -> Any:
    return sorted([1], key=lambda _: through_sorted())


def through_reduce() -> Any:
    return functools.reduce(lambda *_: through_reduce(), (1, 2))


def through_sub() -> Any:
    return re.sub("a", lambda _: through_sub(), "a")


def through_generators() -> Any:
    def one() -> Any:
        yield from one()

    return next(one())


class Repeats:
    def __repr__(self) -> str:
        return repr(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self, name + "x"[len(name) % 2 :])

    def __format__(self, text: str) -> str:
        return format(self, text)


WAYS: dict[str, Callable[[], None]] = {
    "repr": lambda: fails(repr, deep),
    "json": lambda: fails(json.dumps, deep),
    "equal": lambda: fails(lambda: twins[-1][0] == twins[-1][1]),
    "pickle": lambda: fails(pickle.dumps, deep),
    "max": lambda: fails(through_max),
    "sorted": lambda: fails(through_sorted),
    "reduce": lambda: fails(through_reduce),
    "sub": lambda: fails(through_sub),
    "generators": lambda: fails(through_generators),
    "dunder_repr": lambda: fails(repr, Repeats()),
    "dunder_getattr": lambda: fails(getattr, Repeats(), "x"),
    "dunder_format": lambda: fails(format, Repeats(), ""),
    "loads": lambda: fails(json.loads, "[" * DEEP + "]" * DEEP),
}


def fiber(stack_bytes: str) -> None:
    """Every way, one after the other in fibers of this size; a bystander lives on. The interpreter's own limit is out of the way."""
    sys.setrecursionlimit(20_000)

    def main() -> None:
        bystander = spawn(lambda: [yield_now() for _ in range(5)])
        for way in WAYS.values():
            spawn(way, stack_size=int(stack_bytes)).result()
        both = [spawn(WAYS["repr"]), spawn(WAYS["json"]), spawn(WAYS["max"])]
        for each in both:
            each.result()
        bystander.result()

    run(main)


def depths() -> None:
    """What a stack holds grows with its size, up to what the interpreter gives an OS thread (debug builds of 3.12 and 3.13: 500 calls).

    On CPython 3.11 C depth is not checked: the recursion limit is.
    """
    most = depth()

    def main() -> None:
        found = [spawn(depth, stack_size=size * 1024).result() for size in (128, 256, 512, 1024)]
        found.append(spawn(on_big_stack, depth).result())
        own = [spawn(depth, stack_size=size * 1024).result() for size in (128, 256, 512, 1024)]
        print(found)
        assert found[:4] == own, "whatever ran before on the stack"
        if sys.version_info >= (3, 12):
            assert all(one < other or other >= most - 5 for one, other in pairwise(found[:4])), (found, most)
            assert found[4] >= found[3], found

    run(main)


def big_stack(where: str) -> None:
    def outer() -> None:
        first = on_big_stack(depth)
        assert abs(depth() - first) < 100, "a call inside, come back, leaves the outer one as it was"

    def work() -> None:
        before = depth()
        on_big_stack(outer)
        deeper = on_big_stack(depth)
        assert deeper >= before - 5 or where != "fiber", (before, deeper)
        try:
            on_big_stack(json.dumps, deep)
        except RecursionError:
            pass
        else:
            raise AssertionError("no RecursionError")
        assert depth() == before, "as before, on its own stack"

    if where == "fiber":
        run(lambda: [each.result() for each in [spawn(work) for _ in range(3)]])
    elif where == "main":
        run(work)
    elif where == "thread":
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    elif where == "plain":
        work()
    elif where == "run_inside":
        on_big_stack(run, lambda: [work(), spawn(work).result()])
        work()


globals()[sys.argv[1]](*sys.argv[2:])
print("ok")
