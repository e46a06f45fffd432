"""The switch, _switch.pyx: what a fiber has of its own, whatever the order of switches, and how one ends.

Each test interleaves fibers by yield_now, which is first come first served, and looks at what Python keeps for a thread: the
exception being handled, context variables, locals, recursion, trace functions, frames. How that is done on
each CPython version is tests/test_pystate.py's. What may crash the process runs in a child: scripts in tests/crash/.
"""

import asyncio
import contextlib
import contextvars
import cProfile
import ctypes
import functools
import gc
import json
import linecache
import logging
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from child import check_script, run_script

import greenio
from greenio import Cancelled, Fiber, debug, on_big_stack, run, spawn, yield_now
from greenio._scheduler import park_here, unpark_fiber
from greenio.testing import VirtualClock, wait_all_parked

ROUNDS = 5


def run_fibers(*functions: Callable[[], Any]) -> list[Any]:
    """Run each as a fiber, in this order, and return what they return."""

    def main() -> list[Any]:
        fibers = [spawn(function) for function in functions]
        return [fiber.result() for fiber in fibers]

    return run(main)


# --- the exception being handled -------------------------------------------------------------------------------------


def test_exception_being_handled_is_each_fibers_own() -> None:
    def handle(kind: type[Exception]) -> None:
        assert sys.exc_info() == (None, None, None)
        for _ in range(ROUNDS):
            try:
                raise kind("mine")
            except kind as error:
                yield_now()
                assert sys.exc_info()[1] is error  # noqa: PT017
                yield_now()
            yield_now()
            assert sys.exc_info() == (None, None, None)

    def main() -> None:
        fibers = [spawn(handle, kind) for kind in (KeyError, ValueError, IndexError)]
        try:
            raise LookupError("main's")
        except LookupError as error:
            for fiber in fibers:
                fiber.join()
                assert sys.exc_info()[1] is error  # noqa: PT017
        for fiber in fibers:
            fiber.result()

    run(main)


def test_fiber_spawned_in_an_except_clause_begins_with_no_exception() -> None:
    def main() -> Any:
        try:
            raise KeyError("main's")
        except KeyError:
            return spawn(sys.exc_info).result()

    assert run(main) == (None, None, None)


def test_bare_raise_after_switches_raises_the_fibers_own_exception() -> None:
    def handle(text: str) -> None:
        try:
            raise KeyError(text)
        except KeyError:
            yield_now()
            try:
                raise ValueError("inner")
            except ValueError:
                yield_now()
            yield_now()
            raise

    def main() -> list[object]:
        fibers = [spawn(handle, text) for text in ("one", "two", "three")]
        return [fiber.exception() for fiber in fibers]

    raised = run(main)
    assert [type(error) for error in raised] == [KeyError] * 3
    assert [error.args for error in raised] == [("one",), ("two",), ("three",)]  # type: ignore[attr-defined]


def test_context_of_an_exception_is_the_fibers_own() -> None:
    def handle(text: str) -> BaseException:
        try:
            try:
                raise KeyError(text)
            except KeyError:
                yield_now()
                raise ValueError(text) from None
        except ValueError as error:
            context = error.__context__
            assert context is not None
            return context

    contexts = run_fibers(*(functools.partial(handle, text) for text in "abc"))
    assert [context.args for context in contexts] == [("a",), ("b",), ("c",)]


def test_exception_in_flight_through_finally_survives_switches() -> None:
    def fail(text: str) -> None:
        try:
            raise KeyError(text)
        finally:
            yield_now()
            with contextlib.suppress(ValueError):
                raise ValueError
            yield_now()

    def main() -> list[BaseException | None]:
        fibers = [spawn(fail, text) for text in "ab"]
        return [fiber.exception() for fiber in fibers]

    first, second = run(main)
    assert repr(first) == "KeyError('a')"
    assert repr(second) == "KeyError('b')"
    assert first is not None and first.__traceback__ is not None
    assert first.__traceback__.tb_frame.f_code is fail.__code__
    assert first.__traceback__.tb_next is None, "no line of greenio's is in the traceback"


def test_exception_with_switches_in_its_constructor_and_in_exit() -> None:
    class Slow(Exception):
        def __init__(self, text: str) -> None:
            yield_now()
            super().__init__(text)

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        try:
            yield
        finally:
            yield_now()

    def fail(text: str) -> str:
        try:
            with around():
                raise Slow(text)
        except Slow as error:
            return str(error)

    assert run_fibers(*(functools.partial(fail, text) for text in "abc")) == ["a", "b", "c"]


# --- context variables, locals ---------------------------------------------------------------------------------------

variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable", default="default")


def test_context_variables_are_copied_at_spawn_and_then_each_fibers_own() -> None:
    def count(start: int) -> list[object]:
        seen = [variable.get()]
        for step in range(ROUNDS):
            variable.set(start + step)
            yield_now()
            assert variable.get() == start + step
        return seen

    def main() -> None:
        fibers = []
        for start in (100, 200, 300, 400):
            variable.set(("at spawn", start))
            fibers.append(spawn(count, start))
        variable.set("main's")
        for fiber, start in zip(fibers, (100, 200, 300, 400), strict=True):
            assert fiber.result() == [("at spawn", start)]
            assert variable.get() == "main's"

    run(main)
    assert variable.get() == "default", "main runs in a copy, too"


