"""_task_groups.pyx: TaskGroup. Waiting for all, failures, cancellation, start, max_running, results, misuse, threads, fork."""

import gc
import logging
import sys
import threading
import weakref
from collections import deque

import pytest
from child import run_child

import greenio
from greenio import CancelScope, TaskGroup, current_time, move_on_after, shield, sleep, spawn, timeout, yield_now
from greenio._scheduler import park_here, unpark_fiber
from greenio._task_groups import Bell
from greenio.testing import VirtualClock, wait_all_parked


def run(main, *args):
    return greenio.run(main, *args, clock=VirtualClock())


def fail(error):
    raise error


def fail_after(seconds, error):
    sleep(seconds)
    raise error


def return_after(seconds, value):
    sleep(seconds)
    return value


def shielded_sleep(seconds):
    with shield():
        sleep(seconds)


# --- waiting for all -------------------------------------------------------------------------------------------------


def test_the_block_ends_when_the_last_fiber_has_ended():
    def main():
        with TaskGroup() as group:
            short = group.spawn(return_after, 1, "short")
            long = group.spawn(return_after, 3, "long")
        assert current_time() == 3
        return short.result(), long.result()

    assert run(main) == ("short", "long")


def test_an_empty_group_ends_at_once_and_is_no_checkpoint():
    def main():
        other = spawn(lambda: None)
        with TaskGroup():
            pass
        assert not other.done()

    run(main)


def test_spawn_passes_name_stack_size_arguments_and_reports_its_own_place():
    def main():
        with TaskGroup() as group:
            line = sys._getframe().f_lineno + 1
            fiber = group.spawn(lambda *args: args, 1, 2, name="adder", stack_size=1 << 20)
            assert (fiber.name, fiber.stack_bytes >= 1 << 20) == ("adder", True)
            assert fiber.spawned_at == (__file__, line)
        return fiber.result()

    assert run(main) == (1, 2)


def test_children_may_spawn_while_the_body_waits_at_the_end():
    order = []

    def child(group, depth):
        sleep(1)
        order.append(depth)
        if depth < 3:
            group.spawn(child, group, depth + 1)

    def main():
        with TaskGroup() as group:
            group.spawn(child, group, 0)
        return current_time()

    assert run(main) == 4
    assert order == [0, 1, 2, 3]


def test_waiting_at_the_end_says_what_for():
    def main():
        def waiter():
            nonlocal group
            with TaskGroup() as group:
                group.spawn(sleep, 1)

        group = None
        fiber = spawn(waiter)
        wait_all_parked()
        assert fiber.waits_for[:2] == ("the end of a task group", group)
        assert repr(group) == "<greenio.TaskGroup entered, 1 fibers>"
        assert [child.state for child in group.fibers()] == ["parked"]
        fiber.join()
        assert repr(group) == "<greenio.TaskGroup left, 0 fibers>"

    run(main)


def test_a_cancelled_child_is_no_failure():
    def main():
        with TaskGroup() as group:
            first = group.spawn(sleep, 10)
            second = group.spawn(sleep, 2)
            wait_all_parked()
            first.cancel()
        assert first.cancelled() and not second.cancelled()
        return current_time()

    assert run(main) == 2


def test_groups_nest():
    order = []

    def note(seconds, what):
        sleep(seconds)
        order.append(what)

    def main():
        with TaskGroup() as outer:
            outer.spawn(note, 3, "outer")
            with TaskGroup() as inner:
                inner.spawn(note, 1, "inner")
            order.append("inner left")
        order.append("outer left")

    run(main)
    assert order == ["inner", "inner left", "outer", "outer left"]


# --- failures --------------------------------------------------------------------------------------------------------


def test_the_first_failure_cancels_siblings_and_body():
    def main():
        error = ValueError("first")
        with pytest.raises(ExceptionGroup) as caught:
            with TaskGroup() as group:
                sibling = group.spawn(sleep, 100, name="sibling")
                group.spawn(fail_after, 1, error, name="culprit")
                with pytest.raises(greenio.Cancelled) as cancelled:
                    sleep(100)
        assert cancelled.value.reason == "culprit raised ValueError"
        assert caught.value.exceptions == (error,)
        assert caught.value.message == "unhandled errors in a TaskGroup"
        assert sibling.cancelled()
        return current_time()

    assert run(main) == 1


def test_a_failure_while_the_body_waits_at_the_end_cancels_the_siblings():
    def main():
        with pytest.raises(ExceptionGroup):
            with TaskGroup() as group:
                group.spawn(sleep, 100)
                group.spawn(fail_after, 1, ValueError())
        return current_time()

    assert run(main) == 1


