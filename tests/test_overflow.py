"""A fiber whose C stack ends: RecursionError where the interpreter can be made to raise it, a report where it cannot.

What recurses runs in child processes: tests/crash/overflow.py, in the styles of tests/crash/recursion_styles.py. One child goes
through many styles; one that ends it is named, and another child takes the rest. The C layer alone is in test_stack.py.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CRASH = HERE / "crash"
REPORT = "greenio: C stack overflow: "
SEGMENTATION_FAULT = "Fatal Python error: Segmentation fault"
HAS_YELLOW = sys.version_info < (3, 14)
SMALLEST = 64 * 1024 if HAS_YELLOW else 128 * 1024

STYLES = re.findall(
    r'^@style\ndef (\w+)\(|^special\("__(\w+)__"', (CRASH / "recursion_styles.py").read_text(), re.MULTILINE
)
STYLES = [name or f"{special}_method" for name, special in STYLES]

# C code of CPython that recurses without asking the interpreter: a thread's 8 MiB end, too, if it goes deep enough.
NEVER_ASKS = {"chain_next", "map_next", "yield_from_throw"}
# C code with a limit of its own for any stack: the marshaller's 2,000 levels, and before 3.14 the parser's 6,000 and the
# compiler's three times the recursion limit. It wants on_big_stack.
COUNTS_ALONE = {"marshal_dumps", "marshal_loads"}
if HAS_YELLOW:
    NEVER_ASKS |= {
        "hash_of_tuples",
        "methods_freed",
        "generators_freed",
        "started_generators_freed",
        "element_deepcopy",
    }
    COUNTS_ALONE |= {name for name in STYLES if name.startswith(("compile_", "ast_"))}
OWN_LIMITS = ("RecursionError", "MemoryError", "ValueError", "SyntaxError", "returned")
MAY_END_THE_PROCESS = NEVER_ASKS | COUNTS_ALONE
ASKS = [name for name in STYLES if name not in MAY_END_THE_PROCESS]
# Whether these get to the end depends on the version.
ANYTHING_GOES = ("import_of_imports", "re_compile", "element_to_text", "partial_of_partials")
# One of each kind, for the many ways of setting things up.
CHOSEN = [
    "python_only", "sorted_key", "max_key", "cmp_to_key", "re_sub", "getattr_method", "repr_method", "eq_method", "property_getter",
    "exec_", "yield_from", "import_of_imports", "json_loads", "json_dumps", "pickle_dumps", "deepcopy", "repr_of_lists",
    "isinstance_of_tuples", "lists_freed", "objects_freed",
]  # fmt: skip


def child(arguments, *, options=(), **environment):
    return subprocess.run(
        [sys.executable, *options, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HERE.parent), "PYTHONUNBUFFERED": "1", **environment},
    )


def outcomes(styles, mode="spawn", stack_bytes=0, **how):
    """{style: (outcome, standard error of the child it died in, or "")}, the outcome "died" for one that ended its process."""
    found = {}
    left = list(styles)
    while left:
        ended = child([CRASH / "overflow.py", mode, stack_bytes, *left], **how)
        words = [line.split(maxsplit=2) for line in ended.stdout.splitlines()]
        begun = [line[1] for line in words if line[0] == "begin"]
        found.update({line[1]: (line[2], "") for line in words if line[0] == "end"})
        if ended.returncode == 0:
            assert ["all", "done"] in words, ended.stderr
            assert set(left) <= set(found)
            found["standard error"] = ended.stderr
            break
        assert begun, ended.stderr
        assert begun[-1] not in found, f"the end of the process failed: {ended.stderr}"
        assert ended.returncode == -signal.SIGSEGV, f"{begun[-1]}: {ended.returncode}: {ended.stderr}"
        found[begun[-1]] = "died", ended.stderr
        left = left[left.index(begun[-1]) + 1 :]
    return found


def check_none_died(found, styles):
    bad = {name: found[name] for name in styles if found[name][0] not in ("RecursionError", "MemoryError", "returned")}
    assert not bad


def check_report(stderr, stack_bytes=262144, fiber=r"\d+"):
    assert stderr.count(REPORT) == 1, stderr
    report = re.search(
        re.escape(REPORT)
        + r"a fiber hit the guard of its stack \((\d+) bytes usable; see stack_size= of run and spawn, and "
        rf"on_big_stack\)\nFiber {fiber}( \(.*\))?:\nStack \(most recent call first\):\n  File \".*\", line \d+ in \w+\n",
        stderr,
    )
    assert report, stderr
    assert int(report[1]) == stack_bytes


@pytest.fixture(scope="module")
def in_default_stacks():
    return outcomes(STYLES)


@pytest.mark.slow
@pytest.mark.parametrize("style", ASKS)
def test_recursion_raises_and_all_is_as_before(in_default_stacks, style):
    # The script checks neighbours, the closed zone, and that as many Python and C levels are there as were.
    outcome, stderr = in_default_stacks[style]
    if style.endswith("_freed") or style in ("del_method", "ctypes_callback", "weakref_callback", "element_from_text"):
        assert outcome in ("RecursionError", "returned"), stderr
    elif style.startswith(("compile_", "ast_", "eval_")) or style in ANYTHING_GOES:
        assert outcome in ("RecursionError", "MemoryError", "returned"), stderr
    else:
        assert outcome == "RecursionError", stderr


@pytest.mark.slow
@pytest.mark.parametrize("style", sorted(MAY_END_THE_PROCESS))
def test_recursion_that_does_not_ask_raises_or_is_reported(in_default_stacks, style):
    outcome, stderr = in_default_stacks[style]
    if outcome == "died":
        check_report(stderr)
    else:
        assert outcome in OWN_LIMITS, stderr


@pytest.mark.slow
@pytest.mark.parametrize("style", sorted(COUNTS_ALONE))
def test_what_counts_alone_fits_a_big_stack(style):
    found = outcomes([style], mode="big")
    assert found[style][0] in OWN_LIMITS, found


@pytest.mark.slow
@pytest.mark.parametrize("kib", [64, 128, 256, 1024])
def test_stack_size_of_spawn(kib):
    if kib * 1024 < SMALLEST:
        pytest.skip("CPython 3.14 and later need 128 KiB")
    check_none_died(outcomes(CHOSEN, stack_bytes=kib * 1024), CHOSEN)


@pytest.mark.slow
@pytest.mark.parametrize("kib", [64, 128, 256, 1024])
def test_stack_size_of_the_environment(kib):
    if kib * 1024 < SMALLEST:
        pytest.skip("CPython 3.14 and later need 128 KiB")
    check_none_died(outcomes(CHOSEN, GREENIO_STACK_SIZE=str(kib * 1024)), CHOSEN)


@pytest.mark.slow
def test_a_big_stack_in_a_fiber():
    check_none_died(outcomes(CHOSEN, mode="big"), CHOSEN)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [400, 100_000])
def test_another_recursion_limit(limit):
    # python_only with 100,000 levels is memory, not stack.
    check_none_died(outcomes(CHOSEN, GREENIO_TEST_RECURSION_LIMIT=str(limit)), CHOSEN)


@pytest.mark.slow
def test_fibers_of_another_thread():
    check_none_died(outcomes(CHOSEN, GREENIO_TEST_THREAD="1"), CHOSEN)


@pytest.mark.slow
@pytest.mark.parametrize("guard", ["madvise", "mprotect"])
def test_each_guard(guard):
    probe = child(["-c", "import greenio"], GREENIO_GUARD=guard)
    if probe.returncode != 0 and "GREENIO_GUARD" in probe.stderr:
        pytest.skip(probe.stderr.splitlines()[-1])
    check_none_died(outcomes(CHOSEN, GREENIO_GUARD=guard), CHOSEN)
    found = outcomes(["chain_next"], GREENIO_GUARD=guard)
    check_report(found["chain_next"][1])


@pytest.mark.slow
def test_without_the_call_for_stack_protection():
    # As on 3.14.0, which has none: the bounds are found and set by hand.
    check_none_died(outcomes(CHOSEN, GREENIO_HIDE_STACK_PROTECTION="1"), CHOSEN)


@pytest.mark.slow
def test_development_mode():
    # With faulthandler and the debug hooks of the allocators.
    check_none_died(outcomes(CHOSEN, options=["-X", "dev", "-W", "ignore"]), CHOSEN)


@pytest.mark.slow
def test_debug_allocators():
    check_none_died(outcomes(CHOSEN, PYTHONMALLOC="debug"), CHOSEN)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["as listed", "backwards", "cheap levels first"])
def test_one_recursion_after_another_without_a_park(order):
    # All errors are kept, so that nothing tells that they were handled.
    styles = list(ASKS)
    if order == "backwards":
        styles.reverse()
    elif order == "cheap levels first":
        styles = ["python_only", "json_loads", "max_key", "yield_from", "getattr_method", "sorted_key", "list_sort_lt"]
    found = outcomes(styles, mode="again")
    check_none_died(found, styles)


@pytest.mark.slow
def test_a_handled_recursion_error_gives_back_what_was_taken_at_once():
    ended = child(
        [
            "-c",
            """
