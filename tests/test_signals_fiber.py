"""greenio.signals: signals delivered to fibers, and everything as it was afterwards."""

import ctypes
import os
import signal
import threading
import time
from signal import SIGALRM, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2

import pytest
from child import run_child

import greenio
from greenio import signals
from greenio.testing import VirtualClock, wait_all_parked


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def leaves_handlers_alone():
    watched = (SIGALRM, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2)
    before = [signal.getsignal(number) for number in watched]
    yield
    assert [signal.getsignal(number) for number in watched] == before


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


# --- receiving -------------------------------------------------------------------------------------------------------


def test_signals_come_to_a_fiber_that_waits():
    def main():
        with signals(SIGUSR1, SIGUSR2) as received:
            fiber = greenio.spawn(received.wait)
            wait_all_parked()
            assert fiber.state == "parked"
            send(SIGUSR2)
            assert fiber.result() is SIGUSR2

    greenio.run(main)


def test_iteration_takes_them_in_order():
    def main():
        with signals(SIGUSR1, SIGUSR2, SIGTERM) as received:
            for number in (SIGTERM, SIGUSR1, SIGUSR2, SIGUSR1):
                send(number)
            found = []
            for number in received:
                found.append(number)
                if len(found) == 4:
                    break
            assert found == [SIGTERM, SIGUSR1, SIGUSR2, SIGUSR1]

    greenio.run(main)


def test_repeats_are_kept_up_to_a_hundred():
    def main():
        with signals(SIGUSR1, SIGUSR2) as received:
            for _ in range(150):
                send(SIGUSR1)
            send(SIGUSR2)
            assert [received.wait(timeout=0) for _ in range(101)] == [SIGUSR1] * 100 + [SIGUSR2]
            with pytest.raises(TimeoutError):
                received.wait(timeout=0)
            send(SIGUSR1)  # there is room again
            assert received.wait() == SIGUSR1

    greenio.run(main)


def test_signals_without_a_name_are_plain_numbers():
    number = signal.SIGRTMIN + 3

    def main():
        with signals(number) as received:
            send(number)
            found = received.wait()
            assert found == number
            assert type(found) is int

    greenio.run(main)


def test_with_sigint_there_is_no_keyboard_interrupt():
    def main():
        with signals(SIGINT) as received:
            send(SIGINT)
            assert received.wait() is SIGINT
            greenio.sleep(0)
        with pytest.raises(KeyboardInterrupt):
            send(SIGINT)
            time.sleep(1)

    greenio.run(main)


def test_while_another_fiber_computes():
    def compute(over):
        until = time.monotonic() + 20
        while not over and time.monotonic() < until:
            greenio.checkpoint()
        return bool(over)

    def main():
        over = []
        with signals(SIGALRM) as received:
            computing = greenio.spawn(compute, over)
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            assert received.wait() is SIGALRM
            over.append(True)
            assert computing.result()

    greenio.run(main)


def test_while_nothing_runs():
    def main():
        with signals(SIGALRM) as received:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            assert received.wait(timeout=30) is SIGALRM

    greenio.run(main)


def test_a_fiber_that_waits_for_a_signal_is_no_deadlock():
    run_child("""
        import os, signal, subprocess, sys
        import greenio

        def main():
            # Longer than the look at deadlocks takes.
            subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -USR1 {os.getpid()}"])
            with greenio.signals(signal.SIGUSR1) as received:
                assert received.wait() == signal.SIGUSR1
            os.wait()
            try:
                greenio.Event().wait()
            except greenio.DeadlockError:
                print("afterwards it is one")

        greenio.run(main)
    """, flags=())  # fmt: skip


# --- timeouts, cancellation, select ----------------------------------------------------------------------------------


