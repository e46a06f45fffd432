"""_scheduler.pyx: who runs next. Spawns, parks, order, timers, fairness, cancellation, deadlock, what a fiber leaves behind."""

import contextvars
import gc
import itertools
import logging
import math
import random
import re
import shutil
import subprocess
import sys
import threading
import traceback
import weakref
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from child import run_child

import greenio
from greenio import _scheduler, _socket
from greenio._scheduler import park_here, unpark_fiber
from greenio.pollers import epoll
from greenio.testing import VirtualClock, wait_all_parked

CRASH = Path(__file__).parent / "crash"


def fail(error):
    raise error


def here():
    return sys._getframe(1).f_lineno


# --- spawn and the fiber's interface ---------------------------------------------------------------------------------


def test_a_spawned_fiber_begins_at_the_spawners_next_park():
    ran = []

    def main():
        greenio.spawn(ran.append, "fiber")
        ran.append("main")
        greenio.yield_now()

    greenio.run(main)
    assert ran == ["main", "fiber"]


def test_spawn_passes_positional_arguments_and_keeps_the_result():
    def main():
        return greenio.spawn(lambda *args: args, 1, "two", None).result()

    assert greenio.run(main) == (1, "two", None)


def test_a_fiber_runs_on_when_its_handle_is_dropped():
    ran = []

    def worker():
        greenio.yield_now()
        ran.append(True)

    def main():
        greenio.spawn(worker)
        gc.collect()
        greenio.sleep(1)

    greenio.run(main, clock=VirtualClock())
    assert ran == [True]


@pytest.mark.parametrize("wrong", [None, 1, "print", [len]])
def test_spawning_what_is_not_callable_changes_nothing(wrong):
    def main():
        with pytest.raises(TypeError, match="wants a callable"):
            greenio.spawn(wrong)
        return greenio.debug.fibers()

    import greenio.debug

    assert len(greenio.run(main)) == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"stack_size": 0}, ValueError),
        ({"stack_size": -1}, ValueError),
        ({"stack_size": 1}, ValueError),
        ({"stack_size": 1 << 40}, ValueError),
        ({"stack_size": 1 << 100}, ValueError),
        ({"stack_size": 2.0**18}, TypeError),
        ({"stack_size": "1 MiB"}, TypeError),
        ({"name": 5}, TypeError),
        ({"name": b"bytes"}, TypeError),
        ({"color": "red"}, TypeError),
    ],
)
def test_bad_arguments_of_spawn_leave_everything_as_it_was(arguments, error):
    def main():
        scheduler = greenio.current_scheduler()
        with pytest.raises(error):
            greenio.spawn(print, **arguments)
        return scheduler.alive_count

    assert greenio.run(main) == 1


@pytest.mark.parametrize("stack_size", [256 * 1024, 1 << 20, 8 << 20, 300_000])
def test_a_fiber_has_at_least_the_stack_it_was_given(stack_size):
    def main():
        return greenio.spawn(greenio.current_fiber, stack_size=stack_size).result().stack_bytes

    assert greenio.run(main) >= stack_size


def test_run_says_how_large_stacks_are_that_spawn_does_not_say():
    def main():
        return greenio.spawn(greenio.current_fiber).result().stack_bytes

    assert greenio.run(main, stack_size=1 << 20) == 1 << 20
    assert greenio.run(main) == 256 * 1024


def test_the_main_fiber_runs_on_the_os_threads_own_stack():
    assert greenio.run(greenio.current_fiber).stack_bytes == 0


def test_a_fibers_names():
    def main():
        unnamed = greenio.spawn(greenio.yield_now)
        named = greenio.spawn(greenio.yield_now, name="worker")
        assert unnamed.name == f"fiber-{unnamed.id}"
        assert named.name == "worker"
        named.name = "wörker"
        assert named.name == "wörker"
        for wrong in (None, 5):
            with pytest.raises(TypeError):
                named.name = wrong
        with pytest.raises(UnicodeEncodeError):
            named.name = "\udc80"
        assert named.name == "wörker"
        assert greenio.current_fiber().name == "main"

    greenio.run(main)


def test_ids_count_up():
    def main():
        fibers = [greenio.spawn(greenio.yield_now) for _ in range(10)]
        return [fiber.id for fiber in fibers]

    first = greenio.run(main)
    assert first == list(range(first[0], first[0] + 10))
    assert greenio.run(main)[0] > first[-1]


def test_a_fibers_states():
    seen = []

    def worker():
        seen.append(fiber.state)
        greenio.sleep(1)

    def main():
        nonlocal fiber
        fiber = greenio.spawn(worker)
        seen.append(fiber.state)
        wait_all_parked()
        seen.append(fiber.state)
        fiber.join()
        seen.append(fiber.state)

    fiber = None
    greenio.run(main, clock=VirtualClock())
    assert seen == ["ready", "running", "parked", "done"]


def test_a_fibers_repr_says_what_it_does():
    def main():
        fiber = greenio.spawn(greenio.sleep, 5, name="napper")
        texts = [repr(fiber)]
        wait_all_parked()
        texts.append(repr(fiber))
        fiber.cancel()
        fiber.join()
        texts.append(repr(fiber))
        return fiber.id, texts

    number, texts = greenio.run(main)
    assert texts == [f"<greenio.Fiber {number} 'napper' {state}>" for state in ("ready", "parked: sleep", "done")]


def test_fibers_are_not_made_by_their_class():
    with pytest.raises(TypeError, match=r"greenio\.spawn"):
        greenio.Fiber()
    with pytest.raises(TypeError):
        greenio.Fiber(print)


def test_current_fiber_is_who_runs():
    def worker():
        return greenio.current_fiber()

    def main():
        me = greenio.current_fiber()
        fibers = [greenio.spawn(worker) for _ in range(3)]
        assert [fiber.result() for fiber in fibers] == fibers
        assert greenio.current_fiber() is me
        assert me.spawned_at is None

    greenio.run(main)


def test_spawned_at_is_the_line_of_the_spawn_call():
    def main():
        fiber = greenio.spawn(greenio.yield_now)
        return fiber.spawned_at, here() - 1

    (file, line), expected = greenio.run(main)
    assert file == __file__
    assert line == expected


def test_stack_shows_the_calls_a_parked_fiber_is_in():
    def inner():
        greenio.sleep(1)

    def outer():
        inner()

    def main():
        fiber = greenio.spawn(outer)
        assert list(fiber.stack) == []
        wait_all_parked()
        names = [frame.name for frame in fiber.stack]
        fiber.join()
        assert list(fiber.stack) == []
        return names

    assert greenio.run(main, clock=VirtualClock()) == ["outer", "inner"]