def test_context_entered_in_a_fiber_stays_with_it_over_switches() -> None:
    def inside(value: int) -> int:
        context = contextvars.copy_context()

        def set_and_yield() -> None:
            token = variable.set(value)
            yield_now()
            assert variable.get() == value
            variable.reset(token)
            yield_now()
            variable.set(-value)

        before = variable.get()
        context.run(set_and_yield)
        assert variable.get() == before
        return context[variable]  # type: ignore[return-value]

    assert run_fibers(*(functools.partial(inside, value) for value in (1, 2, 3))) == [-1, -2, -3]


def test_context_cannot_be_entered_by_two_fibers_at_once() -> None:
    def main() -> None:
        context = contextvars.copy_context()
        first = spawn(context.run, yield_now)
        second = spawn(context.run, yield_now)
        first.result()
        with pytest.raises(RuntimeError, match="already entered"):
            second.result()

    run(main)


def test_spawn_from_an_os_thread_copies_that_threads_context() -> None:
    def main() -> object:
        scheduler = greenio.current_scheduler()
        made: list[Fiber] = []

        def elsewhere() -> None:
            variable.set("the thread's")
            made.append(scheduler.spawn(variable.get))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return made[0].result()

    assert run(main) == "the thread's"


def test_thread_locals_are_each_fibers_own() -> None:
    local = threading.local()

    class Counted(threading.local):
        def __init__(self) -> None:
            self.created_in = greenio.current_fiber().id
            self.count = 0

    def count(name: str) -> None:
        assert not hasattr(local, "name")
        local.name = name
        for number in range(ROUNDS):
            assert counted.created_in == greenio.current_fiber().id
            assert counted.count == number
            counted.count += 1
            yield_now()
            assert local.name == name

    def main() -> None:
        nonlocal counted
        counted = Counted()
        local.name = "main's"
        for fiber in [spawn(count, name) for name in "abc"]:
            fiber.result()
        assert local.name == "main's"
        assert counted.count == 0

    counted: Any = None
    run(main)


def test_nothing_is_left_to_the_next_fiber_on_the_same_stack() -> None:
    local = threading.local()

    async def waits() -> None:
        pass

    def look() -> dict[str, object]:
        coroutine = waits()
        coroutine.close()
        return {
            "ident": greenio.current_fiber().ident,
            "local": dict(local.__dict__),
            "variable": variable.get(),
            "trace": sys.gettrace(),
            "profile": sys.getprofile(),
            "hooks": tuple(sys.get_asyncgen_hooks()),
            "depth": sys.get_coroutine_origin_tracking_depth(),
            "origin": coroutine.cr_origin,
            "exception": sys.exc_info(),
            "loop": asyncio._get_running_loop(),
        }

    def dirty() -> object:
        local.value = object()
        variable.set("dirty")
        sys.set_asyncgen_hooks(firstiter=print, finalizer=print)
        sys.set_coroutine_origin_tracking_depth(5)
        sys.setprofile(lambda *_: None)
        sys.settrace(lambda *_: None)
        return greenio.current_fiber().ident

    def main() -> None:
        clean = spawn(look).result()
        for pause in (False, True):  # taken over from a fiber that has just ended, or out of the pool
            ident = spawn(dirty)
            if pause:
                ident.join()
                yield_now()
            again = spawn(look)
            assert again.result() | {"ident": 0} == clean | {"ident": 0}
            assert again.result()["ident"] == ident.result(), "it was the same thread state"

    run(main)


def test_locals_go_when_their_fiber_ends() -> None:
    local = threading.local()

    class Value:
        pass

    def keep() -> weakref.ref[Value]:
        local.value = Value()
        return weakref.ref(local.value)

    def main() -> None:
        fibers = [spawn(keep) for _ in range(3)]
        for fiber in fibers:
            assert fiber.result()() is None

    run(main)


def test_destructors_of_locals_may_run_python_make_new_locals_and_park() -> None:
    local = threading.local()
    order: list[str] = []

    class Again:
        def __init__(self, name: str, count: int) -> None:
            self.name = name
            self.count = count

        def __del__(self) -> None:
            order.append(f"{self.name}{self.count}")
            yield_now()
            variable.set(self.count)
            sys.set_coroutine_origin_tracking_depth(3)
            if self.count:
                local.value = Again(self.name, self.count - 1)

    def keep(name: str) -> None:
        local.value = Again(name, 3)

    def look() -> tuple[object, ...]:
        return dict(local.__dict__), variable.get(), sys.get_coroutine_origin_tracking_depth()

    def main() -> None:
        for fiber in [spawn(keep, name) for name in "ab"]:
            fiber.join()
        assert [spawn(look).result() for _ in range(4)] == [({}, "default", 0)] * 4
        wait_all_parked()

    run(main, clock=VirtualClock())
    assert sorted(order) == sorted(f"{name}{count}" for name in "ab" for count in range(4))


