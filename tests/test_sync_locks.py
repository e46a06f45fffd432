"""_sync.pyx: Lock and RLock. The other primitives are in test_sync.py and test_sync_conditions.py."""

import copy
import gc
import math
import pickle
import sys
import threading
import weakref

import pytest
from child import run_child

import greenio
from greenio.testing import VirtualClock, wait_all_parked

KINDS = [greenio.Lock, greenio.RLock]
both = pytest.mark.parametrize("kind", KINDS)


def run_virtually(main, *args):
    return greenio.run(main, *args, clock=VirtualClock())


def in_thread(fn, *args):
    """Runs *fn* in an OS thread without fibers, to its end, and returns what it returned."""
    results = []
    thread = threading.Thread(target=lambda: results.append(fn(*args)))
    thread.start()
    thread.join()
    return results[0]


def attempts(lock):
    """What another fiber is told that tries and does not wait."""
    return greenio.spawn(lock.acquire, False).result()


# --- working ---------------------------------------------------------------------------------------------------------


@both
def test_a_lock_is_held_between_acquire_and_release(kind):
    def main():
        lock = kind()
        assert not lock.locked()
        assert lock.acquire() is True
        assert lock.locked()
        assert attempts(lock) is False
        lock.release()
        assert not lock.locked()
        assert attempts(lock) is True

    greenio.run(main)


@both
def test_a_with_block_holds_the_lock_and_gives_it_back_after_an_error(kind):
    def main():
        lock = kind()
        with pytest.raises(LookupError):
            with lock as entered:
                assert entered is True
                assert lock.locked()
                raise LookupError
        assert not lock.locked()

    greenio.run(main)


@both
def test_the_owner_is_the_fiber_that_holds_it(kind):
    lock = kind()

    def main():
        assert lock.owner is None
        with lock:
            assert lock.owner is greenio.current_fiber()
            assert lock._is_owned()
            assert greenio.spawn(lock._is_owned).result() is False
        assert lock.owner is None
        assert not lock._is_owned()

    greenio.run(main)


@both
def test_the_owner_is_the_ident_of_an_os_thread_without_fibers(kind):
    lock = kind()
    with lock:
        assert lock.owner == threading.get_ident()
        assert lock._is_owned()
        assert in_thread(lock._is_owned) is False
        assert in_thread(lock.acquire, False) is False
    assert lock.owner is None


@both
def test_locks_work_without_fibers(kind):
    lock = kind()
    assert lock.acquire(timeout=5)
    assert in_thread(lock.acquire, True, 0.01) is False
    lock.release()
    assert lock.acquire(False)
    lock.release()


@both
def test_the_owner_has_the_lock_from_the_moment_of_release(kind):
    def main():
        lock = kind()
        lock.acquire()
        waiter = greenio.spawn(lock.acquire)
        wait_all_parked()
        lock.release()
        assert lock.owner is waiter
        assert waiter.state == "ready"
        assert lock.acquire(False) is False  # nobody slips in between
        waiter.join()

    greenio.run(main)


@both
def test_waiters_get_the_lock_in_the_order_in_which_they_came(kind):
    order = []

    def worker(lock, number):
        for _ in range(3):
            with lock:
                order.append(number)
                greenio.yield_now()

    def main():
        lock = kind()
        workers = [greenio.spawn(worker, lock, number) for number in range(4)]
        for each in workers:
            each.join()

    greenio.run(main)
    assert order == [0, 1, 2, 3] * 3


def test_a_lock_guards_what_is_read_and_written_in_two_steps():
    total = 0

    def worker(lock):
        nonlocal total
        for _ in range(50):
            with lock:
                seen = total
                greenio.yield_now()
                total = seen + 1

    def main():
        lock = greenio.Lock()
        for each in [greenio.spawn(worker, lock) for _ in range(4)]:
            each.join()

    greenio.run(main)
    assert total == 200