def test_timeouts():
    def main():
        with signals(SIGUSR1) as received:
            start = greenio.current_time()
            with pytest.raises(TimeoutError, match=r"signals\(SIGUSR1\): none came within 5 seconds"):
                received.wait(timeout=5)
            assert greenio.current_time() - start == 5
            with pytest.raises(ValueError, match="-1"):
                received.wait(timeout=-1)
            send(SIGUSR1)
            assert received.wait(timeout=0) is SIGUSR1

    greenio.run(main, clock=VirtualClock())


def test_a_cancelled_wait_takes_nothing():
    def main():
        with signals(SIGUSR1) as received:
            fiber = greenio.spawn(received.wait)
            wait_all_parked()
            fiber.cancel()
            send(SIGUSR1)
            fiber.join()
            assert fiber.cancelled()
            assert received.wait(timeout=0) is SIGUSR1
            send(SIGUSR1)
            with greenio.CancelScope() as scope:
                scope.cancel()
                received.wait()
            assert received.wait(timeout=0) is SIGUSR1

    greenio.run(main)


def test_select_takes_one():
    def main():
        event = greenio.Event()
        with signals(SIGUSR1, SIGUSR2) as received:
            fiber = greenio.spawn(greenio.select, event, received)
            wait_all_parked()
            send(SIGUSR2)
            assert fiber.result() == (1, SIGUSR2)
            fiber = greenio.spawn(greenio.select, event, received)
            wait_all_parked()
            event.set()
            assert fiber.result()[0] == 0
            send(SIGUSR1)
            assert greenio.select(received, timeout=0) == (0, SIGUSR1)
            assert greenio.select(received, default=None) == (-1, None)
        with pytest.raises(greenio.ChannelClosed):
            greenio.select(received, timeout=0)

    greenio.run(main)


def test_a_handlers_timeout_error_is_not_taken_for_the_waits_own(handler):
    class Told(TimeoutError):
        pass

    def tell(*_):
        raise Told

    def main():
        with signals(SIGUSR1) as received, pytest.raises(Told):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            received.wait(timeout=1000)

    handler(SIGALRM, tell)
    greenio.run(main)


# --- several ---------------------------------------------------------------------------------------------------------


def test_each_subscription_gets_every_signal():
    def main():
        def subscriber():
            with signals(SIGUSR1) as received:
                return received.wait()

        fibers = [greenio.spawn(subscriber) for _ in range(5)]
        wait_all_parked()
        send(SIGUSR1)
        assert [fiber.result() for fiber in fibers] == [SIGUSR1] * 5

    greenio.run(main)


def test_fibers_that_share_one_get_each_signal_once():
    def main():
        with signals(SIGUSR1, SIGUSR2) as received:
            fibers = [greenio.spawn(received.wait) for _ in range(2)]
            wait_all_parked()
            send(SIGUSR1)
            send(SIGUSR2)
            assert [fiber.result() for fiber in fibers] == [SIGUSR1, SIGUSR2]

    greenio.run(main)


def test_nested_and_overlapping_blocks_put_the_first_handler_back(handler):
    calls = []
    handler(SIGUSR1, lambda number, frame: calls.append(number))
    first = signal.getsignal(SIGUSR1)

    def main():
        one, other = signals(SIGUSR1), signals(SIGUSR1, SIGUSR2)
        one.__enter__()
        other.__enter__()
        one.__exit__(None, None, None)
        send(SIGUSR1)
        assert other.wait() is SIGUSR1
        assert signal.getsignal(SIGUSR1) is not first
        other.__exit__(None, None, None)
        assert signal.getsignal(SIGUSR1) is first
        send(SIGUSR1)
        with one, signals(SIGUSR1) as inner:
            send(SIGUSR1)
            assert inner.wait() is SIGUSR1
            assert one.wait() is SIGUSR1

    greenio.run(main)
    assert calls == [SIGUSR1]


# --- putting back ----------------------------------------------------------------------------------------------------


