"""_groups.py: wait, as_completed, FiberPoolExecutor."""

import concurrent.futures
import contextvars
import gc
import logging
import resource
import threading
import weakref
from collections import deque
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError, Executor, Future

import pytest
from child import run_child

import greenio
from greenio import FiberPoolExecutor, as_completed, current_time, move_on_after, sleep, spawn, wait, yield_now
from greenio._scheduler import park_here, unpark_fiber
from greenio.testing import VirtualClock, wait_all_parked


def run(main, *args):
    return greenio.run(main, *args, clock=VirtualClock())


def fail_after(seconds, error):
    sleep(seconds)
    raise error


def return_after(seconds, value):
    sleep(seconds)
    return value


def in_thread(fn, *args):
    """fn(*args) on an OS thread without fibers, while the calling fiber is parked; what it returns."""
    outcome = Future()

    def call():
        try:
            outcome.set_result(fn(*args))
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=call)
    thread.start()
    wait([outcome])
    thread.join()
    return outcome.result()


# --- wait ------------------------------------------------------------------------------------------------------------


def test_wait_waits_for_all():
    def main():
        fibers = {spawn(sleep, seconds) for seconds in (1, 2, 3)}
        result = wait(fibers)
        assert result.done == fibers and result.not_done == set()
        done, not_done = result
        assert (done, not_done) == (fibers, set())
        return current_time()

    assert run(main) == 3


def test_wait_returns_at_the_first_end():
    def main():
        short, long = spawn(sleep, 1), spawn(sleep, 5)
        assert wait([short, long], return_when=FIRST_COMPLETED) == ({short}, {long})
        return current_time()

    assert run(main) == 1


def test_wait_returns_at_the_first_failure_and_takes_cancellation_for_none():
    def main():
        cancelled, fine = spawn(sleep, 100), spawn(sleep, 1)
        failing, long = spawn(fail_after, 2, ValueError()), spawn(sleep, 5)
        cancelled.cancel()
        done, not_done = wait([cancelled, fine, failing, long], return_when=FIRST_EXCEPTION)
        assert (done, not_done) == ({cancelled, fine, failing}, {long})
        assert current_time() == 2
        assert wait([fine, long], return_when=FIRST_EXCEPTION).done == {fine, long}
        assert type(failing.exception()) is ValueError

    run(main)


def test_wait_does_not_wait_for_the_done_callbacks_of_a_failed_call():
    def main():
        with FiberPoolExecutor() as pool:
            future = pool.submit(fail_after, 1, ValueError())
            future.add_done_callback(lambda _: sleep(5))
            assert wait([future], timeout=2, return_when=FIRST_EXCEPTION).done == {future}
            assert current_time() == 1

    run(main)


def test_wait_observes_nothing(caplog):
    def main():
        failing = spawn(fail_after, 1, ValueError())
        for way in (FIRST_EXCEPTION, ALL_COMPLETED):
            assert wait([failing], return_when=way).done == {failing}
        assert list(as_completed([failing])) == [failing]

    with caplog.at_level(logging.ERROR, "greenio"):
        run(main)
    (record,) = caplog.records
    assert "nobody asked for its result" in record.message


def test_wait_gives_up_after_the_timeout_and_leaves_nothing_behind():
    def main():
        short, long = spawn(sleep, 1), spawn(sleep, 100)
        future = Future()
        assert wait([short, long, future], timeout=2) == ({short}, {long, future})
        assert current_time() == 2
        assert future._waiters == []
        assert long.remove_done_callback(None) == 0
        long.cancel()

    run(main)


def test_wait_without_anything_and_for_what_has_ended_returns_at_once():
    def main():
        assert wait([]) == (set(), set())
        fiber = spawn(int)
        fiber.join()
        future = Future()
        future.set_result(1)
        assert wait([fiber, fiber, future]).done == {fiber, future}
        assert wait([spawn(sleep, 1)], timeout=0).done == set()

    run(main)


def test_wait_takes_fibers_and_futures_mixed():
    def main():
        future = Future()
        fiber = spawn(return_after, 1, 1)
        setter = spawn(lambda: (sleep(2), future.set_exception(ValueError())))
        assert wait([fiber, future], return_when=FIRST_EXCEPTION).done == {fiber, future}
        setter.join()
        cancelled = Future()
        spawn(lambda: (cancelled.cancel(), cancelled.set_running_or_notify_cancel()))
        assert wait([cancelled]).done == {cancelled}
        return current_time()

    assert run(main) == 2


