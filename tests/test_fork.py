"""Fork while fibers run: the child has one fiber, the one that forked, and ends as an interpreter does.

Every test is a script in a process of its own, with all warnings as errors: from 3.12 on os.fork warns of other OS
threads, the watching thread of the scheduler must not be one.
"""

import sys

import pytest
from child import run_child

PRELUDE = """
import atexit, os, signal, sys, threading, time
import greenio
from greenio import debug
from greenio._scheduler import live_schedulers, park_here, unpark_fiber

def wait_for(pid):
    # The child's exit status, as subprocess has it.
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)

def prove_that_fibers_work():
    order = []
    start = greenio.current_time()
    def worker(name):
        greenio.sleep_until(start + 0.001 * name)
        order.append(name)
        return name
    fibers = [greenio.spawn(worker, name) for name in (3, 1, 2)]
    assert [fiber.result() for fiber in fibers] == [3, 1, 2]
    assert sorted(order) == [1, 2, 3]
    assert greenio.current_fiber() in debug.fibers()

def in_child(fn, *args):
    # fn(*args) in a forked child, which ends there; its exit status.
    pid = os.fork()
    if pid:
        return wait_for(pid)
    status = 99
    try:
        fn(*args)
        status = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        os._exit(status)

def nested(depth, fn, *args):
    # Through C calls.
    if depth:
        return max([0], key=lambda _: results.append(nested(depth - 1, fn, *args)) or 0)
    return fn(*args)
results = []
"""
MALLOC = pytest.mark.parametrize("malloc", ["pymalloc", "debug"])


def run_script(script, *arguments, **keywords):
    import textwrap

    return run_child(PRELUDE + textwrap.dedent(script), *arguments, **keywords)


@MALLOC
def test_a_fork_from_main_leaves_a_working_child_and_parent(malloc):
    child = run_script(
        """
        def main():
            others = [greenio.spawn(greenio.sleep, 0.05, name="other") for _ in range(20)]
            greenio.sleep(0)
            def check():
                assert len(debug.fibers()) == 1
                prove_that_fibers_work()
            assert in_child(check) == 0
            prove_that_fibers_work()
            for other in others:
                other.result()
        greenio.run(main)
        print("parent done")
        """,
        PYTHONMALLOC=malloc,
    )
    assert (child.stdout, child.stderr) == ("parent done\n", "")


@MALLOC
def test_a_fork_from_a_spawned_fiber_leaves_a_working_child_and_parent(malloc):
    child = run_script(
        """
        def check(me, main_fiber, other):
            assert greenio.current_fiber() is me
            assert debug.fibers() == [me]
            assert greenio.current_scheduler().main is me
            for gone in (main_fiber, other):
                assert gone.state == "done"
                assert gone.ident is None and list(gone.stack) == [] and gone.waits_for is None
                assert not gone.cancel()
                try:
                    gone.result()
                except greenio.RunFinishedError as error:
                    assert "did not come along" in str(error)
                else:
                    assert False
            prove_that_fibers_work()
        def forks(main_fiber, other):
            assert in_child(check, greenio.current_fiber(), main_fiber, other) == 0
            prove_that_fibers_work()
            return "parent"
        def main():
            other = greenio.spawn(greenio.sleep, 0.05)
            greenio.sleep(0)
            assert greenio.spawn(forks, greenio.current_fiber(), other).result() == "parent"
            other.result()
        greenio.run(main)
        print("parent done")
        """,
        PYTHONMALLOC=malloc,
    )
    assert (child.stdout, child.stderr) == ("parent done\n", "")


@MALLOC
def test_a_fork_in_nested_calls_and_on_a_big_stack(malloc):
    child = run_script(
        """
        def forks():
            assert in_child(prove_that_fibers_work) == 0
        def main():
            me = greenio.current_fiber()
            ident = me.ident
            nested(10, forks)
            greenio.on_big_stack(forks)
            assert me.ident == ident
            def spawned():
                ident = greenio.current_fiber().ident
                nested(10, forks)
                greenio.on_big_stack(forks)
                greenio.on_big_stack(nested, 5, forks)
                assert greenio.current_fiber().ident == ident
            greenio.spawn(spawned).result()
            greenio.spawn(greenio.on_big_stack, forks).result()
        greenio.run(main)
        print("parent done")
        """,
        PYTHONMALLOC=malloc,
    )
    assert (child.stdout, child.stderr) == ("parent done\n", "")