import json, greenio, greenio.debug
def recurse(_):
    sorted([0], key=recurse)
def fiber():
    for _ in range(20):
        try:
            recurse(0)
        except RecursionError:
            pass
        assert greenio.debug.stack_stats()["overflowing"] == 0
        assert json.loads("[" * 100 + "]" * 100)
greenio.run(lambda: greenio.spawn(fiber).result())
""",
        ]
    )
    assert (ended.returncode, ended.stderr) == (0, "")


# ---- faulthandler beside us ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "during"])
def test_an_overflow_that_raises_leaves_no_noise(when):
    styles = [name for name in CHOSEN if not name.endswith("_freed")]
    found = outcomes(styles, GREENIO_TEST_FAULTHANDLER=when)
    check_none_died(found, styles)
    assert found["standard error"] == ""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "during", "by option"])
def test_faulthandler_reports_after_us(when):
    how = {"options": ["-X", "faulthandler"]} if when == "by option" else {"GREENIO_TEST_FAULTHANDLER": when}
    outcome, stderr = outcomes(["chain_next"], **how)["chain_next"]
    assert outcome == "died"
    check_report(stderr)
    assert stderr.index(REPORT) < stderr.index(SEGMENTATION_FAULT), stderr
    assert "in chain_next\n" in stderr[stderr.index(SEGMENTATION_FAULT) :]


# ---- the report ------------------------------------------------------------------------------------------------------

RED = """
import itertools, os, resource, sys, greenio
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
def innermost():
    chain = iter([0])
    for _ in range(400_000):  # a call takes 32 bytes of stack at the least: 12 MB, more than the biggest has
        chain = itertools.chain(chain)
    next(chain)
