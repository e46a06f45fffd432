"""Everything at once, under hand-off and time slices together: stirred.py SECONDS [SEED].  Last line: ok."""

import ctypes
import gc
import logging
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
import traceback

import greenio
from greenio import _scheduler, _slices

SECONDS = float(sys.argv[1])
SEED = int(sys.argv[2]) if sys.argv[2:] else 0
libc = ctypes.CDLL(None)
lock, rlock, condition = threading.Lock(), threading.RLock(), threading.Condition()
log = logging.getLogger("stirred")
errors = []
counts = {}
over = False
folder = tempfile.mkdtemp()
sys.path.insert(0, folder)
for index in range(20):
    with open(f"{folder}/stirred_{index}.py", "w") as f:
        f.write(
            "import time\nfor _ in range(2000): pass\ntime.sleep(0.002)\n"
            + (f"import stirred_{index - 1}\n" if index % 5 else "")
            + "value = 1\n"
        )
shared = [0]
database = f"{folder}/base"
log_file = logging.FileHandler(f"{folder}/log")
log.addHandler(log_file)
log.propagate = False
logging.getLogger("greenio").addHandler(log_file)
logging.getLogger("greenio").propagate = False
log.setLevel("INFO")

deeds = []


def deed(fn):
    deeds.append(fn)
    return fn


@deed
def computes(chance):
    until = time.monotonic() + chance.random() * 0.01
    n = 0
    while time.monotonic() < until:
        n += 1


@deed
def stuck(chance):
    libc.usleep(chance.randrange(500, 12000))


@deed
def raises(chance):
    try:
        libc.usleep(3000)
        raise KeyError(1)
    except KeyError as error:
        greenio.sleep(0)
        same = sys.exc_info()[1] is error
    assert same


@deed
def cancelled(chance):
    def victim():
        try:
            while True:
                libc.usleep(2000)
                greenio.sleep(0.001)
        finally:
            gone.append(1)

    gone = []
    f = greenio.spawn(victim)
    greenio.sleep(chance.random() * 0.004)
    f.cancel()
    f.join()


@deed
def imports(chance):
    name = f"stirred_{chance.randrange(20)}"
    if chance.random() < 0.3:
        with rlock:
            old = sys.modules.get(name)
            if old is not None and hasattr(old, "value") and not old.__spec__._initializing and not users.get(name):
                sys.modules.pop(name, None)
    users[name] = users.get(name, 0) + 1
    module = __import__(name)
    users[name] -= 1
    assert module.value == 1, name


@deed
def rlocks(chance):
    with rlock, rlock:
        before = shared[0]
        if chance.random() < 0.3:
            libc.usleep(2000)
        elif chance.random() < 0.5:
            greenio.sleep(0)
        for _ in range(50):
            pass
        assert shared[0] == before
        shared[0] = before + 1


@deed
def locks(chance):
    with lock:
        owner[0] = me = object()
        for _ in range(300):
            pass
        if chance.random() < 0.2:
            libc.usleep(1500)
        assert owner[0] is me


owner = [None]
users = {}


@deed
def conditions(chance):
    with condition:
        if chance.random() < 0.5:
            condition.notify_all()
        else:
            condition.wait(0.01)


@deed
def logs(chance):
    log.info("x %d", chance.randrange(10))


@deed
def sql(chance):
    c = sqlite3.connect(database, timeout=30)
    try:
        with c:
            c.execute("update t set n = n + 1")
            if chance.random() < 0.3:
                greenio.sleep(0.001)
    finally:
        c.close()


@deed
def files(chance):
    path = f"{folder}/f{chance.randrange(10**9)}"
    with open(path, "w") as f:
        for i in range(200):
            f.write(f"{i}\n")
            if i % 50 == 0:
                greenio.yield_now()
    with open(path) as f:
        assert [int(line) for line in f] == list(range(200))
    os.unlink(path)


@deed
def shared_file(chance):
    common.write("line\n" * 3)
    if chance.random() < 0.1:
        common.flush()


common = open(f"{folder}/common", "w")  # noqa: SIM115


@deed
def threads(chance):
    got = []

    def body():
        for _ in range(3000):
            pass
        with lock:
            got.append(1)
        with rlock:
            got.append(2)

    t = threading.Thread(target=body)
    t.start()
    while t.is_alive():
        greenio.sleep(0.001)
    t.join()
    assert got == [1, 2]


