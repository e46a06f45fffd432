"""_sync.pyx: Condition and Barrier. The other primitives are in test_sync.py and test_sync_locks.py."""

import math
import textwrap
import threading

import pytest
from child import run_child

import greenio
from greenio.testing import VirtualClock, wait_all_parked

LOCKS = [greenio.Lock, greenio.RLock]
either_lock = pytest.mark.parametrize("lock_kind", LOCKS)


def run_virtually(main, *args):
    return greenio.run(main, *args, clock=VirtualClock())


def wait_on(condition, timeout=None):
    with condition:
        try:
            return condition.wait(timeout)
        finally:
            assert condition.owner is greenio.current_fiber()


# --- Condition: working ----------------------------------------------------------------------------------------------


@either_lock
def test_notify_wakes_as_many_as_told_in_the_order_in_which_they_came(lock_kind):
    order = []

    def waiter(condition, number):
        assert wait_on(condition) is True
        order.append(number)

    def main():
        condition = greenio.Condition(lock_kind())
        for number in range(6):
            greenio.spawn(waiter, condition, number)
        wait_all_parked()
        assert "6 waiting" in repr(condition)
        for n, expected in ((0, []), (1, [0]), (2, [0, 1, 2])):
            with condition:
                condition.notify(n)
            wait_all_parked()
            assert order == expected
        with condition:
            condition.notify_all()
            assert order == [0, 1, 2]
        wait_all_parked()
        assert order == [0, 1, 2, 3, 4, 5]
        with condition:
            condition.notify()  # nobody is there, and it is not kept for later
        late = greenio.spawn(wait_on, condition, 1)
        assert late.result() is False

    run_virtually(main)


def test_wait_releases_the_lock_and_holds_it_again_as_deep_as_before():
    def main():
        condition = greenio.Condition()
        lock = condition.owner
        assert lock is None

        def waiter():
            with condition, condition:
                assert condition.wait()
                condition.release()
                assert condition.owner is greenio.current_fiber()
                condition.acquire()
            assert condition.owner is not greenio.current_fiber()

        fiber = greenio.spawn(waiter)
        wait_all_parked()
        assert not condition.locked()
        with condition:
            assert condition.locked()
            condition.notify()
            greenio.yield_now()
            assert fiber.waits_for[0] == "lock acquire"
        fiber.join()
        fiber.result()

    greenio.run(main)


def test_while_it_waits_a_fiber_tells_for_what():
    def main():
        condition = greenio.Condition()
        fiber = greenio.spawn(wait_on, condition)
        wait_all_parked()
        assert fiber.waits_for[:2] == ("condition wait", condition)
        assert ": <unlocked greenio.RLock object at" in repr(condition)
        fiber.cancel()

    greenio.run(main)


def test_conditions_that_share_a_lock_have_lines_of_their_own():
    def main():
        lock = greenio.Lock()
        full, empty = greenio.Condition(lock), greenio.Condition(lock)
        of_full, of_empty = greenio.spawn(wait_on, full), greenio.spawn(wait_on, empty)
        wait_all_parked()
        with lock:
            empty.notify_all()
        assert of_empty.result() is True
        assert of_full.state == "parked"
        with full:
            full.notify()
        assert of_full.result() is True

    greenio.run(main)


def test_wait_for_returns_what_the_predicate_does_once_it_is_true():
    def main():
        condition = greenio.Condition()
        items = []
        calls = []

        def predicate():
            calls.append(condition.owner is greenio.current_fiber())
            return list(items)

        def waiter():
            with condition:
                return condition.wait_for(predicate)

        fiber = greenio.spawn(waiter)
        for item in (None, "a"):
            wait_all_parked()
            with condition:
                if item:
                    items.append(item)
                condition.notify()
        assert fiber.result() == ["a"]
        assert calls == [True] * 3
        with condition:
            assert condition.wait_for(predicate, 0) == ["a"]  # no waiting

    greenio.run(main)