def fiber():
    innermost()
def big():
    greenio.on_big_stack(innermost)
"""


def died(script, **environment):
    ended = child(["-c", RED + script], **environment)
    assert ended.returncode == -signal.SIGSEGV, (ended.returncode, ended.stderr)
    assert ended.stdout == ""
    return ended.stderr


def test_the_report_names_the_fiber():
    stderr = died('greenio.run(lambda: greenio.spawn(fiber, name="deep one").join())')
    check_report(stderr, fiber=r"2 \(deep one\)")
    assert re.search(r"line \d+ in innermost\n.*line \d+ in fiber\n", stderr), stderr


def test_the_report_tells_the_size_of_this_stack():
    check_report(died("greenio.run(lambda: greenio.spawn(fiber, stack_size=600_000).join())"), 1 << 20)
    check_report(died("greenio.run(lambda: greenio.spawn(fiber).join())", GREENIO_STACK_SIZE="500000"), 1 << 19)


def test_the_report_of_a_big_stack():
    check_report(died("greenio.run(lambda: greenio.spawn(big).join())"), 8 << 20)
    check_report(died("greenio.run(big)"), 8 << 20, fiber="1")


def test_the_report_of_a_fiber_on_another_thread():
    stderr = died("""
import threading
thread = threading.Thread(target=greenio.run, args=(lambda: greenio.spawn(fiber, name="elsewhere").join(),))
thread.start()
thread.join()
""")
    check_report(stderr, fiber=r"\d+ \(elsewhere\)")


def test_the_main_fiber_stands_on_the_thread_and_is_not_ours_to_report():
    stderr = died("greenio.run(fiber)")
    assert REPORT not in stderr


def test_without_a_guard_an_overflow_is_found_at_the_next_park():
    script = """
def fiber():
    for depth in range(1000, 50_000, 250):
        chain = iter([0])
        for _ in range(depth):
            chain = itertools.chain(chain)
        next(chain)
        greenio.yield_now()
def main():
    overflowing = greenio.spawn(fiber, name="unguarded")
    while not overflowing.done():
        greenio.yield_now()
greenio.run(main)
"""
    stderr = died(script, GREENIO_GUARD="canary")
    assert REPORT + "overflowed an unguarded stack (262144 bytes usable;" in stderr
    assert re.search(
        r"Fiber 2 \(unguarded\):\nStack \(most recent call first\):\n(.*\n)?.*line \d+ in fiber\n", stderr
    ), stderr


def test_without_a_guard_an_overflow_is_found_when_the_fiber_ends():
    script = """
def fiber(depth):
    chain = iter([0])
    for _ in range(depth):
        chain = itertools.chain(chain)
    next(chain)
def main():
    for depth in range(1000, 50_000, 250):
        fibers = [greenio.spawn(fiber, depth) for _ in range(5)]  # each begins where the one before ends
        for one in fibers:
            one.join()
