"""Name lookups: what they find, what is shared, what bounds them, and what one that hangs does to the rest."""

import _socket
import contextlib
import errno
import functools
import gc
import os
import random
import shutil
import socket as standard
import subprocess
import threading
import time
import traceback
from pathlib import Path

import pytest
from child import SECONDS, command, environment, run_child
from test_to_thread import PATIENCE, _leaves_no_thread_behind, fibers, settle  # noqa: F401
from waiters import in_thread, until

import greenio
from greenio import configure_lookups, current_default_limiter, move_on_after, socket, spawn, timeout, to_thread
from greenio.debug import lookup_stats, thread_stats

ANSWER = [(standard.AF_INET, standard.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]


@pytest.fixture(autouse=True)
def _as_at_first():
    yield
    configure_lookups()
    until(lambda: lookup_stats()["running"] == 0)
    stats = lookup_stats()
    assert (stats["queued"], stats["waiting"]) == (0, 0)


class Resolver:
    """In place of the C library's getaddrinfo: names are answered when the test says so."""

    def __init__(self, monkeypatch):
        self.calls = []
        self.gates = {}
        self.errors = {}
        self.all_open = threading.Event()
        monkeypatch.setattr(_socket, "getaddrinfo", self)

    def __call__(self, host, *_):
        self.calls.append(host)
        gate = self.gates.setdefault(host, threading.Event())
        assert self.all_open.is_set() or gate.wait(PATIENCE)
        if host in self.errors:
            raise self.errors[host]
        return list(ANSWER)

    def answer(self, *hosts):
        for host in hosts:
            self.gates.setdefault(host, threading.Event()).set()

    def answer_all(self):
        self.all_open.set()
        self.answer(*list(self.gates))

    def wait_asked(self, count):
        while len(self.calls) < count:
            greenio.sleep(0.0005)


@pytest.fixture
def resolver(monkeypatch):
    resolver = Resolver(monkeypatch)
    yield resolver
    resolver.answer_all()
    until(lambda: lookup_stats()["running"] == 0)


def look_up(host="name.test", port=80):
    return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)


# --- numbers, and what the system says -------------------------------------------------------------------------------


NUMERIC = [
    ("127.0.0.1", 80),
    (b"127.0.0.1", 80),
    (bytearray(b"127.0.0.1"), 80),
    ("127.1", 80),
    ("0x7f000001", 80),
    ("::1", 80),
    ("::ffff:1.2.3.4", 80),
    ("fe80::1%lo", 80),
    ("", 80),
    (None, 80),
    (None, None),
    ("127.0.0.1", "http"),
    ("127.0.0.1", "443"),
    ("127.0.0.1", None),
]


@pytest.mark.parametrize(("host", "port"), NUMERIC)
def test_numbers_need_no_thread(host, port):
    def main():
        return attempt(socket.getaddrinfo, host, port), thread_stats()["threads"], lookup_stats()["asked"]

    asked = lookup_stats()["asked"]
    found, threads, asked_then = greenio.run(main)
    assert found == attempt(standard.getaddrinfo, host, port)
    assert (threads, asked_then) == (0, asked)


