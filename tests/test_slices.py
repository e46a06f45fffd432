"""_slices.pyx: run(slice=…), fibers that compute are switched out; where that is held off, and where it is refused."""

import gc
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from child import check_script, environment, run_child

import greenio
from greenio import _slices
from greenio.testing import RandomSchedule, VirtualClock

SLICE = 0.001
PATIENCE = 30.0  # seconds: far above what anything here needs


def compute_until(condition):
    """Compute, without a wait, until it is so."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, "nobody else ran"


def counting(counts, name):
    while True:
        counts[name] = counts.get(name, 0) + 1
        greenio.yield_now()


def turns(fn):
    """How often another fiber got its turn while fn ran in a run with slices."""

    def main():
        counts = {}
        other = greenio.spawn(counting, counts, "other")
        greenio.yield_now()
        before = counts["other"]
        fn(lambda: counts["other"] - before)
        after = counts["other"]
        other.cancel()
        return after - before

    return greenio.run(main, slice=SLICE, stall="off")


def until_held_off():
    """Compute until a slice has passed and nothing was switched."""
    before = _slices.statistics()[1]
    compute_until(lambda: _slices.statistics()[1] > before + 1)


def spin():
    ends = time.monotonic() + 20 * SLICE
    while time.monotonic() < ends:
        pass


# --- who runs meanwhile ----------------------------------------------------------------------------------------------


def test_a_fiber_that_computes_lets_the_others_run():
    assert turns(lambda ran: compute_until(lambda: ran() >= 5)) >= 5


def test_without_slices_it_does_not():
    def main():
        counts = {}
        greenio.spawn(counting, counts, "other")
        greenio.yield_now()
        before = counts["other"]
        spin()
        return counts["other"] - before

    assert greenio.run(main, stall="off") == 0


def test_fibers_that_compute_take_turns_and_all_finish():
    def main():
        counts = dict.fromkeys(range(4), 0)

        def compute(name):
            while min(counts.values()) < 3:
                before = scheduler.switch_count
                compute_until(lambda before=before: scheduler.switch_count >= before + 4)
                counts[name] += 1

        scheduler = greenio.current_scheduler()
        with greenio.TaskGroup() as group:
            for name in counts:
                group.spawn(compute, name)
        return counts

    counts = greenio.run(main, slice=SLICE, stall="off")
    assert max(counts.values()) <= 3 * min(counts.values()), counts


def test_timers_and_descriptors_are_looked_at_between_slices():
    def main():
        seen = []
        ours, theirs = greenio.socket.socketpair()
        greenio.spawn(lambda: [greenio.sleep(SLICE), seen.append("slept"), theirs.sendall(b"x")])
        greenio.spawn(lambda: [ours.recv(1), seen.append("received")])
        greenio.yield_now()
        compute_until(lambda: len(seen) == 2)
        ours.close()
        theirs.close()
        return seen

    assert greenio.run(main, slice=SLICE, stall="off") == ["slept", "received"]


def test_main_that_computes_is_interrupted_by_nothing():
    def main():
        counts = {}
        other = greenio.spawn(counting, counts, "other")
        try:
            compute_until(lambda: counts.get("other", 0) > 5)
        finally:
            other.cancel()
        assert sys.exc_info() == (None, None, None)
        with greenio.CancelScope() as scope:
            scope.cancel()
            spin()  # not a checkpoint
            with pytest.raises(greenio.Cancelled):
                greenio.checkpoint()
        return "through"

    assert greenio.run(main, slice=SLICE, stall="off") == "through"


def test_a_regular_expression_is_interrupted():
    def search(ran):
        size = 22
        while ran() == 0:
            assert re.fullmatch("(a|aa)*b", "a" * size) is None
            size += 2

    assert turns(search) > 0


# --- where it is held off --------------------------------------------------------------------------------------------


def test_not_inside_atomic_but_at_its_end():
    def section(ran):
        with greenio.atomic():
            until_held_off()
            with greenio.atomic():
                pass
            assert ran() == 0
        assert ran() == 1

    turns(section)


class Destroyed:
    def __init__(self, fn):
        self.fn = fn
        self.me = self

    def __del__(self):
        self.fn()


def test_not_in_a_destructor():
    def destroy(ran):
        seen = []
        thing = Destroyed(lambda: [until_held_off(), seen.append(ran())])
        del thing.me
        before = ran()
        del thing
        assert seen == [before]

    turns(destroy)


def test_not_in_the_garbage_collector():
    def collect(ran):
        seen = []

        def collected(phase, information):
            if phase == "start":
                before = ran()
                until_held_off()
                seen.append(ran() - before)

        gc.callbacks.append(collected)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(collected)
        assert seen[0] == 0

    turns(collect)


def compiled(file, source, **names):
    """The function that *source* defines, as if it stood in *file*."""
    exec(compile(textwrap.dedent(source), file, "exec"), names)
    return names["fn"]


def test_not_in_greenio_itself_nor_in_what_it_calls_of_the_standard_library():
    source = """
        def fn(statistics, index, count):
            while statistics()[index] < count:
                pass
    """
    standard = compiled(threading.__file__, source)
    ours = compiled(greenio.__file__, "def fn(*args): standard(*args)", standard=standard)

    def check(ran):
        before = ran()
        ours(_slices.statistics, 1, _slices.statistics()[1] + 2)
        assert ran() == before
        standard(_slices.statistics, 0, _slices.statistics()[0] + 1)
        assert ran() > before

    turns(check)


# --- around it -------------------------------------------------------------------------------------------------------


def test_locks_know_fibers_while_the_run_lasts():
    lock = threading.Lock()

    def main():
        def hold():
            with lock:
                compute_until(lambda: waiting)
                spin()

        waiting = []
        holder = greenio.spawn(hold)
        greenio.yield_now()
        waiting.append(True)
        with lock:  # without a fiber that waits for it, the OS thread would wait for itself
            pass
        holder.join()

    greenio.run(main, slice=SLICE, stall="off")
    assert type(lock).acquire is type(threading.Lock()).acquire


def test_nothing_is_left_behind():
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    callbacks = list(gc.callbacks)
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            greenio.run(lambda: [spin(), 1 // 0], slice=SLICE)
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == handlers
    assert gc.callbacks == callbacks


def test_a_deadlock_is_found():
    with pytest.raises(greenio.DeadlockError):
        greenio.run(lambda: greenio.Event().wait(), slice=SLICE)


@pytest.mark.parametrize("wrong", [0, -1, 0.0009, 1e7, float("nan")])
def test_a_slice_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match=r"slice must be 0\.001 to 1,000,000 seconds or None"):
        greenio.run(print, slice=wrong)


def test_not_with_a_clock_or_a_schedule():
    for options in ({"clock": VirtualClock()}, {"schedule": RandomSchedule(1)}):
        with pytest.raises(ValueError, match="slice goes by real time"):
            greenio.run(print, slice=SLICE, **options)
    with pytest.raises(TypeError):
        greenio.run(print, slice="long")


def test_another_os_thread_is_told_why_not():
    errors = []

    def run():
        try:
            greenio.run(print, slice=SLICE)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "signal handlers, which Python runs nowhere else" in errors[0]


def test_a_signal_that_somebody_has_taken_is_left_alone():
    def handler(number, frame):
        pass

    signal.signal(signal.SIGRTMAX, handler)
    try:
        assert turns(lambda ran: compute_until(lambda: ran() > 0)) > 0
        assert signal.getsignal(signal.SIGRTMAX) is handler
    finally:
        signal.signal(signal.SIGRTMAX, signal.SIG_DFL)


def test_a_forked_child_has_slices_too():
    run_child(
        """
        import os, time, greenio

        def counting(counts):
            while True:
                counts.append(1)
                greenio.yield_now()

        def main():
            child = os.fork()
            counts = []
            other = greenio.spawn(counting, counts)
            greenio.sleep(0)  # the monitor begins again at the first wait after a fork
            ends = time.monotonic() + 30
            while len(counts) < 5:
                assert time.monotonic() < ends
            other.cancel()
            if child:
                assert os.waitpid(child, 0)[1] == 0

        greenio.run(main, slice=0.001, stall="off")
    """,
        flags=("-W", "ignore::DeprecationWarning"),
    )


def test_ctrl_c_reaches_fibers_that_take_turns():
    run_child("""
        import os, signal, threading, greenio

        over = []

        def compute():
            while not over:
                pass

        def main():
            for _ in range(3):
                greenio.spawn(compute)
            try:
                threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
                greenio.sleep(1000)
            finally:
                over.append(True)

        try:
            greenio.run(main, slice=0.001, stall="off")
        except KeyboardInterrupt:
            print("interrupted")
        else:
            raise AssertionError
    """)


@pytest.mark.slow
def test_state_is_right_under_preemption_at_random():
    check_script("preempted.py", "5000")


def test_statistics_count():
    done, held = _slices.statistics()
    turns(lambda ran: compute_until(lambda: ran() > 0))

    def section(ran):
        with greenio.atomic():
            until_held_off()

    turns(section)
    assert _slices.statistics()[0] > done
    assert _slices.statistics()[1] > held


def test_python_m_greenio_takes_a_slice_and_a_switch_interval():
    program = (
        "import sys, greenio._slices as slices; print(sys.getswitchinterval())\nwhile not slices.statistics()[0]: pass"
    )
    for arguments in (["--slice", "0.001"], ["--slice=0.001"]):
        done = subprocess.run(
            [sys.executable, "-m", "greenio", *arguments, "--switch-interval", "0.0002", "-c", program],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert float(done.stdout) == pytest.approx(0.0002)


@pytest.mark.parametrize("wrong", ["x", "0", "-1", "0.0001", "nan"])
def test_python_m_greenio_refuses_a_slice_that_is_none(wrong):
    command = [sys.executable, "-m", "greenio", f"--slice={wrong}", "-c", "print('ran')"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "slice" in done.stderr