greenio.run(main)
"""
    assert REPORT + "overflowed an unguarded stack (262144 bytes usable;" in died(script, GREENIO_GUARD="canary")


@pytest.mark.slow
def test_without_a_guard_an_overflow_of_a_big_stack_is_found_when_the_call_ends():
    script = """
import gc
gc.disable()  # it would look at each chain many times
def call(depth):
    chain = iter([0])
    for _ in range(depth):
        chain = itertools.chain(chain)
    next(chain)
def fiber():
    depth = 40_000
    while depth < 400_000:
        greenio.on_big_stack(call, depth)
        depth += depth // 100
greenio.run(lambda: greenio.spawn(fiber).join())
"""
    assert REPORT + "overflowed an unguarded stack (8388608 bytes usable;" in died(script, GREENIO_GUARD="canary")


def test_without_a_guard_what_fits_the_stack_works():
    script = """
import greenio
def fiber():
    greenio.yield_now()
    return sorted([3, 1, 2], key=lambda x: x)
assert greenio.run(lambda: [greenio.spawn(fiber).result() for _ in range(20)]) == [[1, 2, 3]] * 20
"""
    ended = child(["-c", script], GREENIO_GUARD="canary")
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("GREENIO_GUARD", "steel", "GREENIO_GUARD must be one of madvise, mprotect, canary, not 'steel'"),
        ("GREENIO_STACK_SIZE", "17", "stack_size must be "),
    ],
)
def test_a_wrong_setting_is_named_at_import(name, value, message):
    ended = child(["-c", "import greenio"], **{name: value})
    assert ended.returncode == 1
    assert message in ended.stderr


# ---- figures ---------------------------------------------------------------------------------------------------------

FIGURES = """
import greenio, greenio.debug, os
from greenio.debug import set_stack_pool, stack_stats

SIZE = 256 * 1024

def row(size=SIZE):
    return next(row for row in stack_stats()["sizes"] if row["stack_bytes"] == size)

def check_sums():
    stats = stack_stats()
    for key in ("in_use", "pooled", "cold", "slabs", "reserved_bytes"):
        assert stats[key] == sum(row[key] for row in stats["sizes"]), (key, stats)
    for one in stats["sizes"]:
        assert sum(one["guards"].values()) == one["in_use"] + one["pooled"] + one["cold"], one
        assert one["slot_bytes"] >= one["stack_bytes"] + 128 * 1024 and one["in_use_peak"] >= one["in_use"]
        assert one["acquired_total"] >= one["reused_total"]

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

class Crowd:
    def __init__(self, count, function=lambda: None, stack_size=None):
        self.go = False
        self.fibers = [greenio.spawn(self.one, function, stack_size=stack_size) for _ in range(count)]
        greenio.yield_now()
    def one(self, function):
        function()
        while not self.go:
            greenio.yield_now()
    def end(self):
        self.go = True
        for fiber in self.fibers:
            fiber.join()
"""


def figures(script, **environment):
    ended = child(["-c", FIGURES + script], **environment)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("guard", ["madvise", "mprotect", "canary"])
def test_figures_tell_what_is(guard):
    if guard == "madvise" and child(["-c", "import greenio"], GREENIO_GUARD=guard).returncode != 0:
        pytest.skip("the kernel has no MADV_GUARD_INSTALL")
    figures(
        f"""
def main():
    stats = stack_stats()
    assert stats == {{"guard": {guard!r}, "overflowing": 0, "in_use": 0, "pooled": 0, "cold": 0, "slabs": 0,
                      "reserved_bytes": 0, "sizes": []}}
    crowd = Crowd(10)
    check_sums()
    stats = stack_stats()
    assert (stats["in_use"], stats["pooled"], stats["cold"], stats["slabs"]) == (10, 0, 0, 1)
    assert set(row()) == {{"stack_bytes", "slot_bytes", "in_use", "in_use_peak", "pooled", "cold", "high_water", "slabs",
                           "reserved_bytes", "acquired_total", "reused_total", "given_back_total", "guards"}}
    assert row()["guards"] == {{{guard!r}: 10}} and row()["acquired_total"] == 10 and row()["reused_total"] == 0
    large = Crowd(3, stack_size=2 * SIZE)
    check_sums()
    assert [one["stack_bytes"] for one in stack_stats()["sizes"]] == [SIZE, 2 * SIZE]
    assert row(2 * SIZE)["in_use"] == 3 and stack_stats()["in_use"] == 13
    crowd.end()
    large.end()
    greenio.yield_now()
    check_sums()
    stats = stack_stats()
    assert (stats["in_use"], stats["pooled"], stats["cold"]) == (0, 13, 0) and row()["in_use_peak"] == 10
    Crowd(4).end()
    greenio.yield_now()
    assert row()["reused_total"] == 4 and row()["acquired_total"] == 14 and row()["pooled"] == 10
