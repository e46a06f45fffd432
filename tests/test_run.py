"""_run.py: run(main) from the first fiber to the last, and how it ends."""

import contextvars
import gc
import math
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest
from child import command, environment, run_child

import greenio
from greenio._scheduler import park_here, running_scheduler
from greenio.testing import RandomSchedule, VirtualClock, wait_all_parked


def fail(error):
    raise error


# --- what it returns and raises --------------------------------------------------------------------------------------


def test_run_returns_what_main_returns():
    assert greenio.run(lambda *args: args, 1, 2, 3) == (1, 2, 3)


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), SystemExit(4), GeneratorExit(), BaseException("base")]
)
def test_run_raises_what_main_raises(error):
    with pytest.raises(type(error)) as caught:
        greenio.run(fail, error)
    assert caught.value is error
    assert running_scheduler() is None


def test_run_may_be_called_again_and_again():
    assert [greenio.run(lambda n=n: greenio.spawn(pow, n, 2).result()) for n in range(20)] == [n * n for n in range(20)]


@pytest.mark.parametrize(
    ("arguments", "keywords", "error"),
    [
        ((), {}, TypeError),
        ((None,), {}, TypeError),
        (("main",), {}, TypeError),
        ((print,), {"stack_size": 1}, ValueError),
        ((print,), {"stack_size": 1 << 50}, ValueError),
        ((print,), {"stack_size": "big"}, TypeError),
        ((print,), {"stack_size": 1e6}, TypeError),
        ((print,), {"clock": time}, TypeError),
        ((print,), {"poller": object()}, TypeError),
        ((print,), {"switch_interval": 0}, ValueError),
        ((print,), {"switch_interval": -1.0}, ValueError),
        ((print,), {"switch_interval": math.nan}, ValueError),
        ((print,), {"switch_interval": "fast"}, TypeError),
        ((print,), {"unknown": 1}, TypeError),
    ],
)
def test_bad_arguments_leave_everything_as_it_was(arguments, keywords, error, capsys):
    interval = sys.getswitchinterval()
    with pytest.raises(error):
        greenio.run(*arguments, **keywords)
    assert running_scheduler() is None
    assert sys.getswitchinterval() == interval
    assert capsys.readouterr().out == ""
    assert greenio.run(int) == 0


def test_run_inside_run_is_a_clear_error():
    def inner():
        with pytest.raises(
            RuntimeError, match=r"greenio\.run\(\) inside greenio\.run\(\).*spawn it, or run it on another OS thread"
        ):
            greenio.run(print)
        return "unharmed"

    def main():
        return inner(), greenio.spawn(inner).result()

    assert greenio.run(main) == ("unharmed", "unharmed")


def test_main_runs_in_a_copy_of_the_context():
    variable = contextvars.ContextVar("variable", default="before")
    greenio.run(variable.set, "changed")
    assert variable.get() == "before"


def test_an_exception_in_flight_around_run_is_the_callers_own():
    def main():
        assert sys.exc_info() == (None, None, None) or isinstance(sys.exc_info()[1], KeyError)
        seen = greenio.spawn(sys.exc_info).result()
        greenio.sleep(0)
        return seen

    try:
        raise KeyError("outer")
    except KeyError:
        outer = sys.exc_info()[1]
        assert greenio.run(main) == (None, None, None)
        assert sys.exc_info()[1] is outer


@pytest.mark.parametrize("wanted", [None, 0.0001, 1.0])
def test_the_switch_interval_is_put_back(wanted):
    before = sys.getswitchinterval()
    inside = greenio.run(sys.getswitchinterval, switch_interval=wanted)
    assert inside == pytest.approx(min(before, wanted or before))
    assert sys.getswitchinterval() == before
    with pytest.raises(ZeroDivisionError):
        greenio.run(divmod, 1, 0, switch_interval=wanted)
    assert sys.getswitchinterval() == before


def test_the_switch_interval_is_the_shortest_that_any_run_wants_and_put_back_by_the_last():
    before = sys.getswitchinterval()
    inside = threading.Event()
    go_on = threading.Event()

    def other():
        inside.set()
        go_on.wait()

    thread = threading.Thread(target=greenio.run, args=(other,), kwargs={"switch_interval": 0.0002})
    thread.start()
    inside.wait()
    assert sys.getswitchinterval() == pytest.approx(0.0002)

    def main():
        assert sys.getswitchinterval() == pytest.approx(0.0001)
        go_on.set()
        thread.join()
        return sys.getswitchinterval()

    assert greenio.run(main, switch_interval=0.0001) == pytest.approx(0.0001)
    assert sys.getswitchinterval() == before