def test_context_variable_set_by_one_fibers_destructor_is_not_seen_by_the_nexts() -> None:
    local = threading.local()
    seen: list[object] = []

    class Value:
        def __del__(self) -> None:
            seen.append(variable.get())
            variable.set("set at the end")

    def keep() -> None:
        local.value = Value()

    def main() -> None:
        for _ in range(3):
            spawn(keep).join()

    run(main)
    assert seen == ["default"] * 3


def test_destructor_that_parks_for_ever_is_cancelled_when_the_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    local = threading.local()
    ended: list[str] = []
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda hook: unraisable.append(hook.exc_type))

    class Value:
        def __del__(self) -> None:
            try:
                greenio.sleep(float("inf"))
            finally:
                ended.append("unwound")

    def keep() -> None:
        local.value = Value()

    def main() -> None:
        fiber = spawn(keep)
        wait_all_parked()
        assert fiber.done()
        assert not fiber.cancel()

    run(main)
    assert ended == ["unwound"]
    assert unraisable == [Cancelled]


def test_weakref_callback_of_a_fiber_may_park_within_another_ones_park() -> None:
    # An ended fiber goes in the middle of the switch to the next one, which then parks while it is being woken.
    called: list[bool] = []

    def callback(_: object) -> None:
        called.append(park_here("a moment", None, 1))

    def main() -> None:
        ends = weakref.ref(spawn(park_here, "the end", None), callback)
        next_one = spawn(park_here, "its turn", None, 100)
        wait_all_parked()
        unpark_fiber(ends(), None)
        unpark_fiber(next_one, None)
        assert next_one.result() is True, "woken, not timed out as the callback was"
        assert ends() is None
        assert called == [False]

    run(main, clock=VirtualClock())


# --- recursion -------------------------------------------------------------------------------------------------------


def depth_to_the_limit() -> int:
    def descend(depth: int) -> int:
        try:
            return descend(depth + 1)
        except RecursionError:
            return depth

    return descend(0)


@contextlib.contextmanager
def recursion_limit(limit: int) -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def test_recursion_depth_is_each_fibers_own() -> None:
    def descend(depth: int) -> None:
        if depth:
            yield_now()
            descend(depth - 1)

    def work() -> int:
        with pytest.raises(RecursionError):
            descend(1000)
        return depth_to_the_limit()

    def main() -> list[int]:
        with recursion_limit(60):
            return [fiber.result() for fiber in [spawn(work) for _ in range(5)]]

    depths = run(main)
    assert len(set(depths)) == 1
    assert 30 < depths[0] < 60


def test_recursion_limit_set_while_fibers_are_parked_holds_for_them() -> None:
    def park_deep(depth: int) -> tuple[int, int]:
        if depth:
            return park_deep(depth - 1)
        yield_now()
        low = depth_to_the_limit()
        yield_now()
        return low, depth_to_the_limit()

    def main() -> None:
        fibers = [spawn(park_deep, depth) for depth in (0, 20, 40)]
        wait_for_turn()
        sys.setrecursionlimit(200)
        wait_for_turn()
        sys.setrecursionlimit(300)
        for fiber, depth in zip(fibers, (0, 20, 40), strict=True):
            low, high = fiber.result()
            assert 200 - depth - 20 < low < 200 - depth
            assert high == low + 100
        later = spawn(depth_to_the_limit).result()
        assert 280 < later < 300

    def wait_for_turn() -> None:
        yield_now()

    with recursion_limit(1000):
        run(main)


def test_a_fiber_that_ended_by_recursion_error_leaves_the_whole_depth_to_the_next() -> None:
    def forever() -> None:
        forever()

    def main() -> list[int]:
        depths = [spawn(depth_to_the_limit).result()]
        for _ in range(3):
            assert isinstance(spawn(forever).exception(), RecursionError)
            depths.append(spawn(depth_to_the_limit).result())
        return depths

    assert len(set(run(main))) == 1


def resident_kilobytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


@pytest.mark.slow
def test_data_stack_grows_for_deep_python_calls_and_shrinks_again() -> None:
    def descend(depth: int) -> int:
        if depth == 0:
            yield_now()
            return 0
        return descend(depth - 1) + 1

    def deep() -> None:
        for _ in range(3):
            assert descend(9000) == 9000
            yield_now()

    def once() -> None:
        for fiber in [spawn(deep) for _ in range(4)]:
            fiber.result()

    def main() -> None:
        once()
        once()
        before = resident_kilobytes()
        for _ in range(5):
            once()
        assert resident_kilobytes() - before < 1024, "KiB more after each fiber has returned"

    with recursion_limit(10_000):
        run(main)


# --- trace and profile functions -------------------------------------------------------------------------------------


def traced_one() -> None:
    yield_now()


def traced_two() -> None:
    yield_now()


