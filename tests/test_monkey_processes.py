"""greenio.monkey: os, fcntl, signal, subprocess, multiprocessing and sqlite3 park. What patches is run in child interpreters."""

import sys

import pytest
from child import run_child

# A fiber that counts beside what waits: `parked(fn)` is fn's result, and asserts that the other fiber ran meanwhile.
PRELUDE = """
import greenio.monkey
greenio.monkey.patch_all()
import concurrent.futures, fcntl, os, signal, subprocess, sys, tempfile, time
import greenio

ticks = 0

def tick():
    global ticks
    while True:
        greenio.sleep(0.001)
        ticks += 1

ticker = greenio.spawn(tick)

def parked(fn, *args):
    before, start = ticks, time.monotonic()
    result = fn(*args)
    # Where another process was faster there was nothing to wait for.
    assert ticks > before or time.monotonic() - start < 0.01, f"{fn} stopped the OS thread"
    return result

def later(fn, *args):
    # When others have run for a while.
    def wait():
        start = ticks
        while ticks < start + 5:
            greenio.sleep(0.001)
        fn(*args)
    greenio.spawn(wait)

def stopped(fn, *args):
    # Whether fn(*args) is cancelled while it waits, and raises Cancelled.
    fiber = greenio.spawn(fn, *args)
    greenio.sleep(0.01)
    assert not fiber.done(), f"{fn} did not wait"
    fiber.cancel()
    try:
        fiber.result()
    except concurrent.futures.CancelledError:
        return True
    return False
"""


def check(source: str, *, prelude: str = PRELUDE, end: str = "ticker.cancel()", **changes: str) -> str:
    done = run_child(f"{prelude}\n{source}\n{end}\nprint('ok')", flags=(), **changes)
    assert done.stdout.endswith("ok\n"), f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


# --- os --------------------------------------------------------------------------------------------------------------


def test_reads_and_writes_park():
    check(
        """
r, w = os.pipe()
later(os.write, w, b"x")
assert parked(os.read, r, 9) == b"x"
later(os.writev, w, [b"a", b"b"])
buffer = bytearray(2)
assert parked(os.readv, r, [buffer]) == 2 and buffer == b"ab"
data = bytes(1 << 20)
got = []
def take():
    while sum(map(len, got)) < len(data):
        got.append(os.read(r, 1 << 16))
taker = greenio.spawn(take)
assert parked(os.write, w, data) == len(data)
taker.join()
assert stopped(os.read, r, 1)
os.set_blocking(r, False)
try:
    os.read(r, 1)
    raise AssertionError("a pipe with O_NONBLOCK waited")
except BlockingIOError:
    pass
event = os.eventfd(0)
later(os.eventfd_write, event, 7)
assert parked(os.eventfd_read, event) == 7
a, b = os.pipe()
c, d = os.pipe()
if hasattr(os, "splice"):
    later(os.write, b, b"through")
    assert parked(os.splice, a, d, 100) == 7
    assert os.read(c, 9) == b"through"
"""
    )


def test_a_read_of_a_closed_descriptor_ends():
    check(
        """
import errno
r, w = os.pipe()
later(os.close, r)
try:
    parked(os.read, r, 1)
    raise AssertionError("read went on")
except OSError as error:
    assert error.errno == errno.EBADF, error
r, w = os.pipe()
null = os.open(os.devnull, os.O_RDONLY)
later(os.dup2, null, r)
try:
    parked(os.read, r, 1)
    raise AssertionError("read went on")
except OSError as error:
    assert error.errno == errno.EBADF, error
"""
    )