@both
def test_the_repr_tells_the_state_the_owner_and_how_many_wait(kind):
    def main():
        lock = kind()
        count = {greenio.Lock: "", greenio.RLock: " count={}"}[kind].format
        assert repr(lock) == f"<unlocked greenio.{kind.__name__} object at {id(lock):#x}{count(0)}>"
        lock.acquire()
        greenio.spawn(lock.acquire, True, 1, name="patient")
        wait_all_parked()
        assert repr(lock) == f"<locked greenio.{kind.__name__} object at {id(lock):#x}{count(1)} by main, 1 waiting>"
        lock.release()
        assert repr(lock).endswith(" by patient>")
        lock = kind()
        in_thread(lock.acquire)
        assert " by OS thread " in repr(lock)

    run_virtually(main)


@both
def test_a_parked_fiber_tells_which_lock_it_waits_for(kind):
    def main():
        lock = kind()
        with lock:
            waiter = greenio.spawn(lock.acquire)
            wait_all_parked()
            reason, waiting_on, _ = waiter.waits_for
            assert (reason, waiting_on) == ("lock acquire", lock)
        waiter.join()

    greenio.run(main)


# --- cancellation and time -------------------------------------------------------------------------------------------


@both
def test_a_cancelled_waiter_does_not_get_the_lock_and_the_next_one_does(kind):
    def main():
        lock = kind()
        lock.acquire()
        first, second = greenio.spawn(lock.acquire), greenio.spawn(lock.acquire)
        wait_all_parked()
        first.cancel()
        lock.release()  # before the cancelled one has run
        assert lock.owner is second
        wait_all_parked()
        assert first.cancelled()
        assert second.result() is True

    greenio.run(main)


@both
def test_a_waiter_cancelled_after_the_hand_over_owns_the_lock(kind):
    log = []

    def worker(lock):
        lock.acquire()
        log.append("acquired")
        try:
            greenio.checkpoint()
        finally:
            lock.release()

    def main():
        lock = kind()
        lock.acquire()
        waiter = greenio.spawn(worker, lock)
        wait_all_parked()
        lock.release()
        waiter.cancel()
        wait_all_parked()
        assert waiter.cancelled()
        assert not lock.locked()

    greenio.run(main)
    assert log == ["acquired"]


@both
def test_acquire_is_a_checkpoint_also_when_the_lock_is_free(kind):
    def main():
        lock = kind()
        with greenio.CancelScope() as scope:
            scope.cancel()
            lock.acquire()
        assert scope.cancelled_caught
        assert not lock.locked()
        with greenio.CancelScope() as scope:
            with lock:
                scope.cancel()
                # Release is none: it must be possible in a finally block.
        assert not lock.locked()
        assert not scope.cancelled_caught

    greenio.run(main)


@both
def test_acquire_gives_up_after_its_timeout_and_leaves_the_lock_as_it_was(kind):
    def main():
        lock = kind()
        with lock:
            waiter = greenio.spawn(lock.acquire, True, 2.5)
            assert waiter.result() is False
            assert greenio.current_time() == 2.5
            assert lock.owner is greenio.current_fiber()
            assert "waiting" not in repr(lock)
        assert not lock.locked()

    run_virtually(main)


@both
def test_a_lock_released_in_time_is_acquired_within_the_timeout(kind):
    def main():
        lock = kind()
        lock.acquire()
        waiter = greenio.spawn(lock.acquire, True, 5)
        greenio.sleep(4)
        lock.release()
        assert waiter.result() is True
        assert greenio.current_time() == 4

    run_virtually(main)


@both
def test_a_deadline_around_acquire_leaves_the_lock_as_it_was(kind):
    def worker(lock):
        with greenio.move_on_after(1) as scope:
            lock.acquire()
        return scope.cancelled_caught

    def main():
        lock = kind()
        with lock:
            assert greenio.spawn(worker, lock).result() is True
        assert not lock.locked()

    run_virtually(main)