ENDINGS = [
    ("return 5", 0, ""),
    ("sys.exit()", 0, ""),
    ("sys.exit(7)", 7, ""),
    ("sys.exit('a text')", 1, "a text"),
    ("raise LookupError('in the child')", 1, "LookupError: in the child"),
    ("greenio.spawn(sys.exit, 8); greenio.sleep(100)", 8, ""),
    ("greenio.current_fiber().cancel('why'); greenio.sleep(1)", 1, "why"),
    ("park_here('nothing')", 1, "DeadlockError"),
]


@MALLOC
@pytest.mark.parametrize("big_stack", [False, True], ids=["own stack", "big stack"])
@pytest.mark.parametrize(("ending", "status", "stderr"), ENDINGS, ids=[ending for ending, _, _ in ENDINGS])
def test_when_the_forking_fibers_callable_returns_the_child_ends_as_an_interpreter_does(
    ending, status, stderr, malloc, big_stack
):
    if big_stack and malloc == "debug":
        pytest.skip("one of the two at a time")
    child = run_script(
        f"""
        parent = os.getpid()
        def farewell():
            if os.getpid() != parent:
                print("atexit in the child", end="\\n")
        atexit.register(farewell)
        def sleeper():
            try:
                park_here("for ever")
            finally:
                print("unwound")
        def forks():
            pid = os.fork()
            if pid:
                return wait_for(pid)
            greenio.spawn(sleeper)
            greenio.sleep(0)
            sys.stdout.write("not flushed; ")
            {ending}
        def main():
            fiber = greenio.spawn({"greenio.on_big_stack, " if big_stack else ""}forks)
            status = fiber.result()
            assert status == {status}, status
            prove_that_fibers_work()
        greenio.run(main)
        print("parent done")
        """,
        PYTHONMALLOC=malloc,
    )
    assert child.stdout == "not flushed; unwound\natexit in the child\nparent done\n"
    assert stderr in child.stderr
    assert (child.stderr == "") == (stderr == "")


def test_when_main_forks_the_child_returns_from_run_too():
    child = run_script(
        """
        def main():
            pid = os.fork()
            return wait_for(pid) if pid else "child"
        outcome = greenio.run(main)
        assert live_schedulers() == []
        if outcome == "child":
            assert greenio.run(lambda: greenio.spawn(len, "abc").result()) == 3
            sys.exit(6)
        print("status", outcome)
        """
    )
    assert child.stdout == "status 6\n"


def test_a_forked_child_forks_again():
    child = run_script(
        """
        def generation(depth):
            prove_that_fibers_work()
            if depth:
                status = None
                def forks():
                    nonlocal status
                    status = in_child(generation, depth - 1)
                greenio.spawn(forks).join()
                assert status == 0
        greenio.run(generation, 4)
        print("done")
        """
    )
    assert child.stdout == "done\n"


@pytest.mark.slow
def test_forks_by_many_fibers_one_after_the_other():
    child = run_script(
        """
        def forks(name):
            for _ in range(3):
                assert in_child(prove_that_fibers_work) == 0
                greenio.yield_now()
            return name
        def main():
            fibers = [greenio.spawn(forks, name) for name in range(5)]
            assert [fiber.result() for fiber in fibers] == list(range(5))
        greenio.run(main)
        print("done")
        """
    )
    assert child.stdout == "done\n"


def test_the_child_of_a_spawned_fiber_may_run_again_at_exit():
    child = run_script(
        """
        parent = os.getpid()
        def forks():
            pid = os.fork()
            if pid:
                return wait_for(pid)
            atexit.register(lambda: print("ran", greenio.run(lambda: greenio.spawn(len, "abc").result())))
        assert greenio.run(lambda: greenio.spawn(forks).result()) == 0
        """
    )
    assert child.stdout == "ran 3\n"


# --- descriptors, timers and signals in the child --------------------------------------------------------------------


