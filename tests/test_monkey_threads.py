"""greenio.monkey and threads: threads are fibers, locks and queues park, those that were there before as well."""

import importlib.util
import signal

import pytest

from tests.child import run_child

START = """
import _thread, contextvars, gc, logging, os, queue, signal, sys, threading, time, weakref
import greenio, greenio.monkey
"""


def check(text: str, before: str = "", status: int | None = 0, flags: tuple[str, ...] = ("-W", "error")) -> str:
    """Run *text* in a patched child; *before* before the patch. Returns the standard error's text."""
    import textwrap

    source = START + textwrap.dedent(before) + "\ngreenio.monkey.patch_all()\n" + textwrap.dedent(text)
    child = run_child(source, status=status, flags=flags)
    return child.stdout + child.stderr


def test_a_thread_is_a_fiber_with_an_ident_of_its_own():
    check("""
        seen = []
        def work(number):
            me = threading.current_thread()
            assert greenio.can_park() and me.ident == threading.get_ident() == _thread.get_ident() == greenio.current_fiber().ident
            assert threading.get_ident() in sys._current_frames() and sys._current_frames()[threading.get_ident()] is sys._getframe()
            assert me in threading.enumerate() and greenio.current_fiber().name == me.name
            assert logging.LogRecord("x", 1, "f", 1, "m", (), None).thread == threading.get_ident()
            gates[number].acquire()
            seen.append(number)
            if number: gates[number - 1].release()
        gates = [threading.Lock() for _ in range(3)]
        for gate in gates: gate.acquire()
        threads = [threading.Thread(target=work, args=(n,), name=f"worker {n}") for n in range(3)]
        for thread in threads: thread.start()
        assert all(thread.is_alive() for thread in threads) and threading.active_count() == 4
        assert len({thread.ident for thread in threads}) == len({thread.native_id for thread in threads}) == 3
        assert _thread._count() == 3
        gates[2].release()
        for thread in threads: thread.join()
        assert seen == [2, 1, 0] and threading.active_count() == 1 and _thread._count() == 0
        assert not any(thread.is_alive() for thread in threads)
        assert threading.main_thread().ident == threading.get_ident() == _thread.get_ident()
    """)


def test_enumerate_lists_the_programs_threads():
    check("""
        from threading import active_count, enumerate as listed
        def in_another():
            me = threading.current_thread()
            assert me in threading.enumerate() and threading.active_count() == 3
            return me
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait); thread.start()
        other = greenio.monkey.get_original("threading", "Thread")(target=stop.wait)
        ours = greenio.to_thread(in_another)
        assert ours.is_alive() and ours in greenio.monkey.get_original("threading", "enumerate")()
        assert listed() == threading.enumerate() == [threading.main_thread(), thread]
        assert active_count() == threading.active_count() == 2
        other.start()
        assert set(listed()) == {threading.main_thread(), thread, other} and active_count() == 3
        stop.set(); other.join(); thread.join()
    """)


def test_join_waits_with_a_timeout_and_refuses_what_the_standard_one_refuses():
    check("""
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait)
        try: thread.join()
        except RuntimeError: pass
        else: raise SystemExit("joined before its start")
        thread.start()
        thread.join(0.001); assert thread.is_alive()
        thread.join(-1); assert thread.is_alive()
        try: threading.current_thread().join()
        except RuntimeError: pass
        else: raise SystemExit("joined itself")
        with greenio.move_on_after(0.001): thread.join()
        assert thread.is_alive()
        stop.set(); thread.join(); thread.join(); assert not thread.is_alive()
        try: thread.start()
        except RuntimeError: pass
        else: raise SystemExit("started twice")
    """)


