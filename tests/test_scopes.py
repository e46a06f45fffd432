"""_scopes.pyx: CancelScope, timeout, move_on_after, shield, current_deadline, and Fiber.cancel through them.

Random trees of them are in test_scopes_model.py.
"""

import contextlib
import gc
import logging
import math
import threading
import weakref

import pytest
from child import run_child

import greenio
from greenio import (
    Cancelled,
    CancelScope,
    Timeout,
    checkpoint,
    current_deadline,
    current_time,
    move_on_after,
    move_on_at,
    shield,
    sleep,
    spawn,
    timeout,
    timeout_at,
    yield_now,
)
from greenio._scheduler import park_here, unpark_fiber
from greenio.testing import VirtualClock, wait_all_parked


def run(main, *args, start=0.0):
    return greenio.run(main, *args, clock=VirtualClock(start))


def reason_of(fn, *args):
    """The reason of the Cancelled that fn(*args) raises."""
    with pytest.raises(Cancelled) as caught:
        fn(*args)
    return caught.value.reason


# --- CancelScope -----------------------------------------------------------------------------------------------------


def test_a_cancelled_scope_ends_its_block_and_no_more():
    def main():
        with CancelScope() as scope:
            scope.cancel()
            assert not scope.cancelled_caught
            sleep(1)
            raise AssertionError("not reached")
        assert scope.cancel_called and scope.cancelled_caught
        sleep(1)
        return current_time()

    assert run(main) == 1


def test_a_scope_whose_block_meets_no_checkpoint_catches_nothing():
    def main():
        with CancelScope() as scope:
            scope.cancel()
        assert scope.cancel_called and not scope.cancelled_caught
        sleep(1)

    run(main)


def test_a_parked_fiber_is_interrupted_by_another_one():
    def main():
        scope = CancelScope()
        spawn(lambda: (sleep(2), scope.cancel("enough")))
        with scope:
            assert reason_of(sleep, 100) == "enough"
            assert current_time() == 2

    run(main)


def test_every_checkpoint_in_a_cancelled_scope_raises():
    def main():
        with CancelScope() as scope:
            scope.cancel()
            other = spawn(int)
            for operation in (checkpoint, yield_now, other.join, lambda: sleep(0), lambda: sleep(1), wait_all_parked):
                with pytest.raises(Cancelled):
                    operation()
        other.join()

    run(main)


def test_cancelled_that_was_swallowed_comes_again_at_the_next_park_inside():
    def main():
        swallowed = 0
        with CancelScope() as scope:
            scope.cancel()
            for _ in range(5):
                try:
                    sleep(1)
                except Cancelled:
                    swallowed += 1
        sleep(1)
        return swallowed, current_time()

    assert run(main) == (5, 1)


def test_the_first_reason_counts():
    def main():
        with CancelScope() as scope:
            scope.cancel("first")
            scope.cancel("second")
            assert reason_of(checkpoint) == "first"

    run(main)


def test_cancelled_goes_to_the_outermost_cancelled_scope():
    def main():
        with CancelScope() as outer:
            with CancelScope() as middle:
                with CancelScope() as inner:
                    inner.cancel("inner")
                    outer.cancel("outer")
                    assert reason_of(checkpoint) == "outer"
                    sleep(1)
                raise AssertionError("not reached")
        assert [scope.cancelled_caught for scope in (outer, middle, inner)] == [True, False, False]

    run(main)


def test_an_inner_scope_leaves_the_outer_one_alone():
    def main():
        with CancelScope() as outer:
            with CancelScope() as inner:
                inner.cancel()
                sleep(1)
            sleep(1)
        assert inner.cancelled_caught and not outer.cancelled_caught
        return current_time()

    assert run(main) == 1


def test_a_scope_cancelled_before_its_entry_interrupts_from_there():
    def main():
        scope = CancelScope()
        scope.cancel("before")
        sleep(1)
        with scope:
            assert reason_of(sleep, 1) == "before"
            sleep(1)
        assert scope.cancelled_caught
        return current_time()

    assert run(main) == 1


def test_other_exceptions_pass():
    def main():
        with pytest.raises(ValueError):
            with CancelScope() as scope:
                scope.cancel()
                raise ValueError
        assert not scope.cancelled_caught

    run(main)


def test_cancelled_without_a_cancelled_scope_passes():
    def main():
        with pytest.raises(Cancelled):
            with CancelScope():
                raise Cancelled

    run(main)