def action_of(number):
    """What the kernel has for a signal: handler, mask of its 64 signals, flags."""
    libc = ctypes.CDLL(None)
    action = ctypes.create_string_buffer(256)
    assert libc.sigaction(int(number), None, action) == 0
    return action.raw[:16], action.raw[136:140]  # struct sigaction of glibc; the rest of sa_mask is never filled


@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.SIG_DFL, print], ids=["ignored", "default", "function"])
def test_what_was_there_is_put_back(before, handler):
    handler(SIGUSR1, before)
    if before is print:
        signal.siginterrupt(SIGUSR1, False)
    kernels = action_of(SIGUSR1)

    def main():
        with signals(SIGUSR1):
            assert action_of(SIGUSR1) != kernels
        assert signal.getsignal(SIGUSR1) is before
        assert action_of(SIGUSR1) == kernels

    greenio.run(main)


def test_a_handler_from_outside_of_python_is_put_back():
    run_child("""
        import ctypes, os, signal
        import greenio

        libc = ctypes.CDLL(None)
        calls = []
        Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
        outside = Handler(calls.append)
        libc.signal.restype = ctypes.c_void_p
        libc.signal.argtypes = (ctypes.c_int, Handler)
        libc.signal(signal.SIGUSR1, outside)

        def main():
            with greenio.signals(signal.SIGUSR1) as received:
                os.kill(os.getpid(), signal.SIGUSR1)
                assert received.wait() == signal.SIGUSR1
            os.kill(os.getpid(), signal.SIGUSR1)

        greenio.run(main)
        assert calls == [signal.SIGUSR1]
    """)


def test_a_handler_that_the_program_installs_meanwhile_stays(handler):
    handler(SIGUSR1, signal.SIG_DFL)
    own = lambda *_: None  # noqa: E731

    def main():
        with signals(SIGUSR1):
            signal.signal(SIGUSR1, own)
        assert signal.getsignal(SIGUSR1) is own

    greenio.run(main)


def test_a_signal_that_nobody_ever_received_is_raised_again(handler):
    calls = []
    handler(SIGUSR1, lambda number, frame: calls.append(number))
    handler(SIGUSR2, lambda number, frame: calls.append(number))

    def main():
        with signals(SIGUSR1, SIGUSR2) as received:
            send(SIGUSR1, SIGUSR1)
            send(SIGUSR2)
            assert received.wait() is SIGUSR1
        assert calls == [SIGUSR2]  # and not the second SIGUSR1
        with pytest.raises(KeyboardInterrupt), signals(SIGINT):
            send(SIGINT)

    greenio.run(main)


def test_the_end_of_the_block_ends_other_fibers_iteration():
    def main():
        with signals(SIGUSR1) as received:
            fibers = [greenio.spawn(list, received), greenio.spawn(received.wait)]
            wait_all_parked()
        assert fibers[0].result() == []
        with pytest.raises(greenio.ChannelClosed):
            fibers[1].result()
        assert list(received) == []
        with pytest.raises(greenio.ChannelClosed, match="outside of its with block"):
            received.wait()

    greenio.run(main)


def test_the_end_of_the_run_puts_handlers_back():
    def worker():
        with signals(SIGTERM) as received:
            received.wait()

    def main():
        greenio.spawn(worker)
        wait_all_parked()
        assert signal.getsignal(SIGTERM) is not signal.SIG_DFL

    greenio.run(main)
    assert signal.getsignal(SIGTERM) is signal.SIG_DFL


# --- misuse ----------------------------------------------------------------------------------------------------------