def test_a_failing_thread_goes_to_the_excepthook_once_and_to_nobody_else():
    text = check("""
        logging.basicConfig()
        told = []
        threading.excepthook = told.append
        def fails(): raise ValueError("of purpose")
        def leaves(): raise SystemExit(3)
        for function in (fails, leaves):
            thread = threading.Thread(target=function); thread.start(); thread.join()
        assert [args.exc_type for args in told] == [ValueError, SystemExit] and told[0].thread is not None
        threading.excepthook = threading.__excepthook__
        thread = threading.Thread(target=fails, name="the failing one"); thread.start(); thread.join()
        thread = threading.Thread(target=leaves); thread.start(); thread.join()
        raw = []
        sys.unraisablehook = raw.append
        _thread.start_new_thread(fails, ())
        _thread.start_new_thread(leaves, ())
        time.sleep(0)
        assert len(raw) == 1 and raw[0].exc_type is ValueError and "thread started by" in raw[0].err_msg
        raw.clear()
        del told, thread
    """)
    assert text.count("ValueError: of purpose") == 1
    assert "Exception in thread the failing one" in text
    assert "nobody asked" not in text


def test_locks_made_and_bound_before_the_patch_park():
    check(
        """
        lock.acquire()
        order = []
        def waiter(name, take, give):
            take(); order.append(name); give()
        threads = [
            threading.Thread(target=waiter, args=("bound", acquire, release)),
            threading.Thread(target=waiter, args=("with", lock.__enter__, lambda: lock.__exit__(None, None, None))),
            threading.Thread(target=waiter, args=("keyword", lambda: lock.acquire(blocking=True, timeout=5), lock.release)),
        ]
        for thread in threads: thread.start()
        time.sleep(0)
        order.append("main"); release()
        assert lock.acquire(False)          # who runs may have it again,
        time.sleep(0); release()
        assert not lock.acquire(False)      # but then it is handed over: who releases and acquires in a loop keeps nobody out
        for thread in threads: thread.join()
        assert order == ["main", "bound", "with", "keyword"], order
        assert lock.acquire(False) and lock.locked() and not lock.acquire(timeout=0.001)
        lock.release()
        for wrong in (lambda: lock.release(), lambda: lock.acquire(False, 1), lambda: lock.acquire(True, -2),
                      lambda: lock.acquire(1, 2, 3),
                      lambda: lock.acquire(wrong=1), lambda: lock.acquire(timeout="1"), lambda: lock.acquire(timeout=1e20)):
            try: wrong()
            except (RuntimeError, ValueError, TypeError, OverflowError): assert not lock.locked()
            else: raise SystemExit("not refused")
        """,
        before="lock = threading.Lock(); acquire, release = lock.acquire, lock.release",
    )


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_lock_in_much_use_does_not_make_everybody_take_turns(kind: str):
    check(f"""
        lock = threading.{kind}()
        steps = []
        def work(number):
            with lock: steps.append(number)
            with lock: steps.append(number)
        with lock:
            threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
            for thread in threads: thread.start()
            time.sleep(0)
        for thread in threads: thread.join()
        assert steps == sorted(steps) and len(steps) == 10, steps

        def count():
            for _ in range(100):
                with lock: pass
            lasted.append(greenio.current_fiber().id)
        lasted = []
        for _ in range(50):     # one of them has its 1 ms, however busy the machine is
            lasted.clear()
            first = threading.Thread(target=count); second = threading.Thread(target=lambda: lasted.append(0))
            first.start(); second.start(); first.join(); second.join()
            if lasted[-1] == 0: break
        else: raise SystemExit("100 operations were cut short each time")

        got = []
        def wait(name):
            with lock: got.append(name)
        lock.acquire()
        waiting = [greenio.spawn(wait, n) for n in range(3)]
        time.sleep(0)
        lock.release(); assert lock.acquire(False)      # the first is awake, and loses
        waiting[0].cancel(); time.sleep(0)
        assert waiting[0].done() and not got
        lock.release(); waiting[1].join(5); waiting[2].join(5)
        assert got == [1, 2] and lock.acquire(False)
    """)


