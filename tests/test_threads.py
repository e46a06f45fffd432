"""Fibers and OS threads: wake-ups, spawns, cancellation and joins from outside; several schedulers at once."""

import math
import threading
import time

import pytest
from child import run_child

import greenio
from greenio._scheduler import live_schedulers, park_here, running_scheduler, unpark_fiber
from greenio.testing import wait_all_parked

PATIENCE = 30  # seconds that a thread of a test is waited for


def in_thread(fn, *args):
    """fn(*args) in an OS thread of its own: the thread, and the list that its result or exception goes to."""
    outcome = []

    def call():
        try:
            outcome.append(fn(*args))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    return thread, outcome


def result_of(thread, outcome):
    thread.join(PATIENCE)
    assert not thread.is_alive()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def fail(error):
    raise error


# --- from an OS thread without fibers --------------------------------------------------------------------------------


def test_unpark_from_an_os_thread_ends_the_pollers_wait():
    def main():
        me = greenio.current_fiber()
        thread, _ = in_thread(lambda: (until_parked(me), unpark_fiber(me)))
        assert park_here("the other OS thread", None, PATIENCE)
        thread.join()

    greenio.run(main)


def until_parked(fiber):
    deadline = time.monotonic() + PATIENCE
    while fiber.state != "parked":
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def test_spawn_from_an_os_thread_runs_in_the_schedulers_own():
    def main():
        scheduler = greenio.current_scheduler()
        main_thread = threading.get_ident()

        def outside():
            until_parked(scheduler.main)
            fiber = scheduler.spawn(lambda *args: (threading.get_ident(), args), 1, 2, name="from outside")
            return fiber.result(), fiber

        thread, outcome = in_thread(outside)
        while thread.is_alive():
            greenio.sleep(0.01)
        (ident, args), fiber = result_of(thread, outcome)
        assert ident == main_thread
        assert args == (1, 2)
        assert fiber.name == "from outside"
        assert fiber.spawned_at[0] == __file__

    greenio.run(main)


def test_bad_spawns_from_an_os_thread_change_nothing():
    def main():
        scheduler = greenio.current_scheduler()

        def outside():
            for wrong in ({"fn": None}, {"fn": print, "stack_size": 1}, {"fn": print, "name": 1}):
                with pytest.raises((TypeError, ValueError)):
                    scheduler.spawn(wrong.pop("fn"), **wrong)
            return scheduler.alive_count

        assert result_of(*in_thread(outside)) == 1

    greenio.run(main)


def test_many_spawns_and_cancels_from_many_os_threads():
    ran = []

    def main():
        scheduler = greenio.current_scheduler()

        def outside(number):
            fibers = [scheduler.spawn(lambda: (greenio.yield_now(), ran.append(number))) for _ in range(200)]
            sleepers = [scheduler.spawn(greenio.sleep, math.inf) for _ in range(50)]
            for sleeper in sleepers:
                sleeper.cancel(number)
            for fiber in fibers + sleepers:
                fiber.join(PATIENCE)
            return all(sleeper.cancelled() for sleeper in sleepers)

        threads = [in_thread(outside, number) for number in range(4)]
        while any(thread.is_alive() for thread, _ in threads):
            greenio.sleep(0.001)
        return [result_of(*thread) for thread in threads]

    assert greenio.run(main) == [True] * 4
    assert sorted(ran) == sorted(list(range(4)) * 200)


def test_cancel_from_an_os_thread_ends_a_wait():
    def main():
        fiber = greenio.spawn(greenio.sleep, math.inf)
        thread, outcome = in_thread(lambda: (until_parked(fiber), fiber.cancel("from outside"), fiber.join(PATIENCE)))
        fiber.join()
        result_of(thread, outcome)
        return fiber.cancelled()

    assert greenio.run(main)


def test_cancel_of_main_from_an_os_thread():
    def main():
        me = greenio.current_fiber()
        thread, _ = in_thread(lambda: (until_parked(me), me.cancel("from outside")))
        try:
            greenio.sleep(PATIENCE)
        finally:
            thread.join()

    with pytest.raises(greenio.Cancelled) as caught:
        greenio.run(main)
    assert caught.value.reason == "from outside"


def test_join_result_and_exception_block_an_os_thread_without_fibers():
    def main():
        returning = greenio.spawn(lambda: greenio.sleep(0.01) or "returned")
        raising = greenio.spawn(lambda: greenio.sleep(0.01) or fail(LookupError("raised")))

        def outside():
            returning.join()
            with pytest.raises(LookupError):
                raising.result(PATIENCE)
            return returning.result(), type(raising.exception())

        thread, outcome = in_thread(outside)
        while thread.is_alive():
            greenio.sleep(0.005)
        return result_of(thread, outcome)

    assert greenio.run(main) == ("returned", LookupError)