def test_sendfile_to_a_socket_and_to_a_pipe_parks():
    check(
        """
import socket
data = os.urandom(3 << 20)
with tempfile.TemporaryFile() as file:
    file.write(data)
    file.flush()
    for make in (socket.socketpair, None):
        if make is None:
            r, w = os.pipe()
            receive = lambda: os.read(r, 1 << 16)
        else:
            ours, theirs = make()
            w = ours.fileno()
            receive = lambda: theirs.recv(1 << 16)
        got = bytearray()
        def take():
            while len(got) < len(data):
                got.extend(receive())
        taker = greenio.spawn(take)
        sent = 0
        while sent < len(data):
            sent += os.sendfile(w, file.fileno(), sent, len(data) - sent)
        taker.join()
        assert got == data
    os.lseek(file.fileno(), 5, os.SEEK_SET)
    r, w = os.pipe()
    assert os.sendfile(w, file.fileno(), None, 10) == 10
    assert os.read(r, 99) == data[5:15] and os.lseek(file.fileno(), 0, os.SEEK_CUR) == 15
"""
    )


def test_waiting_for_children_parks():
    check(
        """
def child(status):
    return os.posix_spawnp("sh", ["sh", "-c", f"sleep 0.02; exit {status}"], os.environ)

pid = child(3)
assert parked(os.waitpid, pid, 0) == (pid, 3 << 8)
pid = child(4)
assert parked(os.wait) == (pid, 4 << 8)
pid = child(5)
assert parked(os.wait3, 0)[:2] == (pid, 5 << 8)
pid = child(6)
assert parked(os.wait4, pid, 0)[:2] == (pid, 6 << 8)
pid = child(7)
assert parked(os.waitid, os.P_PID, pid, os.WEXITED).si_status == 7
pid = os.posix_spawnp("sleep", ["sleep", "5"], os.environ)
assert os.waitpid(pid, os.WNOHANG) == (0, 0)
assert stopped(os.waitpid, pid, 0)
os.kill(pid, signal.SIGKILL)
assert os.waitpid(pid, 0) == (pid, 9)
assert parked(os.system, "sleep 0.02; exit 2") == 2 << 8
with os.popen("sleep 0.02; echo out") as file:
    assert parked(file.read) == "out\\n"
assert parked(os.spawnlp, os.P_WAIT, "sh", "sh", "-c", "sleep 0.02; exit 9") == 9
"""
    )


def test_a_forked_child_keeps_the_forking_fiber_alone():
    check(
        """
r, w = os.pipe()

def fork():
    pid = os.fork()
    if pid == 0:
        seen = ticks
        time.sleep(0.02)
        os.write(w, b"alone" if ticks == seen else b"others ran")
        subprocess.run(["true"], check=True)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

assert greenio.spawn(fork).result() == 0
assert os.read(r, 20) == b"alone"
assert fork() == 0
pid, terminal = os.forkpty()
if pid == 0:
    time.sleep(0.01)
    print("on a terminal")
    sys.stdout.flush()
    os._exit(0)
seen = b""
while not seen.endswith(b"\\n"):  # an unbuffered stream writes the end of the line by itself
    seen += os.read(terminal, 99)
assert seen == b"on a terminal\\r\\n"
assert os.waitpid(pid, 0)[1] == 0
"""
    )


def test_locks_of_files_park():
    check(
        """
with tempfile.NamedTemporaryFile() as one, open(one.name) as two:
    fcntl.flock(one, fcntl.LOCK_EX)
    assert stopped(fcntl.flock, two, fcntl.LOCK_EX)
    try:
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        raise AssertionError("the lock was taken")
    except BlockingIOError:
        pass
    later(fcntl.flock, one, fcntl.LOCK_UN)
    parked(fcntl.flock, two, fcntl.LOCK_EX)
HOLDER = "import fcntl, time; fcntl.lockf(0, fcntl.LOCK_EX); print(flush=True); time.sleep(0.03)"
with tempfile.NamedTemporaryFile() as file:
    for take in (
        lambda: fcntl.lockf(file, fcntl.LOCK_EX),
        lambda: os.lockf(file.fileno(), os.F_LOCK, 0),
    ):
        # Another process, for a lock of this kind is a process's; not forked, since coverage's own locks may be taken at a fork.
        with subprocess.Popen([sys.executable, "-S", "-c", HOLDER], stdin=file, stdout=subprocess.PIPE) as holder:
            holder.stdout.read(1)
            parked(take)
            fcntl.lockf(file, fcntl.LOCK_UN)
"""
    )


