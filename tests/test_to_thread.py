"""Calls in other OS threads: what they return and raise, cancellation, the limiter, the pool, fork and exit."""

import contextlib
import contextvars
import functools
import gc
import logging
import random
import signal
import sys
import threading
import time
import traceback
import weakref

import pytest
from child import run_child
from waiters import in_thread, until

import greenio
from greenio import (
    Cancelled,
    Event,
    ThreadLimiter,
    configure_threads,
    current_default_limiter,
    move_on_after,
    spawn,
    timeout,
    to_thread,
    yield_now,
)
from greenio._threads import call_outside
from greenio.debug import thread_stats
from greenio.testing import VirtualClock

PATIENCE = 30  # seconds that a thread of a test is waited for


@pytest.fixture(autouse=True)
def _leaves_no_thread_behind():
    configure_threads(idle_seconds=5)
    until(lambda: thread_stats()["threads"] == 0)
    yield
    configure_threads(idle_seconds=5)
    until(lambda: thread_stats()["threads"] == 0)
    assert current_default_limiter().borrowed == 0
    assert thread_stats()["queued"] == 0


def fibers(test):
    """Run the test in greenio.run, on the real clock: a virtual one stands still while a call is out."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        return greenio.run(lambda: test(*args, **kwargs))

    return run


class Gate:
    """A function for an OS thread, which says that it has begun, and ends when it is let."""

    def __init__(self, result="through", error=None):
        self.begun = Event()
        self.open = threading.Event()
        self.result = result
        self.error = error
        self.calls = 0

    def __call__(self):
        self.calls += 1
        self.begun.set()
        assert self.open.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return self.result

    def enter(self, **kwargs):
        """A fiber that waits for it in to_thread."""
        fiber = spawn(functools.partial(to_thread, self, **kwargs))
        assert self.begun.wait(PATIENCE)
        return fiber


def settle():
    """Every other ready fiber has had its turn."""
    for _ in range(3):
        yield_now()


# --- what a call returns and raises ----------------------------------------------------------------------------------


@fibers
def test_returns_what_the_function_returns_from_another_os_thread():
    own = threading.get_ident()
    other, value = to_thread(lambda *args: (threading.get_ident(), args), 1, "two")
    assert value == (1, "two")
    assert other != own


@fibers
def test_the_others_run_meanwhile():
    gate = Gate()
    waiting = gate.enter()
    ran = []
    spawn(ran.append, 1)
    yield_now()
    assert ran == [1]
    assert waiting.state == "parked"
    assert waiting.waits_for[0] == "a call in an OS thread"
    assert "Gate" in repr(waiting.waits_for[1])
    gate.open.set()
    assert waiting.result() == "through"


@fibers
def test_raises_what_the_function_raises_with_its_traceback():
    def inner():
        raise LookupError("here")

    def outer():
        inner()

    with pytest.raises(LookupError, match="here") as caught:
        to_thread(outer)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names.index("outer") < names.index("inner")
    assert names[0] == "test_raises_what_the_function_raises_with_its_traceback"


@pytest.mark.parametrize(
    "kind", [StopIteration, SystemExit, KeyboardInterrupt, GeneratorExit, BaseException, Cancelled]
)
def test_any_exception_goes_to_the_caller_and_leaves_the_thread_at_work(kind):
    error = kind("given")

    def fail():
        raise error

    def main():
        with pytest.raises(kind) as caught:
            to_thread(fail)
        assert caught.value is error
        assert to_thread(int) == 0
        assert thread_stats()["started"] == before + 1

    before = thread_stats()["started"]
    greenio.run(main)


@fibers
def test_the_function_sees_a_copy_of_the_callers_contextvars():
    variable = contextvars.ContextVar("variable")
    variable.set("ours")

    def look():
        seen = variable.get()
        variable.set("theirs")
        return seen

    assert to_thread(look) == "ours"
    assert variable.get() == "ours"
    assert to_thread(lambda: variable.get("none")) == "ours"


@fibers
def test_errors_and_results_leave_no_reference_and_no_cycle():
    class Mine(Exception):
        pass

    class Argument:
        pass

    class Function:
        def __init__(self):
            functions.add(self)

        def __call__(self, argument):
            return argument

    def fail(argument):
        raise Mine

    functions = weakref.WeakSet()
    gc.collect()
    gc.disable()
    try:
        argument = Argument()
        gone = weakref.ref(argument)
        for _ in range(3):
            with contextlib.suppress(Mine):
                to_thread(fail, argument)
        to_thread(Function(), argument)
        del argument
        until(lambda: gone() is None and not functions)  # an idle thread keeps nothing of its last call
        assert thread_stats()["idle"] == 1  # it has not retired
        assert not [each for each in gc.get_objects() if type(each) is Mine]
    finally:
        gc.enable()


def test_without_fibers_calls_the_function_here():
    assert to_thread(threading.get_ident) == threading.get_ident()
    assert thread_stats()["threads"] == 0


@fibers
def test_what_is_not_callable_is_refused():
    with pytest.raises(TypeError, match="a callable and its arguments, not 7"):
        to_thread(7)
    with pytest.raises(TypeError, match="limiter"):
        to_thread(int, limiter=3)
    assert thread_stats()["threads"] == 0


def test_a_signal_handler_on_top_of_the_idle_loop_is_refused_before_the_call():
    raised = []
    called = []

    def handler(*_):
        try:
            to_thread(called.append, 1)
        except RuntimeError as error:
            raised.append(error)
        woken.set()

    def main():
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        assert woken.wait(PATIENCE)

    woken = Event()
    before = signal.signal(signal.SIGALRM, handler)
    try:
        greenio.run(main)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert "a signal handler cannot wait" in str(raised[0])
    assert not called


def test_a_run_may_be_made_in_the_thread():
    def main():
        return to_thread(greenio.run, lambda: (greenio.sleep(0), to_thread(threading.get_ident))[1])

    assert greenio.run(main) != threading.get_ident()


def test_no_answer_is_missed_while_every_line_is_traced():
    # A tracer lets other OS threads in between any two lines.
    def main():
        sys.settrace(tracer)
        try:
            for _ in range(200):
                assert to_thread(int) == 0
        finally:
            sys.settrace(None)

    def tracer(*_):
        time.sleep(0)
        return tracer

    greenio.run(main)


# --- cancellation and timeouts ---------------------------------------------------------------------------------------


@fibers
def test_cancelled_before_it_begins_does_not_call():
    called = []

    def main():
        greenio.current_fiber().cancel()
        to_thread(called.append, 1)

    fiber = spawn(main)
    fiber.join()
    assert fiber.cancelled()
    assert not called
    assert thread_stats()["threads"] == 0


@fibers
def test_cancelled_while_it_runs_waits_and_is_told_at_the_next_checkpoint():
    gate = Gate()
    told = []

    def call():
        told.append(to_thread(gate))
        try:
            greenio.checkpoint()
        except Cancelled as error:
            told.append(error.reason)
            raise

    fiber = spawn(call)
    gate.begun.wait()
    assert fiber.cancel("enough")
    settle()
    assert fiber.state == "parked"
    gate.open.set()
    fiber.join()
    assert told == ["through", "enough"]
    assert fiber.cancelled()


@fibers
def test_a_timeout_while_it_runs_waits_for_the_end():
    gate = Gate()
    released = threading.Timer(0.02, gate.open.set)
    released.start()
    with move_on_after(0.001) as scope:
        assert to_thread(gate) == "through"
    assert not scope.cancelled_caught
    with pytest.raises(TimeoutError), timeout(0.001):
        assert to_thread(time.sleep, 0.01) is None
        greenio.checkpoint()
    released.join()


@fibers
def test_a_failure_beats_a_cancellation_that_was_held_back():
    gate = Gate(error=LookupError("theirs"))
    fiber = gate.enter()
    fiber.cancel()
    gate.open.set()
    with pytest.raises(LookupError, match="theirs"):
        fiber.result()


@fibers
def test_cancellable_leaves_at_once_and_keeps_the_place_until_the_end():
    gate = Gate()
    limiter = ThreadLimiter(1)
    fiber = gate.enter(cancellable=True, limiter=limiter)
    fiber.cancel()
    fiber.join()
    assert fiber.cancelled()
    assert limiter.borrowed == 1
    following = spawn(functools.partial(to_thread, int, limiter=limiter))
    settle()
    assert following.waits_for[0] == "a place for a call in an OS thread"
    gate.open.set()
    assert following.result() == 0
    assert limiter.borrowed == 0


@fibers
def test_cancellable_leaves_at_a_timeout():
    gate = Gate()
    with pytest.raises(TimeoutError), timeout(0.001):
        to_thread(gate, cancellable=True)
    gate.open.set()
    until(lambda: current_default_limiter().borrowed == 0)


@fibers
def test_what_an_abandoned_call_raises_is_logged_at_debug_level(caplog):
    caplog.set_level(logging.DEBUG, "greenio")
    gate = Gate(error=SystemExit("unheard"))
    fiber = gate.enter(cancellable=True)
    fiber.cancel()
    fiber.join()
    gate.open.set()
    until(lambda: current_default_limiter().borrowed == 0)
    until(lambda: thread_stats()["busy"] == 0 and caplog.records)
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert "Gate" in record.getMessage()
    assert "unheard" in str(record.exc_info[1])


@fibers
def test_a_late_answer_wakes_nobody():
    gate = Gate()

    def call():
        with contextlib.suppress(TimeoutError), timeout(0.001):
            to_thread(gate, cancellable=True)
        later.set()
        return greenio._scheduler.park_here("what comes next", None, 0.05)

    later = Event()
    fiber = spawn(call)
    later.wait()
    gate.open.set()
    assert fiber.result() is False


@fibers
def test_cancelled_while_waiting_for_a_place_does_not_call():
    limiter = ThreadLimiter(1)
    gate = Gate()
    first = gate.enter(limiter=limiter)
    called = []
    second = spawn(functools.partial(to_thread, called.append, 2, limiter=limiter))
    third = spawn(functools.partial(to_thread, called.append, 3, limiter=limiter))
    settle()
    assert (limiter.borrowed, limiter.waiting, thread_stats()["queued"]) == (1, 2, 2)
    second.cancel()
    second.join()
    assert (limiter.borrowed, limiter.waiting) == (1, 1)
    with pytest.raises(TimeoutError), timeout(0.001):
        to_thread(called.append, 4, limiter=limiter)
    gate.open.set()
    third.join()
    first.join()
    assert called == [3]
    assert limiter.borrowed == 0


def test_a_shielded_clean_up_may_call():
    ran = []

    def clean():
        try:
            greenio.sleep(PATIENCE)
        finally:
            with greenio.shield(), move_on_after(PATIENCE):
                to_thread(ran.append, 1)

    def main():
        spawn(clean)
        settle()

    greenio.run(main)
    assert ran == [1]


def test_the_end_of_a_run_waits_for_its_calls():
    gate = Gate()
    ended = []

    def main():
        spawn(lambda: ended.append(to_thread(gate)))
        gate.begun.wait()
        threading.Timer(0.01, gate.open.set).start()

    greenio.run(main)
    assert ended == ["through"]


def test_the_end_of_a_run_does_not_wait_for_cancellable_ones():
    gate = Gate()

    def main():
        gate.enter(cancellable=True)

    greenio.run(main)
    assert current_default_limiter().borrowed == 1
    gate.open.set()
    until(lambda: current_default_limiter().borrowed == 0)


def test_a_keyboard_interrupt_leaves_at_once():
    gate = Gate()

    def main():
        spawn(interrupt)
        to_thread(gate)

    def interrupt():
        gate.begun.wait()
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            greenio.run(main)  # the computing fiber gets it first, and its end gives it to main
    finally:
        signal.signal(signal.SIGINT, before)
    gate.open.set()
    until(lambda: current_default_limiter().borrowed == 0)


# --- the limiter -----------------------------------------------------------------------------------------------------


def test_a_limiter_has_at_least_one_place():
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f">= 1 places, not {wrong}"):
            ThreadLimiter(wrong)
    with pytest.raises(TypeError):
        ThreadLimiter(1.5)
    limiter = ThreadLimiter(3)
    with pytest.raises(ValueError):
        limiter.total = 0
    assert (limiter.total, limiter.borrowed, limiter.waiting) == (3, 0, 0)
    assert repr(limiter) == "<greenio.ThreadLimiter 0 of 3 places taken, 0 wait>"


def test_the_default_limiter_has_forty_places():
    assert current_default_limiter() is current_default_limiter()
    assert current_default_limiter().total == 40


@pytest.mark.parametrize("places", [1, 2])
@fibers
def test_no_more_calls_than_places_and_first_come_first_served(places):
    limiter = ThreadLimiter(places)
    order = []
    at_once = []
    inside = []

    def call(number):
        inside.append(number)
        at_once.append(len(inside))
        order.append(number)
        time.sleep(0.0001)
        inside.remove(number)

    waiting = [spawn(functools.partial(to_thread, call, number, limiter=limiter)) for number in range(50)]
    for fiber in waiting:
        fiber.join()
    assert max(at_once) <= places
    # Of two that run beside each other, the kernel says who gets how far.
    assert order == list(range(50)) if places == 1 else sorted(order) == list(range(50))
    assert thread_stats()["threads"] <= places + 1


@fibers
def test_a_greater_total_lets_those_in_who_wait_and_a_smaller_takes_nothing_away():
    limiter = ThreadLimiter(1)
    gates = [Gate() for _ in range(4)]
    calls = [spawn(functools.partial(to_thread, gate, limiter=limiter)) for gate in gates]
    gates[0].begun.wait()
    assert (limiter.borrowed, limiter.waiting) == (1, 3)
    limiter.total = 3
    gates[1].begun.wait()
    gates[2].begun.wait()
    assert (limiter.borrowed, limiter.waiting) == (3, 1)
    limiter.total = 1
    assert (limiter.total, limiter.borrowed) == (1, 3)
    for gate in gates[:2]:
        gate.open.set()
    calls[0].join()
    calls[1].join()
    assert (limiter.borrowed, limiter.waiting, gates[3].calls) == (1, 1, 0)
    gates[2].open.set()
    gates[3].begun.wait()
    assert (limiter.borrowed, limiter.waiting) == (1, 0)
    gates[3].open.set()
    calls[3].join()


def test_one_limiter_for_the_runs_of_two_os_threads():
    limiter = ThreadLimiter(1)
    gate = Gate()
    order = []

    def main(number):
        to_thread(order.append, number, limiter=limiter)

    def first():
        fiber = gate.enter(limiter=limiter)
        other = in_thread(greenio.run, main, 2)
        while limiter.waiting == 0:
            greenio.sleep(0.001)
        gate.open.set()
        fiber.join()
        main(1)
        other.join(PATIENCE)
        assert other.outcome == [None]

    greenio.run(first)
    assert order == [2, 1]


# --- the pool --------------------------------------------------------------------------------------------------------


@fibers
def test_an_idle_thread_is_used_again():
    assert len({to_thread(threading.get_native_id) for _ in range(20)}) == 1
    assert thread_stats()["threads"] == thread_stats()["idle"] == 1


@fibers
def test_grows_with_the_calls_and_shrinks_to_nothing():
    gates = [Gate() for _ in range(10)]
    before = thread_stats()
    calls = [gate.enter() for gate in gates]
    assert (thread_stats()["threads"], thread_stats()["busy"], thread_stats()["idle"]) == (10, 10, 0)
    configure_threads(idle_seconds=0.01)
    for gate, call in zip(gates, calls, strict=True):
        gate.open.set()
        call.join()
    while thread_stats()["threads"]:
        greenio.sleep(0.001)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("greenio")]
    after = thread_stats()
    assert after["started"] - before["started"] == after["retired"] - before["retired"] == 10


@fibers
def test_threads_that_are_used_do_not_retire():
    configure_threads(idle_seconds=0)
    for _ in range(200):
        assert to_thread(int) == 0
    until(lambda: thread_stats()["threads"] == 0)


@fibers
def test_a_call_handed_to_a_thread_at_the_end_of_its_patience_is_made():
    # Its time is over, and before it has the GIL to say so it is given a call.
    configure_threads(idle_seconds=0.001)
    interval = sys.getswitchinterval()
    to_thread(int)
    for _ in range(5):
        sys.setswitchinterval(10)
        try:
            until_then = time.monotonic() + 0.003
            while time.monotonic() < until_then:
                pass
            call = spawn(to_thread, int)
            yield_now()
        finally:
            sys.setswitchinterval(interval)
        assert call.result() == 0


def test_idle_seconds_have_bounds():
    for wrong in (-1, 10.5, float("nan")):
        with pytest.raises(ValueError, match="idle_seconds must be 0 to 10 seconds"):
            configure_threads(idle_seconds=wrong)


@fibers
def test_threads_say_what_they_do():
    def look():
        return threading.current_thread().name, threading.current_thread().daemon

    assert to_thread(look) == ("greenio: test_threads_say_what_they_do.<locals>.look", True)
    assert to_thread(functools.partial(look))[0].endswith("look")
    (thread,) = (each for each in threading.enumerate() if each.name.startswith("greenio"))
    assert thread.name == "greenio: idle"


class Unnamed:
    """What it is called cannot be found out."""

    def __getattribute__(self, name):
        raise ZeroDivisionError(name)

    def __repr__(self):
        raise ZeroDivisionError

    def __call__(self):
        return threading.current_thread().name


@fibers
def test_a_function_without_a_name_is_called_all_the_same():
    assert to_thread(Unnamed()) == "greenio: Unnamed"


@fibers
def test_no_thread_to_be_had_is_told_and_loses_nothing(monkeypatch):
    called = []
    monkeypatch.setattr(threading, "_start_new_thread", refuse, raising=False)
    monkeypatch.setattr(threading, "_start_joinable_thread", refuse, raising=False)
    with pytest.raises(
        RuntimeError, match=r"no OS thread could be started for .*which was not called: no more"
    ) as caught:
        to_thread(called.append, 1)
    assert "no more" in str(caught.value.__cause__)
    assert (current_default_limiter().borrowed, thread_stats()["threads"], called) == (0, 0, [])
    monkeypatch.undo()
    to_thread(called.append, 2)
    assert called == [2]


def refuse(*_, **__):
    raise RuntimeError("no more")


@fibers
def test_an_interruption_while_a_thread_begins_leaves_with_the_call_unheard(monkeypatch):
    real = threading.Thread.start
    called = threading.Event()

    def start(thread):
        real(thread)
        assert called.wait(PATIENCE)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(KeyboardInterrupt):
        to_thread(called.set)
    monkeypatch.undo()
    until(lambda: current_default_limiter().borrowed == 0)
    assert to_thread(int) == 0


@fibers
def test_an_interruption_before_a_thread_begins_calls_nothing(monkeypatch):
    real = threading.Thread.start
    late = []

    def start(thread):
        late.append(thread)
        raise KeyboardInterrupt

    called = []
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(KeyboardInterrupt):
        to_thread(called.append, 1)
    monkeypatch.undo()
    assert current_default_limiter().borrowed == 0
    real(late[0])  # it comes after all: there is nothing to do
    late[0].join(PATIENCE)
    assert not late[0].is_alive()
    assert not called


def test_idle_threads_hide_no_deadlock():
    def main():
        to_thread(int)
        assert thread_stats()["idle"] == 1
        Event().wait()

    started = time.monotonic()
    with pytest.raises(greenio.DeadlockError):
        greenio.run(main)
    assert time.monotonic() - started < 0.9  # the first look at it comes after 10 ms, the next a second later
    assert thread_stats()["threads"] == 1


def test_a_call_in_flight_is_no_deadlock():
    def main():
        assert to_thread(time.sleep, 0.05) is None

    greenio.run(main)


def test_the_virtual_clock_stands_still_meanwhile():
    def main():
        before = greenio.current_time()
        to_thread(time.sleep, 0.001)
        assert greenio.current_time() == before
        with move_on_after(1):
            greenio.sleep(5)
        assert greenio.current_time() == before + 1

    greenio.run(main, clock=VirtualClock())


@fibers
def test_calls_without_a_limiter_have_a_timeout_of_their_own():
    gate = Gate()
    with pytest.raises(TimeoutError, match="timed out"):
        call_outside(gate, "a test", 0.001)
    fiber = spawn(call_outside, gate, "a test")
    settle()
    assert fiber.waits_for[0] == "a test"
    fiber.cancel()
    fiber.join()
    gate.open.set()
    assert call_outside(lambda: 3, "a test", PATIENCE) == 3
    assert current_default_limiter().borrowed == 0
    until(lambda: thread_stats()["busy"] == 0)


# --- several runs, fork, exit ----------------------------------------------------------------------------------------


def test_runs_of_two_os_threads_share_the_pool():
    def main(number):
        return [to_thread(lambda: number) for _ in range(100)]

    others = [in_thread(greenio.run, main, number) for number in range(2)]
    for number, other in enumerate(others):
        other.join(PATIENCE)
        assert other.outcome == [[number] * 100]
    assert thread_stats()["threads"] <= 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_ten_thousand_calls_with_random_cancellations_leave_nothing(seed):
    chance = random.Random(seed)
    limiter = ThreadLimiter(20)
    made = weakref.WeakSet()

    class Token:
        pass

    def work(token, pause):
        if pause:
            time.sleep(0.0001)
        return token

    def client(cancellable, pauses):
        for pause in pauses:
            token = Token()
            made.add(token)
            assert to_thread(work, token, pause, cancellable=cancellable, limiter=limiter) is token

    def main(rolls):
        clients = [spawn(client, *roll) for roll in rolls]
        for _ in range(100):
            to_thread(int)
            for fiber in random.Random(seed).sample(clients, 5):
                fiber.cancel()
        ended = 0
        for fiber in clients:
            fiber.join()
            if not fiber.cancelled():
                fiber.result()
                ended += 1
        return ended

    rolls = [(chance.random() < 0.5, [chance.random() < 0.1 for _ in range(10)]) for _ in range(1000)]
    others = [in_thread(greenio.run, main, rolls[half::2]) for half in range(2)]
    for other in others:
        other.join(4 * PATIENCE)
        assert isinstance(other.outcome[0], int), other.outcome
        assert other.outcome[0] > 100
    until(lambda: limiter.borrowed == 0)
    assert limiter.waiting == 0
    until(lambda: thread_stats()["busy"] == 0)
    configure_threads(idle_seconds=0)
    until(lambda: thread_stats()["threads"] == 0)
    gc.collect()
    assert not made


def test_a_program_ends_though_an_abandoned_call_blocks():
    child = run_child(
        """
        import threading, greenio
        def main():
            with greenio.move_on_after(0.01):
                greenio.to_thread(threading.Event().wait, cancellable=True)
            print("over")
        greenio.run(main)
        """
    )
    assert child.stdout == "over\n"


def test_a_forked_child_has_a_pool_of_its_own():
    child = run_child(
        """
        import os, threading, greenio
        from greenio.debug import thread_stats
        gate = threading.Event()
        begun = greenio.Event()
        def call():
            begun.set()
            gate.wait()
        def main():
            waiting = greenio.spawn(greenio.to_thread, call)
            begun.wait()
            limiter = greenio.current_default_limiter()
            limiter.total = 1
            behind = greenio.spawn(greenio.to_thread, int)
            greenio.yield_now()
            assert limiter.waiting == 1
            pid = os.fork()
            if pid == 0:
                stats = thread_stats()
                assert not any(stats.values()), stats
                assert (limiter.borrowed, limiter.waiting) == (0, 0), limiter
                assert greenio.to_thread(int) == 0
                assert thread_stats()["threads"] == 1
                assert (waiting.done(), limiter.borrowed) == (True, 0)
                print("child", flush=True)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert (limiter.borrowed, limiter.waiting) == (1, 1)
            gate.set()
            waiting.join()
            behind.join()
            assert limiter.borrowed == 0
            print("parent")
        greenio.run(main)
        """,
        flags=("-W", "error", "-W", "ignore:This process:DeprecationWarning"),  # a call is in flight in another thread
    )
    assert child.stdout == "child\nparent\n"


def test_fork_finds_no_idle_threads_to_warn_of():
    child = run_child(
        """
        import os, greenio
        from greenio.debug import thread_stats
        def main():
            for _ in range(20):
                fibers = [greenio.spawn(greenio.to_thread, int) for _ in range(5)]
                for fiber in fibers:
                    fiber.join()
                pid = os.fork()     # an error where the interpreter warns
                if pid == 0:
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        greenio.run(main)
        print("ok")
        """
    )
    assert child.stdout == "ok\n"


def test_a_function_that_forks_ends_its_child_as_a_program_ends():
    child = run_child(
        """
        import atexit, os, sys, greenio
        def fork(status):
            pid = os.fork()
            if pid == 0:
                atexit.register(print, "at exit")
                sys.stdout.write("child\\n")
                if status is None:
                    return None
                sys.exit(status)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        def main():
            print(greenio.to_thread(fork, None))
            print(greenio.to_thread(fork, 7))
            print(greenio.to_thread(int))
        sys.stdout.reconfigure(line_buffering=True)
        greenio.run(main)
        """,
        flags=("-W", "error", "-W", "ignore:This process:DeprecationWarning"),
    )
    assert child.stdout == "child\nat exit\n0\nchild\nat exit\n7\n0\n"


def test_a_waiting_fiber_whose_signal_handler_forks_is_told_in_the_child():
    child = run_child(
        """
        import os, signal, threading, greenio
        gate = threading.Event()
        pids = []
        def handler(*_):
            pids.append(os.fork())
            if pids[0]:
                gate.set()
        def main():
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            try:
                os.write(1, f"{greenio.to_thread(gate.wait)}\\n".encode())
            except greenio.RunFinishedError as error:
                assert not pids[0]
                assert "runs in an OS thread of the process" in str(error)
                assert greenio.to_thread(int) == 0
                os.write(1, b"told\\n")
                os._exit(3)
            assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 3
        greenio.run(main)
        """,
        flags=("-W", "error", "-W", "ignore:This process:DeprecationWarning"),
    )
    assert sorted(child.stdout.split()) == ["True", "told"]


def test_a_place_outlives_its_run():
    gate = Gate()
    limiter = ThreadLimiter(1)
    greenio.run(lambda: gate.enter(cancellable=True, limiter=limiter) and None)

    def main():
        waiting = spawn(functools.partial(to_thread, int, limiter=limiter))
        settle()
        assert limiter.waiting == 1
        gate.open.set()
        assert waiting.result() == 0

    greenio.run(main)


def test_the_wait_graph_names_what_is_waited_for_and_the_thread():
    def main():
        limiter = ThreadLimiter(1)
        gate = Gate()
        calling = [gate.enter(limiter=limiter), spawn(functools.partial(to_thread, int, limiter=limiter))]
        settle()
        (ident,) = (thread.ident for thread in threading.enumerate() if thread.name == "greenio: Gate")
        graph = greenio.debug.wait_graph()
        assert graph.node(calling[0]).owners == (ident,)
        assert graph.node(calling[1]).reason == "a place for a call in an OS thread"
        gate.open.set()
        for fiber in calling:
            fiber.join()
        return str(graph)

    assert ": Gate(), for 0.0" in greenio.run(main)


@pytest.mark.parametrize("call", ["look_up(abs, -3)", "greenio.to_thread(len, 'abc')"])
@pytest.mark.parametrize("moment", ["threading.Thread.start", "_os_threads._Begun.wait"])
def test_a_signal_handler_that_forks_while_a_thread_starts(moment, call):
    child = run_child(
        f"""
        import os, signal, sys, threading, greenio
        from greenio import _os_threads
        from greenio._lookups import look_up
        children = []
        signal.signal(signal.SIGUSR1, lambda *_: children.append(os.fork()))
        original = {moment}
        def then_a_signal(self):
            if not children:
                signal.raise_signal(signal.SIGUSR1)
            return original(self)
        {moment} = then_a_signal
        def main():
            try:
                {call}
            except greenio.RunFinishedError:
                assert children == [0], "only the other process has the answer"
            if children == [0]:
                assert greenio.to_thread(len, "ab") == 2 and look_up(abs, -2) == 2
                os._exit(7)
            with greenio.timeout(30):
                assert os.waitstatus_to_exitcode(greenio.os.waitpid(children[0], 0)[1]) == 7
        greenio.run(main)
        """,
        flags=("-W", "ignore"),
    )
    assert child.stdout == child.stderr == ""