@pytest.mark.parametrize(("timeout", "error"), [(-1, ValueError), (math.nan, ValueError), ("1", TypeError)])
def test_a_wrong_timeout_is_refused_on_an_os_thread_too(timeout, error):
    fiber = greenio.run(lambda: greenio.spawn(int))
    assert fiber.join(0) is None
    with pytest.raises(error):
        fiber.join(timeout)


def test_a_join_from_an_os_thread_times_out_and_leaves_no_callback():
    def main():
        fiber = greenio.spawn(greenio.sleep, math.inf)
        greenio.sleep(0)

        def outside():
            for timeout in (0, 0.001):
                with pytest.raises(TimeoutError, match="has not ended within"):
                    fiber.join(timeout)

        result_of(*in_thread(outside))

    greenio.run(main)


def test_join_of_main_from_an_os_thread_ends_with_the_run():
    started = []

    def main():
        me = greenio.current_fiber()
        started.append(in_thread(lambda: me.result(PATIENCE)))
        return "of main"

    greenio.run(main)
    assert result_of(*started[0]) == "of main"


def test_an_os_thread_without_fibers_is_told_so():
    def main():
        def outside():
            assert running_scheduler() is None
            with pytest.raises(RuntimeError, match=r"scheduler\.spawn"):
                greenio.spawn(print)
            with pytest.raises(RuntimeError):
                greenio.sleep(1)

        result_of(*in_thread(outside))

    greenio.run(main)


def test_spawning_from_outside_while_the_run_ends_is_either_unwound_or_refused():
    for _ in range(10):
        fibers = []
        schedulers = []
        go = threading.Event()

        def outside(fibers=fibers, schedulers=schedulers, go=go):
            go.wait()
            while True:
                try:
                    fibers.append(schedulers[0].spawn(greenio.sleep, math.inf))
                    time.sleep(0)
                except greenio.RunFinishedError:
                    return

        thread = threading.Thread(target=outside)
        thread.start()

        def main(schedulers=schedulers, go=go):
            schedulers.append(greenio.current_scheduler())
            go.set()
            greenio.sleep(0.001)

        greenio.run(main)
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert all(fiber.done() for fiber in fibers)


def test_a_foreign_spawn_keeps_the_order_of_the_run_queue():
    order = []

    def main():
        scheduler = greenio.current_scheduler()
        greenio.spawn(order.append, 1)
        result_of(*in_thread(scheduler.spawn, order.append, 2))
        greenio.spawn(order.append, 3)
        greenio.yield_now()

    greenio.run(main)
    assert order == [1, 2, 3]


# --- several schedulers ----------------------------------------------------------------------------------------------


def test_each_os_thread_may_have_a_run_of_its_own():
    barrier = threading.Barrier(4)

    def main(number):
        barrier.wait(PATIENCE)
        fibers = [greenio.spawn(lambda k=k: greenio.sleep(0.001 * (k % 3)) or number * 100 + k) for k in range(50)]
        return sum(fiber.result() for fiber in fibers)

    threads = [in_thread(greenio.run, main, number) for number in range(4)]
    assert [result_of(*thread) for thread in threads] == [number * 5000 + 1225 for number in range(4)]


def test_run_ends_one_scheduler_and_leaves_the_others_alone():
    go_on = threading.Event()

    def other():
        greenio.spawn(greenio.sleep, math.inf)
        while not go_on.is_set():
            greenio.sleep(0.001)
        return "other"

    thread, outcome = in_thread(greenio.run, other)
    for _ in range(5):
        greenio.run(greenio.sleep, 0)
    assert len(live_schedulers()) == 1
    go_on.set()
    assert result_of(thread, outcome) == "other"
    assert live_schedulers() == []


def test_fibers_are_joined_across_schedulers():
    ready = threading.Event()
    fibers = []

    def other():
        fibers.append(greenio.spawn(lambda: park_here("the other scheduler", None, PATIENCE) and "across"))
        greenio.sleep(0)
        ready.set()
        return fibers[0].result()

    thread, outcome = in_thread(greenio.run, other)
    ready.wait(PATIENCE)

    def main():
        joiners = [greenio.spawn(fibers[0].result) for _ in range(3)]
        wait_all_parked()
        assert unpark_fiber(fibers[0])
        return [joiner.result() for joiner in joiners]

    assert greenio.run(main) == ["across"] * 3
    assert result_of(thread, outcome) == "across"