def test_a_cancelled_wait_leaves_no_callback_behind():
    def main():
        fiber, future = spawn(sleep, 100), Future()
        with move_on_after(1) as scope:
            wait([fiber, future])
        assert scope.cancelled_caught
        assert future._waiters == []
        reference = weakref.ref(fiber)
        fiber.cancel()
        fiber.join()
        del fiber
        gc.collect()
        assert reference() is None

    run(main)


def test_wait_is_a_checkpoint_even_for_nothing():
    def main():
        with greenio.CancelScope() as scope:
            scope.cancel()
            wait([])
        assert scope.cancelled_caught

    run(main)


def test_wait_blocks_a_plain_thread():
    def main():
        fiber = spawn(park_here, "a thread", 1)
        yield_now()

        def elsewhere():
            assert wait([fiber], timeout=0).not_done == {fiber}
            assert wait([fiber], timeout=0.001).not_done == {fiber}
            unpark_fiber(fiber, 1)
            return wait([fiber])

        assert in_thread(elsewhere) == ({fiber}, set())

    greenio.run(main)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (([1],), TypeError, "wait wants fibers and concurrent.futures.Futures, not 1"),
        (([], None, "SOMETIMES"), ValueError, "return_when must be"),
        (([], -1), ValueError, "a timeout is"),
    ],
)
def test_wait_refuses_bad_arguments(arguments, error, text):
    def main():
        with pytest.raises(error, match=text):
            wait(*arguments)

    run(main)


# --- as_completed ----------------------------------------------------------------------------------------------------


def test_as_completed_gives_them_in_the_order_of_their_ends():
    def main():
        done = spawn(return_after, 0, 0)
        done.join()
        future = Future()
        fibers = [spawn(return_after, seconds, seconds) for seconds in (3, 1)]
        spawn(lambda: (sleep(2), future.set_result(2)))
        return [(each.result(), current_time()) for each in as_completed([*fibers, future, done, done])]

    assert run(main) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_as_completed_times_out_from_its_call():
    def main():
        short, long = spawn(sleep, 3), spawn(sleep, 100)
        iterator = as_completed([short, long], timeout=4)
        sleep(2)
        assert next(iterator) is short
        with pytest.raises(TimeoutError, match="1 of 2 fibers had not ended within 4 seconds"):
            next(iterator)
        assert current_time() == 4
        long.cancel()

    run(main)


def test_as_completed_refuses_bad_arguments_at_the_call():
    def main():
        with pytest.raises(TypeError, match="as_completed wants fibers"):
            as_completed([None])
        with pytest.raises(ValueError, match="a timeout is"):
            as_completed([], timeout=-1)

    run(main)


def test_an_abandoned_as_completed_leaves_nothing_behind():
    def main():
        future = Future()
        fiber = spawn(sleep, 1)
        for each in as_completed([future, fiber]):
            assert each is fiber
            break
        gc.collect()
        assert future._waiters == []

    run(main)


# --- FiberPoolExecutor -----------------------------------------------------------------------------------------------


def test_submit_returns_a_future_whose_result_parks():
    def main():
        with FiberPoolExecutor() as pool:
            assert isinstance(pool, Executor)
            future = pool.submit(return_after, 2, value="two")
            other = pool.submit(return_after, 1, "one")
            assert isinstance(future, Future)
            waits = spawn(future.result)
            wait_all_parked()
            assert waits.waits_for[:2] == ("the result of a call", future)
            assert other.result() == "one" and current_time() == 1
            assert future.result() == "two" and current_time() == 2
            with pytest.raises(ValueError):
                pool.submit(fail_after, 1, ValueError()).result()
            assert type(pool.submit(fail_after, 1, KeyError()).exception()) is KeyError
            assert pool.submit(int).exception() is None

    run(main)


def test_result_times_out():
    def main():
        with FiberPoolExecutor() as pool:
            future = pool.submit(return_after, 5, "late")
            with pytest.raises(TimeoutError):
                future.result(timeout=1)
            with pytest.raises(TimeoutError):
                future.exception(timeout=0)
            assert current_time() == 1
            assert future.result(timeout=100) == "late"

    run(main)


def test_done_callbacks_may_ask_for_the_result():
    seen = []

    def main():
        with FiberPoolExecutor(1) as pool:
            returns, fails = pool.submit(return_after, 1, "one"), pool.submit(fail_after, 1, KeyError())
            cancelled = pool.submit(int)
            returns.add_done_callback(lambda future: seen.append(future.result()))
            fails.add_done_callback(lambda future: seen.append(type(future.exception())))

            def ask(future):
                with pytest.raises(CancelledError):
                    future.result()
                seen.append("cancelled")

            cancelled.add_done_callback(ask)
            assert cancelled.cancel()

    run(main)
    assert seen == ["cancelled", "one", KeyError]