def test_all_failures_are_in_the_group_the_bodys_first():
    def main():
        body, one, two = ValueError("body"), KeyError("one"), OSError("two")

        def late(error):
            try:
                sleep(100)
            finally:
                raise error

        with pytest.raises(ExceptionGroup) as caught:
            with TaskGroup() as group:
                group.spawn(late, one)
                group.spawn(late, two)
                wait_all_parked()
                raise body
        assert caught.value.exceptions[0] is body
        assert caught.value.exceptions[1:] in ((one, two), (two, one))
        assert caught.value.__suppress_context__

    run(main)


def test_a_base_exception_makes_a_base_exception_group():
    class Odd(BaseException):
        pass

    def main():
        with pytest.raises(BaseExceptionGroup) as caught:
            with TaskGroup() as group:
                group.spawn(fail, Odd())
        assert type(caught.value) is BaseExceptionGroup

    run(main)


def test_the_bodys_exception_cancels_the_children():
    def main():
        with pytest.raises(ExceptionGroup) as caught:
            with TaskGroup() as group:
                child = group.spawn(sleep, 100)
                raise ValueError
        assert child.cancelled()
        assert len(caught.value.exceptions) == 1
        return current_time()

    assert run(main) == 0


def test_failures_are_not_logged(caplog):
    def main():
        try:
            with TaskGroup() as group:
                group.spawn(fail, ValueError())
                group.spawn(fail, ValueError())
        except* ValueError:
            pass

    with caplog.at_level(logging.ERROR, "greenio"):
        run(main)
        gc.collect()
    assert caplog.records == []


def test_a_failure_of_an_inner_group_is_a_nested_exception_group():
    def main():
        error = ValueError()
        with pytest.raises(ExceptionGroup) as caught:
            with TaskGroup() as outer:
                sibling = outer.spawn(sleep, 10)
                with TaskGroup() as inner:
                    inner.spawn(fail, error)
        assert sibling.cancelled()
        (nested,) = caught.value.exceptions
        assert nested.exceptions == (error,)

    run(main)


def test_failures_win_over_a_cancellation_from_outside():
    def main():
        def child():
            try:
                sleep(10)
            finally:
                raise ValueError

        with CancelScope() as scope:
            with pytest.raises(ExceptionGroup):
                with TaskGroup() as group:
                    group.spawn(child)
                    wait_all_parked()
                    scope.cancel()
                    sleep(1)
            with pytest.raises(greenio.Cancelled):
                greenio.checkpoint()

    run(main)


def test_cancelled_is_taken_out_of_exception_groups_that_leave_a_cancelled_group():
    def main():
        def child():
            try:
                sleep(10)
            except greenio.Cancelled as cancelled:
                raise BaseExceptionGroup("both", [cancelled, KeyError("kept")]) from None

        with pytest.raises(BaseExceptionGroup) as caught:
            with TaskGroup() as group:
                group.spawn(child)
                wait_all_parked()
                group.cancel()
        matched, rest = caught.value.split(greenio.Cancelled)
        assert matched is None and rest is not None
        assert caught.value.exceptions[0].exceptions[0].args == ("kept",)

    run(main)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_ends_the_run_leaves_the_group_bare(error):
    siblings = []

    def main():
        with TaskGroup() as group:
            siblings.append(group.spawn(sleep, 100))
            group.spawn(fail_after, 1, error)

    with pytest.raises(type(error)) as caught:
        run(main)
    assert caught.value is error
    assert siblings[0].cancelled()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_ends_the_run_is_raised_once_in_main(error):
    def main():
        caught = []
        try:
            with TaskGroup() as group:
                group.spawn(fail, error)
                yield_now()
        except type(error) as raised:
            caught.append(raised)
        sleep(1)  # nothing is left to be raised
        return caught

    assert run(main) == [error]


def test_failures_beside_what_ends_the_run_are_logged(caplog):
    error, other, body = SystemExit(3), ValueError("a sibling's"), KeyError("the body's")

    def main():
        with TaskGroup() as group:
            group.spawn(fail, other)
            group.spawn(fail, error)
            try:
                sleep(100)
            finally:
                raise body

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value is error
    assert [record.exc_info[1] for record in caplog.records] == [body, other]
    assert all("in a task group that SystemExit ended" in record.getMessage() for record in caplog.records)


def test_what_ends_the_run_unwinds_a_group_of_another_fiber():
    ended = []

    def worker():
        try:
            with TaskGroup() as group:
                ended.append(group.spawn(sleep, 100))
                group.spawn(fail_after, 1, SystemExit(4))
        finally:
            ended.append("unwound")

    def main():
        spawn(worker)
        sleep(1000)

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 4
    assert ended[0].cancelled() and ended[1] == "unwound"


def test_what_is_thrown_into_main_while_it_waits_cancels_the_group_and_comes_out_bare():
    children = []

    def main():
        scheduler = greenio.current_scheduler()

        def other():
            sleep(1)
            raise KeyboardInterrupt

        spawn(other)
        with TaskGroup() as group:
            children.append(group.spawn(shielded_sleep, 5))
            children.append(group.spawn(sleep, 50))
        assert scheduler

    with pytest.raises(KeyboardInterrupt):
        run(main)
    assert not children[0].cancelled() and children[1].cancelled()