def test_trace_functions_are_each_fibers_own() -> None:
    def work(function: Callable[[], None]) -> tuple[set[str], bool]:
        names: set[str] = set()

        def trace(frame: Any, event: str, argument: object) -> Any:
            names.add(frame.f_code.co_name)
            return trace

        sys.settrace(trace)
        for _ in range(ROUNDS):
            function()
            yield_now()
        kept = sys.gettrace() is trace
        sys.settrace(None)
        return names, kept

    def main() -> list[tuple[set[str], bool]]:
        before = sys.gettrace()
        fibers = [spawn(work, traced_one), spawn(work, traced_two)]
        traced_one()
        found = [fiber.result() for fiber in fibers]
        assert sys.gettrace() is before
        return found

    assert run(main) == [({"traced_one"}, True), ({"traced_two"}, True)]


def test_profile_functions_are_each_fibers_own() -> None:
    def work(function: Callable[[], None]) -> set[str]:
        names: set[str] = set()

        def profile(frame: Any, event: str, argument: object) -> None:
            if event == "call":
                names.add(frame.f_code.co_name)

        sys.setprofile(profile)
        for _ in range(ROUNDS):
            function()
            yield_now()
        sys.setprofile(None)
        return names

    both = run_fibers(functools.partial(work, traced_one), functools.partial(work, traced_two))
    assert both == [{"traced_one"}, {"traced_two"}]


@pytest.fixture
def no_thread_hooks() -> Iterator[None]:
    hooks = threading.gettrace(), threading.getprofile()
    yield
    threading.settrace(hooks[0])  # type: ignore[arg-type]
    threading.setprofile(hooks[1])


@pytest.mark.usefixtures("no_thread_hooks")
def test_threading_settrace_and_setprofile_apply_from_a_fibers_start() -> None:
    traced: set[str] = set()
    profiled: set[str] = set()

    def trace(frame: Any, event: str, argument: object) -> None:
        traced.add(frame.f_code.co_name)

    def profile(frame: Any, event: str, argument: object) -> None:
        profiled.add(frame.f_code.co_name)

    def main() -> None:
        spawn(traced_one).join()
        threading.settrace(trace)  # type: ignore[arg-type]
        threading.setprofile(profile)
        spawn(traced_two).join()
        threading.settrace(None)  # type: ignore[arg-type]
        threading.setprofile(None)
        spawn(traced_one).join()

    run(main)
    assert traced == {"traced_two"}
    assert profiled >= {"traced_two"}
    assert "traced_one" not in profiled


@pytest.mark.skipif(not hasattr(threading, "settrace_all_threads"), reason="CPython 3.12 and later")
@pytest.mark.usefixtures("no_thread_hooks")
def test_trace_set_in_all_threads_reaches_parked_fibers_and_not_those_after_it() -> None:
    names: list[str] = []

    def trace(frame: Any, event: str, argument: object) -> None:
        names.append(frame.f_code.co_name)

    def park_then_call() -> None:
        yield_now()
        traced_one()

    def main() -> None:
        for fiber in [spawn(yield_now) for _ in range(3)]:
            fiber.join()  # their thread states wait in the pool
        parked = spawn(park_then_call)
        yield_now()
        threading.settrace_all_threads(trace)  # type: ignore[attr-defined]
        threading.settrace(None)  # type: ignore[arg-type]
        sys.settrace(None)
        parked.join()
        assert "traced_one" in names
        names.clear()
        for fiber in [spawn(traced_two) for _ in range(5)]:
            fiber.join()
        assert names == []
        threading.settrace_all_threads(None)  # type: ignore[attr-defined]

    before = sys.gettrace()
    run(main)
    sys.settrace(before)


def test_trace_function_that_switches() -> None:
    def work() -> int:
        lines = 0

        def trace(frame: Any, event: str, argument: object) -> Any:
            nonlocal lines
            yield_now()
            lines += event == "line"
            return trace

        sys.settrace(trace)
        traced_one()
        sys.settrace(None)
        return lines

    assert run_fibers(work, work, work) == [1, 1, 1]


def test_cprofile_in_a_fiber_counts_that_fibers_calls() -> None:
    def work() -> dict[str, int]:
        profile = cProfile.Profile()
        profile.enable()
        for _ in range(ROUNDS):
            traced_one()
        profile.disable()
        profile.create_stats()
        return {key[2]: value[1] for key, value in profile.stats.items()}  # type: ignore[attr-defined]

    assert run_fibers(work)[0]["traced_one"] == ROUNDS


@pytest.mark.skipif(sys.version_info < (3, 12), reason="CPython 3.11 profiles one thread state")
def test_cprofile_in_main_counts_the_calls_of_all_fibers() -> None:
    profile = cProfile.Profile()
    profile.enable()
    run_fibers(traced_one, traced_two, traced_two)
    profile.disable()
    profile.create_stats()
    calls = {key[2]: value[1] for key, value in profile.stats.items()}  # type: ignore[attr-defined]
    assert calls["traced_one"] == 1
    assert calls["traced_two"] == 2