@deed
def to_thread(chance):
    assert greenio.to_thread(sum, range(1000)) == 499500


@deed
def forks(chance):
    if chance.random() > 0.1:
        return
    counts["real forks"] = counts.get("real forks", 0) + 1
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            n = []
            fs = [greenio.spawn(lambda: n.append(greenio.sleep(0.001))) for _ in range(3)]
            libc.usleep(15000)
            for f in fs:
                f.result()
            code = 0 if len(n) == 3 else 3
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    deadline = time.monotonic() + 30
    while True:
        got, status = os.waitpid(pid, os.WNOHANG)
        if got:
            break
        if time.monotonic() > deadline:
            print("CHILD HANGS", pid, flush=True)
            os.kill(pid, 6)
            time.sleep(60)
        greenio.sleep(0.005)
    assert status == 0, status


@deed
def garbage(chance):
    class N:
        def __del__(self):
            for _ in range(100):
                pass

    a = N()
    a.a = a
    del a
    gc.collect(chance.randrange(3) if chance.random() < 0.1 else 0)


@deed
def callbacks(chance):
    proto = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)

    def cb(x):
        greenio.sleep(0.001)
        libc.usleep(2000)
        greenio.yield_now()
        return x + 1

    assert proto(cb)(3) == 4


@deed
def atomics(chance):
    with greenio.atomic():
        a = here[0] = object()
        for _ in range(1000):
            pass
        if chance.random() < 0.1:
            libc.usleep(1500)
        assert here[0] is a


here = [None]


@deed
def pins(chance):
    with greenio.pin():
        b = threading.get_native_id()
        libc.usleep(2000)
        greenio.sleep(0.001)
        assert threading.get_native_id() == b


@deed
def frames(chance):
    sys._current_frames()
    if hasattr(sys, "_current_exceptions"):
        sys._current_exceptions()
    if chance.random() < 0.05:
        import faulthandler

        faulthandler.dump_traceback(sink)


sink = open(os.devnull, "w")  # noqa: SIM115


@deed
def traces(chance):
    lines = []

    def trace(frame, event, argument):
        if frame.f_code is three.__code__:
            lines.append(1)
        return trace

    def three():
        a = 1
        libc.usleep(1500)
        return a

    sys.settrace(trace)
    three()
    sys.settrace(None)
    assert len(lines) == 5, lines


@deed
def deadlines(chance):
    with greenio.move_on_after(0.002) as scope:
        libc.usleep(3000)
        greenio.sleep(1)
    assert scope.cancelled_caught


def work(number):
    chance = random.Random(SEED * 1000 + number)
    while not over:
        fn = chance.choice(deeds)
        try:
            fn(chance)
        except BaseException as e:
            errors.append((fn.__name__, repr(e), traceback.format_exc()))
            print(errors[-1][2], flush=True)
            raise
        counts[fn.__name__] = counts.get(fn.__name__, 0) + 1


def main():
    global over
    c = sqlite3.connect(database)
    c.execute("pragma journal_mode=wal")
    c.execute("create table t (n)")
    c.execute("insert into t values (0)")
    c.commit()
    c.close()
    gc.set_threshold(50)
    _scheduler.set_monitor_tick(0.0005)
    scheduler = greenio.current_scheduler()
    fibers = [greenio.spawn(work, n) for n in range(40)]
    until = time.monotonic() + SECONDS
    most = 0
    while time.monotonic() < until and not errors:
        greenio.sleep(0.05)
        most = max(most, len(os.listdir("/proc/self/task")))
    over = True
    for f in fibers:
        f.join()
    common.close()
    c = sqlite3.connect(database)
    n = c.execute("select n from t").fetchone()[0]
    c.close()
    assert n == counts.get("sql", 0), (n, counts)
    with open(f"{folder}/common") as f:
        assert f.read() == "line\n" * 3 * counts.get("shared_file", 0)
    return scheduler.handoffs, scheduler.switch_count, most, _slices.statistics()


before = len(os.listdir("/proc/self/task"))
print(
    greenio.run(
        main,
        stall="handoff",
        stall_after=float(os.environ.get("STALL", "0.001")),
        slice=float(os.environ.get("SLICE", "0.002")) if os.environ.get("SLICE") != "0" else None,
    ),
    counts,
)
assert not errors, errors

shutil.rmtree(folder)
print(len(os.listdir("/proc/self/task")), before)
print("ok")