greenio.run(main)
assert stack_stats()["in_use"] == 0
check_sums()
""",
        GREENIO_GUARD=guard,
    )


def test_a_run_gives_the_surplus_back_at_its_end():
    figures("""
def main():
    Crowd(1500).end()
    greenio.yield_now()
    assert (row()["pooled"], row()["cold"]) == (1500, 0)
    Crowd(1500).end()
    assert row()["reused_total"] == 1500
greenio.run(main)
assert (row()["pooled"], row()["cold"]) == (row()["high_water"], 1500 - row()["high_water"])
check_sums()
""")


@pytest.mark.slow
@pytest.mark.parametrize("meanwhile", ["greenio.sleep(0.2)", "greenio.sleep(0.0005)", "greenio.yield_now()"])
def test_a_surplus_goes_while_the_run_idles_or_works(meanwhile):
    figures(f"""
import time
def main():
    Crowd(1500).end()
    until = time.monotonic() + 30
    while row()["pooled"] > row()["high_water"] and time.monotonic() < until:
        {meanwhile}
    assert (row()["pooled"], row()["cold"]) == (1024, 476)
    check_sums()
greenio.run(main)
""")


def test_the_pool_keeps_as_many_as_it_is_told():
    figures("""
def main():
    assert set_stack_pool(5) is None
    Crowd(20).end()
    greenio.yield_now()
    assert (row()["pooled"], row()["cold"], row()["high_water"], row()["in_use"]) == (5, 15, 5, 0)
    check_sums()
    set_stack_pool(2)
    assert (row()["pooled"], row()["cold"]) == (2, 18)
    set_stack_pool(0)
    assert (row()["pooled"], row()["cold"]) == (0, 20)
    Crowd(20).end()
    greenio.yield_now()
    check_sums()
    assert row()["pooled"] == 0 and row()["in_use_peak"] == 20 and row()["reused_total"] == 0
    for wrong in (-1, -(2**40)):
        try:
            set_stack_pool(wrong)
        except ValueError:
            pass
        else:
            raise AssertionError(wrong)
    assert row()["high_water"] == 0
    set_stack_pool(1024)
    Crowd(20).end()
    greenio.yield_now()
    assert row()["pooled"] == 20
greenio.run(main)
""")


@pytest.mark.slow
@pytest.mark.parametrize("meanwhile", ["greenio.sleep(0.01)", "greenio.yield_now()"])
def test_a_fiber_that_went_deep_gives_its_pages_back_while_the_run_idles_or_works(meanwhile):
    figures(f"""
import time
def deep(levels=25):
    if levels:
        sorted([0], key=lambda _: deep(levels - 1))
def main():
    Crowd(200).end()
    before = resident()
    crowd = Crowd(200, deep)
    standing = resident()
    crowd.end()
    until = time.monotonic() + 30
    while row()["given_back_total"] < 200 and time.monotonic() < until:
        {meanwhile}
    after = resident()
    assert standing - before > 200 * 64 * 1024, (before, standing)
    assert after - before < (standing - before) / 5, (before, standing, after)
    assert row()["given_back_total"] >= 200 and row()["pooled"] == 200
greenio.run(main)
""")


@pytest.mark.slow
def test_an_overflow_gives_its_pages_back():
    figures("""
def recurse(_=None):
    sorted([0], key=recurse)
def overflow():
    try:
        recurse()
    except RecursionError:
        pass
def main():
    Crowd(100).end()
    before = resident()
    for _ in range(3):
        crowd = Crowd(100, overflow)
        assert stack_stats()["overflowing"] == 0
        crowd.end()
        greenio.sleep(0.1)
    assert resident() - before < 100 * 64 * 1024
greenio.run(main)
""")


def test_overflowing_counts_stacks_that_have_not_come_back_up():
    if not HAS_YELLOW:
        pytest.skip("no yellow zone on CPython 3.14 and later")
    figures(
        """
found = []
def recurse(_=None):
    try:
        sorted([0], key=recurse)
    except RecursionError:
        found.append(stack_stats()["overflowing"])
        raise
def fiber():
    try:
        recurse()
    except RecursionError:
        pass
greenio.run(lambda: greenio.spawn(fiber).result())
assert 1 in found, found
assert stack_stats()["overflowing"] == 0
""",
        GREENIO_STACK_SIZE="65536",
    )