def attempt(call, *args):
    try:
        return call(*args)
    except Exception as error:
        return type(error), error.args


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("getaddrinfo", ("::1", 80, socket.AF_INET)),
        ("getaddrinfo", ("127.0.0.1", 80, socket.AF_INET6)),
        ("getaddrinfo", ("127.0.0.1", "no such service")),
        ("gethostbyname", ("127.0.0.1",)),
        ("gethostbyname", ("::1",)),
        ("gethostbyname", ("",)),
        ("gethostbyname_ex", ("127.0.0.1",)),
        ("getnameinfo", (("127.0.0.1", 80), socket.NI_NUMERICHOST)),
        ("getnameinfo", (("no number", 80), socket.NI_NUMERICHOST)),
    ],
)
def test_numbers_say_what_the_standard_functions_say_without_a_thread(name, arguments):
    def main():
        return attempt(getattr(socket, name), *arguments), thread_stats()["threads"]

    assert greenio.run(main) == (attempt(getattr(standard, name), *arguments), 0)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("getaddrinfo", ("localhost", 80)),
        ("getaddrinfo", (b"localhost", "http", socket.AF_INET)),
        ("getaddrinfo", ("localhost", "no such service")),
        ("getaddrinfo", ("with spaces", 80)),
        ("getaddrinfo", ("nul\0byte", 80)),
        ("getaddrinfo", ("x" * 300, 80)),
        ("getaddrinfo", ("a..b", 80)),
        ("getaddrinfo", (7, 80)),
        ("getaddrinfo", ("localhost", 80.0)),
        ("gethostbyname", ("localhost",)),
        ("gethostbyname", ("with spaces",)),
        ("gethostbyname_ex", ("localhost",)),
        ("gethostbyaddr", ("127.0.0.1",)),
        ("gethostbyaddr", ("with spaces",)),
        ("getfqdn", ()),
        ("getfqdn", ("127.0.0.1",)),
        ("getnameinfo", (("127.0.0.1", 80), 0)),
        ("getnameinfo", (("127.0.0.1",), 0)),
        ("getnameinfo", (7, 0)),
    ],
)
def test_lookups_say_what_the_standard_functions_say(name, arguments):
    def main():
        return attempt(getattr(socket, name), *arguments)

    assert greenio.run(main) == attempt(getattr(standard, name), *arguments)


def test_without_fibers_they_are_the_standard_functions(resolver):
    resolver.answer("name.test")
    assert look_up() == ANSWER
    assert thread_stats()["threads"] == 0


# --- sharing ---------------------------------------------------------------------------------------------------------


@fibers
def test_the_same_question_at_the_same_time_is_asked_once(resolver):
    before = lookup_stats()
    callers = [spawn(look_up) for _ in range(100)]
    resolver.wait_asked(1)
    assert callers[99].waits_for[0] == "name resolution"
    assert "name.test" in repr(callers[99].waits_for[1])
    assert lookup_stats()["waiting"] == 100
    resolver.answer("name.test")
    answers = [caller.result() for caller in callers]
    assert resolver.calls == ["name.test"]
    assert answers == [ANSWER] * 100
    assert len({id(answer) for answer in answers}) == 100
    after = lookup_stats()
    assert (after["asked"] - before["asked"], after["shared"] - before["shared"]) == (1, 99)


@fibers
def test_lists_inside_an_answer_are_each_callers_own():
    callers = [spawn(socket.gethostbyname_ex, "localhost") for _ in range(2)]
    one, other = (caller.result() for caller in callers)
    one[1].append("changed")
    one[2].clear()
    assert other == standard.gethostbyname_ex("localhost")


@fibers
def test_nothing_is_kept_once_it_was_answered(resolver):
    resolver.answer_all()
    for _ in range(3):
        assert look_up() == ANSWER
    assert resolver.calls == ["name.test"] * 3


@fibers
def test_different_questions_are_asked_beside_each_other(resolver):
    questions = [
        ("one.test", 80),
        ("two.test", 80),
        ("one.test", 81),
        ("one.test", "80"),
        ("one.test", 80.0),
        (b"one.test", 80),
    ]
    callers = [spawn(look_up, *question) for question in questions]
    callers.append(spawn(socket.getaddrinfo, "one.test", 80, 0, socket.SOCK_DGRAM))
    resolver.wait_asked(7)
    resolver.answer_all()
    for caller in callers:
        assert caller.result() == ANSWER


@fibers
def test_what_cannot_be_compared_is_asked_alone(resolver):
    callers = [spawn(look_up, bytearray(b"name.test")) for _ in range(2)]
    for caller in callers:
        assert isinstance(caller.exception(), TypeError)  # the scripted resolver cannot keep such a name either
    assert len(resolver.calls) == 2


