"""debug.py: every fiber with its stack, who waits for whom, dumps by a signal, and the memory that stacks take."""

import io
import os
import re
import signal
import sys
import threading

import pytest

import greenio
from greenio import debug
from greenio._scheduler import park_here, unpark_fiber
from greenio.testing import VirtualClock, wait_all_parked
from tests.child import run_child


def test_fibers_are_listed_oldest_first():
    def main():
        fibers = [greenio.current_fiber(), *(greenio.spawn(greenio.sleep, 1) for _ in range(5))]
        assert debug.fibers() == fibers
        fibers[2].cancel()
        fibers[2].join()
        assert debug.fibers() == [fiber for fiber in fibers if fiber is not fibers[2]]

    greenio.run(main, clock=VirtualClock())
    assert debug.fibers() == []


def test_fibers_of_all_os_threads_are_listed():
    inside, go_on = threading.Event(), threading.Event()

    def other():
        greenio.spawn(greenio.sleep, 100)
        greenio.sleep(0)
        inside.set()
        go_on.wait()

    thread = threading.Thread(target=greenio.run, args=(other,))
    thread.start()
    inside.wait()

    def main():
        return [fiber.name.split("-")[0] for fiber in debug.fibers()], debug.format_stacks()

    names, text = greenio.run(main)
    go_on.set()
    thread.join()
    assert sorted(names) == ["fiber", "main", "main"]
    assert "in other" in text
    assert "in main" in text


def nap(seconds):
    greenio.sleep(seconds)


def test_format_stacks_tells_what_each_fiber_does():
    token = ["a token"]

    def main():
        greenio.spawn(nap, 10, name="napper")
        greenio.spawn(park_here, "a token", token, name="waiter")
        wait_all_parked()
        greenio.sleep(2)
        fresh = greenio.spawn(nap, 1, name="fresh")
        joiner = greenio.current_fiber()
        text = debug.format_stacks()
        return text, fresh.id, joiner.id

    text, fresh_id, main_id = greenio.run(main, clock=VirtualClock())
    assert f"Fiber {main_id} (main), running" in text
    assert "(napper), waits for sleep, for 2.000 s, spawned at " + __file__ in text
    assert "in nap\n" in text
    assert "(waiter), waits for a token: ['a token'], for 2.000 s" in text
    assert f"Fiber {fresh_id} (fresh), ready, spawned at {__file__}" in text
    assert "not begun" in text


def test_format_stacks_survives_a_repr_that_raises():
    class Broken:
        def __repr__(self):
            raise LookupError("no repr")

    def main():
        greenio.spawn(park_here, "a broken thing", Broken())
        wait_all_parked()
        return debug.format_stacks()

    assert "waits for a broken thing" in greenio.run(main)


def test_without_a_run_there_are_no_fibers():
    assert debug.format_stacks() == "no fibers\n"


def test_dump_writes_to_a_file_or_the_standard_error(capsys):
    def main():
        file = io.StringIO()
        debug.dump(file)
        debug.dump()
        return file.getvalue()

    text = greenio.run(main)
    assert "(main), running" in text
    assert capsys.readouterr().err.splitlines()[0] == text.splitlines()[0]


def test_stack_stats_count_what_is_in_use_and_what_is_pooled():
    def main():
        before = debug.stack_stats()
        fibers = [greenio.spawn(greenio.sleep, 1) for _ in range(50)]
        wait_all_parked()
        during = debug.stack_stats()
        for fiber in fibers:
            fiber.join()
        after = debug.stack_stats()
        return before, during, after

    before, during, after = greenio.run(main, clock=VirtualClock())
    assert during["in_use"] - before["in_use"] == 50
    assert after["in_use"] == before["in_use"]
    assert after["pooled"] >= 49
    assert after["guard"] in ("madvise", "mprotect", "canary")
    assert sum(row["in_use"] for row in during["sizes"]) == during["in_use"]