def test_what_is_done_has_its_result_while_its_callbacks_run():
    def main():
        with FiberPoolExecutor() as pool:
            future = pool.submit(return_after, 1, "one")
            future.add_done_callback(lambda _: sleep(5))
            waits = spawn(future.result)
            sleep(2)
            assert future.done() and waits.state == "done"
            assert future.result(timeout=0) == "one"
            assert future.exception(timeout=0) is None
            assert current_time() == 2

    run(main)


def test_no_more_than_max_workers_run_and_the_rest_in_order():
    running, peak, order = 0, 0, []

    def call(number):
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        order.append(number)
        sleep(1)
        running -= 1

    def main():
        with FiberPoolExecutor(2, "worker") as pool:
            for number in range(5):
                pool.submit(call, number)
            yield_now()
            assert sorted(fiber.name for fiber in greenio.current_scheduler().fibers()[1:]) == ["worker_0", "worker_1"]
            assert repr(pool) == "<greenio.FiberPoolExecutor 'worker' open, 2 workers, 3 calls wait>"
        return current_time()

    assert run(main) == 3
    assert (peak, order) == (2, [0, 1, 2, 3, 4])


def test_calls_that_never_park_let_other_fibers_run():
    made = 0

    def main():
        pool = FiberPoolExecutor(1)

        def call():
            nonlocal made
            made += 1
            if made < 20_000:
                pool.submit(call)

        pool.submit(call)
        yield_now()
        assert 0 < made < 20_000

    run(main)


def test_workers_end_when_idle_and_come_back():
    def main():
        pool = FiberPoolExecutor(1)
        assert pool.submit(int).result() == 0
        wait_all_parked()
        assert greenio.current_scheduler().alive_count == 1
        assert pool.submit(int).result() == 0

    run(main)


def test_map_gives_results_in_the_order_of_the_items():
    def main():
        with FiberPoolExecutor() as pool:
            results = list(pool.map(return_after, (3, 1, 2), "abc", chunksize=10))
        return results, current_time()

    assert run(main) == (["a", "b", "c"], 3)


def test_map_times_out_and_cancels_what_has_not_begun():
    ran = []

    def main():
        with FiberPoolExecutor(1) as pool:
            results = pool.map(lambda number: (sleep(2), ran.append(number)), range(5), timeout=3)
            next(results)
            with pytest.raises(TimeoutError):
                next(results)
        return current_time()

    assert run(main) == 4
    assert ran == [0, 1]


def test_a_failure_in_map_comes_out_and_cancels_what_has_not_begun():
    def main():
        with FiberPoolExecutor(1) as pool:
            with pytest.raises(ZeroDivisionError):
                list(pool.map(lambda number: (sleep(1), 1 / number), (0, 1, 2, 3)))
        return current_time()

    assert run(main) == 2


def test_a_future_that_has_not_begun_can_be_cancelled_a_running_one_not():
    ran = []

    def main():
        with FiberPoolExecutor(1) as pool:
            running = pool.submit(return_after, 1, "ran")
            waiting = pool.submit(ran.append, "never")
            waits = spawn(waiting.result)
            wait_all_parked()
            assert not running.cancel()
            assert waiting.cancel()
            with pytest.raises(CancelledError):
                waits.result()
            with pytest.raises(CancelledError):
                waiting.exception()
            assert current_time() == 0
        assert running.result() == "ran"

    run(main)
    assert ran == []


def test_a_cancelled_wait_for_a_result_changes_nothing():
    def main():
        with FiberPoolExecutor() as pool:
            future = pool.submit(return_after, 2, "kept")
            with move_on_after(1):
                future.result()
            return future.result(), current_time()

    assert run(main) == ("kept", 2)


def test_shutdown_waits_and_refuses_what_comes_later():
    def main():
        pool = FiberPoolExecutor(1)
        futures = [pool.submit(sleep, 1) for _ in range(3)]
        pool.shutdown(wait=False)
        assert current_time() == 0
        pool.shutdown()
        assert current_time() == 3
        assert all(future.done() for future in futures)
        with pytest.raises(RuntimeError, match="was shut down"):
            pool.submit(int)

    run(main)


def test_shutdown_cancels_what_has_not_begun():
    def main():
        pool = FiberPoolExecutor(1)
        futures = [pool.submit(sleep, 1) for _ in range(3)]
        yield_now()
        pool.shutdown(cancel_futures=True)
        assert [future.cancelled() for future in futures] == [False, True, True]
        return current_time()

    assert run(main) == 1