def test_a_run_that_gets_no_descriptor_leaves_nothing_behind():
    run_child(
        """
        import os, resource, signal, greenio
        greenio.run(greenio.sleep, 0)
        start = set(os.listdir("/proc/self/fd"))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        reached = 0
        for room in range(8):
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + room, hard))
            try:
                greenio.run(greenio.sleep, 0)
            except OSError as error:
                assert error.errno == 24, error
                reached += 1
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert signal.set_wakeup_fd(-1) == -1
            assert set(os.listdir("/proc/self/fd")) == start
        assert 3 <= reached < 8, reached
        greenio.run(greenio.sleep, 0)
        """
    )


def test_a_run_that_gets_no_dump_signal_leaves_nothing_behind():
    def order():
        events = [greenio.Event() for _ in range(4)]
        for event in events:
            event.set()
        return [greenio.select(*events).index for _ in range(30)]

    def fail_and_draw():
        with pytest.raises(OSError):
            greenio.run(int, schedule=RandomSchedule(1), dump_signal=signal.SIGKILL, switch_interval=0.0001)
        assert sys.getswitchinterval() == interval
        return greenio.run(order)

    interval = sys.getswitchinterval()
    assert fail_and_draw() != fail_and_draw()


def test_a_switch_interval_that_the_interpreter_refuses_leaves_nothing_behind():
    class Odd:
        def __gt__(self, other):
            return True

        __lt__ = __gt__

    interval, before = sys.getswitchinterval(), signal.getsignal(signal.SIGUSR1)
    with pytest.raises(TypeError):
        greenio.run(int, schedule=RandomSchedule(1), dump_signal=signal.SIGUSR1, switch_interval=Odd())
    assert sys.getswitchinterval() == interval
    assert signal.getsignal(signal.SIGUSR1) is before
    assert greenio.run(sys.getswitchinterval, switch_interval=0.0001) == pytest.approx(0.0001)
    assert sys.getswitchinterval() == interval


@pytest.mark.parametrize("held", [False, True])
def test_a_child_forked_by_another_os_thread_has_the_switch_interval_of_before(held):
    # Held: while the main OS thread is in the middle of changing it.
    run_child(
        f"""
        import os, sys, threading
        import greenio
        from greenio import _run
        def fork():
            child = os.fork()
            if child == 0:
                try:
                    assert abs(sys.getswitchinterval() - before) < 1e-9, sys.getswitchinterval()
                    greenio.run(inside, 0.0002, switch_interval=0.0002)
                    assert abs(sys.getswitchinterval() - before) < 1e-9, sys.getswitchinterval()
                    os._exit(0)
                except BaseException as error:
                    print(repr(error), file=sys.stderr, flush=True)
                finally:
                    os._exit(1)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        def inside(wanted):
            assert abs(sys.getswitchinterval() - wanted) < 1e-9
        def main():
            inside(0.0001)
            statuses = []
            if {held}:
                _run._interval_lock.acquire()
            thread = threading.Thread(target=lambda: statuses.append(fork()))
            thread.start()
            thread.join()
            if {held}:
                _run._interval_lock.release()
            assert statuses == [0], statuses
            inside(0.0001)
        before = sys.getswitchinterval()
        greenio.run(main, switch_interval=0.0001)
        """,
        flags=("-W", "error", "-W", "ignore::DeprecationWarning"),
    )


def test_a_child_forked_by_a_run_keeps_that_runs_switch_interval():
    run_child(
        """
        import os, sys, threading
        import greenio
        def main():
            child = os.fork()
            if child:
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert abs(sys.getswitchinterval() - 0.0001) < 1e-9
        before = sys.getswitchinterval()
        greenio.run(main, switch_interval=0.0001)
        assert sys.getswitchinterval() == before
        """
    )


# --- SystemExit ------------------------------------------------------------------------------------------------------


def test_system_exit_from_any_fiber_ends_the_run():
    unwound = []

    def sleeper():
        try:
            greenio.sleep(math.inf)
        finally:
            unwound.append(True)

    def main():
        greenio.spawn(sleeper)
        greenio.spawn(sys.exit, 7)
        greenio.sleep(math.inf)

    with pytest.raises(SystemExit) as caught:
        greenio.run(main)
    assert caught.value.code == 7
    assert unwound == [True]