def test_stack_of_the_running_fiber_includes_the_call():
    def worker():
        return [frame.name for frame in greenio.current_fiber().stack]

    assert greenio.run(lambda: greenio.spawn(worker).result()) == ["worker"]


def test_ident_is_what_the_interpreter_calls_the_fibers_thread():
    def main():
        fiber = greenio.spawn(lambda: greenio.sleep(1))
        assert fiber.ident is None
        wait_all_parked()
        assert fiber.ident in sys._current_frames()
        fiber.cancel()
        fiber.join()
        return fiber.ident

    assert greenio.run(main) is None


def test_waits_for_names_the_reason_the_object_and_since_when():
    token = object()

    def main():
        greenio.sleep(3)
        fiber = greenio.spawn(park_here, "a token", token)
        joiner = greenio.spawn(fiber.join)
        assert fiber.waits_for is None
        wait_all_parked()
        assert fiber.waits_for == ("a token", token, 3.0)
        assert joiner.waits_for == ("the end of a fiber", fiber, 3.0)
        assert greenio.current_fiber().waits_for is None
        unpark_fiber(fiber, token)
        assert fiber.waits_for is None
        joiner.join()
        assert fiber.waits_for is None

    greenio.run(main, clock=VirtualClock())


def test_a_fiber_runs_in_a_copy_of_the_spawners_context():
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    def worker():
        seen.append(variable.get())
        variable.set("changed in the fiber")

    def main():
        variable.set("by main")
        fiber = greenio.spawn(worker)
        variable.set("after the spawn")
        fiber.join()
        seen.append(variable.get())

    greenio.run(main)
    assert seen == ["by main", "after the spawn"]
    assert variable.get() == "unset"


@pytest.mark.parametrize(
    "call",
    [
        lambda: greenio.spawn(print),
        greenio.current_fiber,
        greenio.current_scheduler,
        greenio.yield_now,
        greenio.checkpoint,
        lambda: park_here("nothing"),
    ],
)
def test_outside_run_the_error_says_what_to_do(call):
    with pytest.raises(RuntimeError, match=r"no fibers run on this OS thread: call this inside greenio\.run\(main\)"):
        call()


# --- results ---------------------------------------------------------------------------------------------------------


def test_result_raises_what_the_function_raised_with_its_traceback():
    error = LookupError("gone")

    def worker():
        fail(error)

    def main():
        fiber = greenio.spawn(worker)
        with pytest.raises(LookupError) as caught:
            fiber.result()
        assert caught.value is error
        names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert names[-2:] == ["worker", "fail"]
        assert fiber.exception() is error
        assert fiber.done()
        assert not fiber.cancelled()

    greenio.run(main)


def test_exception_is_none_for_a_fiber_that_returned():
    def main():
        fiber = greenio.spawn(int)
        assert fiber.exception() is None
        return fiber.result()

    assert greenio.run(main) == 0


def test_results_can_be_asked_for_again_and_by_many():
    def worker():
        greenio.sleep(1)
        return ["it"]

    def main():
        fiber = greenio.spawn(worker)
        askers = [greenio.spawn(fiber.result) for _ in range(5)]
        results = [asker.result() for asker in askers] + [fiber.result(), fiber.result()]
        assert all(result is results[0] for result in results)

    greenio.run(main, clock=VirtualClock())


def test_joiners_are_unparked_first_come_first_served():
    order = []

    def joiner(fiber, name):
        fiber.join()
        order.append(name)

    def main():
        fiber = greenio.spawn(greenio.sleep, 1)
        for name in range(10):
            greenio.spawn(joiner, fiber, name)
        greenio.sleep(2)

    greenio.run(main, clock=VirtualClock())
    assert order == list(range(10))


def test_join_says_nothing_of_how_the_fiber_ended(caplog):
    def main():
        failing = greenio.spawn(fail, ValueError("kept"))
        assert failing.join() is None
        assert isinstance(failing.exception(), ValueError)

    greenio.run(main)
    assert not caplog.records


@pytest.mark.parametrize("method", ["join", "result", "exception"])
def test_a_timeout_leaves_the_fiber_alone_and_the_joiner_out_of_its_list(method):
    def main():
        fiber = greenio.spawn(lambda: greenio.sleep(10) or "end")
        with pytest.raises(TimeoutError, match=r"has not ended within 2\.5 seconds"):
            getattr(fiber, method)(timeout=2.5)
        assert greenio.current_time() == 2.5
        assert fiber.state == "parked"
        getattr(fiber, method)(timeout=7.5)  # to the very moment
        assert greenio.current_time() == 10
        assert fiber.result() == "end"

    greenio.run(main, clock=VirtualClock())


def test_timeout_zero_does_not_park():
    ran = []

    def main():
        fiber = greenio.spawn(ran.append, 1)
        with pytest.raises(TimeoutError):
            fiber.join(timeout=0)
        assert ran == []
        fiber.join()
        fiber.join(timeout=0)

    greenio.run(main)


@pytest.mark.parametrize(("timeout", "error"), [(-1, ValueError), (math.nan, ValueError), ("1", TypeError)])
def test_a_wrong_timeout_is_refused_even_if_it_would_not_matter(timeout, error):
    def main():
        fiber = greenio.spawn(greenio.yield_now)
        with pytest.raises(error):
            fiber.join(timeout=timeout)
        fiber.join()
        with pytest.raises(error):
            fiber.join(timeout=timeout)

    greenio.run(main)


def test_a_fiber_cannot_wait_for_itself():
    def main():
        for method in ("join", "result", "exception"):
            with pytest.raises(RuntimeError, match="cannot wait for its own end"):
                getattr(greenio.current_fiber(), method)()

    greenio.run(main)
    greenio.run(lambda: greenio.spawn(main).result())


def test_a_cancelled_joiner_leaves_the_list():
    def main():
        fiber = greenio.spawn(greenio.sleep, 5)
        joiners = [greenio.spawn(fiber.join) for _ in range(3)]
        wait_all_parked()
        joiners[1].cancel()
        joiners[1].join()
        fiber.join()
        joiners[0].join()
        joiners[2].join()
        return [joiner.cancelled() for joiner in joiners]

    assert greenio.run(main, clock=VirtualClock()) == [False, True, False]


def test_the_handle_outlives_the_run():
    def main():
        return greenio.spawn(len, "four"), greenio.spawn(fail, KeyError("k"))

    returned, raised = greenio.run(main)
    assert returned.result() == 4
    assert returned.join() is None
    assert raised.state == "done"
    with pytest.raises(KeyError):
        raised.result()


# --- order -----------------------------------------------------------------------------------------------------------