def test_cancelled_is_taken_out_of_exception_groups():
    def main():
        with CancelScope() as scope:
            scope.cancel()
            try:
                sleep(1)
            except Cancelled as cancelled:
                raise BaseExceptionGroup("only", [cancelled, BaseExceptionGroup("nested", [cancelled])]) from None
        assert scope.cancelled_caught

        kept, context = ValueError(), KeyError()
        with pytest.raises(ExceptionGroup) as caught:
            with CancelScope() as scope:
                scope.cancel()
                try:
                    sleep(1)
                except Cancelled as cancelled:
                    group = BaseExceptionGroup("both", [cancelled, kept])
                    group.__context__ = context
                    try:
                        raise group
                    finally:
                        group.__context__ = context
        assert scope.cancelled_caught
        assert caught.value.exceptions == (kept,)
        assert caught.value.__context__ is context

        with pytest.raises(ExceptionGroup):
            with CancelScope() as scope:
                scope.cancel()
                raise ExceptionGroup("none", [ValueError()])
        assert not scope.cancelled_caught

    run(main)


def test_a_scope_has_a_telling_repr():
    def main():
        scope = CancelScope()
        assert repr(scope) == "<greenio.CancelScope not entered>"
        with scope:
            assert repr(scope) == "<greenio.CancelScope entered>"
            scope.cancel()
            assert repr(scope) == "<greenio.CancelScope entered, cancelled>"
        assert repr(scope) == "<greenio.CancelScope left, cancelled>"
        with move_on_after(0) as scope:
            assert repr(scope) == "<greenio.CancelScope entered, past its deadline>"

    run(main)


# --- shields ---------------------------------------------------------------------------------------------------------


def test_a_shield_holds_off_what_comes_from_further_out_until_it_is_left():
    def main():
        with CancelScope() as scope:
            scope.cancel()
            with shield():
                sleep(3)
            assert current_time() == 3
            sleep(1)
        assert scope.cancelled_caught
        return current_time()

    assert run(main) == 3


def test_a_shielded_scope_can_itself_be_cancelled_and_catches_it():
    def main():
        with CancelScope() as outer:
            outer.cancel()
            with move_on_after(2, shield=True) as inner:
                sleep(10)
            assert inner.cancelled_caught
            assert current_time() == 2
            sleep(1)
        assert outer.cancelled_caught

    run(main)


def test_a_deadline_behind_a_shield_comes_at_the_first_checkpoint_below_it():
    def main():
        with move_on_after(1) as scope:
            with shield():
                sleep(3)
            checkpoint()
        assert scope.cancelled_caught
        return current_time()

    assert run(main) == 3


def test_a_deadline_that_came_behind_a_shield_counts_where_an_inner_scope_ends():
    # No checkpoint comes between the end of the shield and the end of the inner scope.
    def main():
        with pytest.raises(TimeoutError, match="within 1 seconds"):
            with timeout(1):
                with move_on_after(0.5) as inner:
                    try:
                        sleep(100)
                    finally:
                        with shield():
                            sleep(2)
                raise AssertionError("not reached")
        assert not inner.cancelled_caught
        return current_time()

    assert run(main) == 2.5


def test_lifting_a_shield_interrupts_what_is_parked_inside():
    def main():
        outer, inner = CancelScope(), CancelScope(shield=True)

        def worker():
            with outer, inner:
                sleep(100)

        fiber = spawn(worker)
        sleep(1)
        outer.cancel()
        sleep(1)
        assert fiber.state == "parked" and inner.shield
        inner.shield = False
        fiber.join()
        assert outer.cancelled_caught and not inner.cancelled_caught
        return current_time()

    assert run(main) == 2


def test_raising_a_shield_while_parked_holds_off_cancellation_and_deadline():
    def main():
        outer, inner = move_on_after(3), CancelScope()

        def worker():
            with outer, inner:
                sleep(5)
            return current_time()

        fiber = spawn(worker)
        sleep(1)
        inner.shield = True
        assert fiber.result() == 5
        assert not outer.cancelled_caught

    run(main)


def test_a_shield_holds_off_fiber_cancel():
    events = []

    def worker():
        with shield():
            sleep(3)
        events.append(current_time())
        sleep(1)

    def main():
        fiber = spawn(worker)
        wait_all_parked()
        assert fiber.cancel("over")
        fiber.join()
        assert fiber.cancelled()
        return current_time()

    assert run(main) == 3
    assert events == [3]