def test_an_rlock_belongs_to_a_fiber():
    check(
        """
        held.acquire(); assert held._is_owned() and "count=3" in repr(held)
        order = []
        def other():
            assert not held._is_owned() and not held.acquire(False)
            try: held.release()
            except RuntimeError: order.append("refused")
            with held, held:
                order.append("other"); time.sleep(0.001)
            order.append("released")
        thread = threading.Thread(target=other); thread.start()
        time.sleep(0.001)
        for _ in range(3): order.append("main"); held.release()
        assert not held._is_owned() and held.acquire(False)
        time.sleep(0); held.release()
        assert not held._is_owned() and not held.acquire(False)
        with held: order.append("again")
        thread.join()
        assert order == ["refused", "main", "main", "main", "other", "released", "again"], order
        condition = threading.Condition(held)
        def notify():
            with condition: order.append("notify"); condition.notify()
        with held, held:
            thread = threading.Thread(target=notify); thread.start()
            assert condition.wait(5) and held._is_owned() and "count=2" in repr(held)
        thread.join()
        assert "locked" in repr(held)
        """,
        before="held = threading.RLock(); held.acquire(); held.acquire()",
    )


def test_an_rlock_that_a_fiber_holds_when_it_patches_stays_its_own():
    run_child(
        START
        + """
import greenio.monkey as monkey
lock = threading.RLock()
def patches():
    with lock:
        greenio.yield_now()
        monkey.patch_all()
        assert lock._is_owned()
        import http.client   # a module's lock, and what is imported inside
    assert not lock._is_owned()
def main():
    fiber = greenio.spawn(patches); fiber.result()
    assert lock.acquire(False)
greenio.run(main)
"""
    )


def test_a_cancelled_waiter_leaves_locks_and_conditions_in_order():
    check("""
        lock, condition = threading.Lock(), threading.Condition()
        lock.acquire()
        with greenio.move_on_after(0.001) as scope:
            lock.acquire()
        assert scope.cancelled_caught and lock.locked()
        lock.release(); assert lock.acquire(False); lock.release()
        with condition:
            with greenio.move_on_after(0.001) as scope:
                condition.wait()
            assert scope.cancelled_caught and condition._is_owned()
        for plain in (threading.Condition(threading.Lock()), threading.Condition(threading.RLock())):
            def holds():
                with plain: plain.notify(); time.sleep(0.003)
            with plain:
                thread = threading.Thread(target=holds); thread.start()
                with greenio.move_on_after(0.001): plain.wait()
                assert plain._is_owned()       # although the other one held it when the deadline came
            thread.join()
            assert plain.acquire(False); plain.release()
        simple = queue.SimpleQueue()
        with greenio.move_on_after(0.001): simple.get()
        simple.put(1); assert simple.get() == 1
    """)


def test_a_notification_for_a_waiter_that_is_cancelled_in_the_same_moment_goes_to_the_next():
    check("""
        for condition in (threading.Condition(), threading.Condition(threading.Lock())):
            got = []
            def waits(name):
                with condition: condition.wait(); got.append(name)
            first, second = greenio.spawn(waits, "first"), greenio.spawn(waits, "second")
            while len(condition._waiters) < 2: greenio.yield_now()
            with condition:
                first.cancel(); condition.notify()
            with greenio.timeout(5): second.join()
            assert got == ["second"] and first.cancelled() and not condition._waiters
        items = queue.Queue()
        first, second = greenio.spawn(items.get), greenio.spawn(items.get)
        while len(items.not_empty._waiters) < 2: greenio.yield_now()
        items.put(1); first.cancel()           # it has been served
        with greenio.timeout(5): assert first.result() == 1
        third = greenio.spawn(items.get)
        while len(items.not_empty._waiters) < 2: greenio.yield_now()
        second.cancel(); items.put(2)
        with greenio.timeout(5): assert third.result() == 2
    """)


def test_an_rlock_is_held_as_deep_as_before_when_an_interruption_comes_while_a_condition_takes_it_back():
    check("""
        lock = threading.RLock(); condition = threading.Condition(lock)
        holds, release = threading.Event(), threading.Event()
        def holder():
            with lock: holds.set(); release.wait()
        def interrupts():
            holds.wait(); time.sleep(0.005)
            os.kill(os.getpid(), signal.SIGINT); time.sleep(0.001)
            release.set()
        threading.Thread(target=interrupts).start()
        try:
            with lock, lock:
                threading.Thread(target=holder).start()
                condition.wait(0.001)
        except KeyboardInterrupt:
            assert not lock._is_owned() and lock.acquire(False)
        else:
            raise SystemExit("not interrupted")
    """)