def test_ready_fibers_run_first_in_first_out():
    order = []

    def worker(name):
        for turn in range(5):
            order.append((turn, name))
            greenio.yield_now()

    def main():
        for name in range(7):
            greenio.spawn(worker, name)
        greenio.sleep(1)

    greenio.run(main, clock=VirtualClock())
    assert order == list(itertools.product(range(5), range(7)))


@pytest.mark.parametrize("count", [62, 63, 64, 65, 1000])
def test_order_is_kept_when_the_run_queue_grows_and_wraps_around(count):
    order = []

    def worker(name):
        for turn in range(3):
            order.append((turn, name))
            greenio.yield_now()

    def main():
        for _ in range(40):
            greenio.spawn(greenio.yield_now)
        greenio.sleep(1)  # the queue's ends are now away from its start
        for name in range(count):
            greenio.spawn(worker, name)
        greenio.sleep(1)

    greenio.run(main, clock=VirtualClock())
    assert order == list(itertools.product(range(3), range(count)))


def test_unparked_fibers_run_in_the_order_of_their_unparks():
    order = []

    def worker(name):
        park_here("a turn")
        order.append(name)

    def main():
        workers = [greenio.spawn(worker, name) for name in range(20)]
        wait_all_parked()
        shuffled = random.Random(5).sample(range(20), 20)
        for name in shuffled:
            assert unpark_fiber(workers[name])
        greenio.yield_now()
        return shuffled

    assert greenio.run(main) == order


def test_unpark_of_one_that_is_not_parked_does_nothing():
    def main():
        me = greenio.current_fiber()
        assert not unpark_fiber(me)
        fiber = greenio.spawn(park_here, "once")
        assert not unpark_fiber(fiber)
        wait_all_parked()
        assert unpark_fiber(fiber)
        assert not unpark_fiber(fiber)
        fiber.join()
        assert not unpark_fiber(fiber)

    greenio.run(main)


def test_a_switch_goes_straight_to_the_next_fiber():
    def worker():
        for _ in range(100):
            greenio.yield_now()

    def main():
        scheduler = greenio.current_scheduler()
        workers = [greenio.spawn(worker) for _ in range(2)]
        greenio.yield_now()
        before = scheduler.switch_count
        for _ in range(10):
            greenio.yield_now()
        after = scheduler.switch_count
        for fiber in workers:
            fiber.join()
        return after - before

    assert greenio.run(main) == 30


def test_no_switch_if_the_parking_fiber_is_woken_first():
    def main():
        scheduler = greenio.current_scheduler()
        other = greenio.spawn(park_here, "for ever")
        wait_all_parked()
        before = scheduler.switch_count
        for _ in range(50):
            greenio.sleep(1)
            greenio.yield_now()
        after = scheduler.switch_count
        unpark_fiber(other)
        return after - before

    assert greenio.run(main, clock=VirtualClock()) == 0


def test_yield_now_alone_does_not_switch():
    def main():
        for _ in range(1000):
            greenio.yield_now()
        return greenio.current_scheduler().switch_count

    assert greenio.run(main) == 0


def test_a_spawned_fiber_takes_over_where_another_one_ends():
    # No switch is counted twice, none is lost: main to the first, then one for each that follows, and back to main.
    def main():
        scheduler = greenio.current_scheduler()
        before = scheduler.switch_count
        fibers = [greenio.spawn(int) for _ in range(10)]
        fibers[-1].join()
        return scheduler.switch_count - before

    assert greenio.run(main) == 11


def test_the_schedule_is_the_same_each_time():
    def main():
        order = []

        def worker(name, seed):
            numbers = random.Random(seed)
            for _ in range(20):
                order.append(name)
                if numbers.random() < 0.5:
                    greenio.yield_now()
                else:
                    greenio.sleep(numbers.random())

        for name in range(10):
            greenio.spawn(worker, name, name)
        greenio.sleep(100)
        return order

    assert greenio.run(main, clock=VirtualClock()) == greenio.run(main, clock=VirtualClock())


# --- timers ----------------------------------------------------------------------------------------------------------


def test_timers_fire_in_the_order_of_their_deadlines_and_equal_ones_first_come_first_served():
    numbers = random.Random(1)
    delays = [1 + numbers.randrange(20) for _ in range(500)]
    order = []

    def sleeper(index):
        greenio.sleep_until(delays[index])
        order.append((greenio.current_time(), index))

    def main():
        for index in range(len(delays)):
            greenio.spawn(sleeper, index)
        greenio.sleep(100)

    greenio.run(main, clock=VirtualClock())
    assert order == sorted((float(delay), index) for index, delay in enumerate(delays))


def run_timers_against_model(count, seed):
    """Sleepers with random deadlines, a part of them unparked or cancelled at random moments before."""
    numbers = random.Random(seed)
    events = []  # what came: (moment, sleeper, how)
    expected = []
    fibers = {}

    def sleeper(index, deadline):
        try:
            woken = park_here("a timer", None, deadline)
        except greenio.Cancelled:
            events.append((greenio.current_time(), index, "cancelled"))
            raise
        events.append((greenio.current_time(), index, "woken" if woken else "timed out"))

    def main():
        plans = []
        for index in range(count):
            deadline = numbers.randrange(1, 10**6) * 2  # even seconds; interference comes at odd ones
            fibers[index] = greenio.spawn(sleeper, index, deadline)
            choice = numbers.random()
            if choice < 0.3:
                moment = numbers.randrange(1, 10**6) * 2 + 1
                plans.append((moment, index, choice < 0.15))
                if moment < deadline:
                    expected.append((float(moment), index, "cancelled" if choice < 0.15 else "woken"))
                    continue
            expected.append((float(deadline), index, "timed out"))
        greenio.yield_now()
        plans.sort()
        for moment, index, cancels in plans:
            greenio.sleep_until(moment)
            if cancels:
                fibers[index].cancel()
            else:
                unpark_fiber(fibers[index])
        greenio.sleep_until(3 * 10**6)

    greenio.run(main, clock=VirtualClock(), stack_size=128 * 1024)
    assert len(events) == count
    assert [moment for moment, _, _ in events] == sorted(moment for moment, _, _ in events)
    assert sorted(events) == sorted(expected)


@pytest.mark.parametrize("seed", range(5))
def test_random_timers_behave_as_a_model_does(seed):
    run_timers_against_model(1000, seed)


@pytest.mark.slow
def test_a_hundred_thousand_random_timers_behave_as_a_model_does():
    run_timers_against_model(100_000, 42)


