"""The way back from an OS thread: calls among the fibers, spawns, and looking for cancellation."""

import concurrent.futures
import contextvars
import functools
import threading
import time

import pytest
from test_to_thread import PATIENCE, Gate, _leaves_no_thread_behind, fibers, settle  # noqa: F401
from waiters import in_thread, until

import greenio
from greenio import (
    Cancelled,
    Event,
    Lock,
    Queue,
    RunFinishedError,
    current_default_limiter,
    current_fiber,
    current_scheduler,
    from_thread,
    move_on_after,
    spawn,
    to_thread,
)
from greenio.testing import VirtualClock


@fibers
def test_run_calls_back_in_the_fiber_that_waits():
    me = current_fiber()
    ident = threading.get_ident()

    def back(*args):
        return current_fiber(), threading.get_ident(), args

    def there():
        assert threading.get_ident() != ident
        return from_thread.run(back, 1, "two")

    assert to_thread(there) == (me, ident, (1, "two"))
    assert from_thread.run_sync is from_thread.run


@fibers
def test_run_may_park_and_the_others_go_on():
    queue = Queue()

    def there():
        return [from_thread.run(queue.get) for _ in range(3)]

    fiber = spawn(to_thread, there)
    for number in range(3):
        greenio.sleep(0.001)
        queue.put(number)
    assert fiber.result() == [0, 1, 2]


@fibers
def test_run_raises_what_the_function_raises():
    def fail():
        raise LookupError("back here")

    def there():
        with pytest.raises(LookupError, match="back here"):
            from_thread.run(fail)
        from_thread.run(fail)

    with pytest.raises(LookupError, match="back here"):
        to_thread(there)
    assert to_thread(from_thread.run, int) == 0


@pytest.mark.parametrize("kind", [StopIteration, SystemExit, KeyboardInterrupt])
def test_run_delivers_any_exception(kind):
    def fail():
        raise kind

    def main():
        with pytest.raises(kind):
            to_thread(from_thread.run, fail)

    greenio.run(main)


@fibers
def test_contextvars_go_there_and_back():
    variable = contextvars.ContextVar("variable")
    variable.set("ours")

    def there():
        variable.set("theirs")
        seen = from_thread.run(change)
        fiber = from_thread.spawn(variable.get)
        return seen, variable.get(), fiber.result()

    def change():
        seen = variable.get()
        variable.set("changed")
        return seen

    assert to_thread(there) == ("theirs", "theirs", "theirs")
    assert variable.get() == "ours"


@fibers
def test_run_has_the_callers_locks():
    lock = greenio.RLock()
    with lock:
        assert to_thread(from_thread.run, lock.acquire)
        lock.release()


@fibers
def test_calls_nest_both_ways():
    def down(depth):
        return threading.get_ident() if depth == 0 else from_thread.run(up, depth)

    def up(depth):
        assert threading.get_ident() == here
        return to_thread(down, depth - 1)

    here = threading.get_ident()
    assert to_thread(down, 5) != here


def test_the_virtual_clock_goes_on_while_a_call_is_back():
    def main():
        before = greenio.current_time()
        to_thread(from_thread.run, greenio.sleep, 100)
        assert greenio.current_time() == before + 100

    greenio.run(main, clock=VirtualClock())


# --- cancellation ----------------------------------------------------------------------------------------------------


@fibers
def test_run_is_cancelled_with_its_caller_though_to_thread_is_not():
    parked = Event()
    told = []

    def back():
        parked.set()
        Event().wait()

    def there():
        try:
            from_thread.run(back)
        except Cancelled as error:
            told.append(error.reason)
            raise

    fiber = spawn(to_thread, there)
    parked.wait()
    fiber.cancel("enough")
    fiber.join()
    assert fiber.cancelled()
    assert told == ["enough"]


@fibers
def test_run_obeys_the_callers_timeouts():
    def there():
        from_thread.run(greenio.sleep, PATIENCE)

    with move_on_after(0.001) as scope:
        to_thread(there)
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError), greenio.timeout(0.001):
        to_thread(there)