def test_the_runs_end_waits_for_a_shield():
    ended = []

    def worker():
        with shield():
            sleep(3)
            ended.append(current_time())
        sleep(100)
        ended.append("not reached")

    def main():
        spawn(worker)
        wait_all_parked()

    run(main)
    assert ended == [3]


# --- deadlines -------------------------------------------------------------------------------------------------------


def test_move_on_after_leaves_the_block():
    def main():
        with move_on_after(2) as scope:
            sleep(10)
        assert scope.cancelled_caught and scope.cancel_called
        assert current_time() == 2
        with move_on_after(2) as scope:
            sleep(1)
        assert not scope.cancelled_caught
        assert not scope.cancel_called
        with move_on_at(4, shield=True) as scope:
            assert scope.shield
            sleep(10)
        assert scope.cancelled_caught
        return current_time()

    assert run(main) == 4


def test_timeout_raises_timeout_error():
    def main():
        with pytest.raises(TimeoutError, match=r"^not done within 1\.5 seconds$") as caught:
            with timeout(1.5) as scope:
                assert isinstance(scope, Timeout)
                sleep(10)
        assert isinstance(caught.value.__cause__, Cancelled)
        assert caught.value.__cause__.reason == "1.5 seconds have passed"
        assert scope.expired() and scope.cancelled_caught
        assert current_time() == 1.5
        with pytest.raises(TimeoutError, match=r"^not done by the deadline 3$"):
            with timeout_at(3):
                sleep(10)
        return current_time()

    assert run(main) == 3


def test_timeout_counts_from_the_entry():
    def main():
        scope = timeout(2)
        sleep(5)
        with pytest.raises(TimeoutError):
            with scope:
                sleep(10)
        return current_time()

    assert run(main) == 7


def test_a_block_that_is_done_in_time_raises_nothing():
    def main():
        with timeout(5) as scope:
            sleep(4)
        sleep(10)
        assert not scope.expired()

    run(main)


def test_a_timeout_that_was_cancelled_by_hand_is_no_timeout_error():
    def main():
        with timeout(5) as scope:
            scope.cancel()
            sleep(1)
        assert scope.cancelled_caught and not scope.expired()

    run(main)


def test_none_is_no_limit():
    def main():
        for scope in (
            timeout(None),
            timeout_at(None),
            move_on_after(None),
            move_on_at(None),
            CancelScope(deadline=None),
        ):
            with scope:
                assert scope.deadline == math.inf
                assert current_deadline() == math.inf
                sleep(1e6)

    run(main)


def test_zero_seconds_interrupt_the_first_checkpoint():
    def main():
        with pytest.raises(TimeoutError):
            with timeout(0):
                checkpoint()
        with timeout(0):
            pass
        with move_on_at(-5) as scope:
            yield_now()
        assert scope.cancelled_caught

    run(main)


@pytest.mark.parametrize("make", [timeout, move_on_after])
@pytest.mark.parametrize("wrong", [-1, -1e-9, math.nan])
def test_wrong_numbers_of_seconds_are_refused(make, wrong):
    with pytest.raises(ValueError, match=">= 0 seconds or None"):
        make(wrong)


@pytest.mark.parametrize("make", [timeout_at, move_on_at, lambda moment: CancelScope(deadline=moment)])
def test_nan_is_no_moment(make):
    with pytest.raises(ValueError, match="not nan"):
        make(math.nan)


def test_the_nearest_deadline_of_nested_scopes_counts():
    def main():
        with move_on_after(5) as outer:
            with move_on_after(2) as inner:
                sleep(10)
            assert current_time() == 2 and inner.cancelled_caught
            with move_on_after(20) as later:
                sleep(10)
        assert current_time() == 5
        assert outer.cancelled_caught and not later.cancelled_caught

    run(main)


def test_timeouts_of_equal_moments_go_to_the_outermost():
    def main():
        with move_on_after(1) as outer:
            with move_on_after(1) as middle:
                with move_on_after(1) as inner:
                    sleep(10)
        return [scope.cancelled_caught for scope in (outer, middle, inner)]

    assert run(main) == [True, False, False]


def test_a_sleep_that_ends_at_the_deadline_was_not_done_in_time():
    def main():
        with move_on_after(1) as scope:
            sleep(1)
        return scope.cancelled_caught

    assert run(main)