@both
def test_a_zero_timeout_does_not_park(kind):
    def main():
        lock = kind()
        assert lock.acquire(timeout=0)
        other = greenio.spawn(lock.acquire, True, 0)
        assert other.result() is False
        assert greenio.current_time() == 0

    run_virtually(main)


@both
def test_a_loop_of_attempts_lets_the_others_run(kind):
    def main():
        lock = kind()

        def holder():
            with lock:
                greenio.yield_now()

        greenio.spawn(holder)
        greenio.yield_now()
        tries = 0
        while not lock.acquire(False):
            tries += 1
            assert tries < 1000
        return tries

    assert greenio.run(main) > 0


@pytest.mark.parametrize("kind", [*KINDS, greenio.Semaphore])
def test_fibers_that_hold_a_lock_for_a_moment_only_do_not_pile_up_at_it(kind):
    rounds = 3200

    def worker(lock):
        for _ in range(rounds):
            with lock:
                pass

    def main():
        lock = kind()
        before = greenio.current_scheduler().switch_count
        for each in [greenio.spawn(worker, lock) for _ in range(2)]:
            each.join()
        return greenio.current_scheduler().switch_count - before

    # They take turns, but nobody gives way with the lock in hand: else each acquire would be a switch.
    assert 2 <= greenio.run(main) < rounds


# --- misuse ----------------------------------------------------------------------------------------------------------


@both
def test_release_of_a_free_lock_is_refused(kind):
    def main():
        lock = kind()
        with pytest.raises(RuntimeError, match="cannot release un-acquired lock: nobody holds this"):
            lock.release()
        with pytest.raises(RuntimeError, match="un-acquired"):
            lock.__exit__(None, None, None)
        assert not lock.locked()
        with lock:
            pass

    greenio.run(main)


@both
def test_release_by_another_fiber_is_refused_and_names_the_owner(kind):
    def main():
        lock = kind()
        with lock:
            thief = greenio.spawn(lock.release, name="thief")
            with pytest.raises(RuntimeError, match=f"main holds this {kind.__name__}, not thief"):
                thief.result()
            assert lock.owner is greenio.current_fiber()

    greenio.run(main)


@both
def test_release_by_another_os_thread_is_refused_and_names_the_owner(kind):
    lock = kind()

    def steal():
        with pytest.raises(
            RuntimeError, match=rf"OS thread {lock.owner} holds this .*, not OS thread {threading.get_ident()}"
        ):
            lock.release()

    with lock:
        in_thread(steal)
        assert lock.locked()


def test_acquire_of_a_lock_that_the_caller_holds_is_refused_at_once():
    def main():
        lock = greenio.Lock()
        with lock:
            with pytest.raises(RuntimeError, match="main holds this Lock already and would wait for itself for ever"):
                lock.acquire()
            with pytest.raises(RuntimeError, match="main holds"):
                with lock:
                    pass
            assert lock.owner is greenio.current_fiber()
            assert lock.acquire(False) is False
            assert lock.acquire(timeout=3) is False
            assert greenio.current_time() == 3
        assert not lock.locked()

    run_virtually(main)
    lock = greenio.Lock()
    with lock:
        with pytest.raises(RuntimeError, match=r"OS thread .* holds this Lock already"):
            lock.acquire()
        assert lock.acquire(timeout=0.001) is False


@both
def test_a_lock_held_since_before_the_run_is_no_fibers(kind):
    lock = kind()

    def main():
        with pytest.raises(RuntimeError, match=r"acquired on this OS thread before greenio\.run"):
            lock.acquire()
        with pytest.raises(RuntimeError, match=r"OS thread .* holds"):
            lock.release()
        return lock.acquire(timeout=1)

    with lock:
        assert run_virtually(main) is False
        assert lock._is_owned()