@pytest.mark.parametrize("timeout", [5, 0, -1])
def test_wait_for_gives_up_after_its_timeout_in_all(timeout):
    def main():
        condition = greenio.Condition()

        def disturb():
            while True:
                greenio.sleep(2)
                with condition:
                    condition.notify_all()

        disturber = greenio.spawn(disturb)
        with condition:
            assert condition.wait_for(list, timeout) == []
            assert greenio.current_time() == max(timeout, 0)
        disturber.cancel()

    run_virtually(main)


def test_a_loop_that_asks_with_wait_for_lets_the_others_run():
    happened = []

    def main():
        condition = greenio.Condition()
        greenio.spawn(happened.append, True)
        with condition:
            for _ in range(10_000):
                if condition.wait_for(lambda: bool(happened), timeout=0):
                    break
        assert happened == [True]

    greenio.run(main)


def test_wait_for_passes_on_what_the_predicate_raises_with_the_lock_held():
    def main():
        condition = greenio.Condition()

        def fail():
            raise LookupError

        with condition:
            with pytest.raises(LookupError):
                condition.wait_for(fail)
            assert condition.owner is greenio.current_fiber()

    greenio.run(main)


# --- Condition: cancellation and time --------------------------------------------------------------------------------


@either_lock
def test_wait_gives_up_after_its_timeout_with_the_lock_held(lock_kind):
    def main():
        condition = greenio.Condition(lock_kind())
        with condition:
            assert condition.wait(2.5) is False
            assert condition.owner is greenio.current_fiber()
            assert greenio.current_time() == 2.5
        assert "waiting" not in repr(condition)

    run_virtually(main)


def test_wait_with_no_time_lets_those_in_line_have_the_lock_first():
    order = []

    def other(condition):
        with condition:
            order.append("other")

    def main():
        condition = greenio.Condition()
        with condition:
            greenio.spawn(other, condition)
            wait_all_parked()
            assert condition.wait(0) is False
            order.append("main")

    run_virtually(main)
    assert order == ["other", "main"]


@either_lock
def test_a_late_waiter_gets_the_lock_again_however_long_that_takes(lock_kind):
    def main():
        condition = greenio.Condition(lock_kind())
        waiter = greenio.spawn(wait_on, condition, 1)
        wait_all_parked()
        with condition:
            greenio.sleep(10)
            assert waiter.waits_for[0] == "lock acquire"
        assert waiter.result() is False
        assert greenio.current_time() == 10

    run_virtually(main)


@either_lock
def test_a_cancelled_waiter_holds_the_lock_when_cancelled_leaves_wait(lock_kind):
    log = []

    def worker(condition):
        with condition:
            try:
                condition.wait()
            finally:
                log.append(condition.owner is greenio.current_fiber())

    def main():
        condition = greenio.Condition(lock_kind())
        waiter = greenio.spawn(worker, condition)
        wait_all_parked()
        with condition:
            waiter.cancel("enough")
            wait_all_parked()
            assert log == []  # the lock is not its yet
            assert waiter.state == "parked"
        wait_all_parked()
        assert log == [True]
        assert waiter.cancelled()
        assert not condition.locked()

    greenio.run(main)


def test_a_deadline_that_comes_while_the_lock_is_taken_back_waits_for_it():
    def worker(condition):
        with condition:
            with greenio.move_on_after(5) as scope:
                with greenio.move_on_after(1):
                    condition.wait()
                assert condition.owner is greenio.current_fiber()
                assert greenio.current_time() == 10
                greenio.checkpoint()
            return scope.cancelled_caught

    def main():
        condition = greenio.Condition()
        waiter = greenio.spawn(worker, condition)
        wait_all_parked()
        with condition:
            greenio.sleep(10)
        assert waiter.result() is True

    run_virtually(main)


def test_a_notify_goes_to_the_next_one_if_the_first_is_cancelled():
    def main():
        condition = greenio.Condition()
        first, second = greenio.spawn(wait_on, condition), greenio.spawn(wait_on, condition)
        wait_all_parked()
        with condition:
            first.cancel()
            condition.notify()
        assert second.result() is True
        assert first.cancelled()

    greenio.run(main)