@pytest.mark.parametrize(("deadline", "ends"), [(3, 3), (8, 8), (math.inf, 100), (1, 2)])
@pytest.mark.parametrize("where", ["inner", "outer"])
def test_a_deadline_moved_while_parked_counts(deadline, ends, where):
    def main():
        scopes = {"outer": move_on_after(5), "inner": CancelScope()}
        scopes["outer"].deadline = 5 if where == "outer" else math.inf
        if where == "inner":
            scopes["inner"].deadline = 5

        def worker():
            with scopes["outer"], scopes["inner"]:
                sleep(100)
            return current_time()

        fiber = spawn(worker)
        sleep(2)
        scopes[where].deadline = deadline
        assert fiber.result() == ends

    run(main)


def test_a_deadline_is_moved_from_another_os_thread():
    def main():
        scope = move_on_after(3600)
        thread = threading.Thread(target=lambda: setattr(scope, "deadline", 0))
        with scope:
            thread.start()
            sleep(1800)
        thread.join()
        return scope.cancelled_caught

    assert greenio.run(main)


def test_a_scope_is_cancelled_from_another_os_thread():
    def main():
        scope = CancelScope()
        thread = threading.Thread(target=lambda: scope.cancel("thread"))
        with scope:
            thread.start()
            assert reason_of(sleep, 3600) == "thread"
        thread.join()

    greenio.run(main)


def test_a_scope_is_cancelled_by_the_fiber_of_another_run():
    def main():
        scope = CancelScope()
        thread = threading.Thread(target=lambda: greenio.run(scope.cancel, "other run"))
        with scope:
            thread.start()
            assert reason_of(park_here, "a cancellation") == "other run"
        thread.join()

    greenio.run(main)


def test_the_deadline_can_be_read():
    def main():
        scope = timeout(3)
        with pytest.raises(RuntimeError, match="3 seconds after the entry"):
            _ = scope.deadline
        sleep(1)
        with scope:
            assert scope.deadline == 4 and scope.when() == 4
            scope.deadline = None
            assert scope.deadline == math.inf and scope.when() is None
            with pytest.raises(ValueError):
                scope.deadline = math.nan
            assert scope.deadline == math.inf
        assert CancelScope(deadline=7).deadline == 7

    run(main)


def test_reschedule_moves_a_timeout_until_it_has_expired():
    def main():
        scope = timeout(3)
        with pytest.raises(RuntimeError, match="cannot change the deadline"):
            scope.reschedule(9)
        with pytest.raises(TimeoutError):
            with scope:
                scope.reschedule(5)
                try:
                    sleep(100)
                finally:
                    assert current_time() == 5
                    with pytest.raises(RuntimeError, match="cannot change the deadline"):
                        scope.reschedule(9)
        with pytest.raises(RuntimeError, match="cannot change the deadline"):
            scope.reschedule(9)

    run(main)


def test_current_deadline_is_the_nearest_in_sight():
    def main():
        assert current_deadline() == math.inf
        with move_on_after(5) as outer:
            with move_on_after(9):
                assert current_deadline() == 5
                with shield():
                    assert current_deadline() == math.inf
                    with move_on_after(7):
                        assert current_deadline() == 7
                assert current_deadline() == 5
                outer.cancel()
                assert current_deadline() == -math.inf
        assert current_deadline() == math.inf

    run(main)
    with pytest.raises(RuntimeError, match="no fibers run"):
        current_deadline()


def test_cancel_called_tells_as_soon_as_the_deadline_has_come():
    def main():
        clock = greenio.current_scheduler().clock
        with move_on_after(2) as scope:
            assert not scope.cancel_called
            clock.advance(2)
            assert scope.cancel_called
            checkpoint()
        assert scope.cancelled_caught

    run(main)


@pytest.mark.parametrize("operation", [yield_now, checkpoint, lambda: sleep(0), lambda: done.join()])
@pytest.mark.parametrize("others", [0, 1])
def test_a_loop_that_never_waits_is_interrupted_by_a_deadline(operation, others):
    global done

    def spin():
        while True:
            yield_now()

    def main():
        global done
        clock = greenio.current_scheduler().clock
        done = spawn(int)
        done.join()
        fibers = [spawn(spin) for _ in range(others)]
        rounds = 0
        with move_on_after(1) as scope:
            while rounds < 10_000:
                rounds += 1
                clock.advance(0.01)
                operation()
        for fiber in fibers:
            fiber.cancel()
        assert scope.cancelled_caught
        return rounds

    # It gives way every 32 operations at the latest, and looks at the clock then.
    assert 100 <= run(main) < 200