def test_tracemalloc_knows_where_each_fiber_allocated() -> None:
    def keep() -> bytearray:
        kept = bytearray(100_000)
        yield_now()
        return kept

    tracemalloc.start(5)
    try:
        kept = run_fibers(keep, keep, keep)
        for each in kept:
            traceback = tracemalloc.get_object_traceback(each)
            assert traceback is not None
            assert (
                linecache.getline(traceback[-1].filename, traceback[-1].lineno).strip() == "kept = bytearray(100_000)"
            )
    finally:
        tracemalloc.stop()


# --- generators and coroutines ---------------------------------------------------------------------------------------


def test_generator_may_be_resumed_by_one_fiber_after_the_other() -> None:
    def numbers() -> Iterator[tuple[int, int]]:
        number = 0
        while True:
            try:
                raise KeyError(number)
            except KeyError:
                yield number, greenio.current_fiber().id
                yield_now()
            number += 1

    shared = numbers()
    taken: list[tuple[int, int]] = []

    def take() -> None:
        for _ in range(ROUNDS):
            try:
                number, fiber = next(shared)
            except ValueError as error:
                assert str(error) == "generator already executing"  # noqa: PT017
            else:
                assert sys.exc_info() == (None, None, None)
                assert fiber == greenio.current_fiber().id
                taken.append((number, fiber))
            yield_now()

    def main() -> None:
        fibers = [spawn(take) for _ in range(3)]
        for fiber in fibers:
            fiber.result()
        while len(taken) < 100:
            taken.append(next(shared))

    run(main)
    assert [number for number, _ in taken] == list(range(100))
    assert len({fiber for _, fiber in taken}) >= 2


def test_generator_parked_in_one_fiber_cannot_be_entered_by_another() -> None:
    def park() -> Iterator[int]:
        yield_now()
        yield 1

    def main() -> None:
        shared = park()
        first = spawn(next, shared)
        second = spawn(next, shared)
        assert first.result() == 1
        with pytest.raises(ValueError, match="generator already executing"):
            second.result()

    run(main)


def test_generators_parked_inside_each_other_go_on_where_they_were() -> None:
    def count(depth: int) -> Iterator[int]:
        yield_now()
        if depth:
            yield from count(depth - 1)
        yield_now()
        yield depth

    assert run_fibers(*(functools.partial(list, count(5)) for _ in range(4))) == [[0, 1, 2, 3, 4, 5]] * 4


def test_asyncio_runs_in_several_fibers_at_once() -> None:
    async def child(number: int) -> int:
        for _ in range(ROUNDS):
            yield_now()
            await asyncio.sleep(0)
        return number

    async def parent(number: int) -> list[int]:
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(child(number + one)) for one in range(3)]
        yield_now()
        results = await asyncio.gather(*tasks)
        assert asyncio.get_running_loop() is loop
        assert asyncio.current_task() is not None
        again = child(0)
        with pytest.raises(RuntimeError, match="running event loop"):
            asyncio.run(again)
        again.close()
        return results

    def work(number: int) -> list[int]:
        return asyncio.run(parent(number))

    found = run_fibers(*(functools.partial(work, number) for number in (0, 10, 20, 30)))
    assert found == [[number, number + 1, number + 2] for number in (0, 10, 20, 30)]


def test_asyncio_tasks_see_their_own_loop_over_switches() -> None:
    async def parent() -> tuple[asyncio.AbstractEventLoop, set[Any]]:
        loop = asyncio.get_running_loop()
        for _ in range(ROUNDS):
            yield_now()
            assert asyncio.get_running_loop() is loop
            assert asyncio.all_tasks() == {asyncio.current_task()}
        return loop, asyncio.all_tasks()

    def main() -> None:
        fibers = [spawn(asyncio.run, parent()) for _ in range(4)]
        found = [fiber.result() for fiber in fibers]
        assert len({id(loop) for loop, _ in found}) == 4
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()

    run(main)


def test_async_generator_hooks_are_each_fibers_own() -> None:
    def work() -> None:
        def hook(_: object) -> None:
            pass

        sys.set_asyncgen_hooks(firstiter=hook)
        for _ in range(ROUNDS):
            yield_now()
            assert sys.get_asyncgen_hooks().firstiter is hook

    run_fibers(work, work, work)
    assert sys.get_asyncgen_hooks() == (None, None)


# --- calls back from C -----------------------------------------------------------------------------------------------


def test_switch_in_a_sort_key_and_in_comparisons() -> None:
    class Number:
        def __init__(self, value: int) -> None:
            self.value = value

        def __lt__(self, other: "Number") -> bool:
            yield_now()
            return self.value < other.value

    def by_key() -> list[int]:
        return sorted(range(20), key=lambda value: (yield_now(), -value)[1])

    def by_comparison() -> list[int]:
        return [number.value for number in sorted(map(Number, range(20, 0, -1)))]

    assert (
        run_fibers(by_key, by_comparison, by_key, by_comparison)
        == [
            list(range(19, -1, -1)),
            list(range(1, 21)),
        ]
        * 2
    )