def test_the_pool_keeps_no_more_stacks_than_it_is_told():
    def main():
        debug.set_stack_pool(5)
        try:
            for fiber in [greenio.spawn(greenio.sleep, 1) for _ in range(50)]:
                fiber.join()
            return debug.stack_stats()["sizes"]
        finally:
            debug.set_stack_pool(1024)

    assert all(row["pooled"] <= 5 for row in greenio.run(main, clock=VirtualClock()))


def test_a_negative_pool_is_refused():
    with pytest.raises(ValueError, match=">= 0 stacks"):
        debug.set_stack_pool(-1)


# --- who waits for whom ----------------------------------------------------------------------------------------------


class Owned:
    """Something that one fiber holds and others wait for."""

    def __init__(self, name, owner=None):
        self.name = name
        self.owner = owner

    def __repr__(self):
        return f"<lock {self.name}>"


def knot(size):
    """Fibers of which each holds a lock and waits for that of the next, round and round; parked when this returns."""
    locks = [Owned(f"L{index}") for index in range(size)]
    fibers = [
        greenio.spawn(park_here, "lock acquire", locks[(index + 1) % size], name=f"worker-{index}")
        for index in range(size)
    ]
    for lock, fiber in zip(locks, fibers, strict=True):
        lock.owner = fiber
    wait_all_parked()
    return fibers


def test_the_wait_graph_has_a_node_for_each_fiber_and_an_edge_for_each_need():
    def main():
        free, held = Owned("free"), Owned("held", greenio.current_fiber())
        waiter = greenio.spawn(park_here, "lock acquire", held)
        unowned = greenio.spawn(park_here, "lock acquire", free)
        joiner = greenio.spawn(waiter.join)
        wait_all_parked()
        greenio.sleep(3)
        fresh = greenio.spawn(greenio.sleep, 1)
        graph = debug.wait_graph()
        me = greenio.current_fiber()
        assert [node.fiber for node in graph.nodes] == [me, waiter, unowned, joiner, fresh]
        assert graph.edges == [(waiter, me), (joiner, waiter)]
        node = graph.node(waiter)
        assert (node.state, node.reason, node.waiting_on, node.owners, node.seconds) == (
            "parked",
            "lock acquire",
            held,
            (me,),
            3.0,
        )
        assert node.spawned_at == waiter.spawned_at
        assert (graph.node(me).state, graph.node(fresh).state) == ("running", "ready")
        assert graph.cycles() == []
        assert "2 edges" in repr(graph)

    greenio.run(main, clock=VirtualClock())


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_cycles_are_found_while_others_go_on(size):
    def main():
        fibers = knot(size)
        greenio.spawn(fibers[0].join, name="outside")
        wait_all_parked()
        (circle,) = debug.wait_graph().cycles()
        assert [node.fiber for node in circle] == fibers

    greenio.run(main)


def test_fibers_that_join_one_another_are_a_cycle():
    def main():
        first = greenio.spawn(lambda: second.join(), name="first")
        second = greenio.spawn(first.join, name="second")
        wait_all_parked()
        graph = debug.wait_graph()
        assert [[node.fiber for node in circle] for circle in graph.cycles()] == [[first, second]]
        assert f"fiber {first.id} (first) waits for the end of a fiber: fiber {second.id} (second),\n" in str(graph)

    greenio.run(main)


def test_several_cycles_are_told_apart():
    def main():
        expected = [knot(2), knot(3)]
        assert [[node.fiber for node in circle] for circle in debug.wait_graph().cycles()] == expected

    greenio.run(main)


def test_who_needs_several_is_in_a_cycle_with_the_one_that_needs_it():
    class Meeting:
        owners = ()

    def main():
        meeting = Meeting()
        chair = greenio.spawn(park_here, "a meeting", meeting)
        late, early = greenio.spawn(chair.join), greenio.spawn(greenio.sleep, 100)
        meeting.owners = (early, late)
        wait_all_parked()
        graph = debug.wait_graph()
        assert graph.node(chair).owners == (early, late)
        assert [[node.fiber for node in circle] for circle in graph.cycles()] == [[chair, late]]

    greenio.run(main)


