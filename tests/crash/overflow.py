"""Recurse through C in fibers until the stack ends, in each of the styles named, and tell what came of it.

    overflow.py MODE STACK_BYTES STYLE...

MODE: "spawn" (a fiber with stack_size=STACK_BYTES; 0: the default), "again" (all styles in one fiber, which does not park in
between, and keeps the errors), "big" (on_big_stack in a fiber). Each style gives a line "begin STYLE" and a line
"end STYLE OUTCOME", the outcome being an exception's name, "returned", or "broken: ..." when something was not as before.
"""

import faulthandler
import json
import os
import resource
import sys
import threading
import traceback
import warnings

sys.path.insert(0, os.path.dirname(__file__))

import recursion_styles

import greenio
import greenio.debug

KEPT = []


class Neighbour:
    """A fiber that stands deep in Python and C, and sees whether anything of that has changed."""

    def __init__(self, stack_size):
        self.go_on = True
        self.problem = None
        self.fiber = greenio.spawn(self.run, stack_size=stack_size)

    def run(self):
        rows = [{"text": str(number) * 50, "number": number} for number in range(50)]
        before = json.dumps(rows)

        def deeper(depth):
            local = object()
            if depth == 0:
                while self.go_on:
                    greenio.yield_now()
                return local
            mine = [depth, local]
            sorted([depth], key=lambda _: deeper(depth - 1))
            if mine[0] != depth or mine[1] is not local:
                self.problem = f"locals at depth {depth} have changed"
            return local

        deeper(5)
        if json.dumps(rows) != before:
            self.problem = "data has changed"

    def end(self):
        self.go_on = False
        self.fiber.join()
        if self.fiber.exception() is not None:
            return repr(self.fiber.exception())
        return self.problem


def python_levels():
    """How many Python calls deep this fiber may go from here."""

    def recurse(depth):
        nonlocal levels
        levels = depth
        recurse(depth + 1)

    levels = 0
    try:
        recurse(1)
    except RecursionError:
        pass
    return levels


def c_levels():
    """How deep a list may be nested for json, here."""
    low, high = 1, 20_000
    while high - low > 1:
        middle = (low + high) // 2
        try:
            json.loads("[" * middle + "]" * middle)
        except RecursionError:
            high = middle
        else:
            low = middle
    return low


def outcome_of(name):
    try:
        recursion_styles.STYLES[name]()
    except (RecursionError, MemoryError) as error:
        return type(error).__name__, error
    except ValueError as error:  # the marshaller's and the parser's own limits
        return type(error).__name__, error
    except RuntimeError as error:  # 3.11 wraps those out of __set_name__
        cause = error
        while type(cause) is RuntimeError:
            cause = cause.__cause__
        return type(cause).__name__, error
    except SyntaxError as error:
        return type(error).__name__, error
    return "returned", None


def recurse_once(name, call):
    levels = python_levels(), c_levels()
    greenio.yield_now()
    outcome, _ = call(outcome_of, name)
    greenio.yield_now()
    overflowing = greenio.debug.stack_stats()["overflowing"]
    if overflowing:
        return f"broken: {overflowing} yellow zones are open after a park"
    after = python_levels(), c_levels()
    # 3.14 measures C recursion by the stack, which differs by some bytes.
    if after[0] != levels[0] or abs(after[1] - levels[1]) > levels[1] // 50:
        return f"broken: (Python, C) levels were {levels} before, and {after} afterwards"
    return outcome


def with_neighbours(name, stack_size, call):
    """The victim's slot lies between two others in use."""
    before = Neighbour(stack_size)
    victim = greenio.spawn(recurse_once, name, call, stack_size=stack_size)
    after = Neighbour(stack_size)
    victim.join()
    problems = [problem for problem in (before.end(), after.end()) if problem is not None]
    if problems:
        return f"broken: neighbour: {problems[0]}"
    if victim.exception() is not None:
        traceback.print_exception(victim.exception(), limit=-5, chain=False)
        return f"broken: {victim.exception()!r}"
    return victim.result()


def recurse_again(names):
    for name in names:
        print("begin", name, flush=True)
        outcome, error = outcome_of(name)
        KEPT.append(error)
        print("end", name, outcome, flush=True)


def main(mode, stack_size, names):
    if os.environ.get("GREENIO_TEST_FAULTHANDLER") == "during":
        faulthandler.enable()
    if mode == "again":
        greenio.spawn(recurse_again, names, stack_size=stack_size).result()
        return
    call = greenio.on_big_stack if mode == "big" else lambda function, *args: function(*args)
    for name in names:
        print("begin", name, flush=True)
        print("end", name, with_neighbours(name, stack_size, call), flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")  # SyntaxWarnings of what the styles compile
    sys.unraisablehook = lambda info: None  # what destructors could not do
    if os.environ.get("GREENIO_TEST_FAULTHANDLER") == "before":
        faulthandler.enable()
    if limit := os.environ.get("GREENIO_TEST_RECURSION_LIMIT"):
        sys.setrecursionlimit(int(limit))
    arguments = sys.argv[1], int(sys.argv[2]) or None, sys.argv[3:]
    if os.environ.get("GREENIO_TEST_THREAD"):
        thread = threading.Thread(target=greenio.run, args=(main, *arguments))
        thread.start()
        thread.join()
    else:
        greenio.run(main, *arguments)
    print("all done", flush=True)