def test_a_function_of_os_in_a_class_is_no_method():
    check(
        """
import inspect, pickle

class Reader:
    _read = os.read

r, w = os.pipe()
os.write(w, b"x")
assert Reader()._read(r, 1) == b"x"
assert os.read.__name__ == "read" and os.read.__module__ == "posix" and "file descriptor" in os.read.__doc__
assert pickle.loads(pickle.dumps(os.read)) is os.read
assert os.open in os.supports_dir_fd
import shutil
assert shutil.rmtree.avoids_symlink_attacks
"""
    )


def test_without_fibers_the_originals_work():
    check(
        """
import _thread, threading
start = greenio.monkey.get_original("_thread", "start_new_thread")
r, w = os.pipe()
back, to = os.pipe()

def thread():
    try:
        assert not greenio.can_park()
        assert os.read(r, 1) == b"x"
        assert subprocess.run(["echo", "hi"], capture_output=True).stdout == b"hi\\n"
        assert os.system("exit 3") == 3 << 8
        with open(r, "rb", closefd=False) as file:
            assert type(file).__module__ == "_io"
    except BaseException as error:
        os.write(to, repr(error).encode())
    else:
        os.write(to, b"fine")

start(thread, ())
later(os.write, w, b"x")
said = parked(os.read, back, 999)
assert said == b"fine", said
"""
    )


# --- signal ----------------------------------------------------------------------------------------------------------


def test_waiting_for_signals_parks():
    check(
        """
me = os.getpid()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
later(os.kill, me, signal.SIGUSR1)
assert parked(signal.sigwait, [signal.SIGUSR1]) is signal.SIGUSR1
later(os.kill, me, signal.SIGUSR1)
assert parked(signal.sigwaitinfo, {signal.SIGUSR1}).si_pid == me
later(os.kill, me, signal.SIGUSR1)
assert parked(signal.sigtimedwait, [signal.SIGUSR1], 60).si_signo == signal.SIGUSR1
assert parked(signal.sigtimedwait, [signal.SIGUSR1], 0.02) is None
assert signal.sigtimedwait([signal.SIGUSR1], 0) is None
assert stopped(signal.sigwait, [signal.SIGUSR1])
# One that is not blocked is, while somebody waits for it.
called = []
signal.signal(signal.SIGUSR2, lambda *_: called.append(1))
later(os.kill, me, signal.SIGUSR2)
assert parked(signal.sigwait, [signal.SIGUSR2]) is signal.SIGUSR2 and not called
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGUSR1}
later(os.kill, me, signal.SIGUSR2)
assert parked(signal.pause) is None and called == [1]
assert stopped(signal.pause)
for wrong in (lambda: signal.sigtimedwait([1], -1), lambda: signal.sigwait([99999])):
    try:
        wrong()
        raise AssertionError("no ValueError")
    except ValueError:
        pass
"""
    )


def test_a_handler_may_call_what_blocks():
    check(
        """
said = []

def handler(*_):
    time.sleep(0.005)
    said.append(subprocess.run(["echo", "hi"], capture_output=True, text=True).stdout)
    print("from a handler", flush=True)

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.01)   # on top of the idle loop, or of a fiber
while not said:
    time.sleep(0.002)
ticker.cancel()
signal.setitimer(signal.ITIMER_REAL, 0.01)
time.sleep(0.1)
assert said == ["hi\\n", "hi\\n"], said
"""
    )


@pytest.mark.parametrize(
    "wait",
    [
        "time.sleep(60)",
        "lock.acquire()",
        "here.recv(1)",
        "os.read(r, 1)",
        "sys.stdin.readline()",
        "signal.sigwait([signal.SIGUSR1])",
        "subprocess.run(['sleep', '60'])",
    ],
)
def test_a_keyboard_interrupt_reaches_main(wait: str):
    check(
        f"""
import socket, threading
here, there = socket.socketpair()
r, w = os.pipe()
sys.stdin = open(r, closefd=False)
lock = threading.Lock()
lock.acquire()
later(os.kill, os.getpid(), signal.SIGINT)
try:
    {wait}
    raise AssertionError("it ended")
except KeyboardInterrupt:
    pass
"""
    )


