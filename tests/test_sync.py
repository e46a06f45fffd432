"""_sync.pyx: Event, Semaphore, BoundedSemaphore, and local. Locks are in test_sync_locks.py, conditions and barriers in
test_sync_conditions.py, threading's own tests in test_sync_standard.py."""

import math
import sys
import threading
import weakref

import pytest
from child import run_child

import greenio
from greenio._scheduler import unpark_fiber
from greenio.testing import VirtualClock, wait_all_parked


def run_virtually(main, *args):
    return greenio.run(main, *args, clock=VirtualClock())


# --- Event -----------------------------------------------------------------------------------------------------------


def test_an_event_is_not_set_until_set_and_again_after_clear():
    event = greenio.Event()
    assert event.is_set() is False
    with pytest.raises(TypeError):
        greenio.Event(True)
    event.set()
    event.set()
    assert event.is_set() is True
    assert event.wait() is True
    event.clear()
    assert event.is_set() is False
    assert event.wait(0) is False


def test_set_wakes_everybody_who_waits_in_the_order_in_which_they_came():
    order = []

    def waiter(event, number):
        assert event.wait() is True
        order.append(number)

    def main():
        event = greenio.Event()
        waiters = [greenio.spawn(waiter, event, number) for number in range(4)]
        wait_all_parked()
        event.set()
        assert order == []  # set itself does not park
        for each in waiters:
            each.join()

    greenio.run(main)
    assert order == [0, 1, 2, 3]


def test_who_waited_when_it_was_set_goes_on_though_it_was_cleared_since():
    def main():
        event = greenio.Event()
        waiter = greenio.spawn(event.wait)
        wait_all_parked()
        event.set()
        event.clear()
        assert waiter.result() is True
        assert event.wait(1) is False

    run_virtually(main)


def test_wait_is_a_checkpoint_also_when_the_event_is_set():
    def main():
        event = greenio.Event()
        event.set()
        with greenio.CancelScope() as scope:
            scope.cancel()
            event.wait()
        assert scope.cancelled_caught

    greenio.run(main)


def test_a_wait_for_a_set_event_says_so_though_it_is_cleared_while_it_gives_way():
    def clear(event):
        while True:
            event.clear()
            greenio.yield_now()

    def main():
        event = greenio.Event()
        clearing = greenio.spawn(clear, event)
        seen = set()
        for _ in range(100):
            event.set()
            seen.add(event.wait())
        clearing.cancel()
        return seen

    assert greenio.run(main) == {True}


def test_a_cancelled_waiter_leaves_and_the_others_stay():
    def main():
        event = greenio.Event()
        first, second = greenio.spawn(event.wait), greenio.spawn(event.wait)
        wait_all_parked()
        assert "unset, 2 waiting" in repr(event)
        first.cancel()
        wait_all_parked()
        assert first.cancelled()
        assert "unset, 1 waiting" in repr(event)
        event.set()
        assert second.result() is True
        assert repr(event).endswith(" set>")

    greenio.run(main)


@pytest.mark.parametrize("timeout", [2.5, 0, -1, -math.inf])
def test_wait_gives_up_after_its_timeout(timeout):
    def main():
        event = greenio.Event()
        assert event.wait(timeout) is False
        assert greenio.current_time() == max(timeout, 0)
        assert "waiting" not in repr(event)

    run_virtually(main)


def test_an_event_set_within_the_timeout_ends_the_wait():
    def main():
        event = greenio.Event()
        waiter = greenio.spawn(event.wait, 10)
        greenio.sleep(4)
        event.set()
        assert waiter.result() is True
        assert greenio.current_time() == 4
        assert greenio.spawn(event.wait, math.inf).result() is True

    run_virtually(main)


@pytest.mark.parametrize(("timeout", "error"), [(math.nan, ValueError), ("1", TypeError)])
def test_a_wrong_timeout_is_refused(timeout, error):
    for operation in (greenio.Event().wait, lambda timeout: greenio.Semaphore().acquire(timeout=timeout)):
        with pytest.raises(error):
            operation(timeout)
        with pytest.raises(error):
            greenio.run(operation, timeout)


def test_a_loop_that_asks_with_no_timeout_lets_the_others_run():
    def main():
        event = greenio.Event()
        greenio.spawn(event.set)
        asked = 0
        while not event.wait(0):
            asked += 1
            assert asked < 1000
        return asked

    assert greenio.run(main) > 0


def test_an_os_thread_waits_for_what_a_fiber_sets():
    event = greenio.Event()
    seen = []
    thread = threading.Thread(target=lambda: seen.append(event.wait()))

    def main():
        thread.start()
        while "1 waiting" not in repr(event):
            greenio.sleep(0.001)
        event.set()

    greenio.run(main)
    thread.join()
    assert seen == [True]


