"""Everything that waits, made and used before the patch or after it; each must park, with a ticker fiber running beside.

order_of_imports.py FOLDER patch-first | imports-first: the latter patches inside a running fiber. Prints each kind's name, then "ok".
A call that holds up the OS thread instead of parking is never released: faulthandler tells which, and ends the process.
"""

import faulthandler
import signal
import sys

faulthandler.dump_traceback_later(50, exit=True)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # before there are OS threads: they inherit it
FOLDER, ORDER = sys.argv[1:3]

if ORDER == "patch-first":
    import greenio.monkey

    greenio.monkey.patch_all()

import asyncio  # noqa: E402
import concurrent.futures  # noqa: E402
import contextlib  # noqa: E402
import fcntl  # noqa: E402
import http.client  # noqa: E402
import http.server  # noqa: E402
import importlib  # noqa: E402
import logging  # noqa: E402
import multiprocessing  # noqa: E402
import os  # noqa: E402
import queue  # noqa: E402
import select  # noqa: E402
import selectors  # noqa: E402
import socketserver  # noqa: E402
import sqlite3  # noqa: E402
import subprocess  # noqa: E402
import threading  # noqa: E402
from _thread import allocate_lock  # noqa: E402
from queue import Queue, SimpleQueue  # noqa: E402
from select import epoll, poll  # noqa: E402
from select import select as select_function  # noqa: E402
from socket import AF_INET, SOCK_DGRAM, create_connection, create_server, socket, socketpair  # noqa: E402
from subprocess import Popen  # noqa: E402
from threading import Condition, Event, Lock, RLock, Thread  # noqa: E402
from time import sleep  # noqa: E402

KINDS = []  # (name, prepare): prepare makes and uses things and returns two functions, what waits and what ends the waiting


def kind(prepare):
    KINDS.append((prepare.__name__, prepare))
    return prepare


def nothing():
    pass


# --- time and locks --------------------------------------------------------------------------------------------------


@kind
def sleep_by_name():
    sleep(0)
    return lambda: sleep(0.02), nothing


def held(lock):
    with lock:
        pass
    return lock


def lock_kind(make):
    def prepare():
        lock = held(make())
        taken = []

        def wait():
            while not taken:
                sleep(0)
            with lock:
                pass

        def take():
            lock.acquire()
            taken.append(True)

        # Taken by the fiber that releases it; after the patch, for a lock belongs to whoever takes it.
        return wait, lock.release, take

    return prepare


for name, make in (
    ("lock", Lock),
    ("lock_of_thread", allocate_lock),
    ("rlock", RLock),
    ("semaphore", lambda: threading.Semaphore(1)),
    ("bounded_semaphore", lambda: threading.BoundedSemaphore(1)),
    ("condition_as_a_lock", Condition),
    (
        "lock_of_a_logging_handler",
        lambda: logging.getLogger("x").handlers[0].lock if logging.getLogger("x").handlers else _handler().lock,
    ),
):
    KINDS.append((name, lock_kind(make)))


def _handler():
    handler = logging.StreamHandler(open(os.devnull, "w"))  # noqa: SIM115
    logging.getLogger("x").addHandler(handler)
    logging.getLogger("x").warning("used")
    return handler


@kind
def logging_call():
    handler = _handler()
    return lambda: logging.getLogger("x").warning("text"), handler.release, handler.acquire


@kind
def condition():
    made = Condition()

    def wait():
        with made:
            assert made.wait(30)

    def notify():
        with made:
            made.notify()

    with made:
        assert not made.wait(0.001)
    return wait, notify


@kind
def event():
    made = Event()
    made.set()
    made.wait()
    made.clear()
    return lambda: made.wait(30) or 1 / 0, made.set


@kind
def barrier():
    made = threading.Barrier(2)
    return made.wait, made.wait


def queue_kind(make):
    def prepare():
        made = make()
        made.put(0)
        made.get()
        return lambda: made.get(timeout=30), lambda: made.put(1)

    return prepare


for name, make in (("queue", Queue), ("simple_queue", SimpleQueue), ("priority_queue", queue.PriorityQueue)):
    KINDS.append((name, queue_kind(make)))


@kind
def queue_put():
    made = Queue(1)
    made.put(0)
    return lambda: made.put(1), made.get


@kind
def queue_join():
    made = Queue()
    made.put(0)
    return made.join, made.task_done


# --- threads ---------------------------------------------------------------------------------------------------------


@kind
def thread_made_before_and_started_after():
    go = Event()
    thread = Thread(target=go.wait)

    def wait():
        thread.start()
        thread.join()

    return wait, go.set


@kind
def timer():
    fired = Event()
    made = threading.Timer(0.02, fired.set)

    def wait():
        made.start()
        fired.wait(30)
        made.join()

    return wait, nothing


@kind
def thread_pool():
    go = Event()
    pool = concurrent.futures.ThreadPoolExecutor(2)
    assert pool.submit(int, "3").result() == 3

    def wait():
        assert pool.submit(go.wait, 30).result() is True
        pool.shutdown()

    return wait, go.set