# --- subprocess ------------------------------------------------------------------------------------------------------


def test_subprocess_parks_in_place():
    check(
        """
import io
done = parked(lambda: subprocess.run(["sh", "-c", "sleep 0.02; cat; exit 3"], input="abc", capture_output=True, text=True))
assert (done.returncode, done.stdout, done.stderr) == (3, "abc", "")
assert parked(subprocess.call, ["sleep", "0.02"]) == 0
assert parked(subprocess.check_output, ["sh", "-c", "sleep 0.02; echo out"]) == b"out\\n"
with subprocess.Popen(["sh", "-c", "sleep 0.02; echo line; cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
    assert isinstance(process.stdout, io.TextIOWrapper) and isinstance(process.stdout.buffer, io.BufferedReader)
    assert parked(process.stdout.readline) == "line\\n"
    big = "x" * 1_000_000
    assert parked(process.communicate, big)[0] == big
with subprocess.Popen(["sleep", "60"]) as process:
    try:
        parked(process.wait, 0.02)
        raise AssertionError("no TimeoutExpired")
    except subprocess.TimeoutExpired as error:
        assert error.timeout == 0.02
    assert stopped(process.wait) and process.poll() is None
    process.kill()
    assert process.wait() == -9
process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
big = bytes(1 << 20)
reader = greenio.spawn(lambda: process.stdout.read())
assert process.stdin.write(big) == len(big), "an unbuffered write on a pipe writes all"
process.stdin.close()
assert reader.result() == big
process.stdout.close()
assert process.wait() == 0
"""
    )


def test_communicate_loses_nothing_when_interrupted():
    check(
        """
pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
process = subprocess.Popen(["sh", "-c", "echo one; cat; echo two >&2"], **pipes)
big = bytes(300_000)
hold = subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
try:
    hold.communicate(big, timeout=0.02)
    raise AssertionError("no TimeoutExpired")
except subprocess.TimeoutExpired:
    pass
assert stopped(hold.communicate)
hold.kill()
assert hold.communicate() == (b"", None) and hold.returncode == -9
assert process.communicate(big) == (b"one\\n" + big, b"two\\n")
"""
    )


def test_a_cancelled_run_kills_and_reaps():
    check(
        """
def pids():
    return {int(pid) for pid in open("/proc/self/task/%d/children" % os.getpid()).read().split()}

assert not pids()
for call in (subprocess.run, subprocess.call, subprocess.check_output):
    assert stopped(call, ["sleep", "60"])
    assert not pids(), call
assert stopped(os.system, "exec sleep 60") and not pids()
"""
    )


def test_processes_made_before_the_patch_park_after_it():
    check(
        """
import subprocess, greenio.monkey, greenio.subprocess
import os
r, w = os.pipe()
before = subprocess.Popen(["sh", "-c", "echo one; read x; echo late"], stdin=r, stdout=subprocess.PIPE)
assert before.stdout.readline() == b"one\\n"
"""
        + PRELUDE
        + """
later(os.write, w, b"go\\n")
assert parked(before.communicate) == (b"late\\n", None) and before.returncode == 0
""",
        prelude="",
    )


# --- multiprocessing -------------------------------------------------------------------------------------------------