def test_the_wait_graph_names_an_os_thread_that_owns():
    def main():
        held = Owned("held", threading.get_ident())
        waiter = greenio.spawn(park_here, "lock acquire", held)
        wait_all_parked()
        graph = debug.wait_graph()
        assert graph.edges == [(waiter, threading.get_ident())]
        return str(graph)

    assert "held by OS thread " in greenio.run(main)


def test_the_wait_graph_survives_an_owner_that_raises():
    class Broken:
        @property
        def owner(self):
            raise LookupError

    def main():
        waiter = greenio.spawn(park_here, "a broken thing", Broken())
        wait_all_parked()
        return debug.wait_graph().node(waiter).owners

    assert greenio.run(main) == ()


def test_the_text_begins_with_the_cycle_in_plain_words():
    def main():
        one, other = knot(2)
        return str(debug.wait_graph()), one.id, other.id

    text, one, other = greenio.run(main)
    assert text.startswith(
        "2 fibers wait for one another in a circle, for ever:\n"
        f"  fiber {one} (worker-0) waits for lock acquire on <lock L1>, held by fiber {other} (worker-1),\n"
        f"  which waits for lock acquire on <lock L0>, held by fiber {one} (worker-0)\n"
    )
    assert text.count("Fiber ") == 3


def test_the_text_tells_a_crowd_once_with_one_stack():
    inbox = ["inbox"]

    def reader():
        park_here("channel receive", inbox)

    def main():
        first = greenio.spawn(reader, name="reader-0")
        wait_all_parked()
        greenio.sleep(7)
        for index in range(1, 412):
            greenio.spawn(reader, name=f"reader-{index}")
        wait_all_parked()
        greenio.sleep(3)
        return str(debug.wait_graph()), first.id

    text, first_id = greenio.run(main, clock=VirtualClock())
    assert f"412 fibers wait for channel receive on ['inbox'], since 3.0 to 10.0 s: {first_id} (reader-0), " in text
    assert "and 407 more. The oldest of them:\n" in text
    assert text.count("in reader\n") == 1


def test_the_text_has_an_end():
    def main():
        for index in range(150):
            greenio.spawn(park_here, f"reason {index}")
        wait_all_parked()
        return str(debug.wait_graph())

    assert greenio.run(main).endswith("... and 51 more fibers")


def test_without_a_run_the_graph_is_empty():
    graph = debug.wait_graph()
    assert (graph.nodes, graph.edges, graph.cycles(), str(graph)) == ([], [], [], "no fibers\n")


def test_the_graph_keeps_no_fiber_alive_but_itself():
    import gc
    import weakref

    def main():
        fiber = greenio.spawn(greenio.sleep, 1)
        wait_all_parked()
        str(debug.wait_graph())
        handle = weakref.ref(fiber)
        fiber.join()
        del fiber
        greenio.yield_now()
        gc.collect()
        return handle()

    assert greenio.run(main, clock=VirtualClock()) is None


needs_locks = pytest.mark.skipif(not hasattr(greenio, "Lock"), reason="locks are not built yet")
needs_groups = pytest.mark.skipif(not hasattr(greenio, "TaskGroup"), reason="task groups are not built yet")
needs_channels = pytest.mark.skipif(not hasattr(greenio, "Channel"), reason="channels are not built yet")


@needs_locks
@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_locks_taken_in_two_orders_are_a_cycle(kind):
    def main():
        here, there = getattr(greenio, kind)(), getattr(greenio, kind)()

        def transfer(first, second):
            with first:
                greenio.yield_now()
                with second:
                    pass

        one = greenio.spawn(transfer, here, there)
        other = greenio.spawn(transfer, there, here)
        wait_all_parked()
        graph = debug.wait_graph()
        assert [[node.fiber for node in circle] for circle in graph.cycles()] == [[one, other]]
        assert graph.node(one).waiting_on is there
        assert graph.edges == [(one, other), (other, one)]

    greenio.run(main)