def test_a_deadlock_among_the_children_is_a_failure_of_the_group():
    def main():
        with pytest.raises(ExceptionGroup) as caught:
            with TaskGroup() as group:
                group.spawn(park_here, "nothing")
                group.spawn(park_here, "nothing")
        assert [type(each) for each in caught.value.exceptions] == [greenio.DeadlockError]

    run(main)


# --- cancellation ----------------------------------------------------------------------------------------------------


def test_cancel_ends_children_and_body_without_an_exception():
    def main():
        with TaskGroup() as group:
            child = group.spawn(sleep, 100)
            wait_all_parked()
            group.cancel("enough")
            sleep(100)
        assert child.cancelled()
        assert group.cancel_scope.cancel_called and group.cancel_scope.cancelled_caught
        return current_time()

    assert run(main) == 0


def test_cancel_while_the_body_waits_at_the_end():
    def main():
        def stop():
            sleep(2)
            group.cancel()

        with TaskGroup() as group:
            spawn(stop)
            group.spawn(sleep, 100)
        return current_time()

    assert run(main) == 2


def test_the_reason_reaches_the_children():
    reasons = []

    def child():
        try:
            sleep(100)
        except greenio.Cancelled as cancelled:
            reasons.append(cancelled.reason)
            raise

    def main():
        with TaskGroup() as group:
            group.spawn(child)
            wait_all_parked()
            group.cancel("enough")

    run(main)
    assert reasons == ["enough"]


def test_a_deadline_around_a_group_interrupts_its_children():
    def main():
        with pytest.raises(TimeoutError):
            with timeout(1):
                with TaskGroup() as group:
                    child = group.spawn(sleep, 10)
        assert child.cancelled()
        return current_time()

    assert run(main) == 1


def test_a_deadline_around_a_thousand_children_interrupts_them_all():
    def main():
        with move_on_after(1) as scope:
            with TaskGroup() as group:
                children = [group.spawn(sleep, 2 + number) for number in range(1000)]
        assert scope.cancelled_caught
        assert all(child.cancelled() for child in children)
        return current_time()

    assert run(main) == 1


def test_a_deadline_of_the_groups_own_scope_ends_it_quietly():
    def main():
        with TaskGroup() as group:
            group.cancel_scope.deadline = 2
            group.spawn(sleep, 10)
        return current_time()

    assert run(main) == 2


def test_a_deadline_around_children_that_are_shielded_comes_after_they_have_ended():
    def main():
        with pytest.raises(TimeoutError):
            with timeout(1):
                with TaskGroup() as group:
                    group.spawn(shielded_sleep, 5)
        return current_time()

    assert run(main) == 5


def test_a_body_that_was_shielded_does_not_go_on_as_if_its_fibers_had_not_been_cut_short():
    def main():
        with move_on_after(1) as scope:
            with TaskGroup() as group:
                group.spawn(sleep, 10)
                with shield():
                    sleep(2)
            raise AssertionError("not reached")
        assert scope.cancelled_caught
        with move_on_after(1) as scope:
            with TaskGroup() as group:
                group.spawn(int)
                with shield():
                    sleep(2)
        assert not scope.cancelled_caught  # all was done

    run(main)


def test_a_child_that_catches_cancelled_is_waited_for():
    def child():
        try:
            sleep(100)
        except greenio.Cancelled:
            shielded_sleep(3)
            return "cleaned up"

    def main():
        with move_on_after(1):
            with TaskGroup() as group:
                fiber = group.spawn(child)
        return fiber.result(), current_time()

    assert run(main) == ("cleaned up", 4)


def test_cancelling_the_bodys_fiber_cancels_the_children_and_goes_on_outside():
    def main():
        children = []

        def body():
            with TaskGroup() as group:
                children.append(group.spawn(sleep, 100))

        fiber = spawn(body)
        wait_all_parked()
        fiber.cancel("over")
        fiber.join()
        assert fiber.cancelled() and children[0].cancelled()

    run(main)


def test_the_fiber_that_waits_at_the_end_is_not_woken_for_each_cancellation():
    def main():
        def body():
            with TaskGroup() as group:
                group.spawn(shielded_sleep, 10)

        fiber = spawn(body)
        wait_all_parked()
        before = greenio.current_scheduler().switch_count
        for _ in range(100):
            fiber.cancel()
            yield_now()
        assert greenio.current_scheduler().switch_count - before < 10

    run(main)


def test_a_stray_cancelled_is_not_swallowed():
    def main():
        with pytest.raises(greenio.Cancelled):
            with TaskGroup():
                raise greenio.Cancelled("by hand")

    run(main)