def test_switch_in_a_ctypes_comparator_of_qsort() -> None:
    comparator = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    libc = ctypes.CDLL(None)
    libc.qsort.restype = None

    def work(sign: int) -> list[int]:
        values = (ctypes.c_int * 30)(*(value * 7 % 30 for value in range(30)))

        def compare(one: Any, other: Any) -> int:
            yield_now()
            return sign * (one[0] - other[0])

        libc.qsort(values, len(values), ctypes.sizeof(ctypes.c_int), comparator(compare))
        return list(values)

    found = run_fibers(*(functools.partial(work, sign) for sign in (1, -1, 1)))
    assert found == [list(range(30)), list(range(29, -1, -1)), list(range(30))]


def test_eighty_nested_calls_through_c_with_switches() -> None:
    def nest(depth: int) -> int:
        yield_now()
        if depth == 0:
            return 0
        return max([depth], key=lambda _: nest(depth - 1))

    def main() -> list[int]:
        fibers = [spawn(nest, 80, stack_size=1024 * 1024) for _ in range(3)]
        return [fiber.result() for fiber in fibers]

    assert run(main) == [80] * 3


def test_switch_in_many_kinds_of_calls_from_c() -> None:
    class Parks:
        def __repr__(self) -> str:
            yield_now()
            return "parks"

        def __hash__(self) -> int:
            yield_now()
            return 1

        def __eq__(self, other: object) -> bool:
            yield_now()
            return isinstance(other, Parks)

        def __getattr__(self, name: str) -> str:
            yield_now()
            return name

        def __iter__(self) -> Iterator[int]:
            for number in range(3):
                yield_now()
                yield number

    def work() -> tuple[object, ...]:
        import re

        table = {Parks(): 1}
        table[Parks()] = 2
        return (
            repr([Parks(), (Parks(), {"key": Parks()})]),
            len(table),
            Parks().name,
            sum(Parks()),
            [*Parks()],
            json.dumps({"a": object()}, default=lambda _: (yield_now(), 5)[1]),
            re.sub("a", lambda _: (yield_now(), "b")[1], "aaa"),
            functools.reduce(lambda one, other: (yield_now(), one + other)[1], range(5)),
            list(filter(lambda value: (yield_now(), value)[1], range(3))),
            eval("repr(parks)", {"parks": Parks()}),
        )

    expected = (
        "[parks, (parks, {'key': parks})]", 1, "name", 3, [0, 1, 2], '{"a": 5}', "bbb", 10, [1, 2], "parks",
    )  # fmt: skip
    assert run_fibers(work, work, work) == [expected] * 3


# --- destructors -----------------------------------------------------------------------------------------------------


def test_destructors_that_switch_nested_in_several_fibers() -> None:
    ended: list[tuple[str, int]] = []

    class Nested:
        def __init__(self, name: str, depth: int) -> None:
            self.name = name
            self.depth = depth

        def __del__(self) -> None:
            yield_now()
            if self.depth:
                Nested(self.name, self.depth - 1)
            yield_now()
            ended.append((self.name, self.depth))

    def work(name: str) -> None:
        for _ in range(3):
            Nested(name, 4)

    run_fibers(*(functools.partial(work, name) for name in "abc"))
    for name in "abc":
        assert [depth for who, depth in ended if who == name] == [0, 1, 2, 3, 4] * 3


@pytest.mark.slow
def test_deeply_nested_list_goes_around_a_switch() -> None:
    class Parks:
        def __del__(self) -> None:
            yield_now()
            ended.append(greenio.current_fiber().id)

    ended: list[int] = []

    def work() -> None:
        nested: list[Any] = [Parks()]
        for depth in range(200_000):
            nested = [nested, Parks()] if depth % 50_000 == 0 else [nested]
        yield_now()
        del nested
        yield_now()

    run_fibers(work, work, work)
    assert len(ended) == 15


def test_garbage_collection_in_one_fiber_leaves_what_others_hold() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            yield_now()

    def work() -> bool:
        held = Cycle()
        for _ in range(ROUNDS):
            Cycle()
            gc.collect(0)
            yield_now()
            assert held.me is held
        gc.collect()
        return held.me is held

    assert run_fibers(work, work, work) == [True] * 3


# --- frames ----------------------------------------------------------------------------------------------------------


def parked_with(value: int) -> int:
    doubled = value * 2
    yield_now()
    return doubled


def test_frames_of_parked_fibers_can_be_looked_at() -> None:
    def main() -> None:
        fibers = [spawn(parked_with, value) for value in (1, 2, 3)]
        assert [len(fiber.stack) for fiber in fibers] == [0, 0, 0]
        assert [fiber.ident for fiber in fibers] == [None] * 3
        yield_now()
        frames = sys._current_frames()
        for fiber, value in zip(fibers, (1, 2, 3), strict=True):
            assert fiber.ident is not None
            frame = frames[fiber.ident]
            assert frame.f_code is parked_with.__code__
            assert frame.f_locals == {"value": value, "doubled": 2 * value}
            assert frame.f_lineno == parked_with.__code__.co_firstlineno + 2
            assert frame.f_back is None
            (call,) = fiber.stack
            assert (call.name, call.lineno, call.line) == ("parked_with", frame.f_lineno, "yield_now()")
        del frames, frame
        assert [fiber.result() for fiber in fibers] == [2, 4, 6]
        assert [len(fiber.stack) for fiber in fibers] == [0, 0, 0]

    run(main)