@needs_locks
def test_who_waits_for_a_condition_does_not_wait_for_the_holder_of_its_lock():
    def main():
        condition = greenio.Condition()

        def wait():
            with condition:
                condition.wait()

        waiter = greenio.spawn(wait)
        wait_all_parked()
        with condition:
            assert debug.wait_graph().edges == []
            condition.notify()
        waiter.join()

    greenio.run(main)


@needs_groups
def test_a_task_group_whose_fiber_waits_for_its_own_end_is_a_cycle():
    def main():
        owner = greenio.current_fiber()
        graphs = []
        with greenio.TaskGroup() as group:
            sleeper = group.spawn(greenio.sleep, 10)

            def child():
                with greenio.move_on_after(5):
                    owner.join()

            def look():
                greenio.sleep(1)
                graphs.append(debug.wait_graph())

            waiter, looker = group.spawn(child), group.spawn(look)
        assert graphs[0].node(owner).owners == (sleeper, waiter, looker)
        assert [[node.fiber for node in circle] for circle in graphs[0].cycles()] == [[owner, waiter]]
        assert f"of which fiber {waiter.id} ({waiter.name}) is one,\n" in str(graphs[0])

    greenio.run(main, clock=VirtualClock())


@needs_locks
def test_an_event_that_a_signal_handler_sets_is_no_deadlock(on_usr1):
    def main():
        stop = greenio.Event()
        me = greenio.current_fiber()
        on_usr1(lambda number, frame: stop.set())
        thread = threading.Thread(target=lambda: (graph_once_parked(me), os.kill(os.getpid(), signal.SIGUSR1)))
        thread.start()
        stop.wait()
        thread.join()

    greenio.run(main)


@needs_channels
def test_a_fiber_that_receives_from_a_plain_thread_is_no_deadlock():
    def main():
        channel = greenio.Channel()
        me = greenio.current_fiber()
        thread = threading.Thread(target=lambda: (graph_once_parked(me), channel.send("an item")))
        thread.start()
        item = channel.receive()
        thread.join()
        return item

    assert greenio.run(main) == "an item"


# --- deadlock or not -------------------------------------------------------------------------------------------------


def test_a_deadlock_names_its_cycle_first():
    def main():
        knot(2)
        with pytest.raises(greenio.DeadlockError) as caught:
            park_here("nothing")
        return str(caught.value)

    lines = greenio.run(main).splitlines()
    assert lines[0] == "all 3 fibers wait, and nothing is left that could wake one:"
    assert lines[1] == "2 fibers wait for one another in a circle, for ever:"


def test_a_deadlock_shows_no_calls_of_the_explanation_itself():
    def main():
        with pytest.raises(greenio.DeadlockError) as caught:
            park_here("nothing")
        return str(caught.value)

    assert greenio.run(main).count("in explain_deadlock\n") == 0


@pytest.fixture
def on_usr1():
    """signal.signal for SIGUSR1, undone afterwards."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, handler)
    signal.signal(signal.SIGUSR1, before)


def graph_once_parked(fiber):
    """From an OS thread of its own: the wait graph, once *fiber* is parked for good."""
    while fiber.state != "parked":
        threading.Event().wait(0.001)
    return debug.wait_graph()


def test_waiting_for_a_signal_is_no_deadlock_and_the_graph_says_so(on_usr1):
    seen = []

    def main():
        me = greenio.current_fiber()

        def handle(number, frame):
            # On top of the idle loop: every fiber waits.
            seen.append(debug.wait_graph())
            unpark_fiber(me)

        on_usr1(handle)
        thread = threading.Thread(target=lambda: (graph_once_parked(me), os.kill(os.getpid(), signal.SIGUSR1)))
        thread.start()
        woken = park_here("the end")
        thread.join()
        return woken

    assert greenio.run(main) is True
    (remark,) = seen[0].remarks
    assert remark.startswith("not called a deadlock: ")
    assert "a Python handler for SIGUSR1 is installed and may wake a fiber" in remark
    assert remark in str(seen[0])


def test_waiting_for_a_plain_thread_is_no_deadlock_and_the_graph_says_so():
    seen = []

    def main():
        me = greenio.current_fiber()
        thread = threading.Thread(target=lambda: (seen.append(graph_once_parked(me)), unpark_fiber(me)), name="giver")
        thread.start()
        woken = park_here("channel receive")
        thread.join()
        return woken

    assert greenio.run(main) is True
    (remark,) = seen[0].remarks
    assert "1 other OS threads run Python and may wake a fiber" in remark


def test_a_run_with_a_fiber_that_runs_or_a_timer_has_no_remark(on_usr1):
    on_usr1(lambda number, frame: None)

    def main():
        greenio.spawn(greenio.sleep, 10)
        return debug.wait_graph().remarks

    assert greenio.run(main, clock=VirtualClock()) == []


# --- dumps by a signal -----------------------------------------------------------------------------------------------

DUMPED = """
    import os, re, signal, sys, threading, time
    import greenio
    from greenio._scheduler import park_here, unpark_fiber

    def ask():
        os.kill(os.getpid(), signal.SIGUSR1)

    def waiter(token):
        park_here("a token", token)