def test_who_waits_when_the_patch_is_taken_back_goes_on():
    check("""
        greenio.monkey.unpatch_all()
        def main():
            greenio.monkey.patch_all()
            OSThread = greenio.monkey.get_original("threading", "Thread")
            lock, rlock, simple, out = threading.Lock(), threading.RLock(), queue.SimpleQueue(), []
            def takes(lock, name, timeout):
                if lock.acquire(timeout=timeout): lock.release(); out.append(name)
                else: out.append(name + " too late")
            def gets(timeout):
                try: out.append(simple.get(timeout=timeout))
                except queue.Empty: out.append("empty")
            lock.acquire(); rlock.acquire()
            fibers = [greenio.spawn(takes, *arguments) for arguments in (
                (lock, "fiber", -1), (rlock, "fiber, RLock", -1), (lock, "fiber", 0.001), (rlock, "fiber, RLock", 0.001))]
            fibers += [greenio.spawn(gets, 0.001), greenio.spawn(gets, None)]
            threads = [
                OSThread(target=takes, args=arguments)
                for arguments in ((lock, "OS thread", -1), (rlock, "OS thread, RLock", 10))]
            for thread in threads: thread.start()
            while not all("parked" in str(each) for each in fibers): greenio.yield_now()
            greenio.monkey.unpatch_all()
            with greenio.timeout(10):
                while len(out) < 3: greenio.sleep(0.001)
                assert sorted(out) == ["empty", "fiber too late", "fiber, RLock too late"], out
                lock.release(); rlock.release(); simple.put("item")
                for fiber in fibers: fiber.join()
                while any(thread.is_alive() for thread in threads): greenio.sleep(0.001)
            assert sorted(out[3:]) == ["OS thread", "OS thread, RLock", "fiber", "fiber, RLock", "item"], out
        greenio.run(main)
    """)


def test_an_rlock_that_a_fiber_holds_when_the_patch_is_taken_back_can_be_released():
    check("""
        greenio.monkey.unpatch_all()
        def unpatches():
            greenio.monkey.patch_all()
            lock = threading.RLock()
            with lock, lock: greenio.monkey.unpatch_all()
            assert not lock._is_owned() and lock.acquire(False)
        greenio.run(lambda: greenio.spawn(unpatches).join())
    """)


def test_simple_queues_made_before_park_and_serve_os_threads_and_fibers():
    check(
        """
        order = []
        def taker():
            order.append(old.get())
        threads = [threading.Thread(target=taker) for _ in range(3)]
        for thread in threads: thread.start()
        for number in range(3): put(number)
        for thread in threads: thread.join()
        assert order == [0, 1, 2]
        for wrong, error in ((lambda: old.get(False), queue.Empty), (lambda: old.get_nowait(), queue.Empty),
                             (lambda: old.get(timeout=0.001), queue.Empty), (lambda: old.get(timeout=-1), ValueError),
                             (lambda: old.get(timeout=1e30), OverflowError), (lambda: old.get(1, 2, 3), TypeError)):
            try: wrong()
            except error: pass
            else: raise SystemExit("not refused")
        assert type(old) is queue.SimpleQueue
        OSThread = greenio.monkey.get_original("threading", "Thread")
        there, back = queue.SimpleQueue(), queue.Queue()
        def echo():
            assert not greenio.can_park()
            for item in iter(there.get, None): back.put(item * 2)
        thread = OSThread(target=echo); thread.start()
        assert isinstance(thread, threading.Thread) and thread in threading.enumerate()
        ticks = []
        def ticker():
            while thread.is_alive(): ticks.append(1); time.sleep(0.001)
        threading.Thread(target=ticker).start()
        for number in range(200):
            there.put(number); assert back.get() == number * 2
        there.put(None); thread.join(); assert not thread.is_alive() and ticks
        """,
        before="old = queue.SimpleQueue(); put = old.put",
    )