def test_system_exit_from_a_fiber_ends_the_run_though_main_returns_first():
    def main():
        greenio.spawn(sys.exit, 7)

    with pytest.raises(SystemExit, match="7"):
        greenio.run(main)


def test_main_may_catch_a_fibers_system_exit_and_go_on():
    def main():
        greenio.spawn(sys.exit, 7)
        with pytest.raises(SystemExit):
            greenio.sleep(1)
        greenio.sleep(0)
        return "went on"

    assert greenio.run(main) == "went on"


def test_system_exit_reaches_main_at_its_next_checkpoint():
    def main():
        for name in ("yield_now", "checkpoint"):
            greenio.spawn(sys.exit, name)
            greenio.yield_now() if name == "checkpoint" else greenio.sleep(0)

    with pytest.raises(SystemExit):
        greenio.run(main)


def test_system_exit_of_a_fiber_is_not_logged_as_a_failure(caplog):
    def main():
        greenio.spawn(sys.exit, 7)
        greenio.sleep(1)

    with pytest.raises(SystemExit):
        greenio.run(main)
    gc.collect()
    assert not caplog.records


# --- the end: the others are cancelled, unwound, joined --------------------------------------------------------------


def test_when_main_ends_the_others_are_unwound_before_run_returns():
    unwound = []

    def worker(name):
        try:
            greenio.sleep(math.inf)
        finally:
            unwound.append(name)

    def main():
        for name in range(10):
            greenio.spawn(worker, name)
        wait_all_parked()
        return "result"

    assert greenio.run(main) == "result"
    assert sorted(unwound) == list(range(10))


def test_fibers_that_have_not_begun_when_main_ends_begin_cancelled():
    seen = []

    def worker():
        seen.append("begun")
        try:
            greenio.checkpoint()
        except greenio.Cancelled as error:
            seen.append(error.reason)
            raise

    greenio.run(lambda: greenio.spawn(worker) and None)
    assert seen == ["begun", "the run has ended"]


def test_finally_blocks_that_park_get_cancelled_again_and_end():
    order = []

    def worker():
        try:
            greenio.sleep(math.inf)
        finally:
            try:
                greenio.sleep(5)
            finally:
                order.append("outer")

    def main():
        greenio.spawn(worker)
        greenio.sleep(0)

    greenio.run(main)
    assert order == ["outer"]


def test_finally_blocks_that_spawn_get_their_fibers_unwound_too():
    order = []

    def late(depth):
        try:
            greenio.sleep(math.inf)
        finally:
            order.append(depth)
            if depth:
                greenio.spawn(late, depth - 1)

    def main():
        greenio.spawn(late, 5)
        greenio.sleep(0)

    greenio.run(main)
    assert order == [5, 4, 3, 2, 1, 0]


def test_what_the_unwinding_raises_is_logged_and_does_not_stop_it(caplog):
    unwound = []

    def worker(name):
        try:
            greenio.sleep(math.inf)
        finally:
            unwound.append(name)
            fail(ValueError(name))

    def main():
        for name in range(5):
            greenio.spawn(worker, name)
        greenio.sleep(0)

    greenio.run(main)
    assert sorted(unwound) == list(range(5))
    assert len(caplog.records) == 5


def test_system_exit_while_unwinding_is_raised_by_run():
    def worker():
        try:
            greenio.sleep(math.inf)
        finally:
            sys.exit(9)

    def main():
        greenio.spawn(worker)
        other = greenio.spawn(greenio.sleep, math.inf)
        greenio.sleep(0)
        return other

    with pytest.raises(SystemExit, match="9"):
        greenio.run(main)


def test_an_error_of_main_is_kept_while_the_others_are_unwound():
    unwound = []

    def worker():
        try:
            greenio.sleep(math.inf)
        finally:
            unwound.append(sys.exc_info()[0])

    def main():
        greenio.spawn(worker)
        greenio.sleep(0)
        raise LookupError("of main")

    with pytest.raises(LookupError, match="of main"):
        greenio.run(main)
    assert unwound == [greenio.Cancelled]


def test_a_stubborn_fiber_is_waited_for():
    order = []

    def stubborn():
        for turn in range(3):
            try:
                greenio.sleep(math.inf)
            except greenio.Cancelled:
                order.append(turn)

    def main():
        greenio.spawn(stubborn)
        greenio.sleep(0)

    greenio.run(main)
    assert order == [0, 1, 2]