def test_a_group_in_a_cancelled_scope_cancels_what_it_spawns():
    ran = []

    def child():
        ran.append("begun")
        sleep(1)
        ran.append("not reached")

    def main():
        with CancelScope() as scope:
            scope.cancel()
            with TaskGroup() as group:
                group.spawn(child)
        assert scope.cancelled_caught

    run(main)
    assert ran == ["begun"]


# --- start -----------------------------------------------------------------------------------------------------------


def test_start_returns_what_started_was_given_and_the_child_runs_on():
    def server(port, *, task_status):
        sleep(1)
        task_status.started(port + 1)
        sleep(5)
        return "served"

    def main():
        with TaskGroup() as group:
            assert group.start(server, 80, name="server") == 81
            assert current_time() == 1
            (fiber,) = group.fibers()
            assert fiber.name == "server"
        return fiber.result(), current_time()

    assert run(main) == ("served", 6)


def test_start_without_a_value_returns_none():
    def main():
        with TaskGroup() as group:
            return group.start(lambda *, task_status: task_status.started())

    assert run(main) is None


def test_what_is_raised_before_started_comes_out_of_start_alone():
    error = ValueError()

    def main():
        with TaskGroup() as group:
            sibling = group.spawn(return_after, 1, "fine")
            with pytest.raises(ValueError) as caught:
                group.start(lambda *, task_status: fail_after(0.5, error))
            assert caught.value is error
            assert not group.cancel_scope.cancel_called
        return sibling.result()

    assert run(main) == "fine"


def test_what_is_raised_after_started_is_the_groups_failure():
    def main():
        def child(*, task_status):
            task_status.started()
            raise KeyError

        with pytest.raises(ExceptionGroup) as caught:
            with TaskGroup() as group:
                group.start(child)
                sleep(1)
        assert type(caught.value.exceptions[0]) is KeyError

    run(main)


def test_a_child_that_ends_without_started_is_a_runtime_error():
    def main():
        with TaskGroup() as group:
            with pytest.raises(RuntimeError, match=r"lazy ended without calling task_status\.started"):
                group.start(lambda *, task_status: None, name="lazy")

    run(main)


def test_started_twice_is_an_error():
    def child(*, task_status):
        task_status.started(1)
        with pytest.raises(RuntimeError, match="was called before"):
            task_status.started(2)

    def main():
        with TaskGroup() as group:
            return group.start(child)

    assert run(main) == 1


def test_started_after_the_end_is_an_error():
    def main():
        kept = []
        with TaskGroup() as group:
            with pytest.raises(RuntimeError):
                group.start(lambda *, task_status: kept.append(task_status))
            with pytest.raises(RuntimeError, match="has ended"):
                kept[0].started()

    run(main)


def test_the_starters_cancellation_cancels_and_awaits_the_child():
    events = []

    def child(*, task_status):
        try:
            sleep(100)
        finally:
            shielded_sleep(2)
            events.append("child ended")

    def main():
        with TaskGroup() as group:
            with move_on_after(1) as scope:
                group.start(child)
            assert scope.cancelled_caught
            events.append(current_time())
            assert not group.fibers()

    run(main)
    assert events == ["child ended", 3]


def test_started_after_the_starters_cancellation_does_not_move_the_child():
    def child(*, task_status):
        with shield():
            sleep(2)
        task_status.started()
        sleep(100)

    def main():
        with TaskGroup() as group:
            with move_on_after(1) as scope:
                group.start(child)
            assert scope.cancelled_caught
            assert not group.fibers()
        return current_time()

    assert run(main) == 2


def test_after_started_the_starters_scope_is_left_for_the_groups():
    def child(*, task_status):
        with CancelScope():  # scopes of its own stay below the group's
            with CancelScope():
                task_status.started()
                sleep(10)
        return "undisturbed"

    def main():
        with TaskGroup() as group:
            with move_on_after(1):
                group.start(child)
                (fiber,) = group.fibers()
                sleep(100)
            assert current_time() == 1
            assert not fiber.done()
        assert fiber.result() == "undisturbed"
        with TaskGroup() as group:
            group.start(child)
            (fiber,) = group.fibers()
            group.cancel()
        assert fiber.cancelled()

    run(main)


def test_the_group_waits_for_a_start_under_way():
    def child(*, task_status):
        sleep(2)
        task_status.started()
        sleep(2)

    def main():
        with TaskGroup() as group:
            spawn(group.start, child)
            wait_all_parked()
        return current_time()

    assert run(main) == 4


def test_cancelling_the_group_leaves_a_start_of_another_fiber_alone_until_started():
    def child(*, task_status):
        sleep(2)
        task_status.started("moved")
        sleep(100)

    def main():
        with TaskGroup() as group:
            starter = spawn(group.start, child)
            wait_all_parked()
            group.cancel()
        return starter.result(), current_time()

    assert run(main) == ("moved", 2)