PROCESSES = """
import multiprocessing, os, sys, time

def hold(lock, event):
    with lock:
        event.set()
        time.sleep(0.03)

def nap(number):
    time.sleep(0.01)
    return number

def put(queue, count):
    for number in range(count):
        queue.put(number)

def answer(connection):
    time.sleep(0.02)
    connection.send(connection.recv() * 2)

def patched(connection):
    import greenio.monkey
    connection.send(greenio.monkey.patched_modules())

def main(method):
    context = multiprocessing.get_context(method)
    lock, event = context.Lock(), context.Event()
    process = context.Process(target=hold, args=(lock, event))
    process.start()
    parked(event.wait)
    assert parked(lock.acquire, True, 30)
    lock.release()
    process.join()
    assert process.exitcode == 0
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(theirs,))
    process.start()
    ours.send(21)
    assert parked(ours.recv) == 42
    process.join()
    queue = context.Queue()
    processes = [context.Process(target=put, args=(queue, 20)) for _ in range(2)]
    for process in processes:
        process.start()
    assert sorted(parked(lambda: [queue.get(timeout=30) for _ in range(40)])) == sorted([*range(20), *range(20)])
    for process in processes:
        process.join()
    with context.Pool(2) as pool:
        assert parked(pool.map, nap, range(4)) == [0, 1, 2, 3]
        assert stopped(pool.apply, time.sleep, (60,))
    process = context.Process(target=patched, args=(theirs,))
    process.start()
    assert ours.recv() == greenio.monkey.patched_modules(), "the child is patched as we are"
    process.join()
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_parks(tmp_path, method: str):
    script = tmp_path / "script.py"
    script.write_text(
        f"{PROCESSES}\nif __name__ == '__main__':\n"
        + "\n".join(
            f"    {line}" for line in [*PRELUDE.splitlines(), f"main({method!r})", "ticker.cancel()", "print('ok')"]
        )
    )
    done = run_child(script, flags=())
    assert done.stdout == "ok\n", done.stderr


def test_locks_of_processes_tell_fibers_apart():
    check(
        """
import multiprocessing
lock = multiprocessing.RLock()
with lock, lock:
    assert greenio.spawn(lock.acquire, False).result() is False
    assert greenio.spawn(lock.acquire, True, 0.01).result() is False
    waiting = greenio.spawn(lock.acquire)
    greenio.sleep(0.005)
    def release():
        try:
            lock.release()
        except AssertionError:
            return "not mine"
    assert greenio.spawn(release).result() == "not mine"
assert waiting.result() is True
lock = multiprocessing.Lock()
order = []

def take(number):
    with lock:
        order.append(number)
        greenio.sleep(0.001)

with lock:
    fibers = [greenio.spawn(take, number) for number in range(10)]
    assert stopped(lock.acquire)
for fiber in fibers:
    fiber.join()
assert order == [*range(10)], order
condition = multiprocessing.Condition()
def wait():
    with condition:
        return condition.wait(30)
waiters = [greenio.spawn(wait) for _ in range(3)]
greenio.sleep(0.01)
with condition:
    condition.notify_all()
assert [fiber.result() for fiber in waiters] == [True] * 3
semaphore = multiprocessing.BoundedSemaphore(1)
with semaphore:
    later(lambda: None)
try:
    semaphore.release()
    raise AssertionError("released too often")
except ValueError:
    pass
"""
    )


def test_locks_of_processes_made_before_the_patch_park_after_it():
    check(
        """
import multiprocessing
lock = multiprocessing.Lock()
lock.acquire()
"""
        + PRELUDE
        + """
later(lock.release)
assert parked(lock.acquire) is True
""",
        prelude="",
    )


# --- sqlite3 ---------------------------------------------------------------------------------------------------------

DATABASE = """
import sqlite3
folder = tempfile.mkdtemp()
path = folder + "/database"

def connect(**options):
    return sqlite3.connect(path, **options)

first = connect()
first.execute("create table numbers (number)")
first.commit()

def locked():
    first.execute("begin exclusive")
"""


def test_a_locked_database_parks():
    check(
        DATABASE
        + """
second = connect(timeout=60)
locked()
later(first.commit)
parked(second.execute, "insert into numbers values (1)")
second.commit()
locked()
later(first.commit)
parked(second.executemany, "insert into numbers values (?)", iter([(2,), (3,)]))
second.commit()
locked()
later(first.commit)
parked(second.executescript, "insert into numbers values (4); create trigger t insert on numbers begin select 1; end; select 1;;-- end")
assert [number for number, in second.execute("select number from numbers order by 1")] == [1, 2, 3, 4]
locked()
assert stopped(second.execute, "select * from numbers")
try:
    connect(timeout=0.02).execute("select * from numbers")
    raise AssertionError("not locked")