@fibers
def test_run_after_the_caller_was_cancelled_ends_at_the_first_checkpoint():
    gate = Gate()
    ran = []

    def back():
        ran.append("begun")
        greenio.checkpoint()
        ran.append("not here")

    def there():
        gate()
        with pytest.raises(Cancelled):
            from_thread.run(back)
        return "held"

    fiber = spawn(to_thread, there)
    gate.begun.wait()
    fiber.cancel()
    gate.open.set()
    assert fiber.result() == "held"
    assert ran == ["begun"]


@fibers
def test_run_after_the_caller_has_left_calls_nothing():
    gate = Gate()
    outcome = []
    ran = []

    def there():
        gate()
        for call in (functools.partial(from_thread.run, ran.append, 1), from_thread.check_cancelled):
            try:
                call()
            except Cancelled as error:
                outcome.append(error.reason)

    fiber = spawn(functools.partial(to_thread, there, cancellable=True))
    gate.begun.wait()
    fiber.cancel()
    fiber.join()
    gate.open.set()
    until(lambda: current_default_limiter().borrowed == 0)
    assert outcome == ["the caller of to_thread has left"] * 2
    assert not ran


@fibers
def test_a_caller_that_leaves_at_that_moment_answers_what_it_will_not_call():
    # It is cancelled; before it has run to leave, the other thread asks it for a call.
    gate = Gate()
    asking = threading.Event()
    outcome = []
    ran = []

    def there():
        gate()
        asking.set()
        try:
            from_thread.run(ran.append, 1)
        except Cancelled as error:
            outcome.append(error.reason)

    fiber = spawn(functools.partial(to_thread, there, cancellable=True))
    gate.begun.wait()
    fiber.cancel()
    gate.open.set()
    assert asking.wait(PATIENCE)  # this stops the OS thread, and the fiber with it
    time.sleep(0.01)
    fiber.join()
    assert fiber.cancelled()
    until(lambda: current_default_limiter().borrowed == 0)
    assert outcome == ["the caller of to_thread has left"]
    assert not ran


@fibers
def test_check_cancelled_tells_a_function_that_looks():
    begun = Event()

    def there():
        from_thread.check_cancelled()
        begun.set()
        while True:
            time.sleep(0.0001)
            from_thread.check_cancelled()

    fiber = spawn(to_thread, there)
    begun.wait()
    fiber.cancel("enough")
    fiber.join()
    assert fiber.cancelled()
    with move_on_after(0.001) as scope:
        to_thread(there)
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError), greenio.timeout(0.001):
        to_thread(there)


@fibers
def test_check_cancelled_sees_what_the_caller_would_see():
    gates = [Gate() for _ in range(2)]

    def there():
        gates[0]()
        from_thread.check_cancelled()  # a shield of the caller's holds it off
        from_thread.run(greenio.checkpoint)
        return "shielded"

    def call():
        with greenio.shield():
            return to_thread(there)

    fiber = spawn(call)
    gates[0].begun.wait()
    fiber.cancel()
    gates[0].open.set()
    assert fiber.result() == "shielded"


@fibers
def test_check_cancelled_says_the_reason():
    gate = Gate()

    def there():
        gate()
        with pytest.raises(Cancelled) as caught:
            from_thread.check_cancelled()
        return caught.value.reason

    def call():
        with greenio.CancelScope() as scope:
            scopes.append(scope)
            found.append(to_thread(there))

    scopes = []
    found = []
    fiber = spawn(call)
    gate.begun.wait()
    scopes[0].cancel("the scope's")
    gate.open.set()
    fiber.join()
    assert found == ["the scope's"]


# --- spawn, and other OS threads -------------------------------------------------------------------------------------


@fibers
def test_spawn_makes_a_fiber_that_outlives_the_call():
    gate = Event()

    def there():
        fiber = from_thread.spawn(gate.wait, name="from there")
        assert not fiber.done()
        return fiber

    fiber = to_thread(there)
    assert fiber.name == "from there"
    assert fiber.scheduler is current_scheduler()
    gate.set()
    assert fiber.result() is True