def test_stack_of_the_running_fiber_and_of_main() -> None:
    def look() -> list[str]:
        return [call.name for call in greenio.current_fiber().stack]

    def main() -> None:
        assert spawn(look).result() == ["look"]
        assert [call.name for call in greenio.current_fiber().stack][-1] == "main"

    run(main)


def test_frames_outlive_their_fiber() -> None:
    def main() -> Any:
        fiber = spawn(parked_with, 21)
        yield_now()
        frame = sys._current_frames()[fiber.ident or 0]
        fiber.join()
        yield_now()
        spawn(parked_with, 1).join()  # runs where the first one ran
        return frame

    frame = run(main)
    assert frame.f_locals == {"value": 21, "doubled": 42}


def test_current_exceptions_shows_each_fiber_under_its_ident() -> None:
    def handle(text: str) -> None:
        try:
            raise KeyError(text)
        except KeyError:
            yield_now()

    def main() -> None:
        fibers = [spawn(handle, text) for text in "abc"]
        yield_now()
        exceptions = sys._current_exceptions()
        for fiber, text in zip(fibers, "abc", strict=True):
            found: Any = exceptions[fiber.ident or 0]
            found = found if isinstance(found, BaseException) else found[1]  # 3.11: what exc_info returns
            assert repr(found) == f"KeyError('{text}')"

    run(main)


def test_locals_of_a_parked_frame_can_be_changed_through_a_debuggers_interface() -> None:
    def main() -> int:
        fiber = spawn(parked_with, 1)
        yield_now()
        frame = sys._current_frames()[fiber.ident or 0]
        frame.f_locals["doubled"] = 77
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
        del frame
        result: int = fiber.result()
        return result

    assert run(main) == 77


# --- ends ------------------------------------------------------------------------------------------------------------


class Kept:
    pass


def test_cancelled_fiber_runs_its_finally_blocks_and_lets_go_of_what_it_held() -> None:
    order: list[str] = []
    references: list[weakref.ref[Kept]] = []

    def inner() -> None:
        held = Kept()
        references.append(weakref.ref(held))
        try:
            greenio.sleep(float("inf"))
        finally:
            order.append("inner")

    def outer(argument: Kept) -> None:
        references.append(weakref.ref(argument))
        try:
            inner()
        finally:
            order.append("outer")

    def main() -> None:
        fiber = spawn(outer, Kept())
        wait_all_parked()
        assert [reference() is None for reference in references] == [False, False]
        fiber.cancel()
        fiber.join()
        assert fiber.cancelled()
        assert order == ["inner", "outer"]
        del fiber
        gc.collect()  # the traceback of Cancelled holds the frames, and they it
        assert [reference() is None for reference in references] == [True, True]

    run(main)


def test_fibers_that_never_end_are_unwound_when_main_returns_or_raises() -> None:
    for fails in (False, True):
        order: list[int] = []
        references: list[weakref.ref[Kept]] = []

        def wait(number: int, order: list[int] = order, references: list[Any] = references) -> None:
            held = Kept()
            references.append(weakref.ref(held))
            try:
                greenio.sleep(float("inf"))
            finally:
                yield_if_possible()
                order.append(number)

        def yield_if_possible() -> None:
            with contextlib.suppress(Cancelled):
                yield_now()

        def main(wait: Any = wait, fails: bool = fails) -> None:
            for number in range(10):
                spawn(wait, number)
            wait_all_parked()
            if fails:
                raise KeyError("main's")

        if fails:
            with pytest.raises(KeyError, match="main's"):
                run(main)
        else:
            run(main)
        gc.collect()
        assert sorted(order) == list(range(10))
        assert [reference() is None for reference in references] == [True] * 10


def test_fibers_not_begun_when_main_ends_begin_and_are_cancelled_at_their_first_checkpoint() -> None:
    order: list[str] = []

    def begin() -> None:
        order.append("begun")
        yield_now()
        order.append("not reached")

    def main() -> None:
        spawn(begin)
        spawn(begin)

    run(main)
    assert order == ["begun", "begun"]


def test_deleting_the_last_handle_does_not_stop_a_fiber() -> None:
    ended: list[int] = []

    def work(number: int) -> None:
        for _ in range(ROUNDS):
            yield_now()
            gc.collect(0)
        ended.append(number)

    def main() -> None:
        for number in range(5):
            spawn(work, number)
        gc.collect()
        while len(ended) < 5:
            yield_now()

    run(main)
    assert ended == [0, 1, 2, 3, 4]


def test_handle_deleted_while_its_fiber_is_parked_frees_it_at_its_end() -> None:
    def main() -> None:
        fiber = spawn(yield_now)
        reference = weakref.ref(fiber)
        del fiber
        assert reference() is not None
        for _ in range(3):
            yield_now()
        assert reference() is None

    run(main)