@pytest.mark.parametrize("ending", [SystemExit, greenio.DeadlockError])
def test_what_start_does_not_raise_is_logged(caplog, ending):
    def serve(*, task_status):
        try:
            park_here("nothing")
        finally:
            raise ValueError("beside")

    def main():
        with TaskGroup() as group:
            if ending is SystemExit:
                spawn(fail_after, 1, SystemExit(3))
            with pytest.raises(ending):
                group.start(serve)

    with caplog.at_level(logging.ERROR, logger="greenio"):
        run(main)
    assert [str(record.exc_info[1]) for record in caplog.records] == ["beside"]
    assert ending.__name__ in caplog.text


def test_start_outside_the_groups_run_is_refused():
    def main():
        with TaskGroup() as group:

            def elsewhere():
                with pytest.raises(RuntimeError, match="no fibers run"):
                    group.start(print)

                def other_main():
                    with pytest.raises(RuntimeError, match="fiber of the run"):
                        group.start(print)

                greenio.run(other_main)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()

    greenio.run(main)


def test_start_refuses_what_is_not_callable():
    def main():
        with TaskGroup() as group:
            with pytest.raises(TypeError, match="wants a callable"):
                group.start(None)

    run(main)


# --- max_running -----------------------------------------------------------------------------------------------------


def test_no_more_than_max_running_run_at_a_time_first_come_first_served():
    running = 0
    peak = 0
    order = []

    def child(number):
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        order.append(number)
        sleep(1)
        running -= 1

    def main():
        with TaskGroup(max_running=3) as group:
            for number in range(10):
                group.spawn(child, number)
            wait_all_parked()
            assert repr(group) == "<greenio.TaskGroup entered, 10 fibers, 7 of them held back>"
            assert group.fibers()[3].waits_for[0] == "a place in its task group"
        return current_time()

    assert run(main) == 4
    assert (peak, order) == (3, list(range(10)))


def test_a_held_back_fiber_that_is_cancelled_never_begins():
    ran = []

    def main():
        with TaskGroup(max_running=1) as group:
            group.spawn(sleep, 5)
            second = group.spawn(ran.append, "second")
            group.spawn(ran.append, "third")
            second.cancel("not needed")
            second.join()
            assert current_time() == 0
            assert second.cancelled()
            assert ran == []

    run(main)
    assert ran == ["third"]


def test_held_back_fibers_never_begin_in_a_group_that_is_cancelled():
    ran = []

    def main():
        with TaskGroup(max_running=1) as group:
            group.spawn(sleep, 5)
            held = [group.spawn(ran.append, number) for number in range(100)]
            wait_all_parked()
            group.cancel()
        assert all(fiber.cancelled() for fiber in held)

    run(main)
    assert ran == []


def test_held_back_fibers_never_begin_after_a_deadline():
    ran = []

    def main():
        with move_on_after(1):
            with TaskGroup(max_running=1) as group:
                group.spawn(shielded_sleep, 5)
                held = [group.spawn(ran.append, number) for number in range(3)]
                sleep(2)
        assert all(fiber.cancelled() for fiber in held)
        return current_time()

    assert run(main) == 5
    assert ran == []


def test_fibers_spawned_into_a_cancelled_scope_beyond_the_bound_never_begin():
    ran = []

    def main():
        with CancelScope() as scope:
            with TaskGroup(max_running=1) as group:
                scope.cancel()
                group.spawn(ran.append, 1)
                group.spawn(ran.append, 2)

    run(main)
    assert ran == [1]


def test_a_place_that_a_cancelled_fiber_gives_up_goes_to_the_next():
    def main():
        with TaskGroup(max_running=1) as group:
            first = group.spawn(sleep, 100)
            second = group.spawn(return_after, 1, "second")
            wait_all_parked()
            first.cancel()
        return second.result(), current_time()

    assert run(main) == ("second", 1)


def test_a_fiber_that_spawns_into_its_full_group_does_not_wait():
    def main():
        with TaskGroup(max_running=1) as group:
            return group.spawn(lambda: group.spawn(return_after, 1, "inner")).result().result()

    assert run(main) == "inner"


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_bound_below_one_is_refused(wrong):
    with pytest.raises(ValueError, match=f"max_running must be >= 1 fibers or None, not {wrong}"):
        TaskGroup(max_running=wrong)


# --- results ---------------------------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_ends():
    def main():
        with TaskGroup() as group:
            for seconds in (3, 1, 2):
                group.spawn(return_after, seconds, seconds)
            return [(result, current_time()) for result in group]

    assert run(main) == [(1, 1), (2, 2), (3, 3)]


def test_results_of_fibers_that_ended_before_are_kept_also_if_none():
    def main():
        with TaskGroup() as group:
            for value in (None, None, 1, None, 2, 3, None):
                group.spawn(return_after, 1, value)
            sleep(2)
            return list(group.results())

    assert run(main) == [None, None, 1, None, 2, 3, None]