@fibers
def test_any_os_thread_runs_and_spawns_with_a_scheduler():
    scheduler = current_scheduler()
    ident = threading.get_ident()

    def elsewhere():
        assert from_thread.run(threading.get_ident, scheduler=scheduler) == ident
        with pytest.raises(LookupError):
            from_thread.run({}.__getitem__, 1, scheduler=scheduler)
        return from_thread.spawn(threading.get_ident, scheduler=scheduler).result()

    thread = in_thread(elsewhere)
    while thread.is_alive():
        greenio.sleep(0.001)
    assert thread.outcome == [ident]


def test_a_fiber_of_another_run_parks_meanwhile():
    lock = Lock()

    def other(scheduler):
        lock.acquire()
        calling = spawn(functools.partial(from_thread.run, lock.acquire, scheduler=scheduler))
        while not lock_wanted():
            greenio.sleep(0.001)
        assert calling.state == "parked"
        lock.release()
        assert calling.result() is True
        gone = spawn(functools.partial(from_thread.run, lock.acquire, scheduler=scheduler))
        while not lock_wanted():
            greenio.sleep(0.001)
        gone.cancel()
        gone.join()
        return gone.cancelled()

    def lock_wanted():
        return any(fiber.name.startswith("from_thread") for fiber in greenio.debug.fibers())

    def main():
        thread = in_thread(greenio.run, other, current_scheduler())
        while thread.is_alive():
            greenio.sleep(0.001)
        assert thread.outcome == [True]
        while lock_wanted():  # it was cancelled along with its caller
            greenio.sleep(0.001)

    greenio.run(main)


def test_after_the_run_has_ended():
    scheduler = greenio.run(current_scheduler)
    with pytest.raises(RunFinishedError):
        from_thread.run(int, scheduler=scheduler)
    with pytest.raises(RunFinishedError):
        from_thread.spawn(int, scheduler=scheduler)


def test_a_run_that_ends_meanwhile_cancels():
    threads = []

    def main():
        begun = Event()

        def back():
            begun.set()
            Event().wait()

        threads.append(in_thread(functools.partial(from_thread.run, back, scheduler=current_scheduler())))
        begun.wait()

    greenio.run(main)
    threads[0].join(PATIENCE)
    (error,) = threads[0].outcome
    assert isinstance(error, concurrent.futures.CancelledError)


def test_a_call_left_by_a_run_that_has_ended():
    gate = Gate()
    outcome = []

    def there():
        gate()
        for call in (from_thread.run, from_thread.spawn):
            try:
                call(int)
            except BaseException as error:
                outcome.append(type(error))

    greenio.run(lambda: spawn(functools.partial(to_thread, there, cancellable=True)) and gate.begun.wait())
    gate.open.set()
    until(lambda: current_default_limiter().borrowed == 0)
    assert outcome == [Cancelled, RunFinishedError]


@pytest.mark.parametrize("name", ["run", "spawn", "check_cancelled"])
def test_misuse_is_told(name):
    function = getattr(from_thread, name)
    arguments = () if name == "check_cancelled" else (int,)

    def main():
        with pytest.raises(RuntimeError, match=f"from_thread.{name}: this OS thread runs fibers"):
            function(*arguments)
        with pytest.raises(RuntimeError, match=f"from_thread.{name}: this OS thread runs fibers"):
            to_thread(greenio.run, functools.partial(function, *arguments))

    greenio.run(main)
    with pytest.raises(RuntimeError, match=f"from_thread.{name}: not in a function that to_thread called"):
        function(*arguments)


@fibers
def test_wrong_arguments_are_refused():
    with pytest.raises(RuntimeError, match="this OS thread runs that scheduler's fibers"):
        from_thread.run(int, scheduler=current_scheduler())
    for function in (from_thread.run, from_thread.spawn):
        with pytest.raises(TypeError, match="a callable"):
            to_thread(function, 7)
        with pytest.raises(TypeError, match="current_scheduler"):
            to_thread(functools.partial(function, int, scheduler=7))
    assert from_thread.spawn(int, scheduler=current_scheduler()).result() == 0


@fibers
def test_many_at_once_leave_nothing():
    def there(number):
        return sum(from_thread.run(lambda: number) for _ in range(20))

    calls = [spawn(to_thread, there, number) for number in range(30)]
    assert [fiber.result() for fiber in calls] == [20 * number for number in range(30)]
    settle()