@kind
def future():
    made = concurrent.futures.Future()
    return lambda: made.result(30), lambda: made.set_result(1)


# --- sockets ---------------------------------------------------------------------------------------------------------


@kind
def socket_recv():
    here, there = socketpair()
    there.sendall(b"x")
    here.recv(1)
    return lambda: here.recv(1), lambda: there.sendall(b"y")


@kind
def socket_recv_into_with_a_timeout():
    here, there = socketpair()
    here.settimeout(30)
    return lambda: here.recv_into(bytearray(1)), lambda: there.sendall(b"y")


@kind
def socket_accept_and_connect():
    server = create_server(("127.0.0.1", 0))
    create_connection(server.getsockname()).close()
    server.accept()[0].close()
    return lambda: server.accept()[0].close(), lambda: create_connection(server.getsockname()).close()


@kind
def socket_sendall():
    here, there = socketpair()
    size = 4 << 20

    def release():
        left = size
        while left:
            left -= len(there.recv(1 << 20))

    return lambda: here.sendall(bytes(size)), release


@kind
def socket_recvfrom():
    here, there = socket(AF_INET, SOCK_DGRAM), socket(AF_INET, SOCK_DGRAM)
    here.bind(("127.0.0.1", 0))
    return lambda: here.recvfrom(9), lambda: there.sendto(b"x", here.getsockname())


@kind
def socket_file():
    here, there = socketpair()
    file = here.makefile("r")
    there.sendall(b"a\n")
    assert file.readline() == "a\n"
    return lambda: file.readline() == "b\n" or 1 / 0, lambda: there.sendall(b"b\n")


@kind
def http_server_and_client():
    go = Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            go.wait(30)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    client = http.client.HTTPConnection("127.0.0.1", server.server_port)
    client.connect()

    def wait():
        thread = Thread(target=server.serve_forever)
        thread.start()
        client.request("GET", "/")
        assert client.getresponse().status == 204
        client.close()
        server.shutdown()
        thread.join()
        server.server_close()

    return wait, go.set


@kind
def socketserver_request():
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline())

    server = socketserver.TCPServer(("127.0.0.1", 0), Handler)
    client = create_connection(server.server_address)

    def wait():
        server.handle_request()
        assert client.recv(9) == b"line\n"
        server.server_close()

    return wait, lambda: client.sendall(b"line\n")


# --- readiness -------------------------------------------------------------------------------------------------------


def readiness_kind(make):
    def prepare():
        here, there = socketpair()
        wait = make(here)
        there.sendall(b"x")
        assert wait()
        here.recv(1)
        return lambda: wait() or 1 / 0, lambda: there.sendall(b"y")

    return prepare


# A poll or epoll object of before cannot be reached (docs/patching.md); the names that were imported then can.
def by_poll(sock):
    def wait():
        made = poll()
        made.register(sock, select.POLLIN)
        return made.poll(30000)

    return wait


def by_epoll(sock):
    def wait():
        with epoll() as made:
            made.register(sock, select.EPOLLIN)
            return made.poll(30)

    return wait


def by_selector(sock):
    made = selectors.DefaultSelector()
    made.register(sock, selectors.EVENT_READ)
    return lambda: made.select(30)


for name, make in (
    ("select", lambda sock: lambda: select_function([sock], [], [], 30)[0]),
    ("poll", by_poll),
    ("epoll", by_epoll),
    ("selector", by_selector),
):
    KINDS.append((name, readiness_kind(make)))


# --- pipes, files, processes, signals --------------------------------------------------------------------------------


@kind
def os_read():
    here, there = os.pipe()
    os.write(there, b"x")
    os.read(here, 1)
    return lambda: os.read(here, 1), lambda: os.write(there, b"y")


@kind
def os_write():
    here, there = os.pipe()
    fcntl.fcntl(there, fcntl.F_SETPIPE_SZ, 4096)
    os.write(there, bytes(4096))
    return lambda: os.write(there, bytes(4096)), lambda: os.read(here, 4096)


def child():
    return Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@kind
def popen_wait():
    made = child()

    def release():
        made.stdin.close()
        made.stdout.close()

    assert made.poll() is None
    return lambda: made.wait() == 0 or 1 / 0, release


def child_that_answers():
    here, there = os.pipe()
    made = Popen(["sh", "-c", "read text; echo got $text"], stdin=here, stdout=subprocess.PIPE)
    os.close(here)
    return made, lambda: (os.write(there, b"it\n"), os.close(there))