def test_a_main_fiber_is_joined_across_schedulers():
    mains = []
    ready = threading.Event()

    def other():
        mains.append(greenio.current_fiber())
        ready.set()
        park_here("the other scheduler", None, PATIENCE)
        return "main of the other"

    thread, outcome = in_thread(greenio.run, other)
    ready.wait(PATIENCE)

    def main():
        joiner = greenio.spawn(mains[0].result)
        wait_all_parked()
        until_parked(mains[0])
        unpark_fiber(mains[0])
        return joiner.result()

    assert greenio.run(main) == "main of the other"
    assert result_of(thread, outcome) == "main of the other"


def test_cancel_and_timeouts_work_across_schedulers():
    ready = threading.Event()
    fibers = []

    def other():
        fibers.append(greenio.spawn(greenio.sleep, math.inf))
        greenio.sleep(0)
        ready.set()
        fibers[0].join()
        return fibers[0].cancelled()

    thread, outcome = in_thread(greenio.run, other)
    ready.wait(PATIENCE)

    def main():
        with pytest.raises(TimeoutError):
            fibers[0].join(timeout=0.005)
        cancelled = greenio.spawn(fibers[0].join)
        greenio.sleep(0)
        cancelled.cancel()
        cancelled.join()
        fibers[0].cancel("across")
        fibers[0].join(PATIENCE)

    greenio.run(main)
    assert result_of(thread, outcome) is True


@pytest.mark.slow
def test_schedulers_that_wake_each_other_lose_nothing():
    # Ping-pong between fibers of two OS threads, each parked for the other: a lost wake-up is a timeout.
    turns = 3000
    fibers = {}
    ready = threading.Barrier(2)
    baton = [0]

    def player(number):
        fibers[number] = greenio.current_fiber()
        ready.wait(PATIENCE)
        for turn in range(turns):
            while baton[0] % 2 != number:
                assert park_here("the other's turn", None, PATIENCE), f"a wake-up was lost in turn {turn}"
            baton[0] += 1
            unpark_fiber(fibers[1 - number])

    threads = [in_thread(greenio.run, player, number) for number in range(2)]
    for thread in threads:
        result_of(*thread)
    assert baton[0] == 2 * turns


def test_a_fiber_that_was_ready_stays_with_its_scheduler():
    seen = []

    def main(number):
        def worker():
            for _ in range(20):
                seen.append((number, threading.get_ident()))
                greenio.yield_now()

        for fiber in [greenio.spawn(worker) for _ in range(5)]:
            fiber.join()
        return number, threading.get_ident()

    threads = [in_thread(greenio.run, main, number) for number in range(3)]
    idents = dict(result_of(*thread) for thread in threads)
    assert set(seen) == set(idents.items())


# --- deadlock and other OS threads -----------------------------------------------------------------------------------


def test_no_deadlock_while_another_os_thread_is_alive():
    def main():
        me = greenio.current_fiber()
        thread, _ = in_thread(lambda: (until_parked(me), time.sleep(0.1), unpark_fiber(me)))
        assert park_here("the other OS thread")
        thread.join()

    greenio.run(main)


@pytest.mark.slow
def test_deadlock_is_raised_once_the_last_other_os_thread_has_ended():
    def main():
        me = greenio.current_fiber()
        thread, _ = in_thread(lambda: (until_parked(me), time.sleep(0.1)))
        start = time.monotonic()
        with pytest.raises(greenio.DeadlockError):
            park_here("the other OS thread")
        thread.join()
        return time.monotonic() - start

    assert 0.1 <= greenio.run(main) < 5


def test_no_deadlock_while_a_call_is_out():
    def main():
        greenio.current_scheduler().outside_call(+1)
        # Nothing that Python knows of can wake main but the timer; without it the wait would be for ever.
        assert park_here("an answer", None, 0.05) is False
        greenio.current_scheduler().outside_call(-1)
        with pytest.raises(greenio.DeadlockError):
            park_here("an answer")

    greenio.run(main)


def test_the_gil_is_let_go_while_all_fibers_wait():
    def main():
        counted = [0]

        def count():
            for _ in range(100_000):
                counted[0] += 1

        thread, outcome = in_thread(count)
        while thread.is_alive():
            greenio.sleep(0.01)
        result_of(thread, outcome)
        return counted[0]

    assert greenio.run(main) == 100_000


@pytest.mark.slow
@pytest.mark.parametrize("malloc", ["pymalloc", "debug"])
def test_many_threads_come_and_go_with_runs(malloc):
    run_child(
        """
        import random, threading, greenio
        def work(number):
            numbers = random.Random(number)
            def main():
                fibers = [greenio.spawn(greenio.sleep, numbers.random() * 0.002) for _ in range(20)]
                for fiber in fibers[::2]:
                    fiber.cancel()
                for fiber in fibers:
                    fiber.join()
            for _ in range(5):
                greenio.run(main)
        for _ in range(10):
            threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        """,
        PYTHONMALLOC=malloc,
    )