def test_those_who_wait_for_each_other_are_unwound():
    def main():
        def wait_for(index):
            fibers[(index + 1) % 4].join()

        fibers = []
        fibers.extend(greenio.spawn(wait_for, index) for index in range(4))
        wait_all_parked()
        return fibers

    fibers = greenio.run(main)
    assert all(fiber.cancelled() for fiber in fibers)


def test_a_fiber_that_joins_main_is_cancelled_at_the_end():
    def main():
        joiner = greenio.spawn(greenio.current_fiber().join)
        wait_all_parked()
        return joiner

    assert greenio.run(main).cancelled()


def test_after_the_run_its_scheduler_and_fibers_say_so():
    def main():
        return greenio.current_scheduler(), greenio.current_fiber()

    scheduler, fiber = greenio.run(main)
    assert scheduler.closed
    assert scheduler.fibers() == []
    assert scheduler.current_fiber is None
    assert fiber.state == "done"
    assert fiber.done()
    assert fiber.result()[1] is fiber
    assert not fiber.cancel()
    with pytest.raises(greenio.RunFinishedError, match="the run has ended"):
        scheduler.spawn(print)


def test_a_run_is_forgotten_when_it_is_over():
    handles = []

    def main():
        handles.append(weakref.ref(greenio.current_scheduler()))
        handles.append(weakref.ref(greenio.current_fiber()))
        handles.append(weakref.ref(greenio.spawn(greenio.sleep, 10)))
        greenio.sleep(0)

    greenio.run(main)
    gc.collect()
    assert [handle() for handle in handles] == [None, None, None]


def test_a_failure_logged_at_the_end_may_spawn_and_the_fiber_is_unwound():
    import logging

    class Spawning(logging.Handler):
        def emit(self, record):
            spawned.append(greenio.spawn(park_here, "for ever"))

    spawned = []
    kept = []
    handler = Spawning()
    logging.getLogger("greenio").addHandler(handler)
    try:

        def main():
            kept.append(greenio.spawn(fail, ValueError("unheard")))
            greenio.sleep(0)

        greenio.run(main)
    finally:
        logging.getLogger("greenio").removeHandler(handler)
    assert [fiber.cancelled() for fiber in spawned] == [True]


def test_an_exception_thrown_at_main_as_it_ends_is_not_lost():
    def main():
        greenio.current_fiber().add_done_callback(lambda fiber: sys.exit(5))
        unwound.append(greenio.spawn(greenio.sleep, 100))

    unwound = []
    with pytest.raises(SystemExit, match="5"):
        greenio.run(main)
    assert unwound[0].done()


# --- the process's end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "status", "stderr"),
    [
        ("return 0", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('a text')", 1, "a text\n"),
        ("os._exit(4)", 4, None),
        ("raise LookupError('of main')", 1, "LookupError: of main"),
        ("raise KeyboardInterrupt", None, "KeyboardInterrupt"),
        ("greenio.spawn(sys.exit, 5); greenio.sleep(100)", 5, ""),
        ("greenio.spawn(sys.exit, 5)", 5, ""),
        ("greenio.spawn(os._exit, 6); greenio.sleep(100)", 6, None),
        ("park_here('nothing')", 1, "DeadlockError"),
    ],
)
def test_the_exit_status_is_the_interpreters_own(ending, status, stderr):
    child = run_child(
        f"""
        import atexit, os, sys, greenio
        from greenio._scheduler import park_here
        atexit.register(print, "atexit")
        def worker():
            try:
                park_here("for ever")
            finally:
                print("unwound")
        def main():
            greenio.spawn(worker)
            greenio.sleep(0)
            {ending}
        greenio.run(main)
        """,
        status=status,
    )
    if stderr is None:
        assert child.stdout == ""
    else:
        assert child.stdout == "unwound\natexit\n"
        assert stderr in child.stderr
        assert (child.stderr == "") == (stderr == "")
    if status is None:
        assert child.returncode == -2  # as a process that Ctrl-C has ended


def test_a_run_on_a_daemon_thread_is_unwound_at_the_interpreters_exit():
    child = run_child(
        """
        import threading, time, greenio
        ready = threading.Event()
        def worker(name):
            try:
                greenio.sleep(1000)
            finally:
                print("unwound", name)
        def main():
            greenio.spawn(worker, "spawned")
            greenio.sleep(0)
            ready.set()
            worker("main")
        def target():
            try:
                greenio.run(main)
            except greenio.Cancelled as error:
                print(error.reason)
        threading.Thread(target=target, daemon=True).start()
        ready.wait()
        """
    )
    assert sorted(child.stdout.splitlines()) == ["the interpreter exits", "unwound main", "unwound spawned"]


