"""What programs call seldom, under greenio.monkey: as the standard library does it. What patches runs in child interpreters."""

import os
import signal
import threading
from pathlib import Path

import pytest
from sockets import fibers

import greenio
from greenio import io as greenio_io
from greenio import signal as greenio_signal
from tests.test_monkey_processes import check as check_processes
from tests.test_monkey_sockets import check as check_sockets
from tests.test_monkey_threads import check as check_threads

# --- monkey ----------------------------------------------------------------------------------------------------------


def test_each_function_patches_its_module_and_others_are_left() -> None:
    check_processes(
        """
import sys, greenio.monkey as monkey
for name in monkey._MODULES:
    others = set(monkey.patched_modules())
    getattr(monkey, f"patch_{name}")()
    assert monkey.is_patched(name)
    assert set(monkey.patched_modules()) - others <= {name, "_thread", "threading"}, name
everything = monkey.patched_modules()
monkey.patch_all()
assert sorted(monkey.patched_modules()) == sorted(everything)
for module, name in ("time", "slep"), ("threading", "Thread.begin"):
    try:
        monkey.get_original(module, name)
    except AttributeError as error:
        assert name.rpartition(".")[2] in str(error)
    else:
        raise AssertionError(name)
monkey.unpatch_all()
assert monkey.patched_modules() == []
""",
        prelude="",
        end="",
    )


def test_only_an_os_thread_with_the_run_unpatches() -> None:
    check_processes(
        """
import greenio.monkey as monkey
monkey.patch_all()
said = []
def unpatch():
    try:
        monkey.unpatch_all()
    except RuntimeError as error:
        said.append(str(error))
thread = monkey.get_original("threading", "Thread")(target=unpatch)
thread.start()
thread.join()
greenio.spawn(unpatch).join()
assert len(said) == 2 and "OS thread" in said[0] and "unpatch" in said[1], said
assert monkey.is_patched("time")
""",
        prelude="import greenio",
        end="",
    )


# --- signals ---------------------------------------------------------------------------------------------------------


@fibers
def test_signals_without_a_name_are_numbers_and_negative_timeouts_are_refused() -> None:
    number = signal.SIGRTMIN + 1
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        waiting = greenio.spawn(greenio_signal.sigwait, [number])
        os.kill(os.getpid(), number)
        assert waiting.result() == number
        with pytest.raises(ValueError, match="non-negative"):
            greenio_signal.sigtimedwait([number], -1)
        assert greenio_signal.sigtimedwait([number], 0) is None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def test_the_modules_have_the_standard_ones_names_too() -> None:
    assert greenio_signal.SIGTERM is signal.SIGTERM
    assert {"sigwait", "pause", "SIGTERM", "getsignal"} <= set(dir(greenio_signal))
    assert greenio_io.BytesIO is __import__("io").BytesIO
    assert {"open", "BytesIO", "TextIOWrapper"} <= set(dir(greenio_io))
    for module in (greenio_signal, greenio_io):
        with pytest.raises(AttributeError):
            module.no_such_name  # noqa: B018


def test_pauses_share_the_wakeup_descriptor_with_whom_it_belongs_to() -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    other = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def main() -> None:
        both = [greenio.spawn(greenio_signal.pause) for _ in range(2)]
        while any(each.state != "parked" for each in both):
            greenio.yield_now()
        signal.raise_signal(signal.SIGUSR1)
        for each in both:
            each.join()

    try:
        greenio.run(main)
        assert os.read(reader, 9) == bytes([signal.SIGUSR1])  # it was handed on
        assert signal.set_wakeup_fd(writer, warn_on_full_buffer=False) == writer
    finally:
        signal.set_wakeup_fd(other)
        signal.signal(signal.SIGUSR1, before)
        os.close(reader)
        os.close(writer)