except sqlite3.OperationalError as error:
    assert "locked" in str(error)
first.rollback()
# A commit that a reader holds up.
reader = connect(isolation_level=None)
reader.execute("begin")
reader.execute("select * from numbers").fetchall()
first.execute("insert into numbers values (5)")
later(reader.execute, "commit")
parked(first.commit)
# What could be a deadlock is not waited for.
reader.execute("begin")
reader.execute("select * from numbers").fetchall()
first.execute("begin immediate")
try:
    reader.execute("insert into numbers values (6)")
    raise AssertionError("not locked")
except sqlite3.OperationalError:
    pass
reader.execute("rollback")
target = sqlite3.connect(folder + "/copy")
first.rollback()
locked()
later(first.commit)
parked(lambda: second.backup(target, sleep=0.005))
assert target.execute("select count(*) from numbers").fetchone() == (5,)
with second:
    second.execute("delete from numbers")
assert first.execute("select count(*) from numbers").fetchone() == (0,)
"""
    )


def test_connections_and_cursors_keep_their_classes():
    check(
        """
import sqlite3, tempfile

class Early(sqlite3.Connection):
    pass

class EarlyCursor(sqlite3.Cursor):
    pass

old = sqlite3.connect(":memory:")
"""
        + PRELUDE
        + DATABASE
        + """
class Late(sqlite3.Connection):
    pass

assert isinstance(old, sqlite3.Connection) and isinstance(first, sqlite3.Connection)
assert isinstance(old.cursor(), sqlite3.Cursor) and isinstance(first.cursor(), sqlite3.Cursor)
assert issubclass(Early, sqlite3.Connection) and sqlite3.Connection.__name__ == "Connection"
assert not isinstance(1, sqlite3.Connection)
for kind in (Early, Late):
    with_kind = connect(timeout=60, factory=kind)
    assert isinstance(with_kind, kind) and isinstance(with_kind.cursor(EarlyCursor), EarlyCursor)
    locked()
    later(first.commit)
    parked(with_kind.cursor(EarlyCursor).execute, "select * from numbers")
    locked()
    later(first.commit)
    parked(with_kind.execute, "select * from numbers")
""",
        prelude="",
    )


# --- and back --------------------------------------------------------------------------------------------------------


def test_unpatching_leaves_the_modules_as_they_were():
    check(
        """
import _io, _multiprocessing, _signal, _sqlite3, builtins, fcntl, io, os, posix, signal, sqlite3, sqlite3.dbapi2, subprocess, sys
import multiprocessing.connection, multiprocessing.spawn, multiprocessing.popen_spawn_posix, multiprocessing.synchronize
import greenio.monkey
owners = [
    _io, _multiprocessing, _signal, _sqlite3, builtins, fcntl, io, os, posix, signal, sqlite3, sqlite3.dbapi2, subprocess,
    multiprocessing.connection, multiprocessing.spawn, multiprocessing.popen_spawn_posix, multiprocessing.synchronize,
    subprocess.Popen, multiprocessing.connection.Connection,
]
def state():
    return [dict(vars(owner)) for owner in owners] + [
        set(os.supports_dir_fd), list(sys.meta_path), sys.stdout.buffer, multiprocessing.connection.Connection._recv.__defaults__]
for _ in range(2):
    before = state()
    greenio.monkey.patch_all()
    assert state() != before and os.read is not before[7]["read"]
    print("patched")
    greenio.monkey.unpatch_all()
    after = state()
    for owner, was, is_now in zip(owners, before, after):
        changed = {name for name in was.keys() | is_now.keys() if was.get(name, 0) is not is_now.get(name, 0)}
        assert not changed, (owner, changed)
    assert before[len(owners):] == after[len(owners):]
""",
        prelude="",
        end="",
    )


def test_what_is_imported_after_the_patch_is_patched_too():
    check(
        """
