"""Signals while fibers run: who gets KeyboardInterrupt, where handlers run, and that none is lost."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from child import command, environment, run_child

import greenio
from greenio._scheduler import park_here, unpark_fiber
from greenio.testing import wait_all_parked


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def compute_until(is_over, seconds=20):
    until = time.monotonic() + seconds
    while not is_over() and time.monotonic() < until:
        pass


@pytest.fixture
def handler():
    """Installs a handler for a signal; puts the one before back."""
    before = {}

    def install(number, function):
        before.setdefault(number, signal.getsignal(number))
        signal.signal(number, function)

    yield install
    for number, function in before.items():
        signal.signal(number, function)


@pytest.fixture
def alarm_at_once(handler):
    """SIGALRM so many seconds from now, handled by a function."""

    def arm(seconds, function, interval=0.0):
        handler(signal.SIGALRM, function)
        signal.setitimer(signal.ITIMER_REAL, seconds, interval)

    yield arm
    signal.setitimer(signal.ITIMER_REAL, 0)


# --- KeyboardInterrupt -----------------------------------------------------------------------------------------------


def test_keyboard_interrupt_is_raised_in_main_if_it_runs():
    def main():
        other = greenio.spawn(greenio.sleep, 100)
        greenio.sleep(0)
        with pytest.raises(KeyboardInterrupt):
            interrupt()
            compute_until(lambda: False)
        return other.state

    assert greenio.run(main) == "parked"


def test_keyboard_interrupt_is_raised_in_main_if_nothing_runs(alarm_at_once):
    seen = []

    def worker():
        try:
            greenio.sleep(100)
        except BaseException as error:
            seen.append(type(error))
            raise

    def main():
        greenio.spawn(worker)
        greenio.sleep(0)  # the worker parks last of all at first: it hosts the idle loop, or main does
        alarm_at_once(0.02, signal.default_int_handler)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            greenio.sleep(50)
        assert time.monotonic() - start < 40
        assert seen == []

    greenio.run(main)
    assert seen == [greenio.Cancelled]


def test_a_parked_fiber_that_hosts_the_idle_loop_does_not_see_the_interrupt(alarm_at_once):
    seen = []

    def host():
        greenio.yield_now()  # parks after main
        try:
            greenio.sleep(100)
        except BaseException as error:
            seen.append(type(error))
            raise

    def main():
        fiber = greenio.spawn(host)
        alarm_at_once(0.02, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            park_here("nothing")
        assert fiber.state == "parked"
        assert seen == []
        return "went on"

    assert greenio.run(main) == "went on"
    assert seen == [greenio.Cancelled]


def test_keyboard_interrupt_is_first_raised_in_the_fiber_that_computes():
    def worker():
        try:
            interrupt()
            compute_until(lambda: False)
        except KeyboardInterrupt:
            return "handled"

    def main():
        assert greenio.spawn(worker).result() == "handled"
        greenio.sleep(0)
        return "went on"

    assert greenio.run(main) == "went on"


def test_unhandled_in_the_computing_fiber_main_gets_it_at_its_next_checkpoint():
    def worker():
        interrupt()
        compute_until(lambda: False)

    def main():
        greenio.spawn(worker)
        with pytest.raises(KeyboardInterrupt):
            greenio.sleep(50)
        return "handled in main"

    assert greenio.run(main) == "handled in main"


def test_unhandled_in_main_it_ends_the_run_and_unwinds_the_others():
    unwound = []

    def sleeper():
        try:
            greenio.sleep(100)
        finally:
            unwound.append(True)

    def worker():
        interrupt()
        compute_until(lambda: False)

    def main():
        greenio.spawn(sleeper)
        greenio.spawn(worker)
        greenio.sleep(50)

    with pytest.raises(KeyboardInterrupt):
        greenio.run(main)
    assert unwound == [True]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["main", "spawned", "nested in a C call", "idle", "yielding"])
def test_ctrl_c_from_outside_ends_a_process(where):
    program = """
    import sys, greenio
    def compute():
        while True:
            pass
    def key(number):
        compute()
    def yielding():
        while True:
            greenio.yield_now()
    def main(where):
        greenio.spawn(greenio.sleep, 1000)
        greenio.sleep(0)
        print("ready", flush=True)
        if where == "main":
            compute()
        elif where == "spawned":
            greenio.spawn(compute)
        elif where == "nested in a C call":
            greenio.spawn(sorted, [1, 2]).join()
            greenio.spawn(lambda: sorted([1, 2], key=key))
        elif where == "yielding":
            greenio.spawn(yielding)
            greenio.spawn(yielding)
        greenio.sleep(1000)
    try:
        greenio.run(main, sys.argv[1])
    except KeyboardInterrupt:
        print("interrupted")
    """
    with subprocess.Popen(
        command(program, where), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.15)  # the point is what it does by then; the kernel gives no better sign of that
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=30)
        finally:
            child.kill()
    assert (child.returncode, out, err) == (0, "interrupted\n", "")


def test_keyboard_interrupt_while_the_others_are_unwound_ends_the_run_with_it():
    order = []

    def sleeper():
        try:
            greenio.sleep(100)
        finally:
            try:
                interrupt()
                compute_until(lambda: False)
            finally:
                order.append("unwound")

    def main():
        greenio.spawn(sleeper)
        greenio.sleep(0)

    with pytest.raises(KeyboardInterrupt):
        greenio.run(main)
    assert order == ["unwound"]


def test_an_interrupt_in_a_run_on_another_os_thread_goes_to_the_main_thread():
    result = []

    def other():
        greenio.sleep(0.05)
        return "unharmed"

    thread = threading.Thread(target=lambda: result.append(greenio.run(other)))
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        interrupt()
        compute_until(lambda: False)
    thread.join(20)
    assert result == ["unharmed"]


# --- handlers --------------------------------------------------------------------------------------------------------


def test_a_handler_runs_at_once_on_top_of_the_fiber_that_runs(handler):
    seen = []

    def worker():
        os.kill(os.getpid(), signal.SIGUSR1)
        compute_until(lambda: seen)

    def main():
        handler(signal.SIGUSR1, lambda number, frame: seen.append((greenio.current_fiber(), frame is not None)))
        fiber = greenio.spawn(worker)
        fiber.join()
        return fiber

    fiber = greenio.run(main)
    assert seen == [(fiber, True)]


def test_a_handler_runs_on_top_of_the_idle_loop_and_may_unpark(alarm_at_once):
    def main():
        me = greenio.current_fiber()
        alarm_at_once(0.02, lambda number, frame: unpark_fiber(me))
        return park_here("a signal", None, 20)

    assert greenio.run(main) is True


def test_a_handler_on_the_idle_loop_may_spawn(alarm_at_once):
    seen = []

    def worker():
        greenio.sleep(0)
        seen.append("spawned")
        unpark_fiber(main_fiber)

    def main():
        nonlocal main_fiber
        main_fiber = greenio.current_fiber()
        alarm_at_once(0.02, lambda number, frame: greenio.spawn(worker))
        return park_here("a signal", None, 20)

    main_fiber = None
    assert greenio.run(main) is True
    assert seen == ["spawned"]


def test_a_handler_on_the_idle_loop_may_cancel_and_set(alarm_at_once):
    def main():
        fiber = greenio.spawn(greenio.sleep, 100)
        alarm_at_once(0.02, lambda number, frame: fiber.cancel("by a signal"))
        fiber.join()
        return fiber.cancelled()

    assert greenio.run(main)


@pytest.mark.parametrize(
    "wait", [lambda: greenio.sleep(1), lambda: park_here("x"), lambda: greenio.spawn(int).join(), wait_all_parked]
)
def test_waiting_in_a_handler_on_the_idle_loop_is_a_clear_error(alarm_at_once, wait):
    errors = []

    def handle(number, frame):
        try:
            wait()
        except RuntimeError as error:
            errors.append(str(error))
        unpark_fiber(main_fiber)

    def main():
        nonlocal main_fiber
        main_fiber = greenio.current_fiber()
        alarm_at_once(0.02, handle)
        return park_here("a signal", None, 20)

    main_fiber = None
    assert greenio.run(main) is True
    assert len(errors) == 1
    assert "a signal handler cannot wait" in errors[0]


def test_a_handler_on_the_idle_loop_passes_checkpoints_that_need_not_wait(alarm_at_once):
    passed = []

    def handle(number, frame):
        greenio.current_fiber().cancel("the host")
        greenio.checkpoint()
        greenio.yield_now()
        greenio.sleep(0)
        passed.append(True)

    def main():
        alarm_at_once(0.02, handle)
        with pytest.raises(greenio.Cancelled):
            park_here("a signal", None, 20)

    greenio.run(main)
    assert passed == [True]


def test_a_handler_on_a_computing_fiber_may_park(handler):
    order = []

    def handle(number, frame):
        greenio.sleep(0.001)
        order.append("handled")

    def main():
        handler(signal.SIGUSR1, handle)
        greenio.spawn(order.append, "other")
        os.kill(os.getpid(), signal.SIGUSR1)
        compute_until(lambda: order[-1:] == ["handled"])

    greenio.run(main)
    assert order == ["other", "handled"]


def test_what_a_handler_on_the_idle_loop_raises_is_raised_in_main(alarm_at_once):
    class Alarm(Exception):
        pass

    def handle(number, frame):
        raise Alarm

    def main():
        greenio.spawn(greenio.sleep, 100)
        alarm_at_once(0.02, handle)
        with pytest.raises(Alarm):
            greenio.sleep(50)
        return "went on"

    assert greenio.run(main) == "went on"


def test_no_deadlock_while_a_signal_handler_is_installed(handler):
    # Any signal that a program handles may be what it waits for.
    def main():
        me = greenio.current_fiber()
        handler(signal.SIGUSR1, lambda number, frame: unpark_fiber(me))
        pid = os.getpid()
        killer = subprocess.Popen(
            [sys.executable, "-c", f"import os, time; time.sleep(0.1); os.kill({pid}, {int(signal.SIGUSR1)})"]
        )
        woken = park_here("a signal")
        killer.wait()
        return woken

    assert greenio.run(main) is True


@pytest.mark.parametrize("disposition", [signal.SIG_IGN, signal.SIG_DFL])
def test_an_ignored_signal_keeps_no_deadlock_away(handler, disposition):
    handler(signal.SIGUSR1, disposition)
    with pytest.raises(greenio.DeadlockError):
        greenio.run(park_here, "nothing")


def test_stop_by_sigterm_is_every_services_main():
    child = run_child(
        """
        import os, signal, greenio
        def main():
            stop = greenio.Event()
            signal.signal(signal.SIGTERM, lambda *_: stop.set())
            if os.fork() == 0:
                os.kill(os.getppid(), signal.SIGTERM)
                os._exit(0)
            stop.wait()
            print("stopped")
        greenio.run(main)
        """
    )
    assert child.stdout == "stopped\n"


# --- none is lost ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("wakeup_fd", ["ours", "somebody else's"])
def test_a_signal_just_before_the_wait_is_not_lost(wakeup_fd):
    # Each round arms a one-shot timer that goes off somewhere around the last look before the wait. A lost one is a timeout.
    rounds = 2000 if wakeup_fd == "ours" else 300
    child = run_child(
        f"""
        import random, os, signal, sys, time, greenio
        from greenio._scheduler import park_here, unpark_fiber
        other = None
        if sys.argv[1] != "ours":
            reader, writer = os.pipe()
            os.set_blocking(writer, False)
            os.set_blocking(reader, False)
            signal.set_wakeup_fd(writer)
        numbers = random.Random(1)
        def main():
            me = greenio.current_fiber()
            signal.signal(signal.SIGALRM, lambda *_: (handled.append(1), greenio.spawn(unpark_fiber, me)))
            slowest = 0
            for turn in range({rounds}):
                handled = []
                globals().update(handled=handled)
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + numbers.random() * 30e-6)
                start = time.monotonic()
                while not handled:
                    park_here("the alarm", None, 5)
                    assert time.monotonic() - start < 5, f"lost in round {{turn}}"
                slowest = max(slowest, time.monotonic() - start)
            if sys.argv[1] != "ours":
                assert signal.set_wakeup_fd(-1) == writer
                assert os.read(reader, 1) == bytes([signal.SIGALRM])
            return slowest
        slowest = greenio.run(main)
        assert slowest < 4, slowest
        print("none lost")
        """,
        wakeup_fd,
    )
    assert child.stdout == "none lost\n"


@pytest.mark.slow
def test_a_flood_of_signals_harms_nobody():
    child = run_child(
        """
        import signal, greenio
        seen = 0
        def handle(number, frame):
            global seen
            seen += 1
            if seen % 10 == 0:
                greenio.spawn(greenio.yield_now)
        def worker(name):
            for turn in range(300):
                if turn % 3:
                    greenio.yield_now()
                else:
                    greenio.sleep(0.0005)
                sum(range(500))
            return name
        def main():
            signal.signal(signal.SIGALRM, handle)
            signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
            fibers = [greenio.spawn(worker, name) for name in range(20)]
            assert [fiber.result() for fiber in fibers] == list(range(20))
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert seen > 20, seen
        greenio.run(main)
        print("unharmed")
        """
    )
    assert child.stdout == "unharmed\n"


# --- signal.set_wakeup_fd --------------------------------------------------------------------------------------------


def test_somebody_elses_wakeup_fd_is_left_alone():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer)
    try:

        def main():
            greenio.sleep(0.001)

        greenio.run(main)
        assert signal.set_wakeup_fd(writer) == writer
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


def test_a_wakeup_fd_that_is_set_during_the_run_stays():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        greenio.run(signal.set_wakeup_fd, writer)
        assert signal.set_wakeup_fd(-1) == writer
    finally:
        signal.set_wakeup_fd(-1)
        os.close(reader)
        os.close(writer)


def test_a_run_leaves_no_wakeup_fd_behind():
    assert signal.set_wakeup_fd(-1) == -1
    greenio.run(greenio.sleep, 0)
    assert signal.set_wakeup_fd(-1) == -1