def test_a_pause_of_another_os_thread_is_the_standard_one() -> None:
    # No handler runs there, and the kernel ends the pause for a signal to that thread.
    ended = []
    before = signal.signal(signal.SIGUSR1, lambda *_: ended.append("handled"))

    def main() -> None:
        thread = threading.get_ident()
        killer = threading.Timer(0.02, lambda: signal.pthread_kill(thread, signal.SIGUSR1))
        killer.start()
        greenio_signal.pause()
        ended.append("pause")
        killer.join()

    try:
        thread = threading.Thread(target=lambda: greenio.run(main))
        thread.start()
        thread.join(30)
        assert sorted(ended) == ["handled", "pause"]
    finally:
        signal.signal(signal.SIGUSR1, before)


# --- TLS and sockets -------------------------------------------------------------------------------------------------


def test_sessions_contexts_and_owners_of_tls_are_the_programs_to_see(tmp_path: Path) -> None:
    check_sockets(
        """
        import ssl
        from tests.test_monkey_sockets import certificate
        path = certificate(sys.argv[1])
        greenio.monkey.patch_all()
        named = []
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_context.load_cert_chain(path)
        other_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        other_context.load_cert_chain(path)
        def choose(sock, name, context):
            named.append((type(sock), name, context is server_context))
            sock.context = other_context
            assert sock.context is other_context
        server_context.sni_callback = choose
        client_context = ssl.create_default_context(cafile=path)
        client_context.maximum_version = ssl.TLSVersion.TLSv1_2    # whose sessions are there after the handshake
        def pair(session=None):
            one, other = socket.socketpair()
            handshake = parks(lambda: server_context.wrap_socket(other, server_side=True))
            client = client_context.wrap_socket(one, server_hostname="localhost", session=session)
            return client, handshake.result()
        client, server = pair()
        assert named == [(ssl.SSLSocket, "localhost", True)], named
        assert client.context is client_context and server.context is other_context
        session = client.session
        assert session.id and not client.session_reused and client._sslobj.owner is client
        again, answering = pair(session)
        assert again.session_reused and again.session == session
        raises(ValueError, setattr, again, "session", session)     # after the handshake
        companion = repr(again._sslobj._companion)
        assert "ssl.SSLSocket" in companion and "greenio.ssl" not in companion, companion
        for each in client, server, again, answering: each.close()

        # A peer that refuses says why, and that is heard though it has closed the connection meanwhile.
        server_context.sni_callback = None
        server_context.verify_mode = ssl.CERT_REQUIRED             # the client has none
        client_context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
        one, other = socket.socketpair()
        def refuse():
            error = raises(ssl.SSLError, lambda: server_context.wrap_socket(other, server_side=True))
            other.close()
            return error
        refusing = parks(refuse)
        client = client_context.wrap_socket(one, server_hostname="localhost")
        assert "CERTIFICATE" in str(refusing.result()).upper()
        error = None
        for _ in range(20):
            try:
                client.sendall(bytes(20000))
            except OSError as found:
                error = found
                break
        assert isinstance(error, ssl.SSLError) and "ALERT" in error.reason, repr(error)
        client.close()
        """,
        str(tmp_path),
        flags=(),
    )