"""


def dumped(source, **changes):
    return run_child(DUMPED + source, **changes).stderr


def test_a_signal_dumps_parked_fibers_and_a_computing_one():
    text = dumped(
        """
    def computing():
        ask()
        for _ in range(1000):
            pass
    def main():
        greenio.spawn(waiter, ["token"], name="patient")
        greenio.sleep(0)
        computing()
    greenio.run(main, dump_signal=signal.SIGUSR1)
    """
    )
    assert re.match(r"greenio: 2 fibers, as SIGUSR1 found them in process \d+\n", text)
    assert "(main), running\n" in text
    assert "in computing\n" in text
    assert "(patient), waits for a token: ['token'], for " in text
    assert "in waiter\n" in text
    assert "Thread 0x" not in text


@pytest.mark.parametrize("value", ["USR1", "SIGUSR1", "usr1", str(int(signal.SIGUSR1))])
def test_the_environment_can_name_the_signal(value):
    text = dumped("    greenio.run(lambda: (ask(), greenio.sleep(0)))", GREENIO_DUMP_SIGNAL=value)
    assert text.startswith("greenio: 1 fibers, as SIGUSR1 found them")


def test_a_dump_while_all_fibers_wait_tells_cycles_and_goes_on():
    text = dumped(
        """
    class Lock:
        pass
    def main():
        me = greenio.current_fiber()
        lock, other = Lock(), Lock()
        lock.owner = greenio.spawn(park_here, "lock acquire", other, name="one")
        other.owner = greenio.spawn(park_here, "lock acquire", lock, name="other")
        def from_outside():
            while me.state != "parked":
                time.sleep(0.001)
            ask()
            time.sleep(0.05)
            unpark_fiber(me)
        thread = threading.Thread(target=from_outside)
        thread.start()
        park_here("nothing")
        thread.join()
    greenio.run(main, dump_signal=signal.SIGUSR1)
    """
    )
    assert re.search(r"in a circle, for ever: fiber \d+ \(one\) -> fiber \d+ \(other\) -> the first\n", text)
    assert "not called a deadlock: " in text


@pytest.mark.slow
def test_a_dump_of_a_fiber_in_a_c_call_that_does_not_come_back():
    # The call holds the GIL and looks at no signals: only C can tell.
    text = dumped(
        """
    from itertools import repeat
    def stuck():
        begun = time.monotonic()
        sum(map(int, repeat("7777777", 100_000)))
        count = int(100_000 * 3 / (time.monotonic() - begun))  # three seconds' worth
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        begun = time.monotonic()
        sum(map(int, repeat("7777777", count)))
        print("back", "%.1f" % (time.monotonic() - begun), file=sys.stderr, flush=True)
    def main():
        greenio.spawn(waiter, ["token"], name="patient")
        greenio.sleep(0)
        stuck()
    greenio.run(main, dump_signal=signal.SIGALRM)
    """
    )
    # First faulthandler's, of every fiber; then Python's, when the call came back.
    first, second = text.split("greenio: 2 fibers", 1)
    assert first.count("Thread 0x") >= 1
    assert "in stuck" in first
    assert "in waiter" in first
    assert "(patient), waits for a token" in second
    assert re.search(r"back \d+\.\d\n$", second)


def test_a_dump_signal_keeps_no_deadlock_away():
    text = dumped(
        """
    try:
        greenio.run(park_here, "nothing", dump_signal=signal.SIGUSR1)
    except greenio.DeadlockError:
        print("deadlock", file=sys.stderr)
    """
    )
    assert text == "deadlock\n"


def test_the_handler_of_before_is_called_after_the_dump_and_put_back():
    text = dumped(
        """
    def before(number, frame):
        print("before", number == signal.SIGUSR1, file=sys.stderr, flush=True)
    signal.signal(signal.SIGUSR1, before)
    greenio.run(lambda: (ask(), greenio.sleep(0)), dump_signal=signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is before
    ask()
    """
    )
    assert text.startswith("greenio: 1 fibers")
    assert text.count("greenio:") == 1
    assert text.count("before True\n") == 2


def test_a_handler_that_the_program_installs_meanwhile_stays():
    dumped(
        """
    def later(number, frame):
        called.append(number)
    called = []
    greenio.run(lambda: signal.signal(signal.SIGUSR1, later), dump_signal=signal.SIGUSR1)
    ask()
    assert called == [signal.SIGUSR1]
    greenio.run(lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN), dump_signal=signal.SIGUSR1)
    ask()
    assert called == [signal.SIGUSR1]
    """
    )


def test_a_forked_child_dumps_too():
    text = dumped(
        """
    def main():
        child = os.fork()
        if child == 0:
            ask()
            greenio.sleep(0)
            os._exit(0)
        os.waitpid(child, 0)
    greenio.run(main, dump_signal=signal.SIGUSR1)
    """
    )
    assert text.count("greenio: 1 fibers") == 1


def test_a_child_forked_by_another_os_thread_has_no_dump_signal_and_may_have_its_own():
    text = run_child(
        DUMPED
        + """
    def in_child():
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        greenio.run(lambda: (ask(), greenio.sleep(0)), dump_signal=signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        os.environ["GREENIO_DUMP_SIGNAL"] = "USR1"
        greenio.run(greenio.sleep, 0)
        os.kill(os.getpid(), signal.SIGUSR1)
    def fork():
        child = os.fork()
        if child == 0:
            try:
                in_child()
            finally:
                os._exit(1)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    def main():
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
        assert statuses == [-signal.SIGUSR1], statuses
        ask()
        greenio.sleep(0)
    statuses = []
    greenio.run(main, dump_signal=signal.SIGUSR1)
    """,
        flags=("-W", "error", "-W", "ignore::DeprecationWarning"),
    ).stderr
    assert text.count("greenio: 1 fibers") == 2


def test_a_signal_that_comes_while_it_is_installed_is_answered_and_touches_no_timer_of_others():
    text = dumped(
        """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    event = (ctypes.c_int * 16)(0, 0, 0, 1)   # SIGEV_NONE
    timer = ctypes.c_void_p()
    assert libc.timer_create(1, event, ctypes.byref(timer)) == 0
    times = (ctypes.c_long * 4)(0, 0, 3600, 0)
    assert libc.timer_settime(timer, 0, times, None) == 0
    register = signal.signal
    def then_ask(number, handler):
        before = register(number, handler)
        if callable(handler):
            ask()
        return before
    signal.signal = then_ask
    greenio.run(lambda: greenio.sleep(0), dump_signal=signal.SIGUSR1)
    assert libc.timer_gettime(timer, times) == 0
    assert times[2] > 3000, list(times)
    """
    )
    assert text.count("greenio: 1 fibers") == 1


def test_afterwards_everything_is_as_before():
    before = signal.getsignal(signal.SIGUSR1)
    for _ in range(3):
        assert greenio.run(lambda: 7, dump_signal=signal.SIGUSR1) == 7
        assert signal.getsignal(signal.SIGUSR1) is before
    with pytest.raises(LookupError):
        greenio.run(lambda: {}["missing"], dump_signal=signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is before


def test_only_a_run_on_the_main_os_thread_can_have_a_dump_signal(monkeypatch):
    monkeypatch.setenv("GREENIO_DUMP_SIGNAL", "USR1")
    errors, results = [], []

    def other():
        try:
            greenio.run(lambda: 1, dump_signal=signal.SIGUSR1)
        except RuntimeError as error:
            errors.append(str(error))
        results.append(greenio.run(lambda: 2))  # the environment's is for the main OS thread

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert "main OS thread" in errors[0]
    assert results == [2]


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGKILL, OSError), (4242, ValueError), (signal.SIGSEGV, (ValueError, RuntimeError))]
)
def test_a_signal_that_cannot_be_handled_is_refused(number, error):
    with pytest.raises(error):
        greenio.run(lambda: 1, dump_signal=number)
    assert greenio.run(lambda: 1) == 1


def test_a_signal_that_c_code_handles_is_refused():
    import faulthandler

    faulthandler.register(signal.SIGUSR1, file=sys.__stderr__)
    try:
        with pytest.raises(RuntimeError, match="SIGUSR1 is handled outside of Python"):
            greenio.run(lambda: 1, dump_signal=signal.SIGUSR1)
    finally:
        faulthandler.unregister(signal.SIGUSR1)


def test_a_wrong_name_in_the_environment_is_named(monkeypatch):
    monkeypatch.setenv("GREENIO_DUMP_SIGNAL", "HUPS")
    with pytest.raises(ValueError, match="GREENIO_DUMP_SIGNAL: no such signal: 'HUPS'"):
        greenio.run(lambda: 1)


# --- the words for what is seldom seen -----------------------------------------------------------------------------------


@needs_locks
def test_a_lock_taken_twice_is_a_circle_of_one():
    def main():
        lock = greenio.Lock()

        def twice():
            with lock:
                return lock.acquire(timeout=5)

        fiber = greenio.spawn(twice)
        wait_all_parked()
        text = str(debug.wait_graph())
        assert text.startswith("a fiber waits for itself:\n"), text  # and not for ever: it has a timeout
        assert [[node.fiber for node in circle] for circle in debug.wait_graph().cycles()] == [[fiber]]
        assert fiber.result() is False

    greenio.run(main, clock=VirtualClock())


@needs_locks
def test_a_large_circle_shows_the_first_stacks_only():
    def main():
        count = 12
        locks = [greenio.Lock() for _ in range(count)]

        def take(number):
            with locks[number]:
                greenio.yield_now()
                with locks[(number + 1) % count]:
                    pass

        fibers = [greenio.spawn(take, number) for number in range(count)]
        wait_all_parked()
        text = str(debug.wait_graph())
        assert text.startswith("12 fibers wait for one another in a circle, for ever:\n"), text
        assert "(the stacks of the first 10 follow)" in text
        for fiber in fibers:
            fiber.cancel()

    greenio.run(main, clock=VirtualClock())


def test_a_fiber_that_is_waited_for_is_named():
    def main():
        sleeper = greenio.spawn(greenio.sleep, 10, name="sleeper")
        waiters = [greenio.spawn(sleeper.join) for _ in range(2)]
        wait_all_parked()
        text = str(debug.wait_graph())
        assert len(debug.wait_graph().edges) == len(waiters)
        assert f": {sleeper.id} (sleeper)" in text, text

    greenio.run(main, clock=VirtualClock())


def test_calls_in_other_os_threads_and_signals_without_a_name_are_told():
    number = signal.SIGRTMIN + 3
    before = signal.signal(number, lambda *_: None)

    def main():
        me = greenio.current_fiber()
        return greenio.to_thread(graph_once_parked, me)

    try:
        graph = greenio.run(main)
    finally:
        signal.signal(number, before)
    (remark,) = graph.remarks
    assert "1 calls are out in other OS threads" in remark
    assert f"a Python handler for signal {number} is installed and may wake a fiber" in remark
