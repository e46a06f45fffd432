"""monitor.c: the watching thread sleeps while every scheduler idles, ends with the last one, and is not there at a fork."""

import os
import threading
import time

import pytest
from child import run_child

import greenio
from greenio._scheduler import monitor_ticks

TICK = 0.005  # seconds between two looks


def monitor_threads():
    found = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm") as name:
                found.append(name.read().strip())
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found.count("greenio-monitor")


def compute(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_it_lives_as_long_as_a_run_does():
    def main():
        compute(0.02)  # it has named itself by then
        return monitor_threads()

    assert monitor_threads() == 0
    assert greenio.run(main) == 1
    assert monitor_threads() == 0


def test_there_is_one_for_all_runs():
    barrier = threading.Barrier(3)
    counts = []

    def main():
        barrier.wait()
        compute(0.02)
        counts.append(monitor_threads())
        barrier.wait()

    threads = [threading.Thread(target=greenio.run, args=(main,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [1, 1, 1]
    assert monitor_threads() == 0


def test_it_looks_while_a_fiber_computes():
    def main():
        before, start = monitor_ticks(), time.monotonic()
        compute(0.1)
        return monitor_ticks() - before, time.monotonic() - start

    looks, seconds = greenio.run(main)
    assert 2 <= looks <= seconds / TICK + 5


@pytest.mark.slow
def test_it_looks_more_often_than_a_short_limit_of_a_stall_is_long():
    def main():
        before = monitor_ticks()
        compute(0.3)
        return monitor_ticks() - before

    assert greenio.run(main, stall="warn", stall_after=0.004) > 0.3 / TICK + 20


@pytest.mark.slow
def test_it_sleeps_while_every_scheduler_idles_and_looks_again_afterwards():
    def main():
        before = monitor_ticks()
        greenio.sleep(0.6)  # it takes 20 looks first, so that a server's short pauses do not wake it each time
        asleep = monitor_ticks() - before
        compute(0.1)
        return asleep, monitor_ticks() - before - asleep

    asleep, awake = greenio.run(main)
    assert asleep <= 30
    assert awake >= 2


def test_it_blocks_all_signals():
    child = run_child(
        """
        import os, time, greenio
        def main():
            until = time.monotonic() + 0.02
            while time.monotonic() < until:
                pass
            for task in os.listdir("/proc/self/task"):
                with open(f"/proc/self/task/{task}/status") as status:
                    lines = dict(line.split(":", 1) for line in status)
                if lines["Name"].strip() == "greenio-monitor":
                    return int(lines["SigBlk"], 16)
        blocked = greenio.run(main)
        # All but SIGKILL (9), SIGSTOP (19) and the two that belong to the C library (32, 33).
        wanted = ~(1 << 8 | 1 << 18 | 1 << 31 | 1 << 32) & ((1 << 64) - 1)
        assert blocked & wanted == wanted, hex(blocked)
        """
    )
    assert child.stderr == ""


@pytest.mark.slow
def test_it_is_gone_before_a_fork_and_back_afterwards():
    run_child(
        """
        import os, sys, time, greenio
        from greenio._scheduler import monitor_ticks
        def compute(seconds):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                pass
        def main():
            for where in range(3):
                pid = os.fork()  # warns of other OS threads, on 3.12 and later
                if pid == 0:
                    before = monitor_ticks()
                    compute(0.1)
                    os._exit(0 if monitor_ticks() - before >= 2 else 1)
                assert os.waitpid(pid, 0)[1] == 0
                greenio.sleep(0)
                before = monitor_ticks()
                compute(0.1)
                assert monitor_ticks() - before >= 2
        greenio.run(main)
        """
    )


@pytest.mark.slow
def test_it_wakes_however_a_wait_ends():
    # A handler that raises or unparks before the wait begins, or an error out of it: main computes again, and must be watched.
    run_child(
        """
        import signal, time, greenio
        from greenio._scheduler import monitor_ticks, park_here, unpark_fiber
        def compute(seconds):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                pass
        def alarm(number, frame):
            raise TimeoutError("alarm")
        def main():
            me = greenio.current_fiber()
            for turn in range(4):
                if turn % 2:
                    signal.signal(signal.SIGALRM, alarm)
                else:
                    signal.signal(signal.SIGALRM, lambda *_: unpark_fiber(me))
                signal.setitimer(signal.ITIMER_REAL, 0.3)  # it has fallen asleep by then
                try:
                    park_here("an alarm", None, 20)
                except TimeoutError:
                    pass
                before = monitor_ticks()
                compute(0.2)
                assert monitor_ticks() - before >= 2, turn
        greenio.run(main)
        """
    )