def test_tls_without_waiting_and_what_came_before_there_were_fibers(tmp_path: Path) -> None:
    check_sockets(
        """
        import ssl
        from tests.test_monkey_sockets import certificate
        path = certificate(sys.argv[1])
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_context.load_cert_chain(path)
        client_context = ssl.create_default_context(cafile=path)
        client_context.check_hostname = False
        def pair():
            one, other = socket.socketpair()
            found = []
            thread = threading.Thread(target=lambda: found.append(server_context.wrap_socket(other, server_side=True)))
            thread.start()
            client = client_context.wrap_socket(one)
            thread.join()
            return client, found[0]
        old_client, old_server = pair()
        greenio.monkey.patch_all()
        new_client, new_server = pair()
        for client, server in (old_client, old_server), (new_client, new_server):
            client.settimeout(0)
            raises(ssl.SSLWantReadError, client.recv, 1)
            raises(ssl.SSLWantReadError, client.recv_into, bytearray(1))
            sent = 0
            with_room = True
            while with_room:
                try:
                    sent += client.send(bytes(50000))
                except ssl.SSLWantWriteError:
                    with_room = False
            client.settimeout(None)
            again = parks(client.sendall, bytes(50000))      # OpenSSL wants to see the same bytes
            sent += 50000
            received = 0
            while received < sent:
                received += len(server.recv(1 << 16))
            assert received == sent and again.result() is None
            client.settimeout(0.02)
            raises(TimeoutError, client.recv, 1)
            client.settimeout(None)
            assert client.cipher() == server.cipher() and client.version() == server.version()
            room = bytearray(8)
            waiting = parks(client.recv_into, room)
            server.sendall(b"room")
            assert waiting.result() == 4 and room == b"room" + bytes(4)
            ending = parks(client.unwrap)
            server.unwrap()
            ending.result()
            client.close(); server.close()
        """,
        str(tmp_path),
        flags=(),
    )


def test_sendfile_of_sockets_sends_what_the_file_has(tmp_path: Path) -> None:
    check_sockets(
        """
        greenio.monkey.patch_all()
        path = os.path.join(sys.argv[1], "file")
        data = os.urandom(300_000)
        open(path, "wb").write(data)
        open(path + ".empty", "wb").close()
        import io
        a, b = socket.socketpair()
        assert "socket.socket" in repr(a)
        def take(size):
            got = b""
            while len(got) < size:
                got += b.recv(1 << 16)
            return got
        for timeout in (None, 5.0):
            a.settimeout(timeout)
            with open(path, "rb") as file:
                taking = greenio.spawn(take, 250_000)
                assert a.sendfile(file, 50_000) == 250_000 and file.tell() == 300_000
                assert taking.result() == data[50_000:]
                taking = greenio.spawn(take, 1000)
                assert a.sendfile(file, 0, 1000) == 1000 and taking.result() == data[:1000]
                raises(ValueError, a.sendfile, file, 0, -1)
            with open(path + ".empty", "rb") as file:
                assert a.sendfile(file) == 0
            assert a.sendfile(io.BytesIO(b"memory")) == 6 and take(6) == b"memory"
            with open(path) as file:
                raises(ValueError, a.sendfile, file)
        a.close(); b.close()
        """,
        str(tmp_path),
        flags=(),
    )


# --- threads ---------------------------------------------------------------------------------------------------------


def test_os_threads_are_waited_for_with_timeouts_and_for_as_long_as_they_take() -> None:
    check_threads(
        """
        import greenio.monkey
        go = greenio.monkey.get_original("_thread", "allocate_lock")(); go.acquire()
        thread = greenio.monkey.get_original("threading", "Thread")(target=go.acquire)
        thread.start()
        thread.join(0.01)
        assert thread.is_alive()
        thread.join(0)
        waiting = [greenio.spawn(thread.join) for _ in range(3)]
        time.sleep(0.01)
        assert not any(each.done() for each in waiting)
        go.release()
        for each in waiting: each.result()
        assert not thread.is_alive()
        thread.join(); thread.join(0)
        condition = threading.Condition()
        try: condition.wait(1)
        except RuntimeError as error: assert "un-acquired" in str(error)
        else: raise AssertionError
        with condition:
            assert not condition.wait(0) and not condition.wait(0.001)
        late = threading.Thread(target=time.sleep, args=(0.05,)); late.start()
        late.join(0.001); assert late.is_alive()
        late.join(-1); assert late.is_alive()
        late.join(); assert not late.is_alive()
        """
    )


# --- processes -------------------------------------------------------------------------------------------------------