def test_nones_that_nobody_takes_need_no_room():
    def main():
        with TaskGroup() as group:
            for _ in range(3):
                group.spawn(lambda: None)
            wait_all_parked()
            assert next(iter(group)) is None
            group.spawn(lambda: None)
            group.spawn(lambda: 5)
            group.spawn(lambda: None)
            wait_all_parked()
            return list(group)

    assert run(main) == [None, None, None, 5, None]


def test_iteration_takes_in_what_is_spawned_meanwhile_and_ends_with_the_last():
    def main():
        seen = []
        with TaskGroup() as group:
            group.spawn(return_after, 1, 3)
            for result in group:
                seen.append(result)
                if result:
                    group.spawn(return_after, 1, result - 1)
        return seen

    assert run(main) == [3, 2, 1, 0]


def test_iteration_passes_over_cancelled_fibers_and_ends():
    def main():
        with TaskGroup() as group:
            group.spawn(return_after, 1, "one")
            group.spawn(sleep, 100).cancel()
            return list(group)

    assert run(main) == ["one"]


def test_a_failure_interrupts_the_iteration():
    def main():
        seen = deque()
        with pytest.raises(ExceptionGroup):
            with TaskGroup() as group:
                group.spawn(return_after, 1, "one")
                group.spawn(fail_after, 2, ValueError())
                group.spawn(return_after, 3, "three")
                seen.extend(group)
        return list(seen)

    assert run(main) == ["one"]


def test_two_fibers_share_the_results():
    def main():
        taken = []
        with TaskGroup() as group:
            for number in range(6):
                group.spawn(return_after, 1 + number, number)
            takers = [spawn(lambda: [taken.append(result) for result in group]) for _ in range(2)]
            for taker in takers:
                taker.join()
        return taken

    assert run(main) == [0, 1, 2, 3, 4, 5]


def test_a_cancelled_taker_takes_nothing():
    def main():
        with TaskGroup() as group:
            group.spawn(return_after, 1, "kept")
            taker = spawn(next, iter(group))
            wait_all_parked()
            taker.cancel()
            sleep(2)
            assert taker.cancelled()
            return list(group)

    assert run(main) == ["kept"]


def test_a_child_cannot_wait_for_the_results_of_its_own_group():
    def main():
        with pytest.raises(ExceptionGroup) as caught:
            with TaskGroup() as group:
                group.spawn(lambda: list(group))
        assert "waits for its own end" in str(caught.value.exceptions[0])

    run(main)


def test_a_plain_thread_takes_results():
    taken = []

    def main():
        go = threading.Event()
        with TaskGroup() as group:

            def take():
                go.set()
                taken.extend(group)

            def child():
                park_here("the thread")
                return "for the thread"

            fiber = group.spawn(child)
            thread = threading.Thread(target=take)
            thread.start()
            go.wait()
            yield_now()
            unpark_fiber(fiber)
        thread.join()

    greenio.run(main)
    assert taken == ["for the thread"]


# --- misuse ----------------------------------------------------------------------------------------------------------


def test_spawn_before_the_entry_is_refused():
    def main():
        with pytest.raises(RuntimeError, match="not entered yet"):
            TaskGroup().spawn(print)

    run(main)


def test_spawn_after_the_exit_is_refused():
    def main():
        with TaskGroup() as group:
            pass
        with pytest.raises(RuntimeError, match="has been left"):
            group.spawn(print)

    run(main)


def test_spawn_into_a_group_that_shuts_down_is_refused():
    def main():
        with TaskGroup() as group:
            group.cancel("enough")
            with pytest.raises(RuntimeError, match=r"shutting down \(enough\)"):
                group.spawn(print)
            with pytest.raises(RuntimeError, match="shutting down"):
                group.start(print)

    run(main)


def test_spawning_what_is_not_callable_leaves_the_group_as_it_was():
    def main():
        with TaskGroup() as group:
            with pytest.raises(TypeError, match="wants a callable"):
                group.spawn(None)
            with pytest.raises(ValueError):
                group.spawn(print, stack_size=-1)
            assert group.fibers() == []

    run(main)


def test_a_group_that_is_left_while_spawn_looks_at_its_arguments_takes_no_fiber():
    ran = []

    class Slow:
        def __index__(self):
            sleep(5)
            return 1 << 20

    def main():
        def spawner():
            with pytest.raises(RuntimeError, match="has been left"):
                group.spawn(ran.append, 1, stack_size=Slow())

        with TaskGroup() as group:
            fiber = spawn(spawner)
            sleep(1)
        fiber.join()
        assert group.fibers() == []

    run(main)
    assert ran == []


def test_a_group_is_entered_once():
    def main():
        with TaskGroup() as group:
            with pytest.raises(RuntimeError, match="entered before"):
                group.__enter__()
        with pytest.raises(RuntimeError, match="entered before"):
            group.__enter__()

    run(main)