@fibers
def test_each_gets_an_exception_of_its_own(resolver):
    error = standard.gaierror(standard.EAI_NONAME, "unknown")
    resolver.errors["name.test"] = error
    callers = [spawn(look_up) for _ in range(3)]
    resolver.wait_asked(1)
    resolver.answer("name.test")
    raised = [caller.exception() for caller in callers]
    assert len({id(each) for each in raised}) == 3
    for each in raised:
        assert type(each) is standard.gaierror
        assert (each.errno, each.strerror) == (standard.EAI_NONAME, "unknown")
        frames = [frame.name for frame in traceback.extract_tb(each.__traceback__)]
        assert (frames[0], frames.count("look_up")) == ("look_up", 1)  # nobody else's frames
        assert "__call__" in frames  # down to where it failed


@fibers
def test_errors_leave_no_cycle(resolver):
    class Mine(OSError):
        pass

    resolver.errors["name.test"] = Mine()
    resolver.answer_all()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            callers = [spawn(look_up) for _ in range(3)]
            for caller in callers:
                assert type(caller.exception()) is Mine
            del caller, callers
        resolver.errors.clear()
        assert look_up() == ANSWER  # a thread keeps nothing of its last lookup
        assert not [each for each in gc.get_objects() if type(each) is Mine]
    finally:
        gc.enable()


def test_runs_of_two_os_threads_share(resolver):
    def main():
        other = in_thread(greenio.run, look_up)
        mine = spawn(look_up)
        while lookup_stats()["waiting"] < 2:
            greenio.sleep(0.0005)
        resolver.answer("name.test")
        other.join(PATIENCE)
        assert mine.result() == other.outcome[0] == ANSWER

    greenio.run(main)
    assert resolver.calls == ["name.test"]


# --- cancellation and timeouts ---------------------------------------------------------------------------------------


@fibers
def test_a_cancelled_caller_leaves_at_once_and_the_others_get_their_answer(resolver):
    callers = [spawn(look_up) for _ in range(3)]
    resolver.wait_asked(1)
    callers[0].cancel()  # the one that asked first
    callers[0].join()
    assert callers[0].cancelled()
    assert lookup_stats()["waiting"] == 2
    resolver.answer("name.test")
    assert [caller.result() for caller in callers[1:]] == [ANSWER] * 2
    assert len(resolver.calls) == 1


@fibers
def test_a_timeout_leaves_at_once(resolver):
    with pytest.raises(TimeoutError), timeout(0.001):
        look_up()
    assert (lookup_stats()["running"], lookup_stats()["waiting"]) == (1, 0)
    with move_on_after(0.001) as scope:
        look_up()
    assert scope.cancelled_caught
    late = spawn(look_up)  # joins what still runs
    settle()
    resolver.answer("name.test")
    assert late.result() == ANSWER
    assert len(resolver.calls) == 1


@fibers
def test_cancelled_before_it_asks(resolver):
    def call():
        greenio.current_fiber().cancel()
        look_up()

    fiber = spawn(call)
    fiber.join()
    assert fiber.cancelled()
    assert not resolver.calls


@fibers
def test_connect_to_a_name_obeys_its_scope(resolver):
    with socket.socket() as client, pytest.raises(TimeoutError), timeout(0.001):
        client.connect(("name.test", 80))
    with pytest.raises(TimeoutError), timeout(0.001):
        socket.create_connection(("name.test", 80))


@fibers
def test_the_end_of_a_run_does_not_wait_for_lookups(resolver):
    spawn(look_up)
    resolver.wait_asked(1)


# --- bounds ----------------------------------------------------------------------------------------------------------