def test_locks_work_between_os_threads_and_fibers():
    check("""
        OSThread = greenio.monkey.get_original("threading", "Thread")
        lock, rlock, total = threading.Lock(), threading.RLock(), [0, 0]
        def work():
            for _ in range(300):
                with lock:
                    before = total[0]; time.sleep(0); total[0] = before + 1
                with rlock, rlock:
                    before = total[1]; time.sleep(0); total[1] = before + 1
        threads = [kind(target=work) for kind in (OSThread, threading.Thread) * 3]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert total == [1800, 1800], total
        assert lock.acquire(False) and rlock.acquire(False)
    """)


def test_a_thread_started_on_an_os_thread_without_fibers_is_one():
    check("""
        seen = []
        def outer():
            inner = threading.Thread(target=lambda: seen.append((greenio.can_park(), threading.get_ident())))
            inner.start(); inner.join(); assert not inner.is_alive()
            time.sleep(0.001)
            seen.append((greenio.can_park(), threading.get_ident()))
        thread = greenio.monkey.get_original("threading", "Thread")(target=outer); thread.start(); thread.join()
        assert [parks for parks, _ in seen] == [False, False] and len({ident for _, ident in seen}) == 2
        done = _thread.allocate_lock(); done.acquire()
        greenio.monkey.get_original("_thread", "start_new_thread")(lambda: (seen.append(greenio.can_park()), done.release()), ())
        done.acquire()
        assert seen[-1] is False
    """)


def test_threads_made_before_the_patch_start_and_end_as_they_should():
    check(
        """
        assert running.is_alive()
        order = []
        greenio.spawn(lambda: (order.append("ticks"), go.release()))
        running.join(); order.append("joined")
        assert order == ["ticks", "joined"]
        fresh.start(); fresh.join()
        assert parks == [True] and not fresh.is_alive()
        """,
        before="""
        parks = []
        go = threading.Lock(); go.acquire()
        running = threading.Thread(target=go.acquire); running.start()
        fresh = threading.Thread(target=lambda: parks.append(greenio.can_park()))
        """,
    )


def test_exit_joins_threads_and_unwinds_daemons():
    text = check("""
        import atexit
        atexit.register(print, "atexit")
        def daemon():
            try: time.sleep(60)
            finally: print("daemon unwound")
        def late():
            time.sleep(0.01); print("joined\\n", end="")     # in one piece, as another says something meanwhile
        threading.Thread(target=daemon, daemon=True).start()
        threading.Thread(target=late).start()
        OSThread = greenio.monkey.get_original("threading", "Thread")
        items = queue.Queue()
        OSThread(target=lambda: print(f"OS thread got {items.get()}\\n", end="")).start()
        threading.Thread(target=lambda: (time.sleep(0.005), items.put(1))).start()
        print("main ends")
    """)
    lines = text.splitlines()
    assert sorted(lines[1:3]) == ["OS thread got 1", "joined"]
    assert lines[0] == "main ends" and lines[3:] == ["atexit", "daemon unwound"]


def test_a_daemon_that_is_unwound_can_write_to_an_unbuffered_pipe():
    text = check(
        """
        def daemon():
            try: time.sleep(60)
            finally:
                print("last words"); print("the very last", file=sys.stderr)
        threading.Thread(target=daemon, daemon=True).start()
        time.sleep(0.001)
        """,
        flags=("-u", "-W", "error"),
    )
    assert text == "last words\nthe very last\n"


@pytest.mark.parametrize(
    "swallows",
    [
        "time.sleep(1)",
        "threading.Event().wait()",
        "held.acquire()",
        "items.get()",
        "here.recv(1)",
        "select.select([], [], [])",
        "with logging.root.handlers[0].lock: time.sleep(1)",
    ],
)
def test_the_interpreter_exits_although_a_daemon_swallows_what_is_raised(swallows):
    text = check(
        f"""
        import select, socket
        logging.basicConfig(level="WARNING")
        held = threading.Lock(); held.acquire()
        items = queue.Queue()
        here, there = socket.socketpair()
        def daemon():
            while True:
                try:
                    {swallows}
                except BaseException:
                    pass
        threading.Thread(target=daemon, daemon=True, name="stubborn").start()
        threading.Thread(target=time.sleep, args=(60,), daemon=True, name="well-behaved").start()
        time.sleep(0.001)
        print("main ends")
        sys.exit(3)
        """,
        status=3,
    )
    assert text.startswith("main ends\n") and "have not ended when they were cancelled: stubborn\n" in text