def test_a_done_callback_that_raises_does_not_keep_shutdown_from_cancelling_the_rest():
    def main():
        pool = FiberPoolExecutor(1)
        pool.submit(sleep, 1)
        yield_now()
        futures = [pool.submit(int) for _ in range(3)]

        def interrupt(_):
            raise KeyboardInterrupt

        futures[0].add_done_callback(interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.shutdown(cancel_futures=True)
        assert all(future.cancelled() for future in futures)
        assert wait(futures, timeout=0).done == set(futures)

    run(main)


def test_shutdown_waits_for_a_worker_that_another_thread_is_just_spawning():
    spawned, go_on = threading.Event(), threading.Event()
    ran = []

    class Slow:
        def __init__(self, scheduler):
            self.scheduler = scheduler

        def spawn(self, *arguments, **keywords):
            fiber = self.scheduler.spawn(*arguments, **keywords)
            spawned.set()
            go_on.wait()
            return fiber

    def main():
        pool = FiberPoolExecutor(1)
        pool._scheduler = Slow(pool._scheduler)
        thread = threading.Thread(target=pool.submit, args=(lambda: (ran.append(True), go_on.set()),))
        thread.start()
        try:
            spawned.wait()
            pool.shutdown()
            assert ran == [True]
        finally:
            go_on.set()
            thread.join()

    greenio.run(main)


def test_each_call_runs_in_its_callers_context():
    variable = contextvars.ContextVar("variable", default="unset")

    def main():
        with FiberPoolExecutor(1) as pool:
            futures = []
            for value in ("a", "b"):
                variable.set(value)
                futures.append(pool.submit(variable.get))
            return [future.result() for future in futures]

    assert run(main) == ["a", "b"]


def test_the_runs_end_cancels_the_futures():
    kept = []
    ran = []

    def main():
        pool = FiberPoolExecutor(1)
        kept.append(pool.submit(sleep, 100))
        kept.append(pool.submit(ran.append, "never"))
        yield_now()

    run(main)
    for future in kept:
        assert future.cancelled()
        with pytest.raises(CancelledError):
            future.result(timeout=0)
        with pytest.raises(CancelledError):
            future.exception(timeout=0)
    assert ran == []
    assert concurrent.futures.wait(kept, timeout=0).not_done == set()


def test_a_call_that_was_cancelled_is_no_failure():
    called_back = []

    def main():
        long = spawn(sleep, 5)
        pool = FiberPoolExecutor(fiber_name_prefix="worker")
        future = pool.submit(sleep, 100)
        future.add_done_callback(called_back.append)
        waits = spawn(wait, [future, long], None, FIRST_EXCEPTION)
        wait_all_parked()
        (worker,) = (fiber for fiber in greenio.current_scheduler().fibers() if fiber.name == "worker_0")
        worker.cancel()
        assert waits.result() == ({future, long}, set())
        assert future.cancelled() and called_back == [future]
        assert current_time() == 5

    run(main)


def test_a_call_that_comes_while_a_cancelled_worker_ends_is_answered():
    late = []

    class Permits(deque):
        def append(self, permit):  # the last moment at which a submit finds no permit
            if not late:
                late.append(pool.submit(int))
            super().append(permit)

    def main():
        nonlocal pool
        pool = FiberPoolExecutor(1)
        pool._permits = Permits([None])
        pool.submit(sleep, 100)
        yield_now()

    pool = None
    run(main)
    assert late[0].cancelled()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_calls_that_wait_are_made_after_one_that_ends_the_run(error):
    def main():
        pool = FiberPoolExecutor(1)
        ends = pool.submit(fail_after, 1, error)
        waits = pool.submit(return_after, 1, "made")
        with pytest.raises(type(error)):
            sleep(100)
        assert ends.exception() is error
        assert waits.result() == "made" and current_time() == 2

    run(main)


def test_a_worker_without_a_stack_fails_its_call_and_the_executor_goes_on(monkeypatch):
    def main():
        pool = FiberPoolExecutor(1)
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), hard))
        try:
            futures = [pool.submit(int) for _ in range(3)]
            yield_now()
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert "got no stack" in str(futures[0].exception(1)), futures
        for future in futures[1:]:
            future.exception(1)
        assert pool.submit(int).result(1) == 0
        pool.shutdown()

    monkeypatch.setattr(logging.getLogger("greenio"), "disabled", True)
    greenio.run(main, stack_size=1 << 31)