def test_a_group_outside_a_run_is_refused():
    with pytest.raises(RuntimeError, match="no fibers run on this OS thread"):
        TaskGroup().__enter__()


def test_leaving_what_was_not_entered_is_refused():
    def main():
        with pytest.raises(RuntimeError, match="not entered"):
            TaskGroup().__exit__(None, None, None)

    run(main)


def test_a_group_left_by_another_fiber_is_cancelled_waited_for_and_reported():
    def main():
        def hold():
            with TaskGroup() as group:
                group.spawn(shielded_sleep, 3)
                yield group

        generator = hold()
        opener = spawn(next, generator)
        opener.join()
        with pytest.raises(RuntimeError, match="left by the fiber that entered"):
            generator.close()
        return current_time()

    assert run(main) == 3


def test_failures_in_a_group_left_by_another_fiber_are_the_cause_of_the_report():
    def main():
        def hold():
            with TaskGroup() as group:
                group.spawn(fail, ValueError("important"))
                yield group

        generator = hold()
        opener = spawn(next, generator)
        opener.join()
        with pytest.raises(RuntimeError, match="left by the fiber that entered") as caught:
            next(generator)
        assert isinstance(caught.value.__cause__, ExceptionGroup)
        assert [str(failure) for failure in caught.value.__cause__.exceptions] == ["important"]

    run(main)


def test_what_ends_the_run_is_raised_though_the_group_is_left_by_another_fiber():
    error = SystemExit(3)

    def main():
        def hold():
            with TaskGroup() as group:
                yield group
                raise error

        generator = hold()
        spawn(next, generator).join()
        with pytest.raises(SystemExit) as caught:
            next(generator)
        assert caught.value is error
        assert "left by the fiber that entered" in str(error.__cause__)

    run(main)


def test_failures_in_a_group_left_where_nothing_can_wait_are_not_lost(caplog):
    def fail_late():
        try:
            sleep(100)
        finally:
            raise KeyError("late")

    def main():
        def hold():
            with TaskGroup() as group:
                group.spawn(fail, ValueError("early"))
                group.spawn(shielded_sleep, 1)
                group.spawn(fail_late)
                yield group

        generator = hold()
        caught = []

        def leave():
            try:
                next(generator)
            except BaseException as error:
                caught.append(error)

        spawn(next, generator).join()
        with shield():
            wait_all_parked()
            thread = threading.Thread(target=leave)
            thread.start()
            thread.join()
            sleep(2)
        return caught[0]

    with caplog.at_level(logging.ERROR, logger="greenio"):
        error = run(main)
    assert "no fiber runs here" in str(error)
    seen = [*error.__cause__.exceptions, *(record.exc_info[1] for record in caplog.records if record.exc_info)]
    assert sorted(map(str, seen)) == ["'late'", "early"]


def test_nothing_is_spawned_into_a_group_whose_fiber_has_ended():
    def main():
        def hold():
            with TaskGroup() as group:
                yield group

        generator = hold()
        fiber = spawn(next, generator)
        group = fiber.result()
        with pytest.raises(RuntimeError, match="has ended or did not come along into this forked process"):
            group.spawn(sleep, 1)
        with pytest.raises(RuntimeError, match="has ended or did not come along into this forked process"):
            group.start(sleep)
        assert group.fibers() == []
        with pytest.raises(RuntimeError, match="left by the fiber that entered"):
            generator.close()

    run(main)


def test_a_generator_that_holds_a_group_can_be_closed():
    def main():
        def hold():
            with TaskGroup() as group:
                yield group.spawn(sleep, 100)

        generator = hold()
        child = next(generator)
        generator.close()
        assert child.cancelled()

    run(main)


def test_a_group_left_with_a_scope_of_the_body_open_is_reported_after_its_fibers_have_ended():
    def main():
        inner = CancelScope()
        with pytest.raises(RuntimeError, match="the innermost first"):
            with TaskGroup() as group:
                group.spawn(sleep, 2)
                inner.__enter__()
        inner.__exit__(None, None, None)
        sleep(1)
        return current_time()

    assert run(main) == 3


def test_the_classes_behind_it_are_not_made_by_hand():
    from greenio._task_groups import GroupScope, Results, TaskStatus

    for made in (GroupScope, Results, TaskStatus):
        with pytest.raises(TypeError, match="made by"):
            made()


# --- OS threads, the run's end, fork, memory -------------------------------------------------------------------------


def test_another_os_thread_spawns_into_the_group():
    def main():
        with TaskGroup() as group:
            fibers = []

            def elsewhere():
                fibers.append(group.spawn(greenio.current_scheduler))
                spawned.ring()

            spawned = Bell()
            thread = threading.Thread(target=elsewhere)
            thread.start()
            spawned.wait("the thread", thread, -1)
        thread.join()
        assert fibers[0].result() is greenio.current_scheduler()

    greenio.run(main)