@kind
def popen_communicate():
    here, there = os.pipe()
    made = Popen(
        ["sh", "-c", f"read text </proc/self/fd/{here}; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[here],
    )
    return lambda: made.communicate(b"text")[0] == b"text" or 1 / 0, lambda: os.write(there, b"go\n")


# The file of a child that was started before the patch is one of io's, in C, and cannot be reached (docs/patching.md).
@kind
def popen_output_of_a_child_started_then():
    go = []

    def wait():
        made, release = child_that_answers()
        go.append(release)
        with made:
            assert made.stdout.read() == b"got it\n"

    return wait, lambda: go[0]()


@kind
def pipe_opened_then():
    here, there = os.pipe()

    def wait():
        with open(here, "rb") as file:
            assert file.readline() == b"line\n"

    return wait, lambda: os.write(there, b"line\n")


@kind
def subprocess_run():
    here, there = os.pipe()
    return (
        lambda: subprocess.run(["cat"], stdin=here, check=True, capture_output=True).stdout == b"" or 1 / 0,
        lambda: os.close(there),
    )


@kind
def waitpid():
    here, there = os.pipe()
    pid = os.posix_spawn(
        "/bin/cat", ["cat"], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, here, 0), (os.POSIX_SPAWN_CLOSE, there)]
    )
    return lambda: os.waitpid(pid, 0) == (pid, 0) or 1 / 0, lambda: os.close(there)


@kind
def sigtimedwait():
    return (
        lambda: signal.sigtimedwait([signal.SIGUSR1], 30).si_signo == signal.SIGUSR1 or 1 / 0,
        lambda: os.kill(os.getpid(), signal.SIGUSR1),
    )


@kind
def flock():
    path = os.path.join(FOLDER, "locked")
    here, there = (open(path, "w") for _ in range(2))  # noqa: SIM115
    fcntl.flock(here, fcntl.LOCK_EX)
    return lambda: fcntl.flock(there, fcntl.LOCK_EX), lambda: fcntl.flock(here, fcntl.LOCK_UN)


@kind
def sqlite_lock():
    # A connection from before the patch waits in C (docs/patching.md); one that is made then parks.
    path = os.path.join(FOLDER, "database")
    here = sqlite3.connect(path, isolation_level=None)
    here.execute("create table t (a)")
    here.execute("begin exclusive")
    here.execute("insert into t values (1)")

    def wait():
        with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as there:
            there.execute("insert into t values (2)")

    return wait, lambda: here.execute("commit")


@kind
def multiprocessing_connection():
    here, there = multiprocessing.Pipe()
    there.send(1)
    here.recv()
    return lambda: here.recv(), lambda: there.send(2)


@kind
def multiprocessing_semaphore():
    made = multiprocessing.get_context("fork").Semaphore(1)
    made.acquire()
    return lambda: made.acquire(), lambda: made.release()


# --- importing, asyncio ----------------------------------------------------------------------------------------------


@kind
def import_that_another_fiber_makes():
    with open(os.path.join(FOLDER, "slow_import.py"), "w") as file:
        file.write("import gate\ngate.entered.set()\ngate.go.wait(30)\nvalue = 3\n")
    gate = type(sys)("gate")
    gate.entered, gate.go = Event(), Event()
    sys.modules["gate"] = gate

    def wait():
        thread = Thread(target=importlib.import_module, args=("slow_import",))
        thread.start()
        assert gate.entered.wait(30)
        assert importlib.import_module("slow_import").value == 3
        thread.join()

    return wait, gate.go.set


@kind
def asyncio_loop():
    here, there = socketpair()
    here.setblocking(False)

    async def main():
        await asyncio.get_running_loop().sock_recv(here, 1)

    return lambda: asyncio.run(main()), lambda: there.sendall(b"x")


# --- all of it -------------------------------------------------------------------------------------------------------

sys.path.append(FOLDER)
prepared = [(name, prepare()) for name, prepare in KINDS]


def check_all():
    import greenio

    ticks = 0

    def tick():
        nonlocal ticks
        while True:
            greenio.sleep(0.001)
            ticks += 1

    def check(name, wait, release, before=nothing):
        print(name, end=": ", flush=True)
        before()
        order = []

        def waiter():
            order.append("waits")
            wait()
            order.append("returned")

        fiber = greenio.spawn(waiter)
        greenio.yield_now()
        seen = ticks
        while ticks < seen + 3:
            greenio.sleep(0.001)
        if release is not nothing:
            assert order == ["waits"], "it did not wait"
            assert fiber.state != "done"
        order.append("released")
        release()
        fiber.join(timeout=30)
        fiber.result()
        if release is not nothing:
            assert order == ["waits", "released", "returned"], order
        print("parked", flush=True)

    ticker = greenio.spawn(tick)
    for name, (wait, release, *before) in prepared:
        check(name, wait, release, *before)
    ticker.cancel()
    with contextlib.suppress(greenio.Cancelled):
        ticker.join()


if ORDER == "patch-first":
    check_all()
else:
    import greenio
    import greenio.monkey

    def main():
        ticker = greenio.spawn(greenio.sleep, 0.001)
        greenio.yield_now()
        greenio.monkey.patch_all()
        check_all()
        ticker.join()

    greenio.run(main)
print("ok", flush=True)