def test_communicate_in_parts_and_its_refusals() -> None:
    check_processes(
        """
import subprocess, sys, io, signal, threading, os
cat = [sys.executable, "-c", "import sys; data = sys.stdin.buffer.read(); sys.stdout.buffer.write(data); sys.stderr.write('x')"]
slow = [sys.executable, "-c", "import sys, time; print('early', flush=True); sys.stdin.read(); print('late')"]
pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
with subprocess.Popen(cat, **pipes) as child:
    data = os.urandom(300_000)
    assert parked(child.communicate, data) == (data, b"x")
with subprocess.Popen(slow, text=True, **pipes) as child:
    try:
        while True:
            try:
                child.communicate(timeout=0.02)
            except subprocess.TimeoutExpired as error:
                if error.output:
                    assert error.output.startswith(b"early\\n") and error.timeout == 0.02, vars(error)
                    break
            else:
                break    # stdin without input is closed at once, so it may have ended
        try:
            child.communicate("more")
        except ValueError as error:
            assert "after starting" in str(error)
        else:
            raise AssertionError
        assert child.communicate() == ("early\\nlate\\n", "")
    finally:
        child.kill()
# A child that does not read: what it did not take is no error.
with subprocess.Popen([sys.executable, "-c", ""], **pipes) as child:
    assert child.communicate(bytes(1_000_000)) == (b"", b"")
with subprocess.Popen([sys.executable, "-c", ""], **pipes) as child:
    child.stdin.write(b"in the buffer")
    child.wait()
    assert child.communicate() == (b"", b"")
    child.stdin = None
with subprocess.Popen(cat, text=True, encoding="utf-8", errors="strict", **pipes) as child:
    assert child.communicate("\\u00e4\\n") == ("\\u00e4\\n", "x")
try:
    subprocess.run([sys.executable, "-c", "import time; print('said', flush=True); time.sleep(60)"],
                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=2)
except subprocess.TimeoutExpired as error:
    assert error.stdout in (b"said\\n", None)
# Somebody else takes its status: the return code is 0, as the standard says.
child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
os.waitpid(child.pid, 0)
assert child.wait() == 0
"""
    )


def test_ctrl_c_while_communicating_leaves_the_child_a_moment() -> None:
    check_processes(
        """
import subprocess, sys, signal, os
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.1); print('ended')"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
later(os.kill, os.getpid(), signal.SIGINT)
try:
    child.communicate(timeout=20)
except KeyboardInterrupt:
    pass
else:
    raise AssertionError("no interrupt")
assert child.communicate(timeout=20) == (b"ended\\n", b"") and child.returncode == 0
"""
    )


def test_locks_of_processes_time_out_in_their_order() -> None:
    check_processes(
        """
import multiprocessing
context = multiprocessing.get_context("fork")
lock = context.Lock()
assert lock.acquire(False) and not lock.acquire(False) and not lock.acquire(True, 0) and not lock.acquire(timeout=0.01)
got = []
def take(number, timeout=None):
    if lock.acquire(timeout=timeout):
        got.append(number)
        lock.release()
waiting = [greenio.spawn(take, 0), greenio.spawn(take, 1, 0.005), greenio.spawn(take, 2)]
greenio.sleep(0.03)
assert waiting[1].done() and got == []
waiting[0].cancel()
greenio.sleep(0.001)
lock.release()
waiting[2].join()
assert got == [2]
again = context.RLock()
with again, again:
    assert again._semlock._is_mine() and again._semlock._count() == 2
    other = greenio.spawn(again.acquire, False)
    assert other.result() is False
semaphore = context.BoundedSemaphore(2)
assert semaphore.acquire() and semaphore.acquire() and not semaphore.acquire(False)
later(semaphore.release)
assert parked(semaphore.acquire)
"""
    )