def test_a_waiter_cancelled_after_its_notify_was_notified():
    log = []

    def worker(condition):
        with condition:
            log.append(condition.wait())
            greenio.checkpoint()

    def main():
        condition = greenio.Condition()
        first, second = greenio.spawn(worker, condition), greenio.spawn(wait_on, condition, 5)
        wait_all_parked()
        with condition:
            condition.notify()
            first.cancel()
        assert second.result() is False  # only the first was
        assert log == [True]
        assert first.cancelled()

    run_virtually(main)


def test_a_cancelled_fiber_does_not_begin_to_wait():
    def main():
        condition = greenio.Condition()
        with condition:
            with greenio.CancelScope() as scope:
                scope.cancel()
                condition.wait()
            assert scope.cancelled_caught
            assert condition.owner is greenio.current_fiber()

    greenio.run(main)


@pytest.mark.parametrize(
    ("times", "expected"),
    [(1, ["released", "held", "interrupted"]), (2, ["not held", "interrupted"])],
)
def test_an_interrupt_waits_until_the_lock_is_taken_back_and_a_second_one_does_not(times, expected):
    child = run_child(
        """
        import signal, sys
        import greenio
        from greenio.testing import VirtualClock

        condition = greenio.Condition()

        times = int(sys.argv[1])

        class Interrupting(VirtualClock):
            def wait_ns(self, deadline_ns):      # nothing runs: main is to be interrupted
                global times
                if times:
                    times -= 1
                    signal.raise_signal(signal.SIGINT)
                return super().wait_ns(deadline_ns)

        def holder():
            with condition:
                condition.notify()
                greenio.yield_now()              # main wakes, and waits for the lock
                greenio.sleep(1)
                print("released")

        def main():
            with condition:
                greenio.spawn(holder)
                try:
                    condition.wait()
                finally:
                    print("held" if condition.owner is greenio.current_fiber() else "not held")

        try:
            greenio.run(main, clock=Interrupting())
        except KeyboardInterrupt:
            print("interrupted")
        assert not condition.locked()
        """,
        str(times),
    )
    assert child.stdout.splitlines() == expected


def test_a_deadlock_is_told_to_whoever_takes_a_lock_back_that_nobody_will_release():
    child = run_child(
        """
        import greenio

        condition = greenio.Condition()

        def holder():
            condition.acquire()
            condition.notify()

        def main():
            condition.acquire()
            greenio.spawn(holder)
            try:
                condition.wait()
            except greenio.DeadlockError as error:
                assert "lock acquire" in str(error)
                print("deadlock")

        greenio.run(main)
        """
    )
    assert child.stdout == "deadlock\n"


@either_lock
def test_a_deadlock_is_what_leaves_a_with_block_that_has_lost_its_lock(lock_kind):
    child = run_child(
        """
        import sys
        import greenio

        lock = getattr(greenio, sys.argv[1])()
        condition = greenio.Condition(lock)

        def holder():
            condition.acquire()
            condition.notify()

        def main(block):
            with block:
                greenio.spawn(holder)
                condition.wait()

        for block in (condition, lock):
            try:
                greenio.run(main, block)
            except greenio.DeadlockError as error:
                print("lock acquire" in str(error))
            lock._at_fork_reinit()
        """,
        lock_kind.__name__,
    )
    assert child.stdout == "True\nTrue\n"


# --- Condition: misuse -----------------------------------------------------------------------------------------------


@either_lock
def test_a_condition_wants_its_lock_held(lock_kind):
    def main():
        condition = greenio.Condition(lock_kind())
        for use, verb in (
            (condition.wait, "wait on"),
            (lambda: condition.wait_for(lambda: True), "wait on"),
            (condition.notify, "notify on"),
            (condition.notify_all, "notify on"),
            (condition.release, "release"),
        ):
            with pytest.raises(RuntimeError, match=f"cannot {verb} un-acquired lock: nobody holds"):
                use()
            with condition:
                with pytest.raises(RuntimeError, match=f"cannot {verb} un-acquired lock: main holds .*, not other"):
                    greenio.spawn(use, name="other").result()
        assert not condition.locked()

    greenio.run(main)