def test_timers_of_the_parents_fibers_do_not_fire_in_the_child():
    child = run_script(
        """
        def sleeper():
            greenio.sleep(0.02)
            print("woken in", "parent" if os.getpid() == parent else "child", flush=True)
        parent = os.getpid()
        def main():
            fibers = [greenio.spawn(sleeper) for _ in range(3)]
            greenio.sleep(0)
            assert in_child(greenio.sleep, 0.06) == 0
            for fiber in fibers:
                fiber.join()
        greenio.run(main)
        """
    )
    assert child.stdout == "woken in parent\n" * 3


def test_the_child_has_kernel_objects_of_its_own():
    run_script(
        """
        def objects():
            found = {}
            for name in os.listdir("/proc/self/fd"):
                try:
                    target = os.readlink(f"/proc/self/fd/{name}")
                except FileNotFoundError:
                    continue
                found.setdefault(target.split("[")[0].split(":")[0], set()).add(target)
            return found
        def main():
            before = objects()
            def check():
                greenio.sleep(0.001)
                now = objects()
                assert len(now["anon_inode"]) == len(before["anon_inode"])
                assert not now["pipe"] & (before["pipe"] - at_start.get("pipe", set())), (now, before)
            assert in_child(check) == 0
            assert greenio.spawn(in_child, check).result() == 0
        at_start = objects()
        greenio.run(main)
        """
    )


@pytest.mark.parametrize("where", ["main", "spawned"])
@pytest.mark.parametrize("state", ["computing", "idle", "computing in a spawned fiber"])
def test_ctrl_c_works_in_the_child(where, state):
    child = run_script(
        """
        def compute():
            until = time.monotonic() + 20
            while time.monotonic() < until:
                pass
        def in_the_child(state):
            greenio.sleep(0.001)
            if os.fork() == 0:
                # Not through os.kill in the process itself, which looks for signals at once.
                time.sleep(0.05)
                os.kill(os.getppid(), signal.SIGINT)
                os._exit(0)
            greenio.yield_now()  # the watching thread starts again at the next look around
            start = time.monotonic()
            try:
                if state == "computing":
                    compute()
                elif state == "idle":
                    greenio.sleep(20)
                else:
                    greenio.spawn(compute).join()
            except KeyboardInterrupt:
                assert time.monotonic() - start < 10
                os._exit(42)
        def forks(state):
            pid = os.fork()
            if pid:
                return wait_for(pid)
            in_the_child(state)
            os._exit(1)
        def main(where, state):
            greenio.sleep(0.001)
            status = forks(state) if where == "main" else greenio.spawn(forks, state).result()
            assert status == 42, status
        greenio.run(main, *sys.argv[1:])
        """,
        where,
        state,
    )
    assert child.stderr == ""


def test_handlers_run_in_the_child_and_not_in_the_parent():
    child = run_script(
        """
        def forks():
            me = greenio.current_fiber()
            seen = []
            signal.signal(signal.SIGUSR1, lambda *_: (seen.append(os.getpid()), unpark_fiber(me)))
            reader, writer = os.pipe()
            pid = os.fork()
            if pid:
                os.read(reader, 1)
                os.kill(pid, signal.SIGUSR1)
                status = wait_for(pid)
                greenio.sleep(0.01)
                assert seen == []
                return status
            os.write(writer, b"ready")
            while not seen:
                park_here("a signal", None, 0.5)
            assert seen == [os.getpid()]
            os._exit(11)
        assert greenio.run(lambda: greenio.spawn(forks).result()) == 11
        """
    )
    assert child.stderr == ""


def test_a_handler_on_the_idle_loop_may_fork():
    child = run_script(
        """
        statuses = []
        def handle(number, frame):
            pid = os.fork()
            if pid == 0:
                return
            statuses.append(wait_for(pid))
            signal.setitimer(signal.ITIMER_REAL, 0)
        def main():
            parent = os.getpid()
            signal.signal(signal.SIGALRM, handle)
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            greenio.spawn(greenio.sleep, 0.2)
            greenio.sleep(0)
            greenio.sleep(0.1)  # main hosts the idle loop; in the child it goes on, too
            prove_that_fibers_work()
            if os.getpid() != parent:
                os._exit(12)
        greenio.run(main)
        assert statuses == [12], statuses
        """
    )
    assert child.stderr == ""