@pytest.mark.slow
def test_the_interpreter_waits_for_a_daemon_under_a_shield_only_so_long():
    text = check(
        """
        def shielded():
            with greenio.shield(): time.sleep(1000)
        def spawns():
            while True:
                try: greenio.spawn(time.sleep, 0); time.sleep(0)
                except BaseException: pass
        for target in shielded, spawns:
            threading.Thread(target=target, daemon=True, name=target.__name__).start()
        time.sleep(0.001)
        """
    )
    assert "have not ended when they were cancelled: " in text and "shielded" in text and "spawns" in text


def test_a_forked_child_exits_although_a_daemon_swallows_what_is_raised():
    check("""
        def daemon():
            while True:
                try: time.sleep(1)
                except BaseException: pass
        def forks():
            if (pid := os.fork()) == 0:
                threading.Thread(target=daemon, daemon=True).start()
                time.sleep(0.001)
            return pid
        pid = greenio.spawn(forks).result()
        assert os.waitpid(pid, 0) == (pid, 0)
    """)


def test_a_child_that_a_thread_forked_ends_as_an_interpreter_does_when_the_thread_does():
    text = check("""
        pids = []
        def forks():
            if (pid := os.fork()) == 0:
                threading.Thread(target=lambda: (time.sleep(0.001), print("joined"))).start()
            else:
                pids.append(pid)
        def wait():
            while not pids: time.sleep(0.001)
            pid = pids.pop()
            assert os.waitpid(pid, 0) == (pid, 0)
        threading.Thread(target=forks).start(); wait()
        _thread.start_new_thread(forks, ()); wait()
        greenio.spawn(forks); wait()
    """)
    assert text == "joined\njoined\njoined\n"


@pytest.mark.skipif(
    importlib.util.find_spec("_testcapi") is None, reason="this interpreter came without its test modules"
)
def test_locks_and_queues_of_another_interpreter_block_its_os_thread():
    check("""
        import _testcapi
        other = '''if 1:
            import queue, threading, time
            held, items, rlock = threading.Lock(), queue.SimpleQueue(), threading.RLock()
            def work(): time.sleep(0.001); items.put(1); time.sleep(0.001); held.release()
            held.acquire()
            thread = threading.Thread(target=work); thread.start()
            assert items.get() == 1
            assert held.acquire(timeout=60) and not held.acquire(timeout=0.001)
            with rlock, rlock:
                pass
            thread.join()
        '''
        def tick():
            while True: time.sleep(0.0001)
        threading.Thread(target=tick, daemon=True).start()
        for _ in range(10):
            assert _testcapi.run_in_subinterp(other) == 0
            time.sleep(0.0002)
    """)


def test_the_import_lock_belongs_to_a_fiber_and_fork_waits_for_it():
    check("""
        import _imp
        name = "a module that is imported"
        started = threading.Event()
        order = []
        def imports():
            _imp.acquire_lock(); _imp.acquire_lock()
            sys.modules[name] = "in part"
            started.set(); time.sleep(0.01)
            sys.modules[name] = "whole"
            _imp.release_lock()
            time.sleep(0.001); order.append("released")
            _imp.release_lock()
        def wants_it():
            started.wait()
            _imp.acquire_lock(); order.append("another's"); _imp.release_lock()
        threads = [threading.Thread(target=fn) for fn in (imports, wants_it)]
        for thread in threads: thread.start()
        started.wait()
        pid = os.fork()
        if pid == 0:
            whole = sys.modules[name] == "whole" and not _imp.lock_held()
            import fractions
            os._exit(7 if whole else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        for thread in threads: thread.join()
        assert order == ["released", "another's"] and not _imp.lock_held()
        _imp.acquire_lock()
        greenio.monkey.unpatch_all()
        _imp.release_lock(); assert not _imp.lock_held()
    """)