@pytest.mark.slow
def test_the_interpreter_exits_though_a_run_on_a_daemon_thread_is_stuck():
    child = run_child(
        """
        import threading, time, greenio
        ready = threading.Event()
        def main():
            ready.set()
            time.sleep(1000)  # of its OS thread
        threading.Thread(target=greenio.run, args=(main,), daemon=True).start()
        ready.wait()
        """
    )
    assert "the interpreter exits while 1 fibers of another OS thread are alive: main" in child.stderr


def test_a_run_in_an_atexit_callback():
    child = run_child(
        """
        import atexit, greenio
        atexit.register(lambda: print(greenio.run(lambda: greenio.spawn(len, "abc").result())))
        greenio.run(greenio.sleep, 0)
        """
    )
    assert child.stdout == "3\n"


def test_main_fibers_handles_kept_by_a_module_do_no_harm_at_exit():
    run_child(
        """
        import greenio
        kept = []
        def main():
            kept.append(greenio.current_fiber())
            kept.append(greenio.current_scheduler())
            kept.extend(greenio.spawn(greenio.sleep, 10) for _ in range(10))
            greenio.sleep(0)
        greenio.run(main)
        """,
        PYTHONMALLOC="debug",
    )


def test_output_is_not_lost_when_a_pipe_is_read_while_the_run_lasts():
    with subprocess.Popen(
        command("import greenio\ndef main():\n    print('hello', flush=True)\n    input()\ngreenio.run(main)"),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout.readline() == "hello\n"
        child.stdin.write("\n")
        child.stdin.close()
        assert child.wait(60) == 0


def test_the_virtual_clock_may_serve_one_run_after_another():
    clock = VirtualClock()
    greenio.run(greenio.sleep, 5, clock=clock)
    assert greenio.run(lambda: greenio.current_time(), clock=clock) == 5


# --- enter_run, leave_run --------------------------------------------------------------------------------------------


def test_a_script_enters_a_run_and_its_end_unwinds_the_fibers():
    child = run_child(
        """
        import greenio

        def stubborn():
            try:
                greenio.sleep(1000)
            finally:
                print("unwound")

        greenio.enter_run()
        assert greenio.spawn(pow, 2, 3).result() == 8
        greenio.spawn(stubborn)
        greenio.yield_now()
        print("end of the script")
        """
    )
    assert child.stdout == "end of the script\nunwound\n"


def test_leave_run_ends_what_enter_run_began():
    greenio.enter_run(clock=VirtualClock())
    try:
        fiber = greenio.spawn(greenio.sleep, 1000)
        greenio.sleep(1)
    finally:
        greenio.leave_run()
    assert fiber.done()
    assert running_scheduler() is None
    with pytest.raises(RuntimeError, match="without enter_run"):
        greenio.leave_run()


def test_entering_twice_is_an_error_and_the_first_stays():
    greenio.enter_run()
    try:
        with pytest.raises(RuntimeError, match="inside"):
            greenio.enter_run()
        with pytest.raises(RuntimeError, match="main fiber"):
            greenio.spawn(greenio.leave_run).result()
        assert greenio.spawn(int).result() == 0
    finally:
        greenio.leave_run()


def test_a_run_inside_an_entered_one_ends_its_own_fibers_only():
    greenio.enter_run(clock=VirtualClock())
    try:
        outer = greenio.spawn(greenio.sleep, 1000)
        inner = []

        def main():
            inner.append(greenio.spawn(greenio.sleep, 1000))
            greenio.sleep(1)
            return greenio.current_fiber()

        assert greenio.run(main) is greenio.current_fiber()
        assert inner[0].done()
        assert not outer.done()
        with pytest.raises(RuntimeError, match="inside"):
            greenio.run(int, clock=VirtualClock())
        with pytest.raises(RuntimeError, match="inside"):
            greenio.spawn(greenio.run, int).result()
    finally:
        greenio.leave_run()


def test_a_forked_child_of_an_entered_run_ends_like_a_script():
    run_child(
        """
        import os, greenio, greenio.monkey
        greenio.enter_run()

        def child():
            pid = os.fork()
            if pid == 0:
                greenio.sleep(0)
                raise SystemExit(7)
            return os.waitstatus_to_exitcode(greenio.os.waitpid(pid, 0)[1])

        assert greenio.spawn(child).result() == 7
        assert child() == 7
        """,
        flags=("-W", "ignore"),
    )