def test_the_computing_parent_hears_of_signals_after_a_fork():
    # The watching thread, which brings signals to a fiber that computes on 3.13 and later, ends before the fork.
    run_script(
        """
        def compute():
            # A call of its own: on 3.13 a `while` right in the `try` may be interrupted where no `except` covers it.
            until = time.monotonic() + 20
            while time.monotonic() < until:
                pass
        def main():
            def worker():
                assert in_child(int) == 0
                if os.fork() == 0:
                    time.sleep(0.05)
                    os.kill(os.getppid(), signal.SIGINT)
                    os._exit(0)
                greenio.yield_now()
                try:
                    compute()
                except KeyboardInterrupt:
                    return "heard"
            assert greenio.spawn(worker).result() == "heard"
            os.wait()
        greenio.run(main)
        """
    )


# --- other OS threads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forker", ["main thread in run", "main thread outside", "plain thread", "other run"])
@MALLOC
def test_a_fork_while_other_os_threads_run_schedulers(forker, malloc):
    # os.fork rightly warns of those threads.
    child = run_script(
        """
        ready, go_on = threading.Barrier(3), threading.Event()
        fibers = []
        def other():
            fibers.extend(greenio.spawn(greenio.sleep, 100) for _ in range(5))
            fibers.append(greenio.current_fiber())
            greenio.sleep(0)
            ready.wait()
            while not go_on.is_set():
                greenio.sleep(0.001)
        threads = [threading.Thread(target=greenio.run, args=(other,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        ready.wait()
        def check():
            for fiber in fibers:
                assert fiber.done() and fiber.state == "done", fiber
                assert fiber.ident is None and list(fiber.stack) == []
                try:
                    fiber.result(1)
                except greenio.RunFinishedError:
                    pass
                else:
                    assert False
                assert not fiber.cancel()
            try:
                fibers[0].scheduler.spawn(print)
            except greenio.RunFinishedError:
                pass
            else:
                assert False
            signal.set_wakeup_fd(signal.set_wakeup_fd(-1))
            if greenio._scheduler.running_scheduler() is None:
                greenio.run(prove_that_fibers_work)
            else:
                prove_that_fibers_work()
            import gc
            fibers.clear()
            gc.collect()
            assert len(debug.fibers()) == (1 if live_schedulers() else 0)
        def forks():
            assert in_child(check) == 0
        forker = sys.argv[1]
        if forker == "main thread in run":
            greenio.run(forks)
            greenio.run(lambda: greenio.spawn(forks).result())
        elif forker == "main thread outside":
            forks()
        else:
            failures = []
            def call():
                try:
                    greenio.run(lambda: greenio.spawn(forks).result()) if forker == "other run" else forks()
                except BaseException as error:
                    failures.append(error)
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
            assert not failures, failures
        go_on.set()
        for thread in threads:
            thread.join()
        print("parent done")
        """,
        forker,
        flags=("-W", "ignore::DeprecationWarning"),
        PYTHONMALLOC=malloc,
    )
    assert (child.stdout, child.stderr) == ("parent done\n", "")


def test_a_fork_outside_run_after_one():
    run_script(
        """
        greenio.run(prove_that_fibers_work)
        assert in_child(greenio.run, prove_that_fibers_work) == 0
        greenio.run(prove_that_fibers_work)
        """
    )


# --- the standard library's forks ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("where", ["main", "spawned"])
def test_multiprocessing_with_fork(where):
    child = run_script(
        """
        import multiprocessing
        def square(number):
            greenio.sleep(0.001) if live_schedulers() else None
            return number * number
        def produce(queue, numbers):
            for number in numbers:
                queue.put(greenio.spawn(square, number).result())
        def use():
            context = multiprocessing.get_context("fork")
            process = context.Process(target=prove_that_fibers_work)
            process.start()
            process.join()
            assert process.exitcode == 0
            process = context.Process(target=sys.exit, args=(9,))
            process.start()
            process.join()
            assert process.exitcode == 9
            queue = context.Queue()
            process = context.Process(target=produce, args=(queue, range(5)))
            process.start()
            assert [queue.get() for _ in range(5)] == [0, 1, 4, 9, 16]
            process.join()
            assert process.exitcode == 0
            queue.close()
            queue.join_thread()
            with context.Pool(2) as pool:
                assert pool.map(square, range(10)) == [number * number for number in range(10)]
            prove_that_fibers_work()
        greenio.run(use if sys.argv[1] == "main" else lambda: greenio.spawn(use).result())
        print("done")
        """,
        where,
        flags=("-W", "ignore::DeprecationWarning"),  # the pool's own threads
    )
    assert (child.stdout, child.stderr) == ("done\n", "")


