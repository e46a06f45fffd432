"""_watch.py: a fiber that keeps the others from running is named in the log, sparingly, and counted."""

import ctypes
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from child import environment, run_child

import greenio
from greenio import _watch
from greenio.debug import stall_stats

LIMIT = 0.02
pytestmark = pytest.mark.slow  # what stands still takes its time


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.texts = []
        self.threads = []

    def emit(self, record):
        self.texts.append(record.getMessage())
        self.threads.append(threading.get_ident())


@contextmanager
def listening():
    records, logger = Records(), logging.getLogger("greenio")
    logger.addHandler(records)
    _watch._places.clear()
    try:
        yield records
    finally:
        logger.removeHandler(records)


def tick(stop):
    while not stop.is_set():
        greenio.sleep(0.001)


def stall_beside(victim, block, **options):
    """Run *block* in a fiber beside *victim*(stop), one that could run meanwhile; the records about it."""

    def main():
        stop = greenio.Event()
        greenio.spawn(victim, stop, name="victim")
        greenio.yield_now()
        culprit = greenio.spawn(block, name="culprit")
        culprit.join()
        stop.set()

    with listening() as records:
        greenio.run(main, **{"stall_after": LIMIT, **options})
    return records


def blocked_in_c(seconds=10 * LIMIT):
    ctypes.CDLL(None).usleep(int(seconds * 1e6))


def computing(seconds=10 * LIMIT):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def reading():
    pipe = os.pipe()
    timer = threading.Timer(10 * LIMIT, os.write, (pipe[1], b"x"))
    timer.start()
    os.read(pipe[0], 1)
    timer.join()
    for fd in pipe:
        os.close(fd)


def test_the_record_names_fiber_call_and_stack():
    records = stall_beside(tick, blocked_in_c)
    assert "(culprit) sits in the system call clock_nanosleep" in records.texts[0]
    assert "blocked_in_c" in records.texts[0]
    assert "could run" in records.texts[0]
    assert set(records.threads).isdisjoint({threading.get_ident()})


def test_one_that_computes_is_told_of_too():
    records = stall_beside(tick, computing)
    assert "(culprit) " in records.texts[0]
    assert "in computing" in records.texts[0]


def test_a_descriptor_is_named():
    (text, *_) = stall_beside(tick, reading).texts
    assert "system call read on descriptor" in text
    assert "(pipe:[" in text


def test_ready_fibers_are_reason_enough():
    def victim(stop):
        while not stop.is_set():
            greenio.yield_now()

    assert "one fiber could run" in stall_beside(victim, blocked_in_c).texts[0]


def test_descriptors_with_news_are_reason_enough():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    def victim(stop):
        greenio.wait_readable(ours)

    def block():
        theirs.send(b"x")
        blocked_in_c()

    try:
        assert stall_beside(victim, block).texts
    finally:
        ours.close()
        theirs.close()


def test_nothing_is_told_while_nobody_could_run():
    def victim(stop):
        stop.wait()

    before = stall_stats()["stalls"]
    assert stall_beside(victim, blocked_in_c).texts == []
    assert stall_stats()["stalls"] == before


def test_a_late_timer_counts_from_its_deadline():
    def victim(stop):
        greenio.sleep(1.1)  # due shortly before the other one is back

    assert stall_beside(victim, lambda: blocked_in_c(1.2), stall_after=1).texts == []


def test_off_says_nothing():
    assert stall_beside(tick, blocked_in_c, stall="off").texts == []


def test_one_stall_is_told_again_each_time_it_has_doubled():
    before = stall_stats()
    records = stall_beside(tick, lambda: blocked_in_c(20 * LIMIT))
    after = stall_stats()
    assert 2 <= len(records.texts) <= 5  # at 1, 2, 4, 8, 16 limits
    assert after["records"] - before["records"] == len(records.texts)
    assert after["stalls"] - before["stalls"] == 1
    assert after["longest"] >= LIMIT


def test_of_many_at_one_place_few_are_told():
    def often():
        for _ in range(12):
            blocked_in_c(3 * LIMIT)
            greenio.sleep(0.001)

    before = stall_stats()
    records = stall_beside(tick, often)
    stalls = stall_stats()["stalls"] - before["stalls"]
    assert stalls >= 6
    assert len({text.split(",")[1] for text in records.texts}) <= 4 < stalls  # the 1st, 2nd, 4th, 8th