import greenio.monkey, sys
greenio.monkey.patch_all()
assert "sqlite3" not in sys.modules and "multiprocessing.spawn" not in sys.modules
finders = len(sys.meta_path)
import sqlite3, multiprocessing.spawn
assert sqlite3.connect is not greenio.monkey.get_original("sqlite3", "connect")
assert "greenio" in multiprocessing.spawn.get_preparation_data("name")
assert len(sys.meta_path) < finders
""",
        prelude="",
        end="",
    )


@pytest.mark.slow
def test_what_a_spawned_process_puts_in_a_queue_at_its_end_arrives() -> None:
    check(
        """
import multiprocessing
context = multiprocessing.get_context("spawn")
queue = context.Queue()
process = context.Process(target=queue.put, args=("last words",))
process.start()
process.join()
assert queue.get(timeout=5) == "last words"
"""
    )


@pytest.mark.slow
def test_what_is_put_in_a_queue_before_the_exit_arrives_though_multiprocessing_came_before_the_patch() -> None:
    done = run_child(
        """
        import multiprocessing.queues, multiprocessing.synchronize, multiprocessing.util
        import greenio.monkey
        greenio.monkey.patch_all()
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        context.Process(target=lambda: print(queue.get(timeout=5), flush=True)).start()
        queue.put("last words")
        """,
        flags=(),
    )
    assert done.stdout == "last words\n", done.stderr


# --- interpreters ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 13), reason="_interpreters came with CPython 3.13")
def test_what_runs_in_another_interpreter_runs_beside_fibers() -> None:
    check(
        """
import threading
import _interpreters
ended = []

def use():
    made = parked(_interpreters.create)
    assert parked(_interpreters.exec, made, "import time; time.sleep(0.05)") is None
    failed = parked(_interpreters.exec, made, "import time; time.sleep(0.05); raise LookupError('there')")
    assert failed.type.__name__ == "LookupError", failed
    _interpreters.set___main___attrs(made, {"here": 5})
    assert _interpreters.exec(made, "assert here == 5") is None
    _interpreters.destroy(made)
    try:
        _interpreters.exec(made, "pass")
    except _interpreters.InterpreterNotFoundError:
        ended.append(made)

threads = [threading.Thread(target=use) for _ in range(3)]
for each in threads:
    each.start()
for each in threads:
    each.join()
assert len(set(ended)) == 3, ended
# The last reference goes in a finalizer, on a fiber's stack.
made = _interpreters.create(reqrefs=True)
_interpreters.incref(made)
greenio.spawn(_interpreters.decref, made).result()
assert made not in [each[0] for each in _interpreters.list_all()]
"""
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 14), reason="InterpreterPoolExecutor came with CPython 3.14")
def test_a_pool_of_interpreters_parks() -> None:
    check(
        """
import operator
with concurrent.futures.InterpreterPoolExecutor(2) as pool:
    assert parked(list, pool.map(operator.neg, range(5))) == [0, -1, -2, -3, -4]
    failing = pool.submit(operator.truediv, 1, 0)
    try:
        failing.result()
    except ZeroDivisionError:
        failing = None
assert failing is None
"""
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 14), reason="concurrent.interpreters came with CPython 3.14")
def test_interpreters_imported_before_the_patch_are_patched_and_put_back() -> None:
    run_child(
        """
        import concurrent.interpreters as interpreters
        import greenio.monkey
        def state():
            return dict(vars(interpreters._interpreters)), dict(interpreters.Interpreter._decref.__kwdefaults__)
        before = state()
        greenio.monkey.patch_all()
        assert interpreters._interpreters.decref in interpreters.Interpreter._decref.__kwdefaults__.values()
        def use():
            made = interpreters.create()
            made.exec("import json")
            del made  # the last reference
        greenio.spawn(use).result()
        assert interpreters.list_all() == [interpreters.get_main()]
        greenio.monkey.unpatch_all()
        assert state() == before
        """,
        flags=(),
    )