@pytest.mark.slow
def test_subprocess_with_preexec_fn():
    child = run_script(
        """
        import subprocess
        def use():
            for _ in range(3):
                out = subprocess.run(["sh", "-c", "echo $$"], stdout=subprocess.PIPE, preexec_fn=os.setsid, text=True).stdout
                assert int(out)
            prove_that_fibers_work()
        greenio.run(use)
        greenio.run(lambda: greenio.spawn(use).result())
        print("done")
        """
    )
    assert (child.stdout, child.stderr) == ("done\n", "")


def test_forkpty():
    child = run_script(
        """
        def use():
            pid, terminal = os.forkpty()
            if pid == 0:
                try:
                    prove_that_fibers_work()
                    print("from the child", flush=True)
                except BaseException as error:
                    print(error, flush=True)
                finally:
                    os.read(0, 1)  # the terminal's end: what was written is read before
                    os._exit(0)
            text = os.read(terminal, 100)
            assert b"from the child" in text, text
            os.write(terminal, bytes([10]))
            assert wait_for(pid) == 0
            os.close(terminal)
            prove_that_fibers_work()
        greenio.run(use)
        greenio.run(lambda: greenio.spawn(use).result())
        print("done")
        """
    )
    assert (child.stdout, child.stderr) == ("done\n", "")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="older interpreters do not warn")
def test_fork_warns_of_other_os_threads_only():
    child = run_script(
        """
        import warnings
        def main():
            for _ in range(30):
                assert in_child(int) == 0  # a warning would be an error
                greenio.sleep(0.006)  # the watching thread has started again
            thread = threading.Thread(target=time.sleep, args=(0.2,))
            thread.start()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                assert in_child(int) == 0
            thread.join()
            assert len(caught) == 1 and "multi-threaded" in str(caught[0].message), caught
        greenio.run(main)
        print("done")
        """
    )
    assert (child.stdout, child.stderr) == ("done\n", "")


@pytest.mark.parametrize("wait", ["channel.receive()", "greenio.select(channel, greenio.Event()).value"])
def test_what_a_handler_forked_on_top_of_a_waiting_fiber_still_waits(wait):
    child = run_child(
        f"""
        import os, signal, greenio
        channel = greenio.Channel(1)
        children = []

        def handler(*_):
            pid = os.fork()
            if pid == 0:
                greenio.spawn(channel.send, "child's")
            else:
                children.append(pid)
                channel.send_nowait("parent's")

        def main():
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            os.write(1, ({wait} + "\\n").encode())  # at once: two processes write
            for pid in children:
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        greenio.run(main)
        """,
        flags=("-W", "ignore"),
    )
    assert sorted(child.stdout.split()) == ["child's", "parent's"]


def test_a_line_that_a_forked_handler_used_has_no_place_of_the_parents():
    child = run_child(
        """
        import os, signal, greenio
        semaphore = greenio.Semaphore(0)
        children = []

        def handler(*_):
            pid = os.fork()
            if pid:
                children.append(pid)
            else:
                semaphore.release()
                assert semaphore.acquire(False)
            greenio.spawn(semaphore.release)
            greenio.spawn(semaphore.release)

        def main():
            other = greenio.spawn(semaphore.acquire)
            greenio.yield_now()
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            assert semaphore.acquire()
            greenio.yield_now()
            if children:
                assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
                assert other.result() is True
            os.write(1, (repr(semaphore).split(": ")[1] + "\\n").encode())

        greenio.run(main)
        """,
        flags=("-W", "ignore"),
    )
    assert sorted(child.stdout.split("\n")) == ["", "value=0>", "value=1>"]
