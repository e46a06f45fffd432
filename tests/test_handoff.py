"""run(stall="handoff"): while a fiber is stuck in C or computes, the others go on; it is one of them again at its next wait.

Most are about what happens in which order; nothing here measures milliseconds.
"""

import asyncio
import contextlib
import contextvars
import ctypes
import decimal
import gc
import hashlib
import io
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import weakref

import pytest
from child import check_script, run_child

import greenio
from greenio import _watch, debug
from greenio._scheduler import current_scheduler

LIMIT = 0.005
pytestmark = pytest.mark.slow  # who is stuck takes his time
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(autouse=True)
def quiet(caplog):
    """The records are test_watch's matter."""
    caplog.set_level("CRITICAL", logger="greenio")


def run(main, *args, **options):
    options.setdefault("stall_after", LIMIT)
    return greenio.run(main, *args, stall="handoff", **options)


def usleep(seconds):
    libc.usleep(int(seconds * 1e6))


def compute(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def stuck_until(ready):
    """Stand in C, in small steps that use nothing of greenio, until *ready*() says so; generously bounded."""
    until = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < until, "the others do not run"
        libc.usleep(1000)


def go_home():
    """Return on the main OS thread. A fiber that was joined may be stuck there for a moment at its end."""
    while threading.get_native_id() != os.getpid():
        greenio.sleep(0.001)


def ticks_beside(block, *, needed=20):
    """Run *block* in a fiber beside one that ticks; it is called with a function that says how often that one has since."""

    def main():
        ticks = 0
        over = False

        def tick():
            nonlocal ticks
            while not over:
                ticks += 1
                greenio.sleep(0.001)

        ticker = greenio.spawn(tick)
        greenio.sleep(0.005)
        start = ticks
        result = greenio.spawn(block, lambda: ticks - start >= needed).result()
        over = True
        ticker.join()
        return result

    return run(main)


@contextlib.contextmanager
def thread_count_stays():
    before = len(os.listdir("/proc/self/task"))
    yield
    until = time.monotonic() + 10
    while len(os.listdir("/proc/self/task")) > before and time.monotonic() < until:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/task")) <= before


# --- the others go on ------------------------------------------------------------------------------------------------


def test_others_run_while_one_is_stuck_in_c():
    with thread_count_stays():
        ticks_beside(stuck_until)


def test_others_run_while_one_computes():
    def block(enough):
        until = time.monotonic() + 30
        while not enough():
            assert time.monotonic() < until

    ticks_beside(block)


def test_others_run_while_main_is_stuck():
    def main():
        ticks = []

        def tick():
            while len(ticks) < 20:
                ticks.append(threading.get_native_id())
                greenio.sleep(0.001)

        ticker = greenio.spawn(tick)
        stuck_until(lambda: len(ticks) == 20)
        assert threading.get_native_id() == os.getpid()
        ticker.join()
        assert threading.get_native_id() == os.getpid()
        return set(ticks)

    assert run(main) - {os.getpid()}


@pytest.mark.parametrize("count", [2, 8])
def test_any_number_may_be_stuck(count):
    def main():
        stuck = [0]
        over = [False]

        def block():
            stuck[0] += 1
            stuck_until(lambda: over[0])

        fibers = [greenio.spawn(block) for _ in range(count)]
        while stuck[0] < count:
            greenio.sleep(0.001)
        over[0] = True
        for fiber in fibers:
            fiber.join()
        return len(os.listdir("/proc/self/task"))

    with thread_count_stays():
        assert run(main) <= count + 6


def test_beyond_the_bound_the_run_waits():
    def main(seconds):
        order = []

        def block(name, seconds):
            usleep(seconds)
            order.append(name)

        fibers = [greenio.spawn(block, name, seconds) for name in "abc"]
        greenio.spawn(order.append, "ticker").join()
        for fiber in fibers:
            fiber.join()
        return order

    assert run(main, 0.1, stall_threads=1)[:2] == [
        "a",
        "b",
    ]  # a at home, b on the other one, the rest waits for a place
    assert run(main, 1.0, stall_threads=8)[0] == "ticker"


def test_a_lock_of_c_held_across_a_park():
    # Without hand-off the second fiber would block the OS thread that the first one needs to unlock it.
    mutex = ctypes.create_string_buffer(64)
    libc.pthread_mutex_init(mutex, None)

    def main():
        order = []

        def holder():
            libc.pthread_mutex_lock(mutex)
            greenio.sleep(0.01)
            order.append("held")
            libc.pthread_mutex_unlock(mutex)

        def other():
            libc.pthread_mutex_lock(mutex)
            order.append("taken")
            libc.pthread_mutex_unlock(mutex)

        first = greenio.spawn(holder)
        second = greenio.spawn(other)
        second.join()
        first.join()
        return order

    assert run(main) == ["held", "taken"]


def test_waiting_for_a_locked_database(tmp_path):
    path = tmp_path / "one.db"

    def main():
        locker = sqlite3.connect(path, isolation_level=None)
        locker.execute("create table t (x)")
        locker.execute("begin exclusive")

        def insert():
            connection = sqlite3.connect(path, timeout=30, isolation_level=None)
            connection.execute("insert into t values (1)")
            connection.close()

        waiting = greenio.spawn(insert)
        for _ in range(20):
            greenio.sleep(0.001)
        assert not waiting.done()
        locker.execute("commit")
        waiting.result()
        assert locker.execute("select count(*) from t").fetchone() == (1,)
        locker.close()

    before = sqlite3.connect
    run(main)
    assert sqlite3.connect is before


# --- and it comes back -----------------------------------------------------------------------------------------------


def test_a_stuck_fiber_keeps_its_os_thread_until_it_waits():
    def block(enough):
        before = threading.get_native_id()
        stuck_until(enough)
        assert threading.get_native_id() == before
        me = greenio.current_fiber()
        greenio.sleep(0)
        assert greenio.current_fiber() is me
        return me.state

    assert ticks_beside(block) == "running"


@pytest.mark.parametrize(
    "use",
    [
        lambda: greenio.spawn(int).result(),
        lambda: greenio.checkpoint(),
        lambda: greenio.yield_now(),
        lambda: greenio.sleep(0.001),
        lambda: greenio.Lock().acquire(),
        lambda: greenio.Event().set(),
        lambda: greenio.Queue().put(1),
        lambda: greenio.can_park(),
        lambda: greenio.current_fiber(),
        lambda: greenio.to_thread(int),
        lambda: current_scheduler().spawn(int).join(),
        lambda: greenio.on_big_stack(int),
        lambda: threading.RLock().acquire(),
    ],
)
def test_any_use_of_greenio_brings_it_back(use):
    def block(enough):
        me = greenio.current_fiber()
        stuck_until(enough)
        use()
        assert greenio.current_fiber() is me
        with greenio.move_on_after(1) as scope:
            greenio.sleep(0.002)
        assert not scope.cancelled_caught
        return "back"

    assert ticks_beside(block) == "back"


def test_a_fiber_may_end_while_it_is_stuck():
    def block(enough):
        stuck_until(enough)
        return 7

    assert ticks_beside(block) == 7


def test_one_that_is_stuck_may_raise():
    def block(enough):
        stuck_until(enough)
        raise KeyError("stuck")

    with pytest.raises(KeyError, match="stuck"):
        ticks_beside(block)


def test_cancelling_a_stuck_fiber():
    def main():
        began = greenio.Event()
        over = [False]

        def block():
            began.set()
            try:
                stuck_until(lambda: over[0])
                greenio.sleep(60)
            except greenio.Cancelled:
                return "cancelled"

        fiber = greenio.spawn(block)
        began.wait()
        greenio.sleep(0.005)
        fiber.cancel()
        assert fiber.state == "running"
        over[0] = True
        return fiber.result()

    assert run(main) == "cancelled"


def test_main_may_end_while_others_are_stuck():
    done = []

    def main():
        def block():
            usleep(0.1)
            done.append(threading.get_native_id())

        greenio.spawn(block)
        greenio.sleep(0.03)
        return "main"

    with thread_count_stays():
        assert run(main) == "main"
    assert len(done) == 1
    assert threading.get_native_id() == os.getpid()


def test_a_run_of_another_os_thread():
    found = []

    def main():
        before = threading.get_native_id()
        fiber = greenio.spawn(usleep, 0.1)
        for _ in range(20):
            greenio.sleep(0.001)
        found.append(fiber.done())
        fiber.join()
        return before

    def body():
        assert run(main) == threading.get_native_id()

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [False]


def test_runs_one_after_another():
    for _ in range(5):
        ticks_beside(stuck_until, needed=5)
    assert greenio.run(lambda: greenio.spawn(int).result()) == 0


# --- invariants ------------------------------------------------------------------------------------------------------


def beside_a_stuck_one(body, seconds=0.15):
    """Call *body* in a fiber while another one is stuck on the OS thread that both began on; its result."""

    def main():
        began = greenio.Event()

        def block():
            began.set()
            greenio.sleep(0.003)
            usleep(seconds)

        def wanderer():
            before = threading.get_native_id()
            began.wait()
            while threading.get_native_id() == before:
                greenio.sleep(0.001)
            return body()

        stuck = greenio.spawn(block)
        wandering = greenio.spawn(wanderer)
        result = wandering.result()
        stuck.join()
        return result

    return run(main)


def test_fibers_change_their_os_thread():
    assert beside_a_stuck_one(threading.get_native_id) != os.getpid()


def test_a_pinned_fiber_does_not():
    def main():
        seen = set()
        stuck = [False]

        def block():
            greenio.sleep(0.003)
            stuck[0] = True
            usleep(0.05)

        def pinned():
            with greenio.pin():
                for _ in range(20):
                    seen.add(threading.get_native_id())
                    greenio.sleep(0.001)

        def whole():
            for _ in range(20):
                seen.add(threading.get_native_id())
                greenio.sleep(0.001)

        fibers = [greenio.spawn(pinned), greenio.spawn(whole, pin=True), greenio.spawn(block)]
        for fiber in fibers:
            fiber.join()
        return seen

    assert run(main) == {os.getpid()}


def test_fibers_below_a_callback_from_c_do_not():
    prototype = ctypes.CFUNCTYPE(ctypes.c_int)

    def main():
        seen = []

        def callback():
            for _ in range(20):
                seen.append(threading.get_native_id())
                greenio.sleep(0.001)
            return 3

        def block():
            greenio.sleep(0.003)
            usleep(0.05)

        fibers = [greenio.spawn(lambda: prototype(callback)()), greenio.spawn(block)]
        for fiber in fibers:
            fiber.join()
        return fibers[0].result(), set(seen)

    assert run(main) == (3, {os.getpid()})


def test_atomic_holds_it_off():
    def main():
        ticks = []
        over = False

        def tick():
            while not over:
                ticks.append(None)
                greenio.sleep(0.001)

        ticker = greenio.spawn(tick)
        greenio.sleep(0.005)
        with greenio.atomic():
            before = len(ticks)
            usleep(0.05)
            inside = len(ticks) - before
        stuck_until(lambda: len(ticks) > before + 5)
        over = True
        ticker.join()
        return inside

    assert run(main) == 0


def test_a_long_atomic_block_is_told(caplog):
    caplog.set_level("WARNING", logger="greenio")
    _watch._places.clear()

    def main():
        ticker = greenio.spawn(lambda: [greenio.sleep(0.001) for _ in range(10)])
        greenio.sleep(0.002)
        with greenio.atomic():
            usleep(0.25)
        ticker.join()

    run(main)
    assert any("could run" in record.getMessage() for record in caplog.records)


def test_nothing_keeps_a_fiber_that_was_stuck_without_a_python_frame():
    def main():
        fiber = greenio.spawn(libc.usleep, 30_000)
        greenio.sleep(0.01)
        fiber.join()
        return weakref.ref(fiber), current_scheduler().handoffs

    for _ in range(3):
        fiber, handoffs = run(main)
        assert handoffs > 0
        gc.collect()
        assert fiber() is None


def test_a_record_says_that_others_run_beside(caplog):
    caplog.set_level("WARNING", logger="greenio")
    _watch._places.clear()
    before = debug.stall_stats()["handoffs"]
    ticks_beside(stuck_until)
    assert any("the others run beside it now" in record.getMessage() for record in caplog.records)
    assert debug.stall_stats()["handoffs"] > before


def wander(*works, enough=3):
    """Call each of *works* again and again in a fiber of its own, beside one that is stuck most of the time, until each has
    changed its OS thread several times; a work is told its number."""

    def main():
        moves = [0] * len(works)

        def block():
            while min(moves) < enough:
                usleep(0.03)
                greenio.sleep(0.002)

        def wanderer(number, work):
            before = threading.get_native_id()
            until = time.monotonic() + 60
            while min(moves) < enough:
                assert time.monotonic() < until, "they stay where they are"
                work(number)
                here = threading.get_native_id()
                moves[number] += here != before
                before = here

        fibers = [greenio.spawn(wanderer, number, work) for number, work in enumerate(works)]
        fibers.append(greenio.spawn(block))
        for fiber in fibers:
            fiber.result()

    run(main)


def test_rlocks_belong_to_fibers():
    lock = threading.RLock()
    condition = threading.Condition()

    def hold(number):
        with lock, condition:
            assert lock._is_owned()
            greenio.sleep(0.001)
            assert lock._is_owned()
            condition.notify()

    wander(hold, hold, hold)
    with lock:
        pass


def test_what_belongs_to_a_thread_moves_with_the_fiber():
    variable = contextvars.ContextVar("variable", default=None)
    values = threading.local()

    def work(number):
        assert variable.get() in (None, number)
        assert getattr(values, "number", number) == number
        if variable.get() is None:
            decimal.setcontext(decimal.Context(prec=number + 5))
        variable.set(number)
        values.number = number
        try:
            raise LookupError(number)
        except LookupError as error:
            greenio.sleep(0.001)
            same = sys.exc_info()[1] is error
        assert same
        assert decimal.getcontext().prec == number + 5

    wander(work, work, work, work, work)


def test_errors_of_the_right_os_thread():
    # errno of whoever runs where the call was made: EAGAIN, then parked, then moved, then data.
    def main():
        ours, theirs = socket.socketpair()
        server = greenio.socket.socket(fileno=ours.detach())

        def block():
            greenio.sleep(0.003)
            usleep(0.1)

        def reader():
            got = b""
            while len(got) < 40:
                got += server.recv(1)
            return got

        reading = greenio.spawn(reader)
        greenio.spawn(block)
        for number in range(40):
            greenio.sleep(0.001)
            theirs.send(bytes([number]))
        assert reading.result() == bytes(range(40))
        server.close()
        theirs.close()

    run(main)


def test_echo_beside_stuck_fibers_loses_nothing():
    def main():
        def serve(connection):
            while data := connection.recv(1000):
                connection.sendall(data)
            connection.close()

        def client(address, number):
            with greenio.socket.create_connection(address) as connection:
                for index in range(30):
                    message = f"{number}:{index};".encode() * 50
                    connection.sendall(message)
                    got = b""
                    while len(got) < len(message):
                        got += connection.recv(10_000)
                    assert got == message

        listener = greenio.socket.create_server(("127.0.0.1", 0))

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                greenio.spawn(serve, connection)

        greenio.spawn(accept)
        over = [False]

        def block(how):
            while not over[0]:
                how(0.02)
                greenio.sleep(0.001)

        blocks = [greenio.spawn(block, how) for how in (usleep, compute)]
        clients = [greenio.spawn(client, listener.getsockname(), number) for number in range(10)]
        for each in clients:
            each.result()
        over[0] = True
        for each in blocks:
            each.result()
        listener.close()

    run(main)


def test_no_deadlock_is_seen_while_one_is_stuck():
    def main():
        event = greenio.Event()

        def block():
            usleep(0.1)
            event.set()

        greenio.spawn(block)
        event.wait()
        with pytest.raises(greenio.DeadlockError):
            greenio.Event().wait()

    run(main)


def test_a_virtual_clock_stands_still_meanwhile():
    from greenio.testing import VirtualClock

    def main():
        fiber = greenio.spawn(usleep, 0.1)
        ready = greenio.spawn(greenio.sleep, 5)
        greenio.sleep(10)
        assert ready.done()
        return fiber.done()

    assert run(main, clock=VirtualClock()) is True


def test_a_schedule_is_refused():
    from greenio.testing import RandomSchedule

    with pytest.raises(ValueError, match="handoff"):
        run(print, schedule=RandomSchedule(1))
    with pytest.raises(ValueError, match="stall_threads"):
        run(print, stall_threads=0)


def test_errors_of_openssl_stay_where_they_belong():
    # OpenSSL keeps a queue of errors for each OS thread; what one fiber's failure left there would be the next one's.
    trustme = pytest.importorskip("trustme", reason="certificates for tests: pip install trustme")
    authority, stranger = trustme.CA(), trustme.CA()
    serving = greenio.ssl.SSLContext(greenio.ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server.example").configure_cert(serving)

    def trusting(authority):
        context = greenio.ssl.create_default_context()
        authority.configure_trust(context)
        return context

    trusted, distrusted = trusting(authority), trusting(stranger)

    def serve(sock):
        with contextlib.suppress(OSError), serving.wrap_socket(sock, server_side=True) as connection:
            connection.sendall(connection.recv(100))

    def talk(good, gate, finished):
        here, there = greenio.socket.socketpair()
        server = greenio.spawn(serve, there)
        try:
            with (trusted if good else distrusted).wrap_socket(here, server_hostname="server.example") as connection:
                begun_on = threading.get_native_id()
                gate.wait()
                connection.sendall(b"hello")
                assert connection.recv(100) == b"hello"
                moves.append(begun_on != threading.get_native_id())
        except greenio.ssl.SSLCertVerificationError:
            assert not good
        else:
            assert good
        finally:
            here.close()
        server.result()
        finished.append(good)

    def main():
        for turn in range(20):
            gate, finished = greenio.Event(), []
            talks = [greenio.spawn(talk, (turn + index) % 2, gate, finished) for index in range(4)]
            greenio.sleep(0.001 * (turn % 4))
            talks.append(greenio.spawn(stuck_until, lambda finished=finished: len(finished) == 4))
            greenio.sleep(0)
            gate.set()
            for each in talks:
                each.result()

    moves = []
    run(main)
    assert any(moves)


def test_a_garbage_collection_in_the_middle_of_a_hand_off():
    child = run_child(
        """
        import ctypes, faulthandler, gc, logging, sys, threading, time
        import greenio

        faulthandler.dump_traceback_later(30, exit=True)
        logging.disable(logging.CRITICAL)

        def collects(phase, information):
            if phase == "start" and threading.get_native_id() != home:
                try:
                    sys._getframe(1)
                except ValueError:  # below nothing but the C code that hands over
                    time.sleep(0.02)

        def stuck():
            ctypes.CDLL(None).usleep(15_000)
            greenio.sleep(0)

        def tick():
            for _ in range(60):
                greenio.sleep(0.0005)

        def main():
            fibers = [greenio.spawn(fn) for fn in (stuck, tick) * 3]
            gc.callbacks.append(collects)
            for fiber in fibers:
                fiber.join()
            gc.callbacks.remove(collects)

        home = threading.get_native_id()
        gc.set_threshold(1)
        for _ in range(10):
            greenio.run(main, stall="handoff", stall_after=0.002)
        print("ok")
        """
    )
    assert child.stdout == "ok\n"


# --- signals, fork, exit ---------------------------------------------------------------------------------------------


def test_a_signal_while_the_main_os_thread_is_stuck():
    def main():
        came = []
        before = signal.signal(signal.SIGUSR1, lambda *_: came.append(threading.get_native_id()))
        try:
            fiber = greenio.spawn(stuck_until, lambda: came)
            for _ in range(10):
                greenio.sleep(0.001)
            os.kill(os.getpid(), signal.SIGUSR1)
            fiber.result()
        finally:
            go_home()
            signal.signal(signal.SIGUSR1, before)
        return came

    assert run(main) == [os.getpid()]


def test_a_signal_handler_that_waits_while_no_fiber_runs_on_the_main_os_thread():
    child = run_child(
        """
        import ctypes, logging, os, signal, time
        import greenio

        logging.disable(logging.CRITICAL)

        def handler(*_):
            try:
                greenio.sleep(0.01)
            except RuntimeError:
                pass

        def main():
            for _ in range(40):
                fiber = greenio.spawn(ctypes.CDLL(None).usleep, 30_000)
                greenio.sleep(0.015)
                os.kill(os.getpid(), signal.SIGUSR1)
                fiber.join()
                for _ in range(3):
                    greenio.sleep(0.001)

        signal.signal(signal.SIGUSR1, handler)
        greenio.run(main, stall="handoff", stall_after=0.002)
        print("ok")
        """
    )
    assert child.stdout == "ok\n"


def test_a_connection_made_before_the_run_goes_along():
    class Mine(sqlite3.Connection):
        pass

    def main():
        stuck = greenio.spawn(usleep, 0.1)
        greenio.sleep(0.03)
        assert threading.get_native_id() != os.getpid()
        for connection in connections:
            assert connection.execute("select 1").fetchall() == [(1,)]
            connection.create_function("f", 0, lambda: 2)
            assert connection.execute("select f()").fetchall() == [(2,)]
        stuck.join()

    connections = [sqlite3.connect(":memory:"), sqlite3.connect(":memory:", factory=Mine)]
    run(main)
    for connection in connections:
        connection.close()


def test_whose_thread_is_asked_for_may_change_meanwhile(monkeypatch):
    # threading.current_thread() makes an entry for an assistant, and would have put it in the place of the main thread's.
    made = []

    def main():
        stuck = greenio.spawn(usleep, 0.1)
        greenio.sleep(0.03)
        original = threading.Thread.__init__

        def init(self, *args, **kwargs):
            made.append(threading.get_native_id())
            original(self, *args, **kwargs)
            stuck.join()
            for _ in range(5):
                greenio.sleep(0.001)

        monkeypatch.setattr(threading.Thread, "__init__", init)
        greenio.spawn(threading.current_thread).join()
        monkeypatch.undo()

    run(main)
    assert made and made[0] != os.getpid()
    assert threading.current_thread() is threading.main_thread()


def test_a_buffered_read_that_parks_ends_on_another_os_thread():
    class Raw(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            begun_on = threading.get_native_id()
            gate.wait()
            moves.append(begun_on != threading.get_native_id())
            buffer[:2] = b"xy"
            return 2

    def main():
        nonlocal gate
        gate = greenio.Event()
        file = io.BufferedReader(Raw())
        reading = greenio.spawn(file.peek)
        greenio.sleep(0)
        stuck = greenio.spawn(usleep, 0.1)  # at home, where the read began
        greenio.sleep(0.03)
        assert threading.get_native_id() != os.getpid()
        gate.set()
        assert reading.result() == b"xy"
        assert moves == [True]
        assert file.read(2) == b"xy"  # its lock is free, and whole
        stuck.join()

    gate = None
    moves = []
    run(main)


@pytest.mark.parametrize(
    "call", ["signal.setitimer(signal.ITIMER_REAL, 0)", "signal.getsignal(2)", "signal.siginterrupt(10, False)"]
)
def test_what_no_os_thread_owns_leaves_main_where_it_is(call):
    def main():
        stuck = greenio.spawn(usleep, 0.1)
        greenio.sleep(0.03)
        assert threading.get_native_id() != os.getpid()
        eval(call)
        assert threading.get_native_id() != os.getpid()
        stuck.join()

    run(main)


def test_asyncio_runs_in_main_while_it_is_away():
    async def answer():
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, came.append, True)
        os.kill(os.getpid(), signal.SIGUSR1)
        while not came:
            await asyncio.sleep(0.001)
        return asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)

    def main():
        stuck = greenio.spawn(usleep, 0.1)
        greenio.sleep(0.03)
        assert threading.get_native_id() != os.getpid()
        assert asyncio.run(asyncio.wait_for(answer(), 30))
        stuck.join()

    came = []
    run(main)


def test_signal_handlers_are_set_by_main_while_it_is_away():
    def main():
        came = []
        beside = 0
        over = False

        def tick():
            nonlocal beside
            while not over:
                beside += 1
                greenio.sleep(0.001)

        stuck = greenio.spawn(usleep, 0.2)
        ticker = greenio.spawn(tick)
        greenio.sleep(0.03)
        assert threading.get_native_id() != os.getpid()
        start = beside
        before = signal.signal(signal.SIGUSR1, lambda *_: came.append(threading.get_native_id()))
        try:
            assert threading.get_native_id() == os.getpid()
            assert beside > start  # main waited for its OS thread, and the others did not wait with it
            os.kill(os.getpid(), signal.SIGUSR1)
            greenio.sleep(0.01)
            assert came == [os.getpid()]
        finally:
            signal.signal(signal.SIGUSR1, before)
        over = True
        ticker.join()
        stuck.join()

    run(main)


def test_the_wakeup_descriptor_is_set_by_main_while_it_is_away():
    def main():
        stuck = greenio.spawn(usleep, 0.1)
        greenio.sleep(0.03)
        assert threading.get_native_id() != os.getpid()
        reader, writer = socket.socketpair()
        with reader, writer:
            reader.setblocking(False)
            writer.setblocking(False)
            before_handler = signal.signal(signal.SIGUSR1, lambda *_: None)
            before = signal.set_wakeup_fd(writer.fileno())
            try:
                os.kill(os.getpid(), signal.SIGUSR1)
                greenio.sleep(0.01)
                assert reader.recv(10) == bytes([signal.SIGUSR1])
            finally:
                assert signal.set_wakeup_fd(before) == writer.fileno()
                signal.signal(signal.SIGUSR1, before_handler)
        stuck.join()

        stuck = greenio.spawn(usleep, 0.1)
        greenio.sleep(0.03)
        assert threading.get_native_id() != os.getpid()
        assert signal.set_wakeup_fd(before) == before
        assert threading.get_native_id() == os.getpid()
        stuck.join()

    run(main)


def test_signal_handlers_are_set_by_nobody_else_away_from_the_main_os_thread():
    def refused():
        with pytest.raises(ValueError, match="main thread"):
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        with pytest.raises(ValueError, match="main thread"):
            signal.set_wakeup_fd(-1)

    def main():
        stuck = greenio.spawn(usleep, 0.1)
        greenio.sleep(0.03)
        assert threading.get_native_id() != os.getpid()
        greenio.spawn(refused).result()
        with greenio.atomic():
            refused()  # main, which may not be switched out
        assert threading.get_native_id() != os.getpid()
        greenio.to_thread(refused)
        stuck.join()

    run(main)


def test_a_signal_handler_wakes_a_run_that_has_moved():
    def main():
        came = greenio.Event()
        before = signal.signal(signal.SIGUSR1, lambda *_: came.set())
        stuck = greenio.spawn(usleep, 0.2)
        greenio.sleep(0.03)
        os.kill(os.getpid(), signal.SIGUSR1)
        came.wait()
        stuck.join()
        go_home()
        signal.signal(signal.SIGUSR1, before)

    run(main)


@pytest.mark.parametrize(
    "body",
    [
        "stuck()",  # in the stuck fiber
        "greenio.sleep(0.05)",  # in one that has moved
    ],
)
def test_fork_beside_a_stuck_fiber(body):
    child = run_child(
        f"""
        import ctypes, logging, os, sys, threading, time
        import greenio

        logging.disable(logging.CRITICAL)
        libc = ctypes.CDLL(None)

        def stuck():
            libc.usleep(100_000)

        def forks():
            greenio.sleep(0.005)
            {body}
            pid = os.fork()
            if pid == 0:
                greenio.spawn(greenio.sleep, 0.001).join()
                ticks = []
                greenio.spawn(lambda: [(greenio.sleep(0.001), ticks.append(1)) for _ in range(20)])
                greenio.sleep(0.002)
                while len(ticks) < 20:
                    libc.usleep(1000)
                print("child", flush=True)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0

        def main():
            greenio.spawn(lambda: [greenio.sleep(0.001) for _ in range(100)])
            other = greenio.spawn(stuck)
            greenio.spawn(forks).result()
            other.join()
            print("parent", threading.get_native_id() == os.getpid())

        greenio.run(main, stall="handoff", stall_after=0.005)
        """,
        flags=("-W", "ignore::DeprecationWarning"),
    )
    assert sorted(child.stdout.split("\n")) == ["", "child", "parent True"]


def test_others_run_beside_one_that_waits_in_c_for_what_it_has_forked():
    child = run_child(
        """
        import os, time
        import greenio

        def forks():
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.read(reader, 1)  # the others' word
                os._exit(0)
            seen = ticks
            greenio.current_fiber().scheduler.spawn(tell, writer, seen)
            return os.waitpid(pid, 0)[1]

        def tell(writer, seen):
            until = time.monotonic() + 10
            while ticks < seen + 20 and time.monotonic() < until:
                greenio.sleep(0.001)
            os.write(writer, b"x")

        def tick():
            global ticks
            while True:
                ticks += 1
                greenio.sleep(0.001)

        def main():
            greenio.spawn(tick)
            greenio.sleep(0.01)
            print(greenio.spawn(forks).result())

        ticks = 0
        greenio.run(main, stall="handoff", stall_after=0.005)
        """
    )
    assert child.stdout == "0\n"


def test_forks_of_another_os_thread_do_not_end_the_hand_off():
    child = run_child(
        """
        import ctypes, logging, os, threading, time
        import greenio

        logging.disable(logging.CRITICAL)

        def stuck_beside():
            before = greenio.current_fiber().scheduler.handoffs
            fiber = greenio.spawn(ctypes.CDLL(None).usleep, 25_000)
            greenio.sleep(0.001)
            fiber.join()
            return greenio.current_fiber().scheduler.handoffs > before

        def main():
            while forker.is_alive():
                stuck_beside()
            until = time.monotonic() + 10
            while not stuck_beside():
                assert time.monotonic() < until, "nothing is handed over any more"

        def fork_often():
            for turn in range(700):
                pid = os.fork()
                if pid == 0:
                    os._exit(0)
                os.waitpid(pid, 0)
                time.sleep(0.0007 * (turn % 9))

        forker = threading.Thread(target=fork_often)
        forker.start()
        greenio.run(main, stall="handoff", stall_after=0.003)
        print("ok")
        """,
        flags=(),
    )
    assert child.stdout == "ok\n"


def test_a_fork_leaves_fibers_that_depend_on_their_os_thread_there():
    run_child(
        """
        import ctypes, logging, os, threading
        import greenio

        logging.disable(logging.CRITICAL)
        libc = ctypes.CDLL(None)
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
        begin, go_on = greenio.Event(), greenio.Event()
        seen = []

        def waits():
            before = threading.get_native_id()
            waiting.append(before)
            go_on.wait()
            seen.append(threading.get_native_id() == before)

        def pinned():
            begin.wait()
            with greenio.pin():
                waits()

        def below_a_callback():
            begin.wait()
            prototype(lambda _: waits() or 0)(0)

        waiting = []

        def main():
            fibers = [greenio.spawn(pinned), greenio.spawn(below_a_callback)]
            other = greenio.spawn(libc.usleep, 50_000)
            while threading.get_native_id() == os.getpid():
                greenio.sleep(0.001)
            begin.set()
            while len(waiting) < 2:
                greenio.yield_now()
            assert os.getpid() not in waiting, waiting
            other.join()
            greenio.sleep(0.01)
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            go_on.set()
            for fiber in fibers:
                fiber.result()
            assert seen == [True, True], seen

        greenio.run(main, stall="handoff", stall_after=0.005)
        """,
        flags=("-W", "ignore::DeprecationWarning"),
    )


def test_the_interpreter_exits_after_a_script_that_was_moved():
    child = run_child(
        """
        import atexit, ctypes, logging, os, threading
        import greenio

        logging.disable(logging.CRITICAL)
        greenio.enter_run(stall="handoff", stall_after=0.005)
        atexit.register(lambda: print("exit", threading.get_native_id() == os.getpid()))
        libc = ctypes.CDLL(None)

        def stuck():
            libc.usleep(300_000)
            print("stuck ends")

        greenio.spawn(stuck)
        while threading.get_native_id() == os.getpid():
            greenio.sleep(0.001)
        print("moved")
        """
    )
    assert child.stdout.split("\n")[:2] == ["moved", "stuck ends"]
    assert "exit True" in child.stdout


@pytest.mark.parametrize(
    ("stuck", "ending", "status"),
    [
        ("libc.pause()", "", 0),  # in C
        ("exec('while True: pass')", "sys.exit(7)", 7),  # it wants the GIL beside the interpreter's end
    ],
)
def test_a_daemon_that_is_stuck_for_good_does_not_keep_a_program_from_ending(tmp_path, stuck, ending, status):
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import atexit, ctypes, sys, threading, time
import greenio._run
greenio._run.EXIT_PATIENCE = 0.2
libc = ctypes.CDLL(None)
atexit.register(print, "atexit")
threading.Thread(target=lambda: {stuck}, daemon=True, name="stuck").start()
threading.Thread(target=lambda: (time.sleep(0.5), print("joined"))).start()
time.sleep(0.1)
print("main ends")
{ending}
"""
    )
    child = run_child(
        f"""
        import subprocess, sys
        done = subprocess.run(
            [sys.executable, "-m", "greenio", "--stall=handoff", "--stall-after=0.005", {str(script)!r}],
            capture_output=True, text=True, timeout=60)
        print(done.returncode, done.stdout.split("\\n"))
        assert "stuck" in done.stderr.split("have not ended")[1] and "Error" not in done.stderr, done.stderr
        """
    )
    assert child.stdout == f"{status} ['main ends', 'joined', 'atexit', '']\n"


def test_it_works_from_the_command_line(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        """
import ctypes, threading, time
ticks = []
def tick():
    while len(ticks) < 20:
        ticks.append(None)
        time.sleep(0.001)
thread = threading.Thread(target=tick)
thread.start()
until = time.monotonic() + 30
while len(ticks) < 20:
    assert time.monotonic() < until
    ctypes.CDLL(None).usleep(1000)
thread.join()
print("ok")
"""
    )
    child = run_child(
        f"""
        import subprocess, sys
        subprocess.run(
            [sys.executable, "-m", "greenio", "--stall=handoff", "--stall-after=0.005", {str(script)!r}], check=True)
        """
    )
    assert child.stdout == "ok\n"


def test_trace_functions_follow():
    def work(number):
        calls = []

        def traced():
            greenio.sleep(0.001)

        sys.settrace(lambda frame, event, arg: calls.append(frame.f_code.co_name))
        try:
            traced()
            traced()
        finally:
            sys.settrace(None)
        assert calls.count("traced") == 2

    wander(work, work)


def test_many_hand_offs_under_many_fibers():
    check_script("handoff.py", "2000", "200")


def test_hand_off_and_slices_with_all_that_a_program_does():
    check_script("stirred.py", "6")


@pytest.mark.parametrize(("bound", "microseconds"), [(1, 100_000), (8, 1_000_000)])
def test_python_m_greenio_takes_a_bound(bound, microseconds):
    program = f"""
        import ctypes, threading, time
        order = []

        def block(name):
            ctypes.CDLL(None).usleep({microseconds})
            order.append(name)

        threads = [threading.Thread(target=block, args=(name,)) for name in "abc"]
        threads.append(threading.Thread(target=order.append, args=("ticker",)))
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(*order)
    """
    child = run_child(
        f"""
        import subprocess, sys, textwrap
        options = ["--stall=handoff", "--stall-after=0.005", "--stall-threads={bound}"]
        program = textwrap.dedent({program!r})
        sys.exit(subprocess.run([sys.executable, "-m", "greenio", *options, "-c", program], stderr=subprocess.DEVNULL).returncode)
        """
    )
    assert (child.stdout.split()[0] == "ticker") is (bound == 8)


# --- a server, and a peer that counts --------------------------------------------------------------------------------

PEER = """
import random, socket, sys, threading
port, ok = int(sys.argv[1]), []

def talk(seed):
    numbers = random.Random(seed)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(60)
        for _ in range(60):
            message = numbers.randbytes(numbers.randrange(1, 40_000))
            connection.sendall(message)
            reply = b""
            while len(reply) < len(message):
                data = connection.recv(65536)
                assert data, "the server closed"
                reply += data
            assert reply == message
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    ok.append(seed)

threads = [threading.Thread(target=talk, args=(seed,)) for seed in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(ok))
"""


def test_an_echo_server_beside_every_kind_of_stall_loses_no_byte(tmp_path):
    (tmp_path / "large").write_bytes(bytes(32 << 20))
    kinds = ["usleep", "sqlite", "file", "scrypt", "compute"]
    turns = dict.fromkeys(kinds, 0)

    def locked():
        path = tmp_path / "one.db"
        locker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        locker.execute("create table if not exists t (x)")
        locker.execute("begin exclusive")
        unlock = threading.Timer(0.1, locker.execute, ("commit",))
        unlock.start()
        with sqlite3.connect(path, timeout=30, isolation_level=None) as other:
            other.execute("insert into t values (1)")
        other.close()
        unlock.join()
        locker.close()

    def read():
        buffer = bytearray(1 << 20)
        with open(tmp_path / "large", "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    stalls = {
        "usleep": lambda: usleep(0.05),
        "sqlite": locked,
        "file": read,
        "scrypt": lambda: hashlib.scrypt(b"password", salt=b"salt", n=2**14, r=8, p=2, maxmem=2**28),
        "compute": lambda: compute(0.05),
    }

    def serve(connection):
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    def main():
        over = False

        def stall(kind):
            while not over or not turns[kind]:
                stalls[kind]()
                turns[kind] += 1
                greenio.sleep(0.001)

        with greenio.socket.create_server(("127.0.0.1", 0)) as listener:
            peer = subprocess.Popen(
                [sys.executable, "-c", PEER, str(listener.getsockname()[1])], stdout=subprocess.PIPE, text=True
            )
            stuck = [greenio.spawn(stall, kind) for kind in kinds]
            serving = [greenio.spawn(serve, listener.accept()[0]) for _ in range(20)]
            for fiber in serving:
                fiber.join()
            said = greenio.to_thread(peer.communicate)[0]
            over = True
            for fiber in stuck:
                fiber.join()
        return said, peer.returncode

    assert run(main) == ("20\n", 0)
    assert min(turns.values()) >= 1


def test_a_heartbeat_goes_on_beside_a_fiber_that_computes():
    ours, theirs = socket.socketpair()
    beats = []

    def receive():  # another OS thread, as a broker would have it: a beat within three seconds, or it closes
        theirs.settimeout(3)
        while theirs.recv(1):
            beats.append(time.monotonic())

    broker = threading.Thread(target=receive)
    broker.start()

    def main():
        over = False

        def beat():
            while not over:
                ours.send(b".")
                greenio.sleep(0.25)

        heart = greenio.spawn(beat)
        greenio.spawn(compute, 4).join()
        over = True
        heart.join()

    run(main)
    ours.close()
    broker.join()
    theirs.close()
    assert len(beats) >= 4