def test_a_keyboard_interrupt_goes_to_main():
    check("""
        got = []
        def computes():
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(100000): pass
            got.append("went on")
        thread = threading.Thread(target=computes)
        try:
            thread.start(); thread.join()
            time.sleep(5)
        except KeyboardInterrupt:
            got.append("main")
        thread.join()
        assert sorted(got) == ["main", "went on"], got
    """)


def test_stack_size_is_the_fibers_and_is_checked_as_the_standard_one():
    check("""
        assert threading.stack_size() == 0
        sizes = []
        def look(): sizes.append(greenio.current_fiber().stack_bytes)
        def one():
            thread = threading.Thread(target=look); thread.start(); thread.join()
        one()
        assert threading.stack_size(1 << 20) == 0 and _thread.stack_size(1 << 20) == 1 << 20
        one()
        for wrong in (4096, -1):
            try: threading.stack_size(wrong)
            except ValueError: pass
            else: raise SystemExit("no ValueError")
        assert threading.stack_size(0) == 1 << 20
        one()
        assert sizes[1] >= 1 << 20 and sizes[0] == sizes[2] < sizes[1], sizes
    """)


def test_locals_contextvars_and_trace_hooks_are_a_threads_own():
    check("""
        local, variable, seen = threading.local(), contextvars.ContextVar("v", default="none"), []
        local.value = 1; variable.set("main's")
        class Noticed: pass
        def work():
            assert not hasattr(local, "value")
            inherits = getattr(sys.flags, "thread_inherit_context", 0)
            assert variable.get() == ("main's" if inherits else "none")
            local.value = Noticed(); seen.append(weakref.ref(local.value))
        threading.setprofile(lambda *_: None)
        thread = threading.Thread(target=lambda: (work(), seen.append(sys.getprofile())))
        thread.start(); thread.join(); threading.setprofile(None); gc.collect()
        assert seen[0]() is None and seen[1] is not None and local.value == 1
    """)


def test_a_fork_in_a_thread_leaves_that_thread_as_main():
    check(
        """
        def forks():
            with lock:
                child = os.fork()
                if child == 0:
                    status = 1
                    try:
                        me = threading.current_thread()
                        assert threading.main_thread() is me and me.ident == threading.get_ident() and threading.enumerate() == [me]
                        assert waiting.is_alive() is False
                        thread = threading.Thread(target=time.sleep, args=(0.001,)); thread.start(); thread.join()
                        status = 0
                    finally: os._exit(status)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        lock, stop, statuses = threading.RLock(), threading.Event(), []
        waiting = threading.Thread(target=stop.wait); waiting.start()
        thread = threading.Thread(target=forks); thread.start(); thread.join()
        stop.set(); waiting.join()
        assert statuses == [0]
    """,
        flags=(),
    )


def test_modules_imported_by_two_threads_wait_for_each_other(tmp_path):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(0.01)\nready = True\n")
    (tmp_path / "one.py").write_text("import time\ntime.sleep(0.01)\nimport two\nname = 1\n")
    (tmp_path / "two.py").write_text("import time\ntime.sleep(0.01)\nimport one\nname = 2\n")
    check(f"""
        sys.path.insert(0, {str(tmp_path)!r})
        got = []
        def load(): import slow; got.append(slow.ready)
        def load_one(): import one; got.append(one.name)
        def load_two(): import two; got.append(two.name)
        threads = [threading.Thread(target=function) for function in (load, load, load, load_one, load_two)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert sorted(got) == [1, True, True, True, 2], got
    """)


def test_executors_timers_and_barriers_are_made_of_fibers():
    check("""
        from concurrent.futures import ThreadPoolExecutor, wait, as_completed
        started = time.monotonic()
        with ThreadPoolExecutor(50) as pool:
            futures = [pool.submit(lambda n=n: (time.sleep(0.05), n, greenio.can_park())) for n in range(50)]
            assert not wait(futures, timeout=0).done
            assert sorted(future.result()[1] for future in as_completed(futures)) == list(range(50))
            assert all(future.result()[2] for future in futures)
        barrier, order = threading.Barrier(3), []
        threads = [threading.Thread(target=lambda: order.append(barrier.wait(5))) for _ in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert sorted(order) == [0, 1, 2]
        timer = threading.Timer(0.001, order.append, ["timer"]); timer.start(); timer.join()
        cancelled = threading.Timer(60, order.append, ["never"]); cancelled.start(); cancelled.cancel(); cancelled.join()
        assert order[-1] == "timer"
        semaphore, inside, most = threading.Semaphore(2), [0], [0]
        def work():
            with semaphore:
                inside[0] += 1; most[0] = max(most[0], inside[0]); time.sleep(0.001); inside[0] -= 1
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert most == [2]
    """)