def test_a_timer_is_gone_when_its_fiber_was_unparked_before():
    def main():
        fiber = greenio.spawn(
            lambda: (park_here("a wake-up", None, 5), park_here("another", None, 100), greenio.current_time())
        )
        wait_all_parked()
        unpark_fiber(fiber)
        return fiber.result()

    assert greenio.run(main, clock=VirtualClock()) == (True, False, 100.0)


# --- fairness --------------------------------------------------------------------------------------------------------


def count_until(is_over, step):
    """How often *step* runs in a fiber of its own before is_over()."""
    count = 0

    def spin():
        nonlocal count
        while not is_over():
            count += 1
            step()

    greenio.spawn(spin).join()
    return count


@pytest.mark.parametrize("step", [greenio.yield_now, greenio.checkpoint, lambda: greenio.sleep(0)])
def test_a_yield_loop_cannot_starve_a_timer(step):
    class Ticking(greenio.Clock):
        now = 0

        def now_ns(self):
            self.now += 1  # each look at the clock, one nanosecond
            return self.now

    def main():
        sleeper = greenio.spawn(greenio.sleep, 3e-9)
        partner = greenio.spawn(count_until, sleeper.done, step)  # two, so that the run queue is never empty
        return count_until(sleeper.done, step) + partner.result()

    # 64 switches a look, and a switch after at most 32 checkpoints
    assert greenio.run(main, clock=Ticking()) < 5 * 64 * 32 * 2


@pytest.mark.parametrize("step", [greenio.yield_now, greenio.checkpoint, lambda: greenio.sleep(0)])
def test_a_lone_yield_loop_cannot_starve_a_timer(step):
    def main():
        sleeper = greenio.spawn(greenio.sleep, 0.001)
        return count_until(sleeper.done, step)

    assert greenio.run(main) < 1_000_000


def test_checkpoints_give_way_within_32():
    def main():
        ran = []
        greenio.spawn(ran.append, True)
        for count in range(1, 1000):
            greenio.checkpoint()
            if ran:
                return count
        return None

    assert 1 < greenio.run(main) <= 33


def test_operations_that_need_not_park_give_way_within_32():
    def main():
        ended = greenio.spawn(int)
        ended.join()
        ran = []
        greenio.spawn(ran.append, True)
        for count in range(1, 1000):
            ended.join()
            if ran:
                return count
        return None

    assert 1 < greenio.run(main) <= 33


def test_a_checkpoint_after_a_millisecond_gives_way():
    import time

    def main():
        ran = []
        greenio.spawn(ran.append, True)
        greenio.checkpoint()
        until = time.perf_counter() + 0.002
        while time.perf_counter() < until:
            pass
        greenio.checkpoint()
        return ran

    assert greenio.run(main) == [True]


def test_each_turn_has_a_budget_of_its_own():
    turns = []

    def worker(name):
        for _ in range(100):
            turns.append(name)
            greenio.checkpoint()

    def main():
        for name in "ab":
            greenio.spawn(worker, name)
        greenio.sleep(1)

    greenio.run(main, clock=VirtualClock())
    lengths = [len(list(group)) for _, group in itertools.groupby(turns)]
    assert sum(lengths) == 200
    assert max(lengths) <= 33


# --- park and unpark -------------------------------------------------------------------------------------------------


def test_a_park_with_a_timeout_says_how_it_ended():
    def main():
        fiber = greenio.spawn(park_here, "a wake-up", None, 5)
        assert park_here("nothing", None, 3) is False
        unpark_fiber(fiber)
        return fiber.result(), greenio.current_time()

    assert greenio.run(main, clock=VirtualClock()) == (True, 3.0)


def test_a_nested_park_in_a_destructor_does_not_change_how_the_outer_one_ended():
    # What a fiber leaves behind is destroyed by whoever runs after it, on the way back from that one's own park.
    class Napping:
        def __del__(self):
            greenio.sleep(1)

    keeper = contextvars.ContextVar("keeper")

    def worker():
        keeper.set(greenio.current_fiber())  # a cycle through the fiber's context, cut at its very end
        unpark_fiber(main_fiber)
        return Napping()

    def main():
        nonlocal main_fiber
        main_fiber = greenio.current_fiber()
        greenio.spawn(worker)
        return park_here("the worker", None, 100)

    main_fiber = None
    assert greenio.run(main, clock=VirtualClock()) is True


def test_a_destructor_may_park_while_its_fiber_ends():
    order = []

    class Napping:
        def __init__(self, name):
            self.name = name

        def __del__(self):
            greenio.sleep(1)
            order.append(self.name)

    local = threading.local()

    def worker(name):
        local.kept = Napping(name)

    def main():
        fibers = [greenio.spawn(worker, name) for name in "abc"]
        for fiber in fibers:
            fiber.join()
        assert greenio.current_time() == 1
        greenio.spawn(hasattr, local, "kept").join()

    greenio.run(main, clock=VirtualClock())
    assert order == ["a", "b", "c"]


# --- cancellation ----------------------------------------------------------------------------------------------------


CHECKPOINTS = {
    "yield_now": greenio.yield_now,
    "checkpoint": greenio.checkpoint,
    "sleep": lambda: greenio.sleep(1),
    "sleep 0": lambda: greenio.sleep(0),
    "sleep_until": lambda: greenio.sleep_until(5),
    "sleep_until the past": lambda: greenio.sleep_until(0),
    "park": lambda: park_here("anything"),
    "join": lambda: greenio.current_scheduler().main.join(),
    "wait_all_parked": wait_all_parked,
}