@pytest.mark.parametrize("lock", [threading.Lock(), 1, "lock"])
def test_a_condition_takes_no_lock_of_others(lock):
    with pytest.raises(TypeError, match=r"a Condition takes a greenio\.Lock or RLock"):
        greenio.Condition(lock)


@pytest.mark.parametrize(("timeout", "error"), [(math.nan, ValueError), ("1", TypeError)])
def test_a_wrong_timeout_is_refused_with_the_lock_held(timeout, error):
    def main():
        condition = greenio.Condition()
        with condition:
            with pytest.raises(error):
                condition.wait(timeout)
            with pytest.raises(error):
                condition.wait_for(list, timeout)
            assert condition.owner is greenio.current_fiber()

    greenio.run(main)


def test_acquire_of_a_condition_is_its_locks():
    for kind in LOCKS:
        condition = greenio.Condition(kind())
        assert condition.acquire(True, 1) is True
        assert condition.acquire(False) is (kind is greenio.RLock)
        with pytest.raises(ValueError):
            condition.acquire(False, 1)


def test_a_signal_handler_on_top_of_the_idle_loop_notifies_and_does_not_wait():
    child = run_child(
        """
        import signal
        import greenio
        from greenio.testing import VirtualClock

        condition = greenio.Condition()

        class Signalling(VirtualClock):
            def wait_ns(self, deadline_ns):
                signal.raise_signal(signal.SIGALRM)
                return super().wait_ns(deadline_ns)

        def handle(number, frame):
            with condition:
                try:
                    condition.wait()
                except RuntimeError as error:
                    assert "a signal handler cannot wait" in str(error), error
                condition.notify()
            print("notified")

        def main():
            signal.signal(signal.SIGALRM, handle)
            with condition:
                assert condition.wait(5)
            assert not condition.locked()

        greenio.run(main, clock=Signalling())
        """
    )
    assert child.stdout == "notified\n"


# --- Condition: OS threads -------------------------------------------------------------------------------------------


@either_lock
def test_fibers_and_os_threads_notify_each_other(lock_kind):
    condition = greenio.Condition(lock_kind())
    turns = []

    def play(name, rounds=50):
        for _ in range(rounds):
            with condition:
                assert condition.wait_for(lambda: (turns or ["thread"])[-1] != name, 30)
                turns.append(name)
                condition.notify()

    def main():
        thread = threading.Thread(target=play, args=("thread",))
        thread.start()
        play("fiber")
        thread.join()

    greenio.run(main)
    assert turns == ["fiber", "thread"] * 50


def test_an_os_thread_gives_up_after_its_timeout_with_the_lock_held():
    condition = greenio.Condition()
    with condition:
        assert condition.wait(0.002) is False
        assert condition.owner == threading.get_ident()
        assert condition.wait(0) is False
    assert not condition.locked()


def test_an_os_thread_keeps_its_turn_over_signals_and_passes_a_notify_on_that_it_cannot_take():
    run_child(
        """
        import os, signal, threading
        import greenio

        condition = greenio.Condition()
        both_there = threading.Event()
        heard = threading.Event()
        got = []

        def waiter(name):
            with condition:
                got.append((name, condition.wait(30)))

        def blocked(count):
            while not repr(condition).endswith(f", {count} waiting>"):
                os.sched_yield()

        def signal_main(when):
            blocked(when)
            # Again and again: one that comes right before the kernel's wait is seen after it, as in threading's locks.
            while not heard.wait(0.01):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)

        second = threading.Thread(target=waiter, args=("second",))
        third = threading.Thread(target=waiter, args=("third",))

        def on_first(number, frame):
            if heard.is_set():
                return
            heard.set()
            second.start()                       # behind the main thread
            blocked(2)
            both_there.set()

        def notify_main():
            signal_main(1)
            both_there.wait()
            with condition:
                condition.notify()

        signal.signal(signal.SIGALRM, on_first)
        notifier = threading.Thread(target=notify_main)
        notifier.start()
        waiter("first")
        assert got == [("first", True)], got
        notifier.join()

        def on_second(number, frame):
            if heard.is_set():
                return
            heard.set()
            third.start()                        # behind the second, and the main thread
            blocked(3)
            with condition:
                condition.notify(2)
            raise LookupError

        heard.clear()
        signal.signal(signal.SIGALRM, on_second)
        notifier = threading.Thread(target=signal_main, args=(2,))
        notifier.start()
        try:
            waiter("never")
        except LookupError:
            pass
        else:
            raise AssertionError(got)
        assert not condition._is_owned()
        for thread in (notifier, second, third):
            thread.join()
        assert sorted(got) == [("first", True), ("second", True), ("third", True)], got
        """
    )