def test_an_os_thread_gives_up_after_its_timeout():
    event = greenio.Event()
    assert event.wait(0.002) is False
    assert "waiting" not in repr(event)


def test_a_fiber_waits_for_what_an_os_thread_sets():
    event, go = greenio.Event(), threading.Event()

    def set_it():
        go.wait()
        event.set()

    def main():
        thread = threading.Thread(target=set_it)
        thread.start()
        waiters = [greenio.spawn(event.wait) for _ in range(3)]
        wait_all_parked()
        go.set()
        assert [waiter.result() for waiter in waiters] == [True] * 3
        thread.join()

    greenio.run(main)


def test_two_schedulers_tell_each_other():
    there, back = greenio.Event(), greenio.Event()

    def other():
        assert there.wait(30)
        back.set()

    def main():
        there.set()
        return back.wait(30)

    thread = threading.Thread(target=greenio.run, args=(other,))
    thread.start()
    assert greenio.run(main) is True
    thread.join()


@pytest.mark.parametrize("wait", ["stop.wait", "lambda: greenio.spawn(stop.wait).join()"])
def test_a_service_that_waits_for_a_signal_is_no_deadlock_and_ends_by_it(wait):
    child = run_child(
        f"""
        import os, signal, subprocess, sys
        import greenio
        stop = greenio.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        # Later than the second look for deadlocks, without a thread or a fiber of ours.
        subprocess.Popen(["sh", "-c", f"sleep 0.05; kill -TERM {{os.getpid()}}"])
        greenio.run({wait})
        print("stopped", stop.is_set())
        """,
        flags=(),
    )
    assert child.stdout == "stopped True\n"


def test_an_event_that_nobody_can_set_is_a_deadlock():
    run_child(
        """
        import greenio
        event = greenio.Event()
        try:
            greenio.run(event.wait)
        except greenio.DeadlockError as error:
            assert "event wait" in str(error)
        else:
            raise AssertionError
        assert "waiting" not in repr(event)
        """
    )


def test_a_signal_handler_sets_what_an_os_thread_without_fibers_waits_for():
    run_child(
        """
        import signal
        import greenio
        stop = greenio.Event()
        failed = []
        signal.signal(signal.SIGALRM, lambda *_: stop.set())
        # Again and again: one that comes right before the kernel's wait is seen after it, as in threading's locks.
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        assert stop.wait() is True
        signal.setitimer(signal.ITIMER_REAL, 0)

        def fail(*_):
            if not failed:
                failed.append(True)
                raise LookupError

        stop.clear()
        signal.signal(signal.SIGALRM, fail)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
            stop.wait()
        except LookupError:
            pass
        else:
            raise AssertionError
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert "waiting" not in repr(stop)
        """
    )


def wait_on(thing, timeout):
    """Waits in vain, in whichever way *thing* has."""
    if isinstance(thing, greenio.Semaphore):
        return thing.acquire(True, timeout)
    if isinstance(thing, greenio.Condition):
        with thing:
            return thing.wait(timeout)
    try:
        return thing.wait(timeout)
    except greenio.BrokenBarrierError:
        return False


@pytest.mark.parametrize(
    "make", [greenio.Event, lambda: greenio.Semaphore(0), greenio.Condition, lambda: greenio.Barrier(3)]
)
def test_nothing_is_left_of_who_waited_for_it(make):
    def main():
        thing = make()
        before = sys.getrefcount(thing)
        waiters = [greenio.spawn(wait_on, thing, 1), greenio.spawn(wait_on, thing, 5)]
        wait_all_parked()
        waiters[1].cancel()
        assert waiters[0].result() is False
        wait_all_parked()
        references = [weakref.ref(each) for each in waiters]
        del waiters
        greenio.yield_now()
        assert [reference() for reference in references] == [None, None]
        assert sys.getrefcount(thing) == before
        reference = weakref.ref(thing)
        del thing
        assert reference() is None

    run_virtually(main)


# --- Semaphore -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [greenio.Semaphore, greenio.BoundedSemaphore])
def test_a_semaphore_lets_as_many_in_as_it_has_permits(kind):
    inside = most = 0

    def worker(semaphore):
        nonlocal inside, most
        with semaphore as entered:
            assert entered is True
            inside += 1
            most = max(most, inside)
            greenio.yield_now()
            inside -= 1

    def main():
        semaphore = kind(3)
        for each in [greenio.spawn(worker, semaphore) for _ in range(10)]:
            each.join()
        assert f"greenio.{kind.__name__} at" in repr(semaphore)
        assert "value=3" in repr(semaphore)

    greenio.run(main)
    assert most == 3
    assert inside == 0