def test_a_locked_database_with_every_way_to_write() -> None:
    check_processes(
        """
import sqlite3, sys, tempfile, os
path = os.path.join(tempfile.mkdtemp(), "base")
plain = sqlite3.connect(path, isolation_level=None)
plain.execute("create table t (n)")
class Named(sqlite3.Cursor): pass
class Mine(sqlite3.Connection): pass
places = (5.0, 0, "DEFERRED", True, Mine) if sys.version_info < (3, 15) else ()
with_factory = sqlite3.connect(path, *places) if places else sqlite3.connect(path, factory=Mine)
assert isinstance(with_factory, Mine) and isinstance(with_factory, sqlite3.Connection)
assert isinstance(with_factory.cursor(Named), Named) and issubclass(Named, sqlite3.Cursor)
base = sqlite3.connect(path, timeout=5)
def locked(fn, *args):
    plain.execute("begin exclusive")
    later(plain.execute, "commit")
    return parked(fn, *args)
locked(base.execute, "insert into t values (1)")
base.commit()
locked(base.executemany, "insert into t values (?)", ((n,) for n in range(2, 5)))
base.commit()
locked(base.executescript, "insert into t values (5); insert into t values (6);; ")
assert [n for n, in locked(base.execute, "select n from t")] == [1, 2, 3, 4, 5, 6]
base.executescript("begin; insert into t values (7); commit; insert into t values ('a;b')")
base.rollback()
def incomplete():
    try:
        base.executescript("insert into t values (")
    except sqlite3.OperationalError as error:
        assert "incomplete" in str(error)
    else:
        raise AssertionError
incomplete()
impatient = sqlite3.connect(path, timeout=0.01)
plain.execute("begin exclusive")
for call in (lambda: impatient.execute("insert into t values (8)"), lambda: impatient.executemany("insert into t values (?)", [(8,)])):
    try:
        call()
    except sqlite3.OperationalError as error:
        assert "locked" in str(error)
    else:
        raise AssertionError
plain.execute("commit")
try:
    with base:
        base.execute("insert into t values (9)")
        raise LookupError
except LookupError:
    pass
assert base.execute("select count(*) from t where n = 9").fetchone() == (0,)
with base:
    base.execute("insert into t values (10)")
copy = sqlite3.connect(":memory:")
said = []
base.backup(copy, pages=1, progress=lambda *status: said.append(status), sleep=0.001)
assert copy.execute("select count(*) from t").fetchone() == base.execute("select count(*) from t").fetchone() and said
for each in (plain, with_factory, base, impatient, copy):
    each.close()
"""
    )


def test_descriptors_that_are_closed_in_ranges_or_replaced_wake_who_waits() -> None:
    check_processes(
        """
import os
def fails(fn, *args):
    try:
        fn(*args)
    except OSError:
        return True
for close in (lambda fd: os.closerange(fd, fd + 1), lambda fd: os.dup2(spare, fd)):
    r, w = os.pipe()
    spare = os.open(os.devnull, os.O_RDONLY)
    waiting = greenio.spawn(fails, os.read, r, 1)
    greenio.sleep(0.005)
    assert not waiting.done()
    close(r)
    assert waiting.result() is True
    assert os.dup2(spare, spare) == spare
    os.close(w); os.close(spare)
    try: os.close(r)
    except OSError: pass
file = os.open(os.path.join(os.environ.get("TMPDIR", "/tmp"), f"greenio-lockf-{os.getpid()}"), os.O_RDWR | os.O_CREAT)
os.lockf(file, os.F_LOCK, 0)
os.lockf(file, os.F_ULOCK, 0)
os.unlink(os.readlink(f"/proc/self/fd/{file}"))
os.close(file)
"""
    )


def test_splice_waits_for_room_and_for_data() -> None:
    check_processes(
        """
import os
if hasattr(os, "splice"):
    r, w = os.pipe(); into, out = os.pipe()
    later(os.write, w, b"spliced")
    assert parked(os.splice, r, out, 100) == 7 and os.read(into, 9) == b"spliced"
    os.write(w, b"x" * 65536)
    os.write(out, b"y" * 65536)
    later(os.read, into, 65536)
    assert parked(os.splice, r, out, 65536) > 0
"""
    )