# --- Barrier ---------------------------------------------------------------------------------------------------------


def test_all_go_on_once_the_last_has_come_again_and_again():
    log = []

    def worker(barrier, number):
        indices = []
        for turn in range(3):
            log.append(turn)
            indices.append(barrier.wait())
        return indices

    def main():
        barrier = greenio.Barrier(3)
        assert barrier.parties == 3
        workers = [greenio.spawn(worker, barrier, number) for number in range(3)]
        for turn in zip(*[each.result() for each in workers], strict=True):
            assert sorted(turn) == [0, 1, 2]
        assert barrier.n_waiting == 0
        assert barrier.broken is False

    greenio.run(main)
    assert log == [0] * 3 + [1] * 3 + [2] * 3


def test_the_repr_of_a_barrier_tells_how_many_have_come():
    def main():
        barrier = greenio.Barrier(3)
        greenio.spawn(barrier.wait)
        fiber = greenio.spawn(barrier.wait)
        wait_all_parked()
        assert barrier.n_waiting == 2
        assert "waiters=2/3>" in repr(barrier)
        assert fiber.waits_for[:2] == ("barrier wait", barrier)
        barrier.wait()
        barrier.abort()
        assert "broken" in repr(barrier)

    greenio.run(main)


def test_a_barrier_of_one_does_not_wait():
    barrier = greenio.Barrier(1)
    assert barrier.wait() == 0
    assert greenio.run(barrier.wait) == 0


def test_the_last_to_come_runs_the_action_before_any_goes_on():
    log = []

    def worker(barrier):
        index = barrier.wait()
        log.append(index)

    def main():
        barrier = greenio.Barrier(3, lambda: (greenio.yield_now(), log.append(greenio.current_fiber().name)))
        workers = [greenio.spawn(worker, barrier, name=f"worker {number}") for number in range(3)]
        for each in workers:
            each.result()

    greenio.run(main)
    assert log[0] == "worker 2"
    assert sorted(log[1:]) == [0, 1, 2]


def outcome_of(barrier, timeout=None):
    try:
        return barrier.wait(timeout)
    except threading.BrokenBarrierError:
        return "broken"


def test_an_action_that_raises_breaks_the_barrier():
    def main():
        def fail():
            raise LookupError

        barrier = greenio.Barrier(2, fail)
        other = greenio.spawn(outcome_of, barrier)
        wait_all_parked()
        with pytest.raises(LookupError):
            barrier.wait()
        assert other.result() == "broken"
        assert barrier.broken
        assert outcome_of(barrier) == "broken"
        barrier.reset()
        assert not barrier.broken

    greenio.run(main)


@pytest.mark.parametrize(("own", "given"), [(None, 2), (2, None), (9, 2)])
def test_a_timeout_breaks_the_barrier_for_all(own, given):
    def main():
        barrier = greenio.Barrier(3, timeout=own)
        others = [greenio.spawn(outcome_of, barrier, 100), greenio.spawn(outcome_of, barrier, given)]
        assert [each.result() for each in others] == ["broken"] * 2
        assert greenio.current_time() == 2
        assert barrier.broken is True
        assert barrier.n_waiting == 0
        with pytest.raises(greenio.BrokenBarrierError, match="broken"):
            barrier.wait()
        barrier.reset()
        workers = [greenio.spawn(outcome_of, barrier) for _ in range(3)]
        assert [each.result() for each in workers] == [0, 1, 2]

    run_virtually(main)