def test_a_semaphore_has_one_permit_unless_told_and_may_have_none():
    semaphore = greenio.Semaphore()
    assert semaphore.acquire(blocking=False) is True
    assert semaphore.acquire(blocking=False) is False
    assert semaphore.acquire(timeout=0) is False
    assert semaphore.acquire(timeout=-1) is False
    assert semaphore.acquire(timeout=0.001) is False
    semaphore = greenio.Semaphore(0)
    assert semaphore.acquire(False) is False
    semaphore.release(2)
    assert semaphore.acquire(False)
    assert semaphore.acquire(True, None)
    assert not semaphore.acquire(False)


def test_permits_go_straight_to_those_who_have_waited_longest():
    order = []

    def waiter(semaphore, number):
        semaphore.acquire()
        order.append(number)

    def main():
        semaphore = greenio.Semaphore(0)
        for number in range(3):
            greenio.spawn(waiter, semaphore, number)
        wait_all_parked()
        semaphore.release(2)
        assert semaphore.acquire(False) is False
        wait_all_parked()
        assert order == [0, 1]
        semaphore.release(3)
        wait_all_parked()
        assert order == [0, 1, 2]
        assert "value=2>" in repr(semaphore)

    greenio.run(main)


def test_a_permit_is_not_lost_with_a_cancelled_waiter():
    def main():
        semaphore = greenio.Semaphore(0)
        first, second = greenio.spawn(semaphore.acquire), greenio.spawn(semaphore.acquire)
        wait_all_parked()
        first.cancel()
        semaphore.release()
        assert second.result() is True
        assert first.cancelled()
        third = greenio.spawn(semaphore.acquire)
        wait_all_parked()
        third.cancel()
        semaphore.release()
        wait_all_parked()
        assert third.cancelled()
        assert "value=1>" in repr(semaphore)

    greenio.run(main)


def test_a_cancelled_fiber_takes_no_permit():
    def main():
        semaphore = greenio.Semaphore()
        with greenio.CancelScope() as scope:
            scope.cancel()
            semaphore.acquire()
        assert scope.cancelled_caught
        assert "value=1" in repr(semaphore)

    greenio.run(main)


def test_acquire_gives_up_after_its_timeout_and_takes_nothing():
    def main():
        semaphore = greenio.Semaphore(0)
        assert semaphore.acquire(timeout=3) is False
        assert greenio.current_time() == 3
        semaphore.release()
        assert "value=1>" in repr(semaphore)

    run_virtually(main)


@pytest.mark.parametrize("kind", [greenio.Semaphore, greenio.BoundedSemaphore])
def test_misuse_of_a_semaphore_is_refused_and_changes_nothing(kind):
    with pytest.raises(ValueError, match="initial value must be >= 0"):
        kind(-1)
    with pytest.raises(TypeError):
        kind("1")
    semaphore = kind(2)
    semaphore.acquire()
    for n in (0, -1):
        with pytest.raises(ValueError, match="n must be one or more"):
            semaphore.release(n)
    for timeout in (1, 0):
        with pytest.raises(ValueError, match="can't specify timeout for non-blocking acquire"):
            semaphore.acquire(False, timeout)
    assert "value=1" in repr(semaphore)


def test_a_semaphore_refuses_more_permits_than_can_be_counted():
    semaphore = greenio.Semaphore(sys.maxsize - 1)
    with pytest.raises(OverflowError, match="2 cannot come back"):
        semaphore.release(2)
    assert f"value={sys.maxsize - 1}" in repr(semaphore)
    semaphore.release()
    with pytest.raises(OverflowError, match="1 cannot come back"):
        semaphore.release()
    assert f"value={sys.maxsize}" in repr(semaphore)


def test_a_bounded_semaphore_refuses_more_permits_than_it_had():
    def main():
        semaphore = greenio.BoundedSemaphore(2)
        with pytest.raises(ValueError, match="Semaphore released too many times"):
            semaphore.release()
        semaphore.acquire()
        semaphore.acquire()
        waiter = greenio.spawn(semaphore.acquire)
        wait_all_parked()
        with pytest.raises(ValueError, match="too many times: 0 permits of 2 are there, 3"):
            semaphore.release(3)
        assert waiter.state == "parked"
        semaphore.release(2)
        assert waiter.result() is True
        assert "value=1/2>" in repr(semaphore)

    greenio.run(main)