done = None


def test_receiving_from_a_socket_under_a_timeout_takes_nothing():
    def main():
        left, right = greenio.socket.socketpair()
        with left, right:
            with pytest.raises(TimeoutError):
                with timeout(1):
                    left.recv(100)
            right.sendall(b"kept")
            with timeout(1):
                return left.recv(100)

    assert run(main) == b"kept"


def test_an_operations_own_timeout_comes_before_a_later_deadline():
    def main():
        with timeout(5) as scope:
            with pytest.raises(TimeoutError, match="has not ended within 2 seconds"):
                spawn(sleep, 100).join(2)
        assert not scope.expired()
        return current_time()

    assert run(main) == 2


def test_a_thousand_sleepers_have_each_their_own_deadline():
    def main():
        def sleeper(seconds):
            with move_on_after(seconds):
                sleep(5000)
            return current_time()

        fibers = [spawn(sleeper, 1 + (number * 7919) % 1000) for number in range(1000)]
        return [fiber.result() for fiber in fibers] == [1 + (number * 7919) % 1000 for number in range(1000)]

    assert run(main)


def test_a_timeout_around_what_does_not_wait_leaves_no_timer_behind():
    def main():
        for _ in range(1000):
            with timeout(0.5):
                yield_now()
        fiber = spawn(park_here, "a test")
        wait_all_parked()
        unpark_fiber(fiber)
        sleep(10)
        return current_time()

    assert run(main) == 10


def test_a_fiber_that_times_out_often_is_not_taken_for_one_that_swallows(caplog):
    def main():
        for _ in range(1500):
            with move_on_after(1):
                sleep(2)

    with caplog.at_level(logging.WARNING, "greenio"):
        run(main)
    assert caplog.records == []


# --- Fiber.cancel with scopes ----------------------------------------------------------------------------------------


def test_fiber_cancel_goes_through_every_scope():
    def main():
        scopes = [CancelScope(), move_on_after(10)]

        def worker():
            with scopes[0], scopes[1]:
                sleep(100)

        fiber = spawn(worker)
        wait_all_parked()
        fiber.cancel("over")
        fiber.join()
        assert fiber.cancelled()
        assert not any(scope.cancelled_caught for scope in scopes)

    run(main)


def test_fiber_cancel_wins_over_a_scope_that_was_cancelled_too():
    def main():
        scope = CancelScope()
        reasons = []

        def worker():
            with scope:
                reasons.append(reason_of(sleep, 100))
                scope.cancel("scope")
                reasons.append(reason_of(sleep, 100))
                sleep(1)

        fiber = spawn(worker)
        wait_all_parked()
        fiber.cancel("fiber")
        fiber.join()
        assert fiber.cancelled() and not scope.cancelled_caught
        return reasons

    assert run(main) == ["fiber", "fiber"]


def test_a_spawned_fiber_is_in_no_scope_of_its_spawner():
    def main():
        with move_on_after(1):
            fiber = spawn(sleep, 5)
            sleep(10)
        fiber.join()
        return current_time(), fiber.cancelled()

    assert run(main) == (5, False)


# --- misuse ----------------------------------------------------------------------------------------------------------


def test_a_scope_is_entered_once():
    def main():
        with CancelScope() as scope:
            with pytest.raises(RuntimeError, match="entered before"):
                scope.__enter__()
            sleep(1)
        with pytest.raises(RuntimeError, match="entered before"):
            scope.__enter__()
        with pytest.raises(RuntimeError, match="not entered"):
            scope.__exit__(None, None, None)

    run(main)


def test_a_scope_outside_a_run_is_refused():
    with pytest.raises(RuntimeError, match="no fibers run on this OS thread"):
        CancelScope().__enter__()


def test_a_timeout_is_made_by_its_functions():
    with pytest.raises(TypeError, match=r"made by greenio\.timeout"):
        Timeout()


def test_scopes_left_out_of_order_are_reported_and_both_are_gone():
    def main():
        outer, inner = CancelScope(), CancelScope()
        outer.__enter__()
        inner.__enter__()
        with pytest.raises(RuntimeError, match="the innermost first"):
            outer.__exit__(None, None, None)
        outer.cancel()
        sleep(1)  # it is out of the chain
        inner.__exit__(None, None, None)
        inner.cancel()
        sleep(1)
        assert current_deadline() == math.inf

    run(main)