@fibers
def test_no_more_than_max_threads_and_first_come_first_served(resolver):
    configure_lookups(max_threads=2)
    hosts = [f"{number}.test" for number in range(6)]
    callers = [spawn(look_up, host) for host in hosts]
    resolver.wait_asked(2)
    settle()
    assert (lookup_stats()["running"], lookup_stats()["queued"]) == (2, 4)
    assert sorted(resolver.calls) == hosts[:2]
    resolver.answer("1.test")
    resolver.wait_asked(3)
    assert resolver.calls[2] == "2.test"
    callers[3].cancel()  # the only one who asks that
    callers[3].join()
    assert lookup_stats()["queued"] == 2
    resolver.answer_all()
    for number in (0, 1, 2, 4, 5):
        assert callers[number].result() == ANSWER
    assert sorted(resolver.calls) == [host for host in hosts if host != "3.test"]
    assert thread_stats()["threads"] <= 2


@fibers
def test_one_of_several_who_wait_in_the_queue_leaves(resolver):
    configure_lookups(max_threads=1)
    first = spawn(look_up, "first.test")
    callers = [spawn(look_up) for _ in range(3)]
    settle()
    callers[0].cancel()
    callers[0].join()
    assert lookup_stats()["queued"] == 1
    resolver.answer_all()
    assert [caller.result() for caller in [first, *callers[1:]]] == [ANSWER] * 3


@fibers
def test_a_full_queue_refuses_what_nobody_has_asked_yet(resolver):
    configure_lookups(max_threads=1, max_queued=1)
    refused = lookup_stats()["refused"]
    callers = [spawn(look_up, host) for host in ("runs.test", "waits.test")]
    settle()
    with pytest.raises(socket.gaierror, match="1 lookups wait for one of 1 threads") as caught:
        look_up("refused.test")
    assert caught.value.errno == socket.EAI_AGAIN
    callers += [spawn(look_up, host) for host in ("runs.test", "waits.test")]  # these share
    settle()
    assert lookup_stats()["refused"] == refused + 1
    resolver.answer_all()
    assert [caller.result() for caller in callers] == [ANSWER] * 4


@fibers
def test_more_threads_take_from_the_queue_at_once(resolver):
    configure_lookups(max_threads=1)
    callers = [spawn(look_up, f"{number}.test") for number in range(4)]
    resolver.wait_asked(1)
    configure_lookups(max_threads=3)
    resolver.wait_asked(3)
    configure_lookups(max_threads=1)
    assert (lookup_stats()["running"], lookup_stats()["queued"]) == (3, 1)
    resolver.answer_all()
    for caller in callers:
        caller.join()