def test_permits_go_between_os_threads():
    full, empty = greenio.Semaphore(0), greenio.Semaphore(1)
    items = []
    rounds = 200

    def produce():
        for number in range(rounds):
            empty.acquire()
            items.append(number)
            full.release()

    def consume():
        got = []
        for _ in range(rounds):
            full.acquire()
            got.append(items.pop())
            empty.release()
        return got

    thread = threading.Thread(target=produce)
    thread.start()
    assert greenio.run(consume) == list(range(rounds))
    thread.join()
    thread = threading.Thread(target=greenio.run, args=(produce,))
    thread.start()
    assert consume() == list(range(rounds))
    thread.join()


def test_subclasses_may_add_to_a_primitive():
    class Counting(greenio.Semaphore):
        def __init__(self, value):
            super().__init__(value)
            self.released = 0

        def release(self, n=1):
            super().release(n)
            self.released += n

    semaphore = Counting(1)
    with semaphore:
        pass
    assert semaphore.released == 1


# --- woken by something else -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("given_meanwhile", [False, True])
@pytest.mark.parametrize(
    ("make", "give"),
    [
        (greenio.Event, "set"),
        (lambda: greenio.Semaphore(0), "release"),
        (greenio.Condition, "notify"),
        (lambda: greenio.Barrier(2), "wait"),
    ],
)
def test_a_fiber_that_is_woken_for_no_reason_waits_on_and_misses_nothing(make, give, given_meanwhile):
    def main():
        thing = make()
        waiter = greenio.spawn(wait_on, thing, 10)
        wait_all_parked()
        assert unpark_fiber(waiter, thing)
        if not given_meanwhile:
            wait_all_parked()
            assert waiter.state == "parked"
        if isinstance(thing, greenio.Condition):
            with thing:
                thing.notify()
        else:
            getattr(thing, give)()
        assert waiter.result() in (True, 0)
        assert greenio.current_time() == 0

    run_virtually(main)


# --- cancelled, then shielded, and given something before it runs ---------------------------------------------------


def set_and_clear(event):
    event.set()
    event.clear()


def notify_all(condition):
    with condition:
        condition.notify_all()


@pytest.mark.parametrize(
    ("make", "wait", "give", "expected"),
    [
        (greenio.Event, lambda event: event.wait(5), set_and_clear, True),
        (greenio.Event, lambda event: greenio.select(event, timeout=5), set_and_clear, (0, True)),
        (lambda: greenio.Semaphore(0), lambda semaphore: semaphore.acquire(timeout=5), greenio.Semaphore.release, True),
        (greenio.Condition, lambda condition: wait_on(condition, 5), notify_all, True),
    ],
    ids=["event", "select", "semaphore", "condition"],
)
def test_who_is_shielded_from_its_cancellation_misses_nothing_that_came_in_between(make, wait, give, expected):
    scopes = []
    thing = make()

    def waiter():
        with greenio.CancelScope() as outer, greenio.CancelScope() as inner:
            scopes.extend([outer, inner])
            return wait(thing)

    def main():
        fiber = greenio.spawn(waiter)
        wait_all_parked()
        outer, inner = scopes
        outer.cancel()
        inner.shield = True
        give(thing)
        assert fiber.result() == expected

    run_virtually(main)


def test_who_waited_for_an_event_does_not_take_an_earlier_set_for_its_own():
    def main():
        event = greenio.Event()
        set_and_clear(event)
        assert event.wait(1) is False
        with pytest.raises(TimeoutError):
            greenio.select(event, timeout=1)
        assert greenio.current_time() == 2

    run_virtually(main)


# --- a deadline, and what was waited for, at the same moment ---------------------------------------------------------


@pytest.mark.parametrize("kind", [greenio.Semaphore, greenio.Lock, greenio.RLock])
def test_what_is_released_between_the_deadline_and_the_waiters_turn_is_taken(kind):
    results = []

    def main():
        thing = kind()
        thing.acquire()
        fiber = greenio.spawn(lambda: results.append(thing.acquire(timeout=1)))
        greenio.sleep(1)
        assert fiber.state == "ready"
        thing.release()
        fiber.join()
        assert results == [True]

    run_virtually(main)


# --- local -----------------------------------------------------------------------------------------------------------


def test_local_is_of_one_fiber_and_gone_with_it():
    class Value:
        pass

    values = []

    def worker(own, number):
        assert not hasattr(own, "value")
        own.value = Value()
        values.append(weakref.ref(own.value))
        own.number = number
        greenio.yield_now()
        assert own.number == number

    def main():
        own = greenio.local()
        own.number = "main's"
        workers = [greenio.spawn(worker, own, number) for number in range(3)]
        greenio.yield_now()
        assert [value() is not None for value in values] == [True] * 3
        for each in workers:
            each.join()
        greenio.yield_now()
        assert [value() for value in values] == [None] * 3
        assert own.number == "main's"

    greenio.run(main)