@both
@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((False, 1), ValueError, "can't specify a timeout for a non-blocking call"),
        ((False, 0), ValueError, "can't specify a timeout for a non-blocking call"),
        ((True, -2), ValueError, "non-negative"),
        ((True, math.nan), ValueError, "nan"),
        ((True, threading.TIMEOUT_MAX + 1), OverflowError, "too large"),
        ((True, math.inf), OverflowError, "too large"),
        ((True, None), TypeError, "None"),
        ((True, "1"), TypeError, "str"),
    ],
)
def test_wrong_arguments_are_refused_as_threading_does_and_change_nothing(kind, arguments, error, text):
    lock = kind()
    with pytest.raises(error, match=text):
        lock.acquire(*arguments)
    assert not lock.locked()
    with pytest.raises(error):
        threading.Lock().acquire(*arguments)


@both
@pytest.mark.parametrize("arguments", [(), (True,), (1, -1), (True, -1.0), (False,), (0, -1)])
def test_what_threading_takes_is_taken(kind, arguments):
    lock = kind()
    assert lock.acquire(*arguments) is True
    lock.release()
    assert threading.Lock().acquire(*arguments) is True


@both
def test_a_lock_is_neither_copied_nor_pickled_nor_subclassed(kind):
    lock = kind()
    with pytest.raises(TypeError):
        copy.copy(lock)
    with pytest.raises(TypeError):
        pickle.dumps(lock)
    with pytest.raises(TypeError):
        type("Mine", (kind,), {})
    with pytest.raises(TypeError, match="no lock"):
        kind.__base__()
    with pytest.raises(TypeError):
        kind(1)


# --- RLock -----------------------------------------------------------------------------------------------------------


def test_an_rlock_is_free_after_as_many_releases_as_acquires():
    def main():
        lock = greenio.RLock()
        for depth in (1, 2, 3):
            assert lock.acquire()
            assert lock._recursion_count() == depth
        for _ in range(3):
            assert attempts(lock) is False
            lock.release()
        assert lock._recursion_count() == 0
        with pytest.raises(RuntimeError, match="nobody holds"):
            lock.release()
        assert attempts(lock) is True

    greenio.run(main)


def test_an_rlock_handed_over_is_held_once():
    def main():
        lock = greenio.RLock()
        with lock, lock:
            waiter = greenio.spawn(lambda: (lock.acquire(), lock._recursion_count(), lock.release()))
            wait_all_parked()
        assert waiter.result()[1] == 1
        assert not lock.locked()

    greenio.run(main)


def test_threadings_condition_takes_an_rlock():
    lock = greenio.RLock()
    condition = threading.Condition(lock)
    with lock, condition:
        assert condition.wait(0.001) is False
        assert lock._recursion_count() == 2
    assert not lock.locked()


def test_release_save_gives_up_every_level_and_acquire_restore_takes_them_back():
    def main():
        lock = greenio.RLock()
        with pytest.raises(RuntimeError, match="nobody holds"):
            lock._release_save()
        lock.acquire()
        lock.acquire()
        state = lock._release_save()
        assert not lock.locked()
        assert attempts(lock)
        lock = greenio.RLock()
        lock._acquire_restore(state)
        assert lock._recursion_count() == 2

    greenio.run(main)


# --- between OS threads ----------------------------------------------------------------------------------------------


@both
def test_a_fiber_gets_the_lock_that_an_os_thread_releases(kind):
    lock = kind()
    held, release = threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def main():
        waiter = greenio.spawn(lock.acquire)
        wait_all_parked()
        assert lock.owner == thread.ident
        release.set()
        assert waiter.result() is True
        assert lock.owner is waiter

    greenio.run(main)
    thread.join()


@both
def test_an_os_thread_gets_the_lock_that_a_fiber_releases(kind):
    lock = kind()

    def main():
        with lock:
            got = []
            thread = threading.Thread(target=lambda: (lock.acquire(), got.append(lock._is_owned()), lock.release()))
            thread.start()
            while "1 waiting" not in repr(lock):
                greenio.sleep(0.001)
        thread.join()
        assert got == [True]
        assert not lock.locked()

    greenio.run(main)