def test_bounds_are_checked():
    configure_lookups(max_threads=5, max_queued=7)
    for wrong in ({"max_threads": 0}, {"max_threads": 1001}, {"max_queued": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            configure_lookups(**wrong)
    with pytest.raises(TypeError):
        configure_lookups(max_threads=2, max_queued="many")
    assert (lookup_stats()["max_threads"], lookup_stats()["max_queued"]) == (5, 7)
    configure_lookups()
    assert (lookup_stats()["max_threads"], lookup_stats()["max_queued"]) == (16, None)


def test_the_environment_says_how_many_threads():
    show = "from greenio.debug import lookup_stats; print(lookup_stats()['max_threads'])"
    assert run_child(show, GREENIO_LOOKUP_THREADS="3").stdout == "3\n"
    reset = f"import greenio; greenio.configure_lookups(max_threads=5); greenio.configure_lookups(); {show}"
    assert run_child(reset, GREENIO_LOOKUP_THREADS="3").stdout == "3\n"
    wrong = run_child(show, status=1, GREENIO_LOOKUP_THREADS="many")
    assert "GREENIO_LOOKUP_THREADS of the environment must be 1 to 1000 threads, not 'many'" in wrong.stderr


@fibers
def test_lookups_that_hang_hold_up_no_to_thread(resolver):
    stuck = [spawn(look_up, f"{number}.test") for number in range(60)]
    resolver.wait_asked(16)
    assert (lookup_stats()["running"], lookup_stats()["queued"]) == (16, 44)
    assert current_default_limiter().borrowed == 0
    assert [to_thread(int) for _ in range(3)] == [0] * 3
    for fiber in stuck:
        fiber.cancel()
    for fiber in stuck:
        fiber.join()
    assert lookup_stats()["queued"] == 0
    assert len(resolver.calls) == 16


def test_lookups_that_hang_are_no_deadlock_and_those_that_ended_hide_none(resolver):
    def main():
        waiting = spawn(look_up)
        threading.Timer(0.02, resolver.answer_all).start()
        waiting.join()
        greenio.Event().wait()

    with pytest.raises(greenio.DeadlockError):
        greenio.run(main)


@fibers
def test_without_a_thread_everybody_who_asks_is_told(monkeypatch, resolver):
    refuse_threads(monkeypatch)
    callers = [spawn(look_up) for _ in range(2)]
    for caller in callers:
        with pytest.raises(RuntimeError, match="no OS thread could be started for getaddrinfo"):
            caller.result()
    assert (lookup_stats()["running"], lookup_stats()["queued"], resolver.calls) == (0, 0, [])


@fibers
def test_without_another_thread_they_wait_for_one_that_runs(monkeypatch, resolver):
    first = spawn(look_up, "first.test")
    resolver.wait_asked(1)
    refuse_threads(monkeypatch)
    callers = [spawn(look_up, f"{number}.test") for number in range(3)]
    settle()
    assert (lookup_stats()["running"], lookup_stats()["queued"]) == (1, 3)
    resolver.answer_all()
    assert [caller.result() for caller in [first, *callers]] == [ANSWER] * 4
    assert resolver.calls == ["first.test", "0.test", "1.test", "2.test"]


def refuse_threads(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no more")

    monkeypatch.setattr(threading, "_start_new_thread", refuse, raising=False)
    monkeypatch.setattr(threading, "_start_joinable_thread", refuse, raising=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_random_questions_and_cancellations_leave_nothing(monkeypatch, seed):
    def answer(host, *_):
        time.sleep(0.0002)
        if host.startswith("1"):
            raise standard.gaierror(standard.EAI_NONAME, host)
        return [(standard.AF_INET, standard.SOCK_STREAM, 6, "", (host, 80))]

    def client(chance):
        for _ in range(20):
            host = f"{chance.randrange(12)}.test"
            if host.startswith("1"):
                with pytest.raises(socket.gaierror, match=host):
                    look_up(host)
            else:
                assert look_up(host)[0][4][0] == host
            if chance.random() < 0.3:
                with move_on_after(chance.random() / 1000), contextlib.suppress(socket.gaierror):
                    look_up(host)

    def main(chance):
        clients = [spawn(client, random.Random(chance.random())) for _ in range(100)]
        for fiber in chance.sample(clients, 30):
            greenio.sleep(0.0005)
            fiber.cancel()
        for fiber in clients:
            fiber.join()
            if not fiber.cancelled():
                fiber.result()
        return sum(fiber.cancelled() for fiber in clients)

    monkeypatch.setattr(_socket, "getaddrinfo", answer)
    configure_lookups(max_threads=3)
    others = [in_thread(greenio.run, main, random.Random(10 * seed + number)) for number in range(2)]
    for other in others:
        other.join(PATIENCE)
        assert type(other.outcome[0]) is int, other.outcome
        assert other.outcome[0] <= 30
    until(lambda: lookup_stats()["running"] == 0)
    stats = lookup_stats()
    assert (stats["queued"], stats["waiting"]) == (0, 0)
    assert stats["shared"] > 0
    assert thread_stats()["threads"] <= 4


# --- fork ------------------------------------------------------------------------------------------------------------


def test_a_child_forked_while_lookups_run_looks_up_by_itself():
    child = run_child(
        """
        import _socket, os, threading, greenio
        from greenio import socket
        from greenio.debug import lookup_stats
        real = _socket.getaddrinfo
        gate = threading.Event()
        asked = threading.Event()
        def slow(*args):
            if args[0] == "slow.test":
                asked.set()
                gate.wait()
                return [(2, 1, 6, "", ("192.0.2.1", 80))]
            return real(*args)
        _socket.getaddrinfo = slow
        def main():
            greenio.configure_lookups(max_threads=1)
            waiting = greenio.spawn(socket.getaddrinfo, "slow.test", 80)
            behind = greenio.spawn(socket.getaddrinfo, "localhost", 80)
            while not asked.is_set():
                greenio.sleep(0.001)
            pid = os.fork()
            if pid == 0:
                stats = lookup_stats()
                assert stats["running"] == stats["queued"] == stats["waiting"] == stats["asked"] == 0, stats
                assert stats["max_threads"] == 1
                assert socket.getaddrinfo("localhost", 80)
                print("child", flush=True)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            gate.set()
            assert waiting.result() and behind.result()
            print("parent")
        greenio.run(main)
        """,
        flags=("-W", "error", "-W", "ignore:This process:DeprecationWarning"),
    )
    assert child.stdout == "child\nparent\n"


def test_a_caller_whose_signal_handler_forks_asks_again_in_the_child():
    child = run_child(
        """
        import _socket, os, signal, threading, greenio
        from greenio import socket
        gate = threading.Event()
        pids = []
        def answer(*args):
            if not pids:
                # Not by a timer: a fork while the caller is about to start this thread would be one without it.
                os.kill(os.getpid(), signal.SIGALRM)
                gate.wait()
            return [(2, 1, 6, "", ("192.0.2.1", os.getpid()))]
        _socket.getaddrinfo = answer
        def handler(*_):
            pids.append(os.fork())
            if pids[0]:
                gate.set()
        def main():
            signal.signal(signal.SIGALRM, handler)
            assert socket.getaddrinfo("name.test", 80)[0][4][1] == os.getpid()
            if pids[0] == 0:
                print("child", flush=True)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0
            print("parent")
        greenio.run(main)
        """,
        flags=("-W", "error", "-W", "ignore:This process:DeprecationWarning"),
    )
    assert child.stdout == "child\nparent\n"


# --- a name server ---------------------------------------------------------------------------------------------------


UNSHARE = ["unshare", "--user", "--map-root-user", "--mount", "--net"]

SERVER = """
import os, socket as standard, struct, subprocess, sys, threading, time, fcntl
import greenio
from greenio import configure_lookups, move_on_after, socket, spawn, to_thread
from greenio.debug import lookup_stats, thread_stats

folder = sys.argv[1]
with standard.socket(standard.AF_INET, standard.SOCK_DGRAM) as sock:   # ip link set lo up
    fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))
for name, text in (("resolv.conf", "nameserver 127.0.0.1\\noptions timeout:1 attempts:1\\n"), ("nsswitch.conf", "hosts: files dns\\n")):
    with open(f"{folder}/{name}", "w") as file:
        file.write(text)
    subprocess.run(["mount", "--bind", f"{folder}/{name}", f"/etc/{name}"], check=True)

queries = []
slow = threading.Event()

def serve(server):
    while True:
        query, client = server.recvfrom(512)
        end = query.index(b"\\0", 12)
        labels, at = [], 12
        while at < end:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        name, (kind,) = ".".join(labels), struct.unpack("!H", query[end + 1 : end + 3])
        queries.append((name, kind))
        threading.Thread(target=answer, args=(server, client, query, end + 5, name, kind), daemon=True).start()

def answer(server, client, query, end, name, kind):
    if name.startswith("dead"):
        return
    if name.startswith("slow"):
        slow.wait()
    status = {"unknown.test": 3, "broken.test": 2}.get(name, 0)
    records = b"\\xc0\\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + bytes((192, 0, 2, 1)) if kind == 1 and status == 0 else b""
    flags = 0x8180 | status
    server.sendto(query[:2] + struct.pack("!HHHHH", flags, 1, bool(records), 0, 0) + query[12:end] + records, client)

server = standard.socket(standard.AF_INET, standard.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
threading.Thread(target=serve, args=(server,), daemon=True).start()

def ask(host):
    try:
        return socket.getaddrinfo(host, 80, standard.AF_INET, standard.SOCK_STREAM)[0][4]
    except standard.gaierror as error:
        return error.errno

def main():
    found = ("192.0.2.1", 80)
    # What it answers, and what the standard library makes of it.
    assert ask("name.test") == found
    assert ask("localhost") == ("127.0.0.1", 80)
    assert ask("unknown.test") == standard.EAI_NONAME
    assert ask("broken.test") == standard.EAI_AGAIN
    for host in ("name.test", "unknown.test", "broken.test", "localhost"):
        for fn in ("gethostbyname", "gethostbyname_ex"):
            def outcome(module):
                try:
                    return getattr(module, fn)(host)
                except standard.gaierror as error:
                    return error.args
            assert outcome(socket) == to_thread(outcome, standard), host
    # A hundred ask for one name: one question on the wire.
    del queries[:]
    callers = [spawn(ask, "slow.test") for _ in range(100)]
    while not queries:
        greenio.sleep(0.001)
    callers[0].cancel()
    callers[0].join()
    slow.set()
    assert [caller.result() for caller in callers[1:]] == [found] * 99
    assert queries == [("slow.test", 1)], queries
    # A server that never answers: whoever is cancelled leaves at once, other work and other threads go on.
    configure_lookups(max_threads=3)
    started = time.monotonic()
    with move_on_after(0.05) as scope:
        ask("dead0.test")
    assert scope.cancelled_caught
    dead = [spawn(ask, f"dead{number}.test") for number in range(1, 3)]
    greenio.sleep(0.01)
    assert lookup_stats()["running"] == 3, lookup_stats()
    behind = spawn(ask, "name.test")
    greenio.sleep(0.01)
    assert to_thread(int) == 0
    assert ask("127.0.0.1") == ("127.0.0.1", 80)
    assert time.monotonic() - started < 0.8
    assert behind.state == "parked"
    assert [fiber.result() for fiber in dead] == [standard.EAI_AGAIN] * 2
    assert behind.result() == found
    # A lookup runs in another thread as we fork: the child's own does not hang on a lock of the C library's. Two tries: glibc's new
    # thread may take over the old one's socket, on which the parent's lookup then takes the child's answer, and times out.
    stuck = spawn(ask, "dead3.test")
    while ("dead3.test", 1) not in queries:
        greenio.sleep(0.001)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if found in (ask("name.test"), ask("name.test")) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert stuck.result() == standard.EAI_AGAIN
    print("ok")

greenio.run(main)
"""


@functools.cache
def reason_against_namespaces():
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return "no unshare or mount (apt-get install util-linux mount)"
    for path in ("/etc/resolv.conf", "/etc/nsswitch.conf"):
        if not Path(path).exists():
            return f"no {path} to put another in its place"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


@pytest.mark.slow
def test_a_name_server_that_is_slow_silent_or_broken(tmp_path):
    if reason_against_namespaces():
        pytest.skip(reason_against_namespaces())
    done = subprocess.run(
        [
            *UNSHARE,
            *command(SERVER, str(tmp_path), flags=("-W", "error", "-W", "ignore:This process:DeprecationWarning")),
        ],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


@fibers
def test_an_error_of_the_system_keeps_its_number(resolver):
    resolver.errors["name.test"] = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    resolver.answer_all()
    with pytest.raises(OSError, match="Too many open files") as caught:
        look_up()
    assert caught.value.errno == errno.EMFILE


def test_what_looks_like_a_number_fails_as_the_standard_says():
    questions = [
        ("127.1", "no such service"),
        ("1.2.3.999", 80, 0, 0, 0, standard.AI_NUMERICHOST),
        ("::1::", 80, 0, 0, 0, 4),
    ]

    def outcomes(getaddrinfo):
        found = []
        for question in questions:
            with pytest.raises(standard.gaierror) as caught:
                getaddrinfo(*question)
            found.append(caught.value.errno)
        return found

    assert greenio.run(outcomes, greenio.socket.getaddrinfo) == outcomes(standard.getaddrinfo)