def test_a_cancelled_waiter_breaks_the_barrier_for_all():
    def main():
        barrier = greenio.Barrier(3)
        first, second = greenio.spawn(outcome_of, barrier), greenio.spawn(outcome_of, barrier)
        wait_all_parked()
        first.cancel()
        assert second.result() == "broken"
        assert first.cancelled()
        assert barrier.broken

    greenio.run(main)


def test_a_fiber_that_is_cancelled_already_does_not_come():
    def main():
        barrier = greenio.Barrier(2)
        with greenio.CancelScope() as scope:
            scope.cancel()
            barrier.wait()
        assert scope.cancelled_caught
        assert not barrier.broken
        assert barrier.n_waiting == 0

    greenio.run(main)


def test_whoever_is_cancelled_once_all_have_come_leaves_alone():
    def main():
        barrier = greenio.Barrier(3)
        first, second = greenio.spawn(outcome_of, barrier), greenio.spawn(outcome_of, barrier)
        wait_all_parked()
        first.cancel()  # has not run yet when the last one comes
        assert barrier.wait() == 2
        assert second.result() == 1
        first.join()
        assert first.cancelled()
        assert not barrier.broken

    greenio.run(main)


def test_abort_breaks_the_barrier_and_reset_mends_it():
    def main():
        barrier = greenio.Barrier(3)
        others = [greenio.spawn(outcome_of, barrier) for _ in range(2)]
        wait_all_parked()
        barrier.abort()
        assert [each.result() for each in others] == ["broken"] * 2
        assert barrier.broken
        barrier.reset()
        others = [greenio.spawn(outcome_of, barrier) for _ in range(2)]
        wait_all_parked()
        barrier.reset()
        assert not barrier.broken
        assert [each.result() for each in others] == ["broken"] * 2
        others = [greenio.spawn(outcome_of, barrier) for _ in range(3)]
        assert [each.result() for each in others] == [0, 1, 2]

    greenio.run(main)


def test_while_the_action_runs_time_and_cancellation_break_nothing_and_newcomers_wait():
    def main():
        barrier = greenio.Barrier(3, lambda: greenio.sleep(10), timeout=100)
        late = greenio.spawn(outcome_of, barrier, 2)
        cancelled = greenio.spawn(outcome_of, barrier)
        last = greenio.spawn(outcome_of, barrier)
        wait_all_parked()
        newcomer = greenio.spawn(outcome_of, barrier)
        greenio.sleep(5)
        assert barrier.n_waiting == 3
        cancelled.cancel()
        wait_all_parked()
        assert cancelled.cancelled()
        assert not barrier.broken
        assert last.result() == 2
        assert late.result() == 0
        assert greenio.current_time() == 10
        wait_all_parked()
        assert barrier.n_waiting == 1
        assert newcomer.state == "parked"
        newcomer.cancel()
        wait_all_parked()
        assert barrier.broken

    run_virtually(main)


@pytest.mark.parametrize("end", ["abort", "reset"])
def test_abort_and_reset_during_the_action_count_at_once(end):
    def main():
        barrier = greenio.Barrier(2, lambda: greenio.sleep(10))
        first, last = greenio.spawn(outcome_of, barrier), greenio.spawn(outcome_of, barrier)
        wait_all_parked()
        newcomer = greenio.spawn(outcome_of, barrier)
        greenio.sleep(1)
        getattr(barrier, end)()
        assert first.result() == "broken"
        assert greenio.current_time() == 1
        assert last.result() == "broken"
        assert greenio.current_time() == 10
        wait_all_parked()
        if end == "abort":
            assert newcomer.result() == "broken"
            assert barrier.broken
        else:
            assert barrier.n_waiting == 1
            assert barrier.wait() == 1
            assert newcomer.result() == 0

    run_virtually(main)