def test_those_without_a_python_frame_are_told_by_where_they_were_spawned():
    libc = ctypes.CDLL(None)

    def main():
        stop = greenio.Event()
        greenio.spawn(tick, stop)
        for _ in range(12):
            greenio.spawn(libc.usleep, int(3e6 * LIMIT)).join()  # each has a name of its own
        stop.set()

    before = stall_stats()
    with listening() as records:
        greenio.run(main, stall_after=LIMIT)
    stalls = stall_stats()["stalls"] - before["stalls"]
    assert stalls >= 6
    assert len({text.split(":")[3] for text in records.texts}) <= 4 < stalls


def test_a_handler_that_fails_does_no_harm(monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", lambda hooked: unraisable.append(hooked.exc_type))

    class Failing(Records):
        def emit(self, record):
            super().emit(record)
            raise OSError("the log is full")

    failing = Failing()
    logging.getLogger("greenio").addHandler(failing)
    try:
        stall_beside(tick, blocked_in_c)
    finally:
        logging.getLogger("greenio").removeHandler(failing)
    assert failing.texts
    assert set(unraisable) == {OSError}


def test_the_threads_that_tell_end_with_the_run():
    before = threading.active_count()
    stall_beside(tick, blocked_in_c)
    assert threading.active_count() == before
    names = []
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/comm") as name:
            names.append(name.read().strip())
    assert "greenio-assist" not in names


def test_a_run_on_another_thread_is_watched():
    with listening() as records:

        def main():
            stop = greenio.Event()
            greenio.spawn(tick, stop)
            greenio.yield_now()
            blocked_in_c()
            stop.set()

        thread = threading.Thread(target=greenio.run, args=(main,), kwargs={"stall_after": LIMIT})
        thread.start()
        thread.join()
    assert "clock_nanosleep" in records.texts[0]


def test_one_that_keeps_the_gil_is_told_of_when_it_lets_go():
    def keeping():
        ctypes.PyDLL(None).usleep(int(10 * LIMIT * 1e6))
        computing(3 * LIMIT)

    assert "keeping" in stall_beside(tick, keeping).texts[0]


@pytest.mark.parametrize(("option", "value"), [("stall", "never"), ("stall_after", 0), ("stall_after", -1.0)])
def test_what_is_asked_for_wrongly_is_refused(option, value):
    with pytest.raises(ValueError, match=option):
        greenio.run(print, **{option: value})


def test_a_fork_after_a_stall_warns_of_no_threads_and_the_child_is_watched():
    child = run_child(
        """
        import ctypes, logging, os
        import greenio

        logging.basicConfig(format="%(message).30s")

        def tick():
            while True:
                greenio.sleep(0.001)

        def main():
            fiber = greenio.spawn(tick)
            greenio.sleep(0.01)
            ctypes.CDLL(None).usleep(100_000)
            greenio.sleep(0.01)
            pid = os.fork()
            if pid == 0:
                greenio.spawn(tick)
                greenio.sleep(0.01)
                ctypes.CDLL(None).usleep(100_000)
                greenio.sleep(0.01)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0

        greenio.run(main, stall_after=0.02)
        """
    )
    assert child.stderr.count("the run has stood still") >= 2


@pytest.mark.parametrize(("mode", "said"), [("warn", True), ("off", False)])
def test_the_command_line_has_it(mode, said):
    program = """
import ctypes, threading, time

def tick():
    while True:
        time.sleep(0.001)

threading.Thread(target=tick, daemon=True).start()
time.sleep(0.01)
ctypes.CDLL(None).usleep(200_000)
"""
    options = ["-m", "greenio", "--stall", mode, "--stall-after=0.02"]
    done = subprocess.run(
        [sys.executable, *options, "-c", program], env=environment(), capture_output=True, text=True, check=True
    )
    assert ("the run has stood still" in done.stderr) is said


def test_sockets_are_told_with_their_peer():
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        with socket.create_connection((host, port)) as client:
            text = _watch.describe_call((0, "recvfrom", client.fileno()))
        assert text.endswith(f"(TCP socket to {host}:{port})")
        assert _watch.describe_descriptor(server.fileno()).endswith(f"(TCP socket at {host}:{port})")
    assert _watch.describe_descriptor(10**6) == "descriptor 1000000"
    assert _watch.describe_call((-1, None, -1)) == "computes"
    assert _watch.describe_call((-2, None, -1)) == "did not come back"
    assert _watch.describe_call((9999, None, -1)) == "sits in the system call 9999"


def test_a_record_that_cannot_be_made_is_told_of():
    def fails(record):
        if "stood still" in record.getMessage():
            raise ValueError("a filter's")
        return True

    logger = logging.getLogger("greenio")
    logger.addFilter(fails)
    try:
        records = stall_beside(tick, blocked_in_c)
    finally:
        logger.removeFilter(fails)
    assert set(records.texts) == {"a stall could not be told"}