@pytest.mark.parametrize("checkpoint", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_cancelled_is_raised_at_every_checkpoint_again_and_again(checkpoint):
    def worker():
        for _ in range(5):
            with pytest.raises(greenio.Cancelled) as caught:
                checkpoint()
            assert caught.value.reason == "enough"
        return "swallowed"

    def main():
        fiber = greenio.spawn(worker)
        assert fiber.cancel("enough")
        return fiber.result(), fiber.cancelled()

    assert greenio.run(main, clock=VirtualClock()) == ("swallowed", False)


def test_join_of_an_ended_fiber_is_a_checkpoint():
    def main():
        ended = greenio.spawn(int)
        ended.join()
        fiber = greenio.spawn(ended.join)
        fiber.cancel()
        fiber.join()
        return fiber.cancelled()

    assert greenio.run(main)


def test_cancelling_a_parked_fiber_ends_its_wait():
    def main():
        fiber = greenio.spawn(greenio.sleep, 1000)
        greenio.sleep(1)
        assert fiber.cancel()
        assert fiber.state == "ready"
        fiber.join()
        assert greenio.current_time() == 1
        assert fiber.cancelled()
        assert fiber.done()
        assert not fiber.cancel()

    greenio.run(main, clock=VirtualClock())


def test_cancel_unparks_exactly_once():
    def worker():
        with pytest.raises(greenio.Cancelled):
            park_here("first")
        order.append("caught")

    def main():
        fiber = greenio.spawn(worker)
        wait_all_parked()
        assert fiber.cancel()
        assert fiber.cancel()
        assert not unpark_fiber(fiber)
        fiber.join()

    order = []
    greenio.run(main)
    assert order == ["caught"]


def test_a_fiber_cancelled_before_its_start_begins_and_gets_it_at_its_first_checkpoint():
    ran = []

    def worker():
        ran.append("begun")
        try:
            greenio.sleep(5)
        finally:
            ran.append("unwound")

    def main():
        fiber = greenio.spawn(worker)
        fiber.cancel()
        fiber.join()
        return fiber.cancelled()

    assert greenio.run(main)
    assert ran == ["begun", "unwound"]


def test_a_cancelled_fiber_that_comes_to_no_checkpoint_returns_as_usual():
    def main():
        fiber = greenio.spawn(len, "abc")
        fiber.cancel()
        return fiber.result(), fiber.cancelled()

    assert greenio.run(main) == (3, False)


def test_the_first_reason_counts():
    def main():
        fiber = greenio.spawn(greenio.sleep, 1)
        fiber.cancel("first")
        fiber.cancel("second")
        with pytest.raises(CancelledError, match="first") as caught:
            fiber.result()
        cause = caught.value.__cause__
        assert isinstance(cause, greenio.Cancelled)
        assert cause.reason == "first"
        assert cause.args == ("first",)

    greenio.run(main)


def test_without_a_reason_there_is_none():
    def main():
        fiber = greenio.spawn(greenio.sleep, 1)
        fiber.cancel()
        with pytest.raises(CancelledError) as caught:
            fiber.exception()
        assert caught.value.__cause__.reason is None

    greenio.run(main)


def test_except_exception_lets_cancelled_pass():
    def worker():
        try:
            greenio.sleep(1)
        except Exception:
            return "caught"

    def main():
        fiber = greenio.spawn(worker)
        fiber.cancel()
        fiber.join()
        return fiber.cancelled()

    assert greenio.run(main)


def test_what_is_raised_instead_of_cancelled_is_the_outcome():
    def worker():
        try:
            greenio.sleep(1)
        finally:
            raise ValueError("while unwinding")

    def main():
        fiber = greenio.spawn(worker)
        fiber.cancel()
        assert isinstance(fiber.exception(), ValueError)
        assert isinstance(fiber.exception().__context__, greenio.Cancelled)
        assert not fiber.cancelled()

    greenio.run(main)


def test_a_fiber_can_cancel_itself():
    def worker():
        assert greenio.current_fiber().cancel("me")
        greenio.checkpoint()

    def main():
        fiber = greenio.spawn(worker)
        fiber.join()
        return fiber.cancelled()

    assert greenio.run(main)


def test_cancelled_main_ends_the_run_with_cancelled():
    def main():
        greenio.current_fiber().cancel("stop")
        greenio.sleep(1)

    with pytest.raises(greenio.Cancelled) as caught:
        greenio.run(main)
    assert caught.value.reason == "stop"


def test_main_may_be_cancelled_by_another_fiber_and_swallow_it():
    def main():
        greenio.spawn(greenio.current_fiber().cancel)
        for _ in range(3):
            with pytest.raises(greenio.Cancelled):
                greenio.sleep(10)
        return "done"

    assert greenio.run(main) == "done"


def test_swallowing_cancelled_without_end_is_logged_once(caplog):
    def worker():
        for _ in range(2500):
            try:
                greenio.checkpoint()
            except greenio.Cancelled:
                pass

    def main():
        fiber = greenio.spawn(worker, name="stubborn")
        fiber.cancel()
        fiber.join()

    greenio.run(main)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "stubborn has swallowed Cancelled 1000 times" in caplog.text


def test_a_cancelled_fiber_can_be_joined_by_those_it_was_waiting_with():
    def main():
        target = greenio.spawn(greenio.sleep, 100)
        waiters = [greenio.spawn(target.result) for _ in range(3)]
        wait_all_parked()
        target.cancel()
        errors = [waiter.exception() for waiter in waiters]
        return all(isinstance(error, CancelledError) for error in errors)

    assert greenio.run(main)


# --- done callbacks --------------------------------------------------------------------------------------------------


def test_done_callbacks_are_called_in_order_with_the_fiber_in_the_fiber():
    seen = []

    def callback(name):
        return lambda fiber: seen.append((name, fiber, greenio.current_fiber(), fiber.done(), fiber.state))

    def main():
        fiber = greenio.spawn(int)
        for name in "abc":
            fiber.add_done_callback(callback(name))
        fiber.join()
        return fiber

    fiber = greenio.run(main)
    assert seen == [(name, fiber, fiber, True, "running") for name in "abc"]


def test_a_callback_added_after_the_end_is_called_at_once():
    def main():
        fiber = greenio.spawn(int)
        fiber.join()
        seen = []
        fiber.add_done_callback(seen.append)
        return seen == [fiber]

    assert greenio.run(main)


def test_a_callback_can_be_removed():
    seen = []

    def main():
        fiber = greenio.spawn(int)
        assert fiber.remove_done_callback(seen.append) == 0
        fiber.add_done_callback(seen.append)
        fiber.add_done_callback(seen.append)
        fiber.add_done_callback(lambda fiber: seen.append("other"))
        assert fiber.remove_done_callback(seen.append) == 2
        fiber.join()

    greenio.run(main)
    assert seen == ["other"]


def test_what_a_callback_raises_is_logged_and_the_next_one_is_called(caplog):
    seen = []

    def main():
        fiber = greenio.spawn(int, name="worker")
        fiber.add_done_callback(lambda fiber: fail(ValueError("in the callback")))
        fiber.add_done_callback(seen.append)
        fiber.join()
        assert seen == [fiber]

    greenio.run(main)
    assert "a done callback of worker raised" in caplog.text
    assert "in the callback" in caplog.text


def test_system_exit_from_a_callback_ends_the_run_and_the_next_one_is_called():
    seen = []

    def main():
        fiber = greenio.spawn(int)
        fiber.add_done_callback(lambda fiber: sys.exit(3))
        fiber.add_done_callback(seen.append)
        greenio.sleep(10)

    with pytest.raises(SystemExit, match="3"):
        greenio.run(main)
    assert len(seen) == 1


def test_a_callback_may_spawn_park_and_cancel():
    order = []

    def callback(fiber):
        greenio.sleep(1)
        greenio.spawn(order.append, "spawned")
        other.cancel()
        order.append("callback")

    def main():
        nonlocal other
        other = greenio.spawn(greenio.sleep, 1000)
        fiber = greenio.spawn(int)
        fiber.add_done_callback(callback)
        fiber.join()
        other.join()
        order.append(greenio.current_time())

    other = None
    greenio.run(main, clock=VirtualClock())
    assert order == ["callback", "spawned", 1.0]


def test_a_callback_that_parks_is_unwound_when_the_run_ends():
    order = []

    def callback(fiber):
        try:
            greenio.sleep(math.inf)
        finally:
            order.append("unwound")

    def main():
        fiber = greenio.spawn(int)
        fiber.add_done_callback(callback)
        fiber.add_done_callback(lambda fiber: order.append("next"))
        greenio.sleep(1)
        assert fiber.done()

    greenio.run(main, clock=VirtualClock())
    assert order == ["unwound", "next"]


def test_callbacks_of_main_are_called():
    seen = []

    def main():
        greenio.current_fiber().add_done_callback(lambda fiber: seen.append((fiber.name, fiber.exception())))
        raise LookupError

    with pytest.raises(LookupError):
        greenio.run(main)
    assert [(name, type(error)) for name, error in seen] == [("main", LookupError)]


# --- failures that nobody asks for -----------------------------------------------------------------------------------


def test_a_failure_that_nobody_can_ask_for_is_logged_at_once_with_the_place_of_the_spawn(caplog):
    def main():
        greenio.spawn(fail, ValueError("unheard"), name="worker")
        line = here() - 1
        greenio.yield_now()
        return line, [record.getMessage() for record in caplog.records]

    line, messages = greenio.run(main)
    assert messages == [f"worker, spawned at {__file__}:{line}, failed and nobody asked for its result"]
    assert caplog.records[0].name == "greenio"
    assert caplog.records[0].levelno == logging.ERROR
    assert "ValueError: unheard" in caplog.text
    assert "in fail" in caplog.text


def test_a_failure_whose_handle_is_kept_is_logged_when_the_handle_goes(caplog):
    def main():
        fiber = greenio.spawn(fail, ValueError("unheard"))
        greenio.yield_now()
        assert not caplog.records
        del fiber
        return len(caplog.records)

    assert greenio.run(main) == 1


def test_a_failure_whose_handle_outlives_the_run_is_logged_at_its_end(caplog):
    kept = []

    def main():
        kept.append(greenio.spawn(fail, ValueError("unheard")))
        greenio.yield_now()
        assert not caplog.records

    greenio.run(main)
    assert len(caplog.records) == 1
    kept.clear()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("ask", [lambda fiber: fiber.exception(), lambda fiber: fiber.join() or str(fiber.exception())])
def test_a_failure_that_was_asked_for_is_not_logged(caplog, ask):
    def main():
        fiber = greenio.spawn(fail, ValueError("heard"))
        ask(fiber)

    greenio.run(main)
    gc.collect()
    assert not caplog.records


def test_cancellation_is_not_a_failure(caplog):
    def main():
        greenio.spawn(greenio.sleep, 10).cancel()
        greenio.yield_now()

    greenio.run(main)
    assert not caplog.records


@pytest.mark.slow
def test_many_failures_are_all_logged(caplog):
    kept = []

    def main():
        kept.extend(greenio.spawn(fail, ValueError(number)) for number in range(2500))
        greenio.yield_now()

    greenio.run(main)
    assert len(caplog.records) == 2500


def test_a_log_handler_may_park_and_spawn(caplog):
    class Parking(logging.Handler):
        def emit(self, record):
            greenio.sleep(1)
            greenio.spawn(seen.append, record.getMessage())

    seen = []
    handler = Parking()
    logging.getLogger("greenio").addHandler(handler)
    try:

        def main():
            greenio.spawn(fail, ValueError("unheard"))
            greenio.sleep(5)
            return list(seen)

        assert len(greenio.run(main, clock=VirtualClock())) == 1
    finally:
        logging.getLogger("greenio").removeHandler(handler)


# --- a fiber that gets no stack --------------------------------------------------------------------------------------


def test_a_fiber_that_gets_no_stack_fails_with_memory_error_and_the_run_goes_on():
    child = run_child(
        """
        import resource, sys, greenio
        def main():
            fits = greenio.spawn(len, "abc")
            before = resource.getrlimit(resource.RLIMIT_AS)
            with open("/proc/self/statm") as statm:
                size = int(statm.read().split()[0]) * 4096
            big = [greenio.spawn(len, "abc", stack_size=64 << 20) for _ in range(3)]
            called = []
            big[0].add_done_callback(lambda fiber: called.append(fiber.exception()))
            def try_to_wait(fiber):
                try:
                    greenio.sleep(1)
                except RuntimeError as error:
                    called.append(error)
            big[0].add_done_callback(try_to_wait)
            resource.setrlimit(resource.RLIMIT_AS, (size + (8 << 20), before[1]))
            greenio.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_AS, before)
            for fiber in big:
                assert fiber.done() and fiber.state == "done"
                assert isinstance(fiber.exception(), MemoryError), fiber.exception()
                assert "no stack of" in str(fiber.exception())
            assert called[0] is big[0].exception()
            assert "cannot wait" in str(called[1]), called
            assert fits.result() == 3
            assert greenio.spawn(len, "abcd", stack_size=64 << 20).result() == 4
            del big, fiber, called
        greenio.run(main)
        print("alive")
        """
    )
    assert child.stdout == "alive\n"
    assert child.stderr == ""


def test_a_failed_start_that_nobody_asks_for_is_logged():
    child = run_child(
        """
        import resource, greenio, logging
        logging.basicConfig()
        def main():
            before = resource.getrlimit(resource.RLIMIT_AS)
            with open("/proc/self/statm") as statm:
                size = int(statm.read().split()[0]) * 4096
            greenio.spawn(len, "abc", stack_size=64 << 20, name="too large")
            resource.setrlimit(resource.RLIMIT_AS, (size + (8 << 20), before[1]))
            greenio.yield_now()
            resource.setrlimit(resource.RLIMIT_AS, before)
        greenio.run(main)
        """
    )
    assert "too large, spawned at" in child.stderr
    assert "MemoryError: no stack of" in child.stderr


# --- deadlock --------------------------------------------------------------------------------------------------------


def test_deadlock_is_raised_in_main_with_every_fibers_stack():
    token = ["the token"]

    def stuck():
        park_here("a token", token)

    def main():
        fiber = greenio.spawn(stuck, name="stuck-1")
        joiner = greenio.spawn(fiber.join, name="joiner-1")
        try:
            park_here("nothing at all")
        except greenio.DeadlockError as error:
            return str(error), fiber.id, joiner.id

    text, stuck_id, joiner_id = greenio.run(main)
    assert text.startswith("all 3 fibers wait, and nothing is left that could wake one:\n")
    assert "(main), waits for nothing at all" in text
    assert f"Fiber {stuck_id} (stuck-1), waits for a token: ['the token'], for 0.0" in text
    assert f"Fiber {joiner_id} (joiner-1), waits for the end of a fiber: {stuck_id} (stuck-1)" in text
    assert "in stuck" in text
    assert f"spawned at {__file__}:" in text


def test_a_deadlock_is_told_though_a_repr_raises_or_parks_or_is_long():
    class Raising:
        def __repr__(self):
            raise LookupError

    class Parking:
        def __repr__(self):
            greenio.sleep(1)

    def main():
        for token in (Raising(), Parking(), "x" * 10_000):
            greenio.spawn(park_here, "a token", token)
        with pytest.raises(greenio.DeadlockError) as caught:
            park_here("nothing")
        return str(caught.value)

    text = greenio.run(main)
    assert "<Raising whose repr raised LookupError>" in text
    assert "<Parking whose repr raised RuntimeError>" in text
    assert "x" * 100 in text
    assert "x" * 1000 not in text


def test_unhandled_deadlock_ends_the_run_and_unwinds_the_others():
    unwound = []

    def stuck():
        try:
            park_here("a token")
        finally:
            unwound.append(True)

    def main():
        greenio.spawn(stuck)
        park_here("nothing")

    with pytest.raises(greenio.DeadlockError):
        greenio.run(main)
    assert unwound == [True]


def test_the_run_goes_on_after_a_deadlock_that_main_resolves():
    def main():
        fiber = greenio.spawn(park_here, "a token")
        for _ in range(3):
            with pytest.raises(greenio.DeadlockError):
                fiber.join()
        unpark_fiber(fiber)
        return fiber.result()

    assert greenio.run(main) is True


def test_a_deadlock_of_many_fibers_tells_them_once():
    def main():
        for _ in range(300):
            greenio.spawn(park_here, "a token")
        with pytest.raises(greenio.DeadlockError) as caught:
            park_here("nothing")
        return str(caught.value)

    text = greenio.run(main)
    assert "all 301 fibers wait" in text
    assert "300 fibers wait for a token" in text
    assert text.count(", waits for") == 2


def test_no_deadlock_while_a_timer_is_armed():
    def main():
        greenio.spawn(greenio.sleep, 3600).join()
        return greenio.current_time()

    assert greenio.run(main, clock=VirtualClock()) == 3600


def test_a_sleep_for_ever_arms_no_timer():
    with pytest.raises(greenio.DeadlockError):
        greenio.run(greenio.sleep, math.inf)


# --- references ------------------------------------------------------------------------------------------------------


class Witness:
    pass


def test_a_fibers_arguments_and_function_go_when_it_ends():
    def worker(witness):
        return weakref.ref(witness)

    def main():
        fiber = greenio.spawn(worker, Witness())
        fiber.join()
        return fiber.result()()

    assert greenio.run(main) is None


def test_a_fiber_is_freed_when_it_ended_and_its_handle_is_gone():
    def main():
        fiber = greenio.spawn(greenio.yield_now)
        handle = weakref.ref(fiber)
        del fiber
        assert handle() is not None
        greenio.yield_now()
        greenio.yield_now()
        return handle()

    gc.disable()
    try:
        assert greenio.run(main) is None
    finally:
        gc.enable()


def test_a_result_that_nobody_can_ask_for_goes_at_once():
    witnesses = []

    def worker():
        witness = Witness()
        witnesses.append(weakref.ref(witness))
        return witness

    def main():
        greenio.spawn(worker)
        greenio.spawn(worker, name="named")
        greenio.yield_now()
        return [witness() for witness in witnesses]

    gc.disable()
    try:
        assert greenio.run(main) == [None, None]
    finally:
        gc.enable()


def test_a_traceback_does_not_keep_its_fiber_alive():
    def worker():
        local_of_the_worker = Witness()
        witnesses.append(weakref.ref(local_of_the_worker))
        raise ValueError("x")

    def main():
        fiber = greenio.spawn(worker)
        error = fiber.exception()
        handle = weakref.ref(fiber)
        del fiber
        assert handle() is None
        assert witnesses[0]() is not None  # by the traceback's frame
        del error
        assert witnesses[0]() is None

    witnesses = []
    gc.disable()
    try:
        greenio.run(main)
    finally:
        gc.enable()


@pytest.mark.slow
def test_objects_and_stacks_are_flat_after_ten_thousand_fibers():
    def worker(number):
        if number % 3 == 0:
            greenio.yield_now()
        return [number]

    def batch():
        fibers = [greenio.spawn(worker, number) for number in range(1000)]
        for fiber in fibers:
            fiber.join()

    def main():
        from greenio import debug

        counts = []
        for _ in range(10):
            batch()
            gc.collect()
            stats = debug.stack_stats()
            counts.append((len(gc.get_objects()), stats["in_use"], stats["slabs"]))
        return counts

    counts = greenio.run(main)
    assert counts[-1][1:] == counts[1][1:]
    assert counts[-1][1] == 0
    assert counts[-1][0] - counts[1][0] <= 20


@pytest.mark.slow
def test_failures_that_were_asked_for_are_forgotten():
    def main():
        for _ in range(5):
            fibers = [greenio.spawn(fail, error) for error in map(ValueError, range(1000))]
            for fiber in fibers:
                fiber.exception()
            del fibers, fiber
            gc.collect()
            counts.append(len(gc.get_objects()))
        return counts

    counts = []
    greenio.run(main)
    assert max(counts) - min(counts) < 2000  # weak references, swept now and then


def test_failures_that_are_kept_do_not_slow_each_other_down():
    import time

    kept = []

    def fail_many(count):
        start = time.process_time()
        fibers = [greenio.spawn(fail, ValueError()) for _ in range(count)]
        kept.extend(fibers)
        greenio.yield_now()
        return time.process_time() - start

    def main():
        first = fail_many(1000)
        fail_many(8000)
        last = fail_many(1000)
        for fiber in kept:
            fiber.exception()
        return first, last

    first, last = greenio.run(main)
    assert last < 10 * first + 0.05


@pytest.mark.slow
def test_a_run_leaves_no_objects():
    def main():
        for _ in range(20):
            greenio.spawn(greenio.sleep, 10)
        greenio.yield_now()

    counts = []
    for _ in range(5):
        greenio.run(main)
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert counts[-1] - counts[1] <= 5


def test_garbage_that_refers_to_parked_fibers_is_collected_and_the_fibers_are_not():
    class Node:
        pass

    def worker(node):
        kept = Witness()
        node.kept = kept
        park_here("a wake-up", node)
        return kept.__class__.__name__

    def main():
        fibers = []
        for _ in range(50):
            node = Node()
            fiber = greenio.spawn(worker, node)
            node.fiber = fiber
            node.myself = node
            fibers.append(weakref.ref(fiber))
            garbage = Node()
            garbage.fiber = fiber
            garbage.myself = garbage
        del node, fiber, garbage
        wait_all_parked()
        for _ in range(3):
            gc.collect()
        alive = [handle() for handle in fibers]
        assert all(fiber is not None and fiber.state == "parked" for fiber in alive)
        for fiber in alive:
            unpark_fiber(fiber, fiber.waits_for[1])
        assert {fiber.result() for fiber in alive} == {"Witness"}
        del alive, fiber
        gc.collect()
        return [handle() for handle in fibers]

    assert greenio.run(main) == [None] * 50


SOAK = (
    5000 if hasattr(sys, "gettotalrefcount") else 40_000
)  # spawns; the collector runs all the time, slowly in debug builds


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_soak(seed):
    child = run_child(CRASH / "soak.py", f"--spawns={SOAK}", f"--seed={seed}", flags=())
    assert "flat" in child.stdout


@pytest.mark.slow
def test_soak_with_pythons_own_memory_checks():
    child = run_child(CRASH / "soak.py", f"--spawns={SOAK // 3}", "--seed=3", flags=(), PYTHONMALLOC="debug")
    assert "flat" in child.stdout


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_garbage_in_cycles_through_parked_fibers_is_collected_and_what_waits_stays(seed):
    run_child(CRASH / "garbage.py", str(seed), "60")


# --- a wake-up is a hint ---------------------------------------------------------------------------------------------


def test_a_destructor_that_parks_on_the_way_back_gets_no_wake_up_of_the_outer_wait():
    run_child(
        """
        import greenio
        from greenio.testing import VirtualClock

        found = []

        class Waits:
            def __init__(self, fiber):
                self.fiber = fiber

            def __del__(self):
                self.fiber.join()
                found.append((greenio.current_fiber().name, self.fiber.done()))

        def deep(depth):
            return deep(depth - 1) if depth else greenio.sleep(0)

        def main():
            clock = greenio.current_scheduler().clock
            late = greenio.spawn(lambda: greenio.sleep(0.5) or "late")
            other = greenio.spawn(greenio.sleep, 0.25)

            def ends_by_cancellation():
                try:
                    greenio.sleep(5)
                except greenio.Cancelled:
                    pass

            doomed = [greenio.spawn(ends_by_cancellation)]

            def cancel_and_compute():
                greenio.sleep(0.03)
                doomed.pop().cancel(Waits(late))  # its end drops the last reference, on the stack of whoever comes next
                clock.advance(0.08)               # main's timeout has passed meanwhile

            greenio.spawn(cancel_and_compute)
            try:
                other.join(0.06)
            except TimeoutError:
                pass
            for depth in range(30):
                deep(depth)
            assert late.result() == "late"
            greenio.sleep(1)
            assert [done for _, done in found] == [True], found

        greenio.run(main, clock=VirtualClock())
        """
    )


@pytest.mark.parametrize("what", ["join", "recv"])
def test_a_fiber_that_was_cancelled_and_then_shielded_sees_what_came_meanwhile(what):
    def main():
        event = greenio.Event()
        other = greenio.spawn(event.wait)
        here, there = greenio.socket.socketpair()
        scopes = []

        def waiter():
            with greenio.CancelScope() as outer, greenio.CancelScope() as inner:
                scopes.extend((outer, inner))
                return other.join() if what == "join" else here.recv(10)

        fiber = greenio.spawn(waiter)
        wait_all_parked()
        event.set()
        there.send(b"x")
        scopes[0].cancel()  # ready, to be interrupted
        scopes[1].shield = True  # or not
        assert fiber.result() in (None, b"x")
        here.close()
        there.close()

    greenio.run(main)


@pytest.mark.parametrize("held_by", ["the run", "a task group"])
def test_a_deadlock_under_a_shield_is_told(held_by):
    group = "with greenio.TaskGroup() as group: group" if held_by == "a task group" else "greenio"
    run_child(
        f"""
        import logging, os, greenio

        class Told(logging.Handler):
            def emit(self, record):
                text = record.getMessage()
                os._exit(7 if "under_a_shield" in text and "event wait" in text else 1)

        logging.getLogger("greenio").addHandler(Told())

        def under_a_shield():
            with greenio.shield():
                greenio.Event().wait()

        def main():
            {group}.spawn(under_a_shield)
            greenio.yield_now()

        greenio.run(main)  # never ends: nobody can wake that fiber, and nothing may interrupt it
        """,
        status=7,
    )


@pytest.mark.slow
def test_stacks_of_a_burst_are_given_back_also_while_only_a_signal_is_waited_for():
    child = run_child(
        """
        import signal, greenio
        from greenio import debug

        def main():
            stop = greenio.Event()
            signal.signal(signal.SIGALRM, lambda *_: stop.set())
            fibers = [greenio.spawn(greenio.sleep, 0.001) for _ in range(5000)]
            for fiber in fibers:
                fiber.join()
            print(debug.stack_stats()["pooled"])
            signal.setitimer(signal.ITIMER_REAL, 5)
            stop.wait()
            print(debug.stack_stats()["pooled"])

        greenio.run(main)
        """
    )
    assert child.stdout.split() == ["5000", "1024"]


# --- what the compiler made of it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "function", "least"),
    [
        (_scheduler, "Scheduler_next_ready", 9),
        (_scheduler, "Scheduler_fire_timers", 3),
        (_socket, "SocketCore_receive_waiting", 3),
        (epoll, "EpollPoller_wait", 2),
    ],
)
def test_cold_memory_is_fetched_ahead(module, function, least):
    # gcc dropped the calls once, since they change nothing that it knows of.
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("no objdump: apt-get install binutils")
    command = [objdump, "-d", "--no-show-raw-insn", module.__file__]
    listing = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    code = dict(re.findall(r"^[0-9a-f]+ <(\w+)>:\n(.*?)(?:\n\n|\Z)", listing, re.MULTILINE | re.DOTALL))
    (body,) = (text for name, text in code.items() if re.search(rf"_\d+{function}$", name))
    reached = [body, *(code.get(name, "") for name in re.findall(r"call +[0-9a-f]+ <(\w*prefetch\w*)>", body))]
    # A build without optimisation calls what fetches.
    assert sum(len(re.findall(r"prefetcht0|<greenio_prefetch", text)) for text in reached) >= least