def test_a_newcomer_that_is_late_breaks_the_next_round_only():
    def main():
        barrier = greenio.Barrier(2, lambda: greenio.sleep(10))
        workers = [greenio.spawn(outcome_of, barrier) for _ in range(2)]
        wait_all_parked()
        newcomers = [greenio.spawn(outcome_of, barrier, 3), greenio.spawn(outcome_of, barrier)]
        assert [each.result() for each in newcomers] == ["broken"] * 2
        assert greenio.current_time() == 3
        assert barrier.broken
        assert [each.result() for each in workers] == [0, 1]
        assert barrier.broken

    run_virtually(main)


def test_a_loop_that_comes_to_a_broken_barrier_lets_the_others_run():
    happened = []

    def main():
        barrier = greenio.Barrier(2)
        barrier.abort()
        greenio.spawn(happened.append, True)
        for _ in range(10_000):
            with pytest.raises(threading.BrokenBarrierError):
                barrier.wait()
            if happened:
                break
        assert happened == [True]

    greenio.run(main)


@pytest.mark.parametrize("acting", [False, True])
def test_a_signal_handler_on_top_of_the_idle_loop_is_refused_and_breaks_no_barrier(acting):
    child = run_child(
        """
        import signal
        import sys
        import greenio
        from greenio.testing import VirtualClock

        acting = sys.argv[1] == "True"
        barrier = greenio.Barrier(2 if acting else 4, lambda: greenio.sleep(1))

        class Signalling(VirtualClock):
            def wait_ns(self, deadline_ns):
                signal.raise_signal(signal.SIGALRM)
                return super().wait_ns(deadline_ns)

        def handle(number, frame):
            before = repr(barrier)
            try:
                barrier.wait(0.5)
            except RuntimeError as error:
                assert type(error) is RuntimeError and "a signal handler cannot wait" in str(error), error
                assert repr(barrier) == before and not barrier.broken
                print("refused")

        def main():
            signal.signal(signal.SIGALRM, handle)
            early = [greenio.spawn(barrier.wait) for _ in range(2)]
            greenio.sleep(5)
            if not acting:
                early += [greenio.spawn(barrier.wait) for _ in range(2)]
            assert sorted(fiber.result() for fiber in early) == list(range(barrier.parties))

        greenio.run(main, clock=Signalling())
        """,
        str(acting),
    )
    assert set(child.stdout.split()) == {"refused"}


def test_misuse_of_a_barrier_is_refused():
    with pytest.raises(ValueError, match="parties must be > 0, not 0"):
        greenio.Barrier(0)
    with pytest.raises(TypeError, match="action"):
        greenio.Barrier(1, 5)
    with pytest.raises(ValueError, match="nan"):
        greenio.Barrier(1, timeout=math.nan)
    barrier = greenio.Barrier(2)
    with pytest.raises(TypeError):
        barrier.wait("1")
    assert barrier.n_waiting == 0
    assert not barrier.broken


def test_fibers_and_os_threads_meet():
    barrier = greenio.Barrier(4)

    def meet(rounds=20):
        return [barrier.wait(30) for _ in range(rounds)]

    results = []

    def main():
        fibers = [greenio.spawn(meet) for _ in range(2)]
        results.extend(fiber.result() for fiber in fibers)

    threads = [threading.Thread(target=lambda: results.append(meet())) for _ in range(2)]
    for thread in threads:
        thread.start()
    greenio.run(main)
    for thread in threads:
        thread.join()
    for turn in zip(*results, strict=True):
        assert sorted(turn) == [0, 1, 2, 3]


def test_an_os_thread_that_is_late_breaks_the_barrier():
    barrier = greenio.Barrier(2)
    assert outcome_of(barrier, 0.002) == "broken"
    assert outcome_of(barrier, 0) == "broken"
    barrier.reset()
    assert outcome_of(barrier, 0) == "broken"
    assert barrier.broken