@pytest.mark.parametrize("where", ["main", "call", "thread"])
def test_a_forked_child_has_an_executor_without_workers_and_calls(where):
    run_child(
        """
        import os, sys, threading, time, traceback
        import greenio

        def fork(check):
            pid = os.fork()
            if pid == 0:
                try:
                    check()
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            assert os.waitpid(pid, 0)[1] == 0

        def main(where):
            pool = greenio.FiberPoolExecutor(2, "pool")
            gate = greenio.Event()
            made = []

            def check():
                workers = 1 if where == "call" else 0
                assert repr(pool) == f"<greenio.FiberPoolExecutor 'pool' open, {workers} workers, 0 calls wait>", pool
                try:
                    assert [pool.submit(int).result(5) for _ in range(3)] == [0, 0, 0]
                except greenio.RunFinishedError:
                    assert where == "thread"
                else:
                    assert where != "thread"
                assert made == []
                if where != "call":
                    pool.shutdown()

            running = pool.submit(gate.wait)
            if where == "call":
                forks = pool.submit(fork, check)
            else:
                pool.submit(gate.wait)
            waiting = pool.submit(made.append, "in the parent")
            greenio.sleep(0)
            if where == "main":
                fork(check)
            elif where == "thread":
                thread = threading.Thread(target=fork, args=(check,))
                thread.start()
                thread.join()
            else:
                forks.result()
            gate.set()
            pool.shutdown()
            assert made == ["in the parent"]

        greenio.run(main, sys.argv[1])
        """,
        where,
        flags=("-W", "error", "-W", "ignore::DeprecationWarning"),  # of a fork beside other OS threads
    )


def test_a_worker_that_forked_goes_on_in_the_child():
    child = run_child(
        """
        import os
        import greenio

        def main():
            pool = greenio.FiberPoolExecutor(1)

            def call():
                pid = os.fork()
                if pid == 0:
                    later = pool.submit(print, "in the child", flush=True)
                    greenio.spawn(lambda: later.result())
                    return
                assert os.waitpid(pid, 0)[1] == 0

            first, second = pool.submit(call), pool.submit(print, "in the parent", flush=True)
            second.result()

        greenio.run(main)
        """
    )
    assert child.stdout == "in the child\nin the parent\n"


def test_after_the_run_submit_is_refused():
    def main():
        return FiberPoolExecutor(1)

    pool = run(main)
    for _ in range(2):
        with pytest.raises(greenio.RunFinishedError):
            pool.submit(int)


def test_plain_threads_submit_wait_and_shut_down():
    def main():
        pool = FiberPoolExecutor(2)

        def call(number):
            yield_now()
            return number

        def elsewhere():
            futures = [pool.submit(call, number) for number in range(10)]
            done, not_done = concurrent.futures.wait(futures)
            assert (len(done), not_done) == (10, set())
            assert list(pool.map(call, range(3))) == [0, 1, 2]
            results = [future.result() for future in futures]
            slow = pool.submit(park_here, "the thread", pool)
            with pytest.raises(TimeoutError):
                slow.result(timeout=0.001)
            while not any(unpark_fiber(fiber, pool) for fiber in greenio.debug.fibers()):
                pass
            assert slow.result() is True
            pool.shutdown()
            return results

        return in_thread(elsewhere)

    import greenio.debug

    assert greenio.run(main) == list(range(10))


def test_what_ends_the_run_reaches_main_from_a_worker():
    def main():
        future = FiberPoolExecutor().submit(fail_after, 1, SystemExit(3))
        with pytest.raises(SystemExit):
            sleep(100)
        with pytest.raises(SystemExit):
            future.result()

    run(main)


@pytest.mark.parametrize("wrong", [0, -1])
def test_fewer_than_one_worker_is_refused(wrong):
    def main():
        with pytest.raises(ValueError, match="max_workers must be >= 1 fibers"):
            FiberPoolExecutor(wrong)

    run(main)


def test_an_executor_outside_a_run_is_refused():
    with pytest.raises(RuntimeError, match="no fibers run on this OS thread"):
        FiberPoolExecutor()


def test_a_future_leaves_nothing_behind():
    class Marked:
        pass

    def main():
        def call(marked):
            raise ValueError(marked and None)

        def block():
            marked = Marked()
            with FiberPoolExecutor(1) as pool:
                future = pool.submit(call, marked)
                with pytest.raises(ValueError):
                    future.result()
            return weakref.ref(marked)

        reference = block()
        gc.collect()
        assert reference() is None

    run(main)