def test_misuse_is_refused_and_changes_nothing():
    for wrong, error in (
        ((), ValueError),
        ((0,), ValueError),
        ((1000,), ValueError),
        (("SIGTERM",), TypeError),
        ((signal.SIGSEGV,), ValueError),
    ):
        with pytest.raises(error):
            signals(*wrong)
    with pytest.raises(TypeError, match=r"greenio\.signals"):
        greenio.SignalSubscription()
    with pytest.raises(RuntimeError, match=r"inside greenio\.run"), signals(SIGUSR1):
        pass

    def main():
        with pytest.raises(OSError, match="SIGKILL cannot be received"), signals(SIGUSR1, signal.SIGKILL):
            pass
        assert signal.getsignal(SIGUSR1) is signal.SIG_DFL
        received = signals(SIGUSR1)
        with received, pytest.raises(RuntimeError, match="entered already"):
            received.__enter__()
        assert received.numbers == (SIGUSR1,)

    greenio.run(main)


def test_only_on_the_main_os_thread():
    caught = []

    def main():
        try:
            with signals(SIGUSR1):
                pass
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=greenio.run, args=(main,))
    thread.start()
    thread.join()
    assert "main OS thread" in caught[0]


def test_another_os_threads_fibers_can_receive_from_it():
    results = []

    def main():
        with signals(SIGUSR1) as received:
            thread = threading.Thread(target=lambda: results.append(greenio.run(received.wait)))
            thread.start()
            while not any(True for _ in range(1)) or len(threading.enumerate()) < 2:
                greenio.sleep(0.001)
            send(SIGUSR1)
            while thread.is_alive():
                greenio.sleep(0.001)

    greenio.run(main)
    assert results == [SIGUSR1]


# --- dump signal, fork -----------------------------------------------------------------------------------------------


def test_the_dump_signal_still_writes_the_dump():
    done = run_child("""
        import os, signal
        import greenio

        def main():
            with greenio.signals(signal.SIGUSR1, signal.SIGUSR2) as received:
                for number in (signal.SIGUSR1, signal.SIGUSR2):
                    os.kill(os.getpid(), number)
                    assert received.wait() == number
            os.kill(os.getpid(), signal.SIGUSR1)

        greenio.run(main, dump_signal=signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    """)
    assert done.stderr.count("as SIGUSR1 found them in process") == 2


def test_in_a_forked_process_the_forking_fibers_blocks_go_on():
    run_child("""
        import os, signal
        import greenio
        from greenio.testing import wait_all_parked

        def other():
            with greenio.signals(signal.SIGUSR2, signal.SIGTERM) as received:
                received.wait()

        def main():
            fiber = greenio.spawn(other)
            wait_all_parked()
            with greenio.signals(signal.SIGUSR1) as received:
                os.kill(os.getpid(), signal.SIGUSR1)     # the parent's
                pid = os.fork()
                if pid == 0:
                    try:
                        received.wait(timeout=0)
                        os._exit(1)
                    except TimeoutError:
                        pass
                    os.kill(os.getpid(), signal.SIGUSR1)
                    assert received.wait() == signal.SIGUSR1
                    # The other fiber has not come along, nor has what it asked for.
                    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
                    os.kill(os.getpid(), signal.SIGTERM)
                    os._exit(2)
                assert greenio.os.waitpid(pid, 0) == (pid, signal.SIGTERM)
                assert received.wait() == signal.SIGUSR1
                os.kill(os.getpid(), signal.SIGUSR2)
                fiber.join()

        greenio.run(main)
    """, flags=())  # fmt: skip


def test_a_storm_of_signals_loses_none_of_a_kind():
    def main():
        pid = os.getpid()
        source = "for n in 1 2 3 4 5 6 7 8 9 10; do kill -USR1 $0; kill -USR2 $0; kill -HUP $0; done"
        with signals(SIGUSR1, SIGUSR2, SIGHUP) as received:
            senders = [greenio.subprocess.Popen(["sh", "-c", source, str(pid)]) for _ in range(5)]
            seen = set()
            greenio.wait([greenio.spawn(sender.wait) for sender in senders])
            while True:
                try:
                    seen.add(received.wait(timeout=0.05))
                except TimeoutError:
                    break
            assert seen == {SIGUSR1, SIGUSR2, SIGHUP}

    greenio.run(main)