def test_a_barrier_in_a_forked_child_has_nobody_in_it():
    run_child(
        """
        import os
        import warnings
        import greenio
        from greenio.testing import wait_all_parked

        warnings.simplefilter("ignore", DeprecationWarning)

        def main():
            barrier = greenio.Barrier(2)
            fiber = greenio.spawn(barrier.wait)
            wait_all_parked()
            child = os.fork()
            if child == 0:
                assert barrier.n_waiting == 0
                other = greenio.spawn(barrier.wait)
                assert barrier.wait() == 0 and other.result() == 1
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert barrier.wait() == 1
            assert fiber.result() == 0

        greenio.run(main)
        """
    )


# --- a fork by a signal handler on top of the idle loop: the fiber below is in the child, out of its line --------------

FORKING = """
import os
import signal
import sys
import warnings
import greenio
from greenio._scheduler import unpark_fiber
from greenio.testing import VirtualClock

warnings.simplefilter("ignore", DeprecationWarning)

class Signalling(VirtualClock):
    def wait_ns(self, deadline_ns):
        before = child
        signal.raise_signal(signal.SIGALRM)
        return 0 if child != before else super().wait_ns(deadline_ns)

child = None

def handle(number, frame):
    global child
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        in_child()
        unpark_fiber(fiber, thing)

def end():
    if child == 0:
        os._exit(7)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 7, status

def run(main):
    signal.signal(signal.SIGALRM, handle)
    greenio.run(main, clock=Signalling())
"""


def run_forking(source, *arguments):
    run_child(FORKING + textwrap.dedent(source), *arguments, flags=("-W", "ignore"))


def test_whoever_waits_on_a_condition_in_a_forked_child_looks_for_itself():
    run_forking(
        """
        condition = thing = greenio.Condition()
        news = []

        def in_child():
            with condition:
                news.append("child")
                condition.notify_all()       # renews the line

        def waiter():
            with condition:
                condition.wait()

        def main():
            global fiber
            fiber = greenio.current_fiber()
            greenio.spawn(waiter)
            greenio.yield_now()
            with condition:
                # The second in line; the last to park: the idle loop is on its stack.
                condition.wait_for(lambda: news, timeout=5)
            assert news == (["child"] if child == 0 else []), news
            if child == 0:
                assert greenio.current_time() == 0 and "waiting" not in repr(condition), condition
                greenio.spawn(lambda: greenio.sleep(1) or notify())
                with condition:
                    assert condition.wait(5) and greenio.current_time() == 1
            else:
                notify()
            end()

        def notify():
            with condition:
                condition.notify_all()

        run(main)
        """
    )


@pytest.mark.parametrize("acting", [False, True])
def test_whoever_waits_at_a_barrier_in_a_forked_child_has_come_to_it_alone(acting):
    run_forking(
        """
        acting = sys.argv[1] == "True"

        def action():
            if acting and child is None:
                unpark_fiber(fiber, barrier)     # parks again, after this one
                greenio.sleep(3)

        barrier = thing = greenio.Barrier(3, action)

        def in_child():
            greenio.spawn(arrive)

        def arrive():
            greenio.sleep(1)
            assert barrier.n_waiting == 1, barrier
            other = greenio.spawn(barrier.wait)
            greenio.yield_now()
            assert barrier.wait() == 2 and other.result() == 1

        def main():
            global fiber
            fiber = greenio.current_fiber()
            others = [greenio.spawn(barrier.wait)]
            greenio.yield_now()
            others.append(greenio.spawn(late))
            if not acting:
                greenio.yield_now()
            place = barrier.wait(5)          # the last to park: the idle loop is on its stack
            if child == 0:
                assert place == 0 and not barrier.broken, place
                assert greenio.current_time() == 1, greenio.current_time()
            else:
                assert place == 1, place
                assert [other.result() for other in others] == [0, 2]
            end()

        def late():
            if not acting:
                greenio.sleep(3)
            return barrier.wait()

        run(main)
        """,
        str(acting),
    )