def test_a_scope_that_a_generator_leaves_out_of_order_does_not_stay():
    def hold():
        with move_on_after(1):
            yield

    def main():
        generator = hold()
        next(generator)
        with CancelScope() as mine:
            with pytest.raises(RuntimeError, match="the innermost first"):
                generator.close()
            sleep(5)
        assert not mine.cancelled_caught
        assert current_deadline() == math.inf

    run(main)


def test_a_scope_of_another_fibers_generator_is_taken_out_of_that_fiber():
    def hold(scope):
        with scope:
            yield

    def main():
        scope = CancelScope()
        generator = hold(scope)

        def opener():
            next(generator)
            sleep(2)
            return current_time()

        fiber = spawn(opener)
        wait_all_parked()
        with pytest.raises(RuntimeError, match="left by the fiber that entered"):
            generator.close()
        scope.cancel()
        assert fiber.result() == 2

    run(main)


def test_a_cancelled_scope_that_another_fiber_takes_away_no_longer_interrupts():
    def main():
        scope = CancelScope()

        def opener():
            scope.__enter__()
            with pytest.raises(Cancelled):
                sleep(100)
            with shield():
                sleep(1)
            sleep(1)  # would raise
            return "undisturbed"

        fiber = spawn(opener)
        wait_all_parked()
        scope.cancel()
        wait_all_parked()
        with pytest.raises(RuntimeError):
            scope.__exit__(None, None, None)
        assert fiber.result() == "undisturbed"

    run(main)


def test_a_scope_left_by_an_exit_stack_of_another_fiber_is_reported():
    def main():
        stack = contextlib.ExitStack()
        fiber = spawn(lambda: (stack.enter_context(move_on_after(1)), sleep(3)))
        wait_all_parked()
        with pytest.raises(RuntimeError, match="ExitStack of another fiber"):
            stack.close()
        fiber.join()
        return current_time(), fiber.cancelled()

    assert run(main) == (3, False)


def test_a_scope_left_by_a_plain_thread_is_reported():
    caught = []

    def main():
        with CancelScope() as outer:
            scope = CancelScope()
            scope.__enter__()

            def leave():
                try:
                    scope.__exit__(None, None, None)
                except RuntimeError as error:
                    caught.append(str(error))

            thread = threading.Thread(target=leave)
            thread.start()
            thread.join()
        assert not outer.cancelled_caught

    greenio.run(main)
    assert "is closed now" in caught[0]


def test_a_destructor_may_leave_a_scope_of_an_ended_fiber():
    def hold():
        with CancelScope():
            yield

    def main():
        kept = []

        def opener():
            generator = hold()
            next(generator)
            kept.append(generator)

        spawn(opener).join()
        with pytest.raises(RuntimeError, match="is closed now"):
            kept.pop().close()
        sleep(1)

    run(main)


# --- fork, memory ----------------------------------------------------------------------------------------------------


def test_a_forked_child_keeps_the_scopes_of_its_fiber():
    run_child("""
        import os
        import greenio
        from greenio import CancelScope, move_on_after, sleep, timeout

        def main():
            with CancelScope() as outer, move_on_after(3600) as inner:
                pid = os.fork()
                if pid:
                    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
                else:
                    inner.deadline = greenio.current_time() + 0.001
                    sleep(3600)
            if not pid:
                assert inner.cancelled_caught and not outer.cancelled_caught
                try:
                    with timeout(0.001):
                        sleep(3600)
                except TimeoutError:
                    pass
                else:
                    raise AssertionError

        greenio.run(main)
    """)


class Marked:
    pass


@pytest.mark.parametrize("make", [move_on_after, timeout])
def test_a_scope_that_was_cancelled_leaves_no_reference_cycle(make):
    def main():
        def block():
            marked = Marked()
            try:
                with make(1):
                    sleep(100)
            except TimeoutError:
                pass
            return weakref.ref(marked)

        assert block()() is None

    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()


def test_a_cancelled_fiber_keeps_nothing_of_its_frames():
    def main():
        references = []

        def worker():
            marked = Marked()
            references.append(weakref.ref(marked))
            with CancelScope(), shield(), CancelScope():
                pass
            with CancelScope():
                sleep(100)

        fiber = spawn(worker)
        wait_all_parked()
        fiber.cancel()
        fiber.join()
        assert references[0]() is None
        assert fiber.cancelled()

    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()