def test_several_event_loops_run_in_several_threads():
    check(
        """
        import asyncio
        order = []
        async def main(name):
            assert asyncio.get_running_loop() is not None
            for step in range(2):
                order.append((name, step)); await asyncio.sleep(0)
            return await asyncio.get_running_loop().run_in_executor(None, lambda: (time.sleep(0.001), name)[1])
        results = []
        threads = [threading.Thread(target=lambda n=n: results.append(asyncio.run(main(n)))) for n in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert sorted(results) == [0, 1, 2]
    """,
        flags=(),
    )


@pytest.mark.slow
def test_ten_thousand_threads_cost_little_and_leave_nothing():
    check("""
        stop = threading.Event()
        def rss():
            with open("/proc/self/statm") as file: return int(file.read().split()[1]) * 4096
        before = rss()
        threads = [threading.Thread(target=stop.wait) for _ in range(10000)]
        for thread in threads: thread.start()
        assert threading.active_count() == 10001
        assert (rss() - before) / 10000 < 20000
        stop.set()
        for thread in threads: thread.join()
        assert threading.active_count() == 1 and greenio.current_scheduler().alive_count == 1 and _thread._count() == 0
    """)


@pytest.mark.parametrize("number", [signal.SIGALRM], ids=["SIGALRM"])
def test_a_signal_handler_logs_on_top_of_the_idle_loop(number):
    text = check(f"""
        logging.basicConfig(format="%(message)s", stream=sys.stdout)
        signal.signal({int(number)}, lambda *_: logging.warning("handled"))
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        time.sleep(0.02)
    """)
    assert text == "handled\n"


def test_a_signal_handler_waits_on_top_of_the_idle_loop_for_a_lock_that_a_parked_fiber_holds():
    text = check("""
        logging.basicConfig(format="%(message)s", stream=sys.stdout)
        handler = logging.getLogger().handlers[0]
        plain, order = threading.Lock(), []
        def holds():
            with handler.lock, plain:
                signal.setitimer(signal.ITIMER_REAL, 0.005)
                time.sleep(0.05)
                order.append("released")
        def handles(*_):
            logging.warning("logged")
            with plain: order.append("handled")
        signal.signal(signal.SIGALRM, handles)
        for wait in (lambda: time.sleep(0.2), lambda: threading.Event().wait(0.2), lambda: thread.join()):
            order.clear()
            thread = threading.Thread(target=holds); thread.start()
            wait()
            assert order == ["released", "handled"], order
            thread.join()
        def parked():
            with greenio.move_on_after(0.02) as scope: time.sleep(60)
            order.append(scope.cancelled_caught)
        scoped = threading.Thread(target=parked); scoped.start()
        thread = threading.Thread(target=holds); thread.start()
        thread.join(); scoped.join()
        time.sleep(0.001)
        assert sorted(map(str, order[2:])) == ["True", "handled", "released"], order
    """)
    assert text == "logged\n" * 4


def test_a_thread_may_have_any_name():
    check("""
        for name in ("\\udcff", "a\\0b", "", "x" * 1000):
            thread = threading.Thread(target=int, name=name); thread.start(); thread.join()
            assert thread.name == (name or thread.name)
    """)


def test_sleep_in_a_class_does_not_become_a_method_and_is_pickled_by_its_name() -> None:
    run_child(
        """
        import copy, pickle
        import greenio.monkey
        greenio.monkey.patch_all()
        import time
        class Waits:
            sleep = time.sleep
        Waits().sleep(0)
        assert copy.copy(time.sleep) is pickle.loads(pickle.dumps(time.sleep)) is time.sleep
        assert b"greenio" not in pickle.dumps(time.sleep)
        """
    )