@both
def test_fibers_of_two_schedulers_and_os_threads_exclude_each_other(kind):
    lock = kind()
    total = 0
    rounds = 100

    def work():
        nonlocal total
        for _ in range(rounds):
            with lock:
                seen = total
                if greenio._scheduler.running_scheduler() is not None:
                    greenio.yield_now()
                total = seen + 1

    def main():
        for fiber in [greenio.spawn(work) for _ in range(2)]:
            fiber.join()

    threads = [threading.Thread(target=greenio.run, args=(main,)) for _ in range(2)]
    threads += [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total == 6 * rounds
    assert not lock.locked()


# --- what is left behind ---------------------------------------------------------------------------------------------


@both
def test_nothing_is_kept_of_who_held_a_lock_or_waited_for_it(kind):
    def main():
        lock = kind()
        lock.acquire()
        waiters = [greenio.spawn(lock.acquire, True, 1), greenio.spawn(lock.acquire, True, 1)]
        waiters[0].cancel()
        waiters[1].join()
        references = [weakref.ref(waiter) for waiter in waiters]
        lock.release()
        last = greenio.spawn(lambda: (lock.acquire(), lock.release()))
        last.join()
        references.append(weakref.ref(last))
        del waiters, last
        greenio.yield_now()
        assert [reference() for reference in references] == [None] * 3
        count = sys.getrefcount(lock)
        for _ in range(10):
            with lock:
                attempts(lock)
        assert sys.getrefcount(lock) == count

    run_virtually(main)


@both
def test_a_lock_in_a_cycle_with_its_dead_owner_is_collected(kind):
    class Mark:
        pass

    def hold(lock):
        lock.acquire()
        return lock, Mark()

    def main():
        fiber = greenio.spawn(hold, kind())
        mark = weakref.ref(fiber.result()[1])
        assert mark() is not None
        del fiber
        greenio.yield_now()
        gc.collect()
        assert mark() is None

    greenio.run(main)


@both
def test_a_lock_can_be_referred_to_weakly(kind):
    lock = kind()
    reference = weakref.ref(lock)
    del lock
    assert reference() is None


def test_a_forked_child_sees_no_waiters_and_can_use_its_lock():
    run_child(
        """
        import os
        import warnings
        import greenio
        from greenio.testing import wait_all_parked

        warnings.simplefilter("ignore", DeprecationWarning)

        def main():
            lock = greenio.Lock()
            lock.acquire()
            for _ in range(3):
                greenio.spawn(lock.acquire)
            wait_all_parked()
            child = os.fork()
            if child == 0:
                assert "waiting" not in repr(lock)
                lock.release()
                assert not lock.locked()
                with lock:
                    waiter = greenio.spawn(lock.acquire)
                    wait_all_parked()
                assert lock.owner is waiter
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert "3 waiting" in repr(lock)
            lock._at_fork_reinit()
            assert not lock.locked()

        greenio.run(main)
        """
    )


def test_a_signal_handler_on_top_of_the_idle_loop_acquires_a_free_lock_only():
    run_child(
        """
        import signal
        import greenio
        from greenio.testing import VirtualClock

        class Signalling(VirtualClock):
            def wait_ns(self, deadline_ns):
                signal.raise_signal(signal.SIGALRM)
                return super().wait_ns(deadline_ns)

        free, held = greenio.Lock(), greenio.Lock()
        done = greenio.Event()
        seen = []

        def handle(number, frame):
            with free:
                seen.append("free")
            seen.append(held.acquire(False))
            try:
                held.acquire()
            except RuntimeError as error:
                seen.append("a signal handler cannot wait" in str(error))
            done.set()

        def holder():
            held.acquire()

        def main():
            greenio.spawn(holder).join()
            signal.signal(signal.SIGALRM, handle)
            assert done.wait(5)
            assert "waiting" not in repr(held), held

        greenio.run(main, clock=Signalling())
        assert seen == ["free", False, True], seen
        """
    )