def test_result_and_arguments_go_with_the_handle() -> None:
    def main() -> None:
        argument = Kept()
        seen = weakref.ref(argument)
        fiber = spawn(lambda kept: kept, argument)
        del argument
        assert fiber.result() is seen()
        del fiber
        yield_now()
        assert seen() is None

    run(main)


def test_many_generations_of_fibers_leave_no_thread_state_behind() -> None:
    def main() -> None:
        for fiber in [spawn(yield_now) for _ in range(200)]:
            fiber.join()

    run(main)
    before = len(sys._current_frames())
    run(main)
    assert len(sys._current_frames()) == before
    debug.set_stack_pool(0)
    try:
        assert debug.stack_stats()["pooled"] == 0
        run(main)
    finally:
        debug.set_stack_pool(1024)


def test_failure_of_a_fiber_without_a_handle_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise KeyError("nobody asks")

    def main() -> None:
        spawn(fail, name="lost")
        yield_now()

    with caplog.at_level(logging.ERROR, "greenio"):
        run(main)
    assert len(caplog.records) == 1
    assert "lost, spawned at " in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    "case",
    [
        "daemon_thread",
        "after_main_run",
        "exit_in_fiber",
        "exit_in_main",
        "unhandled",
        "generator_at_exit",
        "spawn_at_exit",
    ],
)
def test_interpreter_exit_unwinds_fibers(case: str) -> None:
    done = run_script("leaving.py", case)
    assert "Fatal" not in done.stderr, done.stderr
    expected = {
        "daemon_thread": (0, ["finally 0", "finally 1", "finally 2", "atexit"]),
        "after_main_run": (0, ["finally", "run ended", "atexit"]),
        "exit_in_fiber": (5, ["finally of main", "finally", "atexit"]),
        "exit_in_main": (6, ["finally", "atexit"]),
        "unhandled": (1, ["finally", "atexit"]),
        "generator_at_exit": (0, ["atexit", "generator closed"]),
        "spawn_at_exit": (0, ["fiber at exit", "atexit"]),
    }
    lines = done.stdout.splitlines()
    lines[:3] = sorted(lines[:3]) if case == "daemon_thread" else lines[:3]
    assert (done.returncode, lines) == expected[case], done.stderr


# --- another stack ---------------------------------------------------------------------------------------------------


def test_on_big_stack_returns_and_raises_what_the_function_does() -> None:
    def check() -> None:
        assert on_big_stack(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError) as caught:
            on_big_stack(divmod, 7, 0)
        assert caught.value.__traceback__ is not None
        with pytest.raises(TypeError, match="callable"):
            on_big_stack(5)  # type: ignore[arg-type]
        with pytest.raises(Cancelled):
            on_big_stack(raise_cancelled)

    def raise_cancelled() -> None:
        raise Cancelled("from there")

    check()
    run(check)
    run_fibers(check, check)
    thread_result: list[BaseException | None] = []
    in_thread(check, thread_result)
    assert thread_result == [None]


def in_thread(function: Callable[[], object], into: list[BaseException | None]) -> None:
    def work() -> None:
        try:
            function()
        except BaseException as error:
            into.append(error)
        else:
            into.append(None)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_on_big_stack_is_the_same_fiber_with_the_same_state() -> None:
    local = threading.local()

    def work(number: int) -> None:
        local.number = number
        variable.set(number)
        me = greenio.current_fiber()

        def inside(depth: int) -> None:
            for _ in range(3):
                yield_now()
                assert greenio.current_fiber() is me
                assert (local.number, variable.get()) == (number, number)
                assert [call.name for call in me.stack] == ["work"] + ["inside"] * (4 - depth)
                assert isinstance(sys.exc_info()[1], KeyError)
            if depth:
                on_big_stack(inside, depth - 1)

        try:
            raise KeyError(number)
        except KeyError:
            on_big_stack(inside, 3)
        assert local.number == number

    run_fibers(*(functools.partial(work, number) for number in range(3)))


def test_fiber_parked_in_on_big_stack_is_cancelled_and_unwound() -> None:
    order: list[str] = []

    def inside() -> None:
        try:
            greenio.sleep(float("inf"))
        finally:
            order.append("inside")

    def work() -> None:
        try:
            on_big_stack(on_big_stack, inside)
        finally:
            order.append("outside")

    def main() -> None:
        spawn(work)
        wait_all_parked()

    run(main)
    assert order == ["inside", "outside"]


def test_run_inside_on_big_stack_and_on_big_stack_in_its_main() -> None:
    def main() -> tuple[int, int]:
        return on_big_stack(on_big_stack, max, 1, 2), spawn(on_big_stack, max, 3, 4).result()

    assert on_big_stack(run, main) == (2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["fiber", "main", "thread", "plain", "run_inside"])
@pytest.mark.parametrize("hidden", ["", "1"])
def test_deep_recursion_in_on_big_stack_raises_recursion_error(where: str, hidden: str) -> None:
    if hidden and sys.version_info < (3, 14):
        pytest.skip("stack protection is CPython 3.14's")
    check_script("recursion.py", "big_stack", where, GREENIO_HIDE_STACK_PROTECTION=hidden)