def test_many_os_threads_spawn_into_one_group():
    def main():
        with TaskGroup(max_running=5) as group:

            def elsewhere():
                for _ in range(100):
                    group.spawn(lambda: yield_now() or 1)

            threads = [threading.Thread(target=elsewhere) for _ in range(4)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                yield_now()
        return sum(group)

    assert greenio.run(main) == 400


def test_the_runs_end_unwinds_groups_of_fibers_that_are_left():
    ended = []

    def body():
        try:
            with TaskGroup(max_running=1) as group:
                group.spawn(sleep, 100)
                group.spawn(ended.append, "never")
        finally:
            ended.append("left")

    def main():
        spawn(body)
        wait_all_parked()

    run(main)
    assert ended == ["left"]


def test_a_forked_child_leaves_its_group_without_the_fibers_that_did_not_come_along():
    run_child("""
        import os
        import greenio
        from greenio import TaskGroup, sleep

        def in_child(fn):
            pid = os.fork()
            if pid == 0:
                fn()
                return True
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            return False

        def main():
            with TaskGroup(max_running=1) as group:
                fiber = group.spawn(sleep, 3600)
                group.spawn(sleep, 3600)
                sleep(0)
                if in_child(lambda: group.spawn(sleep, 0.001)):
                    assert len(group.fibers()) == 1
                else:
                    group.cancel()
            assert fiber.done()
            if os.getpid() != parent:
                return
            # A fiber of the group forks: the group has not come along.
            def child():
                if in_child(lambda: sleep(0.001)):
                    assert greenio.current_deadline() == float("inf")
            with greenio.timeout(3600), TaskGroup() as group:
                group.spawn(child)

        parent = os.getpid()
        greenio.run(main)
    """)


def test_nothing_is_spawned_in_a_forked_child_into_a_group_that_did_not_come_along():
    run_child("""
        import os
        import greenio
        from greenio import TaskGroup, sleep

        def child():
            pid = os.fork()
            if pid:
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
                return
            try:
                group.spawn(sleep, 0)
            except RuntimeError as error:
                assert "did not come along into this forked process" in str(error), error
                os._exit(7)
            finally:
                os._exit(1)

        def main():
            global group
            with TaskGroup() as group:
                group.spawn(child)
        greenio.run(main)
    """)


@pytest.mark.parametrize("scoped", [False, True])
@pytest.mark.parametrize("forker", ["the fiber itself", "another"])
def test_started_in_a_forked_child_without_the_caller_of_start_is_refused(forker, scoped):
    run_child(f"""
        import os
        import greenio
        from greenio import CancelScope, TaskGroup, sleep, spawn

        def fork(status):
            pid = os.fork()
            if pid:
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
                return
            try:
                status.started(1)
            except RuntimeError as error:
                if {forker!r} == "another":
                    assert "has ended" in str(error), error
                else:
                    assert "the caller of start() did not come along" in str(error), error
                assert "not started" in repr(status)
                os._exit(7)
            finally:
                os._exit(1)

        def report(status):
            if {forker!r} == "another":
                spawn(fork, status).result()
            else:
                fork(status)
            status.started(2)

        def serve(*, task_status):
            if {scoped}:
                with CancelScope():
                    report(task_status)
            else:
                report(task_status)

        def main():
            with TaskGroup() as group:
                assert group.start(serve) == 2
        greenio.run(main)
    """)


class Marked:
    pass


def test_nothing_is_left_of_a_group_that_failed():
    def main():
        def child(marked):
            me = greenio.current_fiber()
            sleep(1)
            raise ValueError(me and None)

        def block():
            marked = Marked()
            try:
                with TaskGroup(max_running=2) as group:
                    for _ in range(4):
                        group.spawn(child, marked)
            except* ValueError:
                pass
            return weakref.ref(marked), weakref.ref(group)

        gc.collect()
        marked, group = block()
        gc.collect()
        assert marked() is None
        assert group() is None

    run(main)


def test_a_group_that_succeeded_is_freed_without_the_collector():
    def main():
        def block():
            marked = Marked()
            with TaskGroup() as group:
                group.spawn(lambda marked: sleep(1), marked)
                group.start(lambda marked, task_status: task_status.started(), marked)
            return weakref.ref(marked), weakref.ref(group), weakref.ref(group.spawn.__self__)

        gc.disable()
        try:
            references = block()
            sleep(1)
            assert [reference() for reference in references] == [None] * 3
        finally:
            gc.enable()

    run(main)


def test_a_cancelled_group_leaves_no_reference_cycle_through_tracebacks():
    def main():
        def child(marked):
            sleep(100)

        def block():
            marked = Marked()
            with move_on_after(1):
                with TaskGroup() as group:
                    group.spawn(child, marked)
                    sleep(100)
            return weakref.ref(marked)

        gc.disable()
        try:
            reference = block()
            assert reference() is None
        finally:
            gc.enable()

    run(main)
