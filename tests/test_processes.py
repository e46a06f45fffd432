"""greenio.os: children of any kind waited for, and descriptors that others made, without blocking the OS thread."""

import errno
import os as standard
import pty
import resource
import select
import signal
import socket
import sys
import threading
import time

import pytest
from child import run_child

import greenio
from greenio import os
from greenio.testing import VirtualClock, wait_all_parked


@pytest.fixture(autouse=True)
def leaves_no_child():
    yield
    with pytest.raises(ChildProcessError):
        found = standard.waitpid(-1, standard.WNOHANG)
        pytest.fail(f"a child was left behind: {found}")
    wait_for_watchers()  # nothing is left to wait for


@pytest.fixture
def pipe():
    reader, writer = standard.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass


def start(source="import sys; sys.stdin.read()", stdin=None, **keywords):
    """The pid of a child that runs Python code."""
    actions = [(standard.POSIX_SPAWN_DUP2, stdin, 0)] if stdin is not None else []
    return standard.posix_spawn(
        sys.executable,
        [sys.executable, "-S", "-c", source],
        standard.environ,
        file_actions=actions,
        **keywords,
    )


def shell(text, **keywords):
    return standard.posix_spawn("/bin/sh", ["sh", "-c", text], standard.environ, **keywords)


def watchers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("greenio wait for")]


def wait_for_watchers():
    for thread in watchers():
        thread.join()


# --- names -----------------------------------------------------------------------------------------------------------


def test_every_name_of_the_standard_module_is_there():
    for name in dir(standard):
        assert hasattr(os, name), name
    assert sorted(os.__all__) == sorted(standard.__all__)
    assert os.getpid is standard.getpid
    assert os.path is standard.path
    with pytest.raises(AttributeError):
        os.no_such_name  # noqa: B018


@pytest.mark.parametrize(
    "call",
    [
        lambda: os.waitpid(-1, 0),
        lambda: os.waitpid(-1, os.WNOHANG),
        lambda: os.wait(),
        lambda: os.wait3(0),
        lambda: os.waitid(os.P_ALL, 0, os.WEXITED),
        lambda: os.read(0, 1),
        lambda: os.readv(0, [bytearray(1)]),
        lambda: os.system("true"),
        lambda: os.popen("true"),
        lambda: os.spawnv(os.P_WAIT, "/bin/true", ["true"]),
    ],
)
def test_without_fibers_it_says_what_to_do(call):
    with pytest.raises(RuntimeError, match=r"inside greenio\.run"):
        call()


# --- waiting for children --------------------------------------------------------------------------------------------


def pid_of(what, pid):
    """The first argument of waitpid that names a child in one of four ways; the child is alone in its group."""
    return {"pid": pid, "any": -1, "group": -pid}[what]


@pytest.mark.parametrize("what", ["pid", "any", "group"])
def test_waitpid_parks_until_the_child_ends(what, pipe):
    reader, writer = pipe

    def main():
        pid = start("import sys; sys.stdin.read(); sys.exit(3)", reader, setpgroup=0)
        assert os.waitpid(pid_of(what, pid), os.WNOHANG) == (0, 0)
        fiber = greenio.spawn(os.waitpid, pid_of(what, pid), 0)
        wait_all_parked()
        assert fiber.state == "parked"
        os.close(writer)
        assert fiber.result() == (pid, 3 << 8)
        with pytest.raises(ChildProcessError):
            os.waitpid(pid_of(what, pid), 0)

    standard.set_inheritable(writer, False)
    greenio.run(main)


@pytest.mark.parametrize("what", ["pid", "any", "group"])
def test_a_wait_is_cancelled_or_times_out_and_reaps_nothing(what):
    def main():
        pid = shell("exec sleep 1000", setpgroup=0)
        fiber = greenio.spawn(os.waitpid, pid_of(what, pid), 0)
        wait_all_parked()
        fiber.cancel()
        fiber.join()
        assert fiber.cancelled()
        with pytest.raises(TimeoutError), greenio.timeout(5):
            os.waitpid(pid_of(what, pid), 0)
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid_of(what, pid), 0) == (pid, signal.SIGKILL)

    greenio.run(main, clock=VirtualClock())
    wait_for_watchers()


def test_pid_0_is_the_own_process_group():
    def main():
        stranger = shell("exec sleep 1000", setpgroup=0)
        pid = shell("exit 2")
        assert os.waitpid(0, 0) == (pid, 2 << 8)
        with pytest.raises(ChildProcessError):
            os.waitpid(0, 0)
        os.kill(stranger, signal.SIGKILL)
        os.waitpid(stranger, 0)

    greenio.run(main)


def test_wait_takes_children_one_after_the_other():
    def main():
        pids = {shell(f"exit {number}"): number for number in range(5)}
        fibers = [greenio.spawn(os.wait) for _ in range(5)]
        found = dict(fiber.result() for fiber in fibers)
        assert found == {pid: number << 8 for pid, number in pids.items()}
        with pytest.raises(ChildProcessError):
            os.wait()

    greenio.run(main)
    wait_for_watchers()


def test_children_born_after_the_wait_began_count(pipe):
    reader, writer = pipe

    def main():
        first = start(stdin=reader)
        fiber = greenio.spawn(os.wait)
        wait_all_parked()
        second = shell("exit 4")
        assert fiber.result() == (second, 4 << 8)
        os.close(writer)
        assert os.wait() == (first, 0)

    standard.set_inheritable(writer, False)
    greenio.run(main)


def test_stops_and_continuations():
    def main():
        pid = shell("exec sleep 1000")
        fiber = greenio.spawn(os.waitpid, pid, os.WUNTRACED | os.WCONTINUED)
        wait_all_parked()
        os.kill(pid, signal.SIGSTOP)
        status = fiber.result()[1]
        assert os.WIFSTOPPED(status)
        assert os.WSTOPSIG(status) == signal.SIGSTOP
        fiber = greenio.spawn(os.waitpid, -1, os.WCONTINUED)
        wait_all_parked()
        os.kill(pid, signal.SIGCONT)
        assert os.WIFCONTINUED(fiber.result()[1])
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, os.WUNTRACED) == (pid, signal.SIGKILL)

    greenio.run(main)


def test_wait3_wait4_and_waitid_say_what_the_standard_ones_do():
    def main():
        pid = shell("exit 3")
        found = os.wait4(pid, 0)
        assert found[:2] == (pid, 3 << 8)
        assert found[2].ru_maxrss > 0
        pid = shell("exit 4")
        assert os.wait3(0)[:2] == (pid, 4 << 8)
        pid = shell("exec sleep 1000")
        assert os.wait3(os.WNOHANG)[:2] == (0, 0)
        assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is None
        fiber = greenio.spawn(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        wait_all_parked()
        os.kill(pid, signal.SIGTERM)
        found = fiber.result()
        assert (found.si_pid, found.si_status, found.si_code) == (pid, signal.SIGTERM, os.CLD_KILLED)
        assert os.waitid(os.P_ALL, 0, os.WEXITED).si_pid == pid  # WNOWAIT left it
        with pytest.raises(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED)
        with pytest.raises(OSError, match="Invalid argument"):
            os.waitid(os.P_ALL, 0, 0)

    greenio.run(main)


def test_waitid_on_a_pidfd():
    def main():
        pid = shell("exec sleep 1000")
        fd = os.pidfd_open(pid)
        fiber = greenio.spawn(os.waitid, os.P_PIDFD, fd, os.WEXITED)
        wait_all_parked()
        os.close(fd)  # the wait has its own
        fd = os.pidfd_open(pid, getattr(standard, "PIDFD_NONBLOCK", os.O_NONBLOCK))
        with pytest.raises(BlockingIOError):
            os.waitid(os.P_PIDFD, fd, os.WEXITED)
        os.close(fd)
        os.kill(pid, signal.SIGKILL)
        assert fiber.result().si_pid == pid

    greenio.run(main)


def test_without_pidfds_os_threads_wait(monkeypatch):
    def refuse(pid, flags=0):
        raise OSError(errno.ENOSYS, standard.strerror(errno.ENOSYS))

    monkeypatch.setattr(standard, "pidfd_open", refuse)

    def main():
        pid = shell("exec sleep 1000")
        fibers = [greenio.spawn(os.waitpid, pid, 0) for _ in range(3)]
        wait_all_parked()
        assert len(watchers()) == 1
        os.kill(pid, signal.SIGKILL)
        greenio.wait(fibers)
        won = [fiber for fiber in fibers if fiber.exception() is None]
        assert [fiber.result() for fiber in won] == [(pid, signal.SIGKILL)]
        assert all(isinstance(fiber.exception(), ChildProcessError) for fiber in fibers if fiber not in won)

    greenio.run(main)
    wait_for_watchers()


def test_without_an_os_thread_to_wait_it_says_so_and_a_later_wait_works(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    def main():
        pid = shell("exit 3")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            while standard.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                standard.sched_yield()
            assert os.waitpid(pid, 0) == (pid, 3 << 8)  # nobody has to wait
            pid = shell("exec sleep 1000")
            with pytest.raises(RuntimeError, match="can't start new thread"):
                os.waitpid(-1, 0)
        fiber = greenio.spawn(os.waitpid, -1, 0)
        wait_all_parked()
        assert [thread.name for thread in watchers()] == ["greenio wait for any child"]
        os.kill(pid, signal.SIGKILL)
        assert fiber.result() == (pid, signal.SIGKILL)

    greenio.run(main)
    wait_for_watchers()


def test_several_who_wait_for_one_child_one_gets_it():
    def main():
        pid = shell("exec sleep 1000")
        fibers = [greenio.spawn(os.waitpid, pid, 0) for _ in range(5)]
        wait_all_parked()
        os.kill(pid, signal.SIGKILL)
        greenio.wait(fibers)
        assert [fiber.result() for fiber in fibers if fiber.exception() is None] == [(pid, signal.SIGKILL)]
        assert all(isinstance(fiber.exception(), ChildProcessError | type(None)) for fiber in fibers)

    greenio.run(main)


def test_a_wait_in_a_second_os_thread():
    found = []

    def main():
        pid = shell("exec sleep 1000")
        thread = threading.Thread(target=lambda: found.append(greenio.run(os.waitpid, pid, 0)))
        thread.start()
        greenio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        while thread.is_alive():
            greenio.sleep(0.001)
        assert found == [(pid, signal.SIGKILL)]

    greenio.run(main)


def test_a_forked_child_is_waited_for_and_waits_for_its_own():
    run_child("""
        import os, signal
        import greenio
        from greenio.testing import wait_all_parked

        def main():
            waiting = greenio.spawn(greenio.os.waitpid, -1, 0)
            sleeper = os.posix_spawn("/bin/sh", ["sh", "-c", "exec sleep 1000"], os.environ)
            wait_all_parked()
            pid = os.fork()
            if pid == 0:
                try:
                    greenio.os.wait()
                except ChildProcessError:
                    pass
                grandchild = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 3"], os.environ)
                os._exit(greenio.os.wait() != (grandchild, 3 << 8))
            assert waiting.result() == (pid, 0)
            os.kill(sleeper, signal.SIGKILL)
            assert greenio.os.waitpid(sleeper, 0) == (sleeper, 9)

        greenio.run(main)
    """, flags=("-W", "ignore::DeprecationWarning"))  # fmt: skip  # 3.12 and later: of fork beside OS threads


# --- system, popen, spawn --------------------------------------------------------------------------------------------


def test_system_parks_and_returns_the_status(tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def main():
        def let_go():
            with greenio.open(gate, "w") as file:
                file.write("go\n")

        greenio.spawn(let_go)  # which the command waits for
        assert os.system(f"read line <{gate}; exit 3") == 3 << 8
        assert os.system(b"kill -9 $$") == 9
        assert os.system("no-such-command 2>/dev/null") == 127 << 8
        assert (
            os.system("true " + "x" * 200_000) == standard.system("true " + "x" * 200_000) == 127 << 8
        )  # too long for the kernel
        with pytest.raises(ValueError, match="null"):
            os.system("a\0b")
        with pytest.raises(TypeError):
            os.system(None)

    greenio.run(main)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # 3.12 and later: spawn forks, maybe beside OS threads
@pytest.mark.parametrize(
    "call", [lambda: os.system("exec sleep 1000"), lambda: os.spawnlp(os.P_WAIT, "sleep", "sleep", "1000")]
)
def test_a_cancelled_command_is_killed_and_reaped(call):
    def main():
        fiber = greenio.spawn(call)
        wait_all_parked()
        fiber.cancel()
        fiber.join()
        assert fiber.cancelled()
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        with pytest.raises(TimeoutError), greenio.timeout(10):
            call()

    greenio.run(main, clock=VirtualClock())


def test_popen_reads_and_writes_and_says_the_status(tmp_path):
    def main():
        with os.popen("echo a; echo b") as file:
            assert file.readlines() == ["a\n", "b\n"]
        file = os.popen("exit 3")
        assert file.read() == ""
        assert file.close() == 3 << 8
        path = tmp_path / "out"
        file = os.popen(f"cat > {path}", "w")
        file.write("text")
        assert file.close() is None
        assert path.read_text() == "text"
        for arguments in ((b"true",), ("true", "x"), ("true", "r", 0)):
            with pytest.raises((TypeError, ValueError)):
                os.popen(*arguments)

    greenio.run(main)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_spawn_family_waits_by_parking():
    def main():
        assert os.spawnv(os.P_WAIT, "/bin/sh", ["sh", "-c", "exit 3"]) == 3
        assert os.spawnve(os.P_WAIT, "/bin/sh", ["sh", "-c", "exit $CODE"], {"CODE": "4"}) == 4
        assert os.spawnvp(os.P_WAIT, "sh", ["sh", "-c", "exit 5"]) == 5
        assert os.spawnl(os.P_WAIT, "/bin/sh", "sh", "-c", "kill -9 $$") == -9
        assert os.spawnle(os.P_WAIT, "/bin/sh", "sh", "-c", "exit $CODE", {"CODE": "6"}) == 6
        assert os.spawnlpe(os.P_WAIT, "sh", "sh", "-c", "exit 7", dict(standard.environ)) == 7
        pid = os.spawnlp(os.P_NOWAIT, "sh", "sh", "-c", "exit 8")
        assert os.waitpid(pid, 0) == (pid, 8 << 8)

    greenio.run(main)


# --- descriptors -----------------------------------------------------------------------------------------------------


def test_a_read_costs_what_comes_and_not_what_it_could_take(pipe):
    reader, writer = pipe

    def pages_touched(read):
        standard.write(writer, b"little")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        assert read(reader, 1 << 28) == b"little"
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    theirs = pages_touched(standard.read)  # all of them where the allocator is a debugging one
    assert greenio.run(pages_touched, os.read) < theirs + 1000


def test_read_parks_until_there_is_something(pipe):
    reader, writer = pipe

    def main():
        fiber = greenio.spawn(os.read, reader, 10)
        wait_all_parked()
        assert fiber.state == "parked"
        assert os.write(writer, b"hello world") == 11
        assert fiber.result() == b"hello worl"
        buffers = [bytearray(1), bytearray(5)]
        fiber = greenio.spawn(os.readv, reader, buffers)
        assert fiber.result() == 1
        fiber = greenio.spawn(os.readv, reader, buffers)
        wait_all_parked()
        os.writev(writer, [b"ab", b"", b"cd"])
        assert fiber.result() == 4
        assert buffers == [b"a", b"bcd\0\0"]
        fiber = greenio.spawn(os.read, reader, 10)
        wait_all_parked()
        os.close(writer)
        assert fiber.result() == b""
        assert standard.get_blocking(reader)

    greenio.run(main)


def test_a_cancelled_read_takes_nothing(pipe):
    reader, writer = pipe

    def main():
        fiber = greenio.spawn(os.read, reader, 10)
        wait_all_parked()
        fiber.cancel()
        fiber.join()
        assert fiber.cancelled()
        with pytest.raises(TimeoutError), greenio.timeout(5):
            os.read(reader, 10)
        os.write(writer, b"still there")
        with greenio.CancelScope() as scope:
            scope.cancel()
            os.read(reader, 20)
        assert os.read(reader, 20) == b"still there"

    greenio.run(main, clock=VirtualClock())


def test_write_writes_all_and_parks_for_room(pipe):
    reader, writer = pipe
    data = standard.urandom(300_000)

    def main():
        fiber = greenio.spawn(os.write, writer, data)
        wait_all_parked()
        assert fiber.state == "parked"
        found = bytearray()
        while len(found) < len(data):
            found += os.read(reader, 100_000)
        assert found == data
        assert fiber.result() == len(data)
        assert standard.get_blocking(writer)

    greenio.run(main)


def test_a_cancelled_write_says_how_far_it_got(pipe):
    reader, writer = pipe

    def main():
        def write():
            count = os.writev(writer, [b"x" * 50_000, b"y" * 50_000])
            greenio.checkpoint()
            return count

        counts = []

        def worker():
            try:
                counts.append(os.writev(writer, [b"x" * 50_000, b"y" * 50_000]))
                os.write(writer, b"never")
            except greenio.Cancelled:
                counts.append("cancelled")
                raise

        fiber = greenio.spawn(worker)
        wait_all_parked()
        fiber.cancel()
        fiber.join()
        assert counts[1] == "cancelled"
        assert 0 < counts[0] < 100_000
        assert len(standard.read(reader, 200_000)) == counts[0]
        del write

    greenio.run(main)


def test_a_broken_pipe_after_the_first_bytes_is_told_by_the_next_write(pipe):
    reader, writer = pipe

    def main():
        fiber = greenio.spawn(os.write, writer, b"x" * 200_000)
        wait_all_parked()
        os.close(reader)
        assert 0 < fiber.result() < 200_000
        with pytest.raises(BrokenPipeError):
            os.write(writer, b"x")

    greenio.run(main)


def test_who_set_o_nonblock_gets_blocking_io_error(pipe):
    reader, writer = pipe
    standard.set_blocking(reader, False)
    standard.set_blocking(writer, False)

    def main():
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        assert 0 < os.write(writer, b"x" * 200_000) < 200_000

    greenio.run(main)


def test_greenios_sockets_are_waited_for():
    def main():
        one, other = greenio.socket.socketpair()
        with one, other:
            fiber = greenio.spawn(os.read, one.fileno(), 10)
            wait_all_parked()
            assert fiber.state == "parked"
            os.write(other.fileno(), b"hello")
            assert fiber.result() == b"hello"

    greenio.run(main)


def test_blocking_sockets_terminals_and_other_descriptors(tmp_path):
    master, slave = pty.openpty()
    one, other = socket.socketpair()
    event = standard.eventfd(0)

    def main():
        for reader, writer, data in (
            (master, slave, b"terminal"),
            (one.fileno(), other.fileno(), b"socket"),
            (event, event, (5).to_bytes(8, sys.byteorder)),
        ):
            fiber = greenio.spawn(os.read, reader, 100)
            wait_all_parked()
            assert fiber.state == "parked"
            assert os.write(writer, data) == len(data)
            assert fiber.result() == data
        path = tmp_path / "file"
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            assert os.write(fd, b"regular") == 7
            assert os.writev(fd, [b" ", b"file"]) == 5
            os.lseek(fd, 0, os.SEEK_SET)
            assert os.read(fd, 100) == b"regular file"
            assert os.read(fd, 100) == b""
        finally:
            os.close(fd)
        with open("/dev/null", "r+b", buffering=0) as null:
            assert os.read(null.fileno(), 10) == b""
            assert os.write(null.fileno(), b"x" * 1000) == 1000

    with one, other:
        greenio.run(main)
    for fd in (master, slave, event):
        standard.close(fd)


def test_errors_are_the_standards(pipe):
    reader, writer = pipe

    def main():
        with pytest.raises(OSError, match="Bad file"):
            os.read(writer, 1)
        with pytest.raises(OSError, match="Bad file"):
            os.write(reader, b"x")
        with pytest.raises(OSError, match="Bad file"):
            os.read(-1, 1)
        with pytest.raises(OSError, match="Invalid"):
            os.read(reader, -1)
        with pytest.raises(TypeError):
            os.write(writer, "text")
        assert os.write(writer, b"") == 0
        assert os.read(reader, 0) == b""
        with pytest.raises(IsADirectoryError):
            fd = os.open("/", os.O_RDONLY)
            try:
                os.read(fd, 1)
            finally:
                os.close(fd)

    greenio.run(main)


def test_closing_what_somebody_waits_for(pipe):
    reader, _ = pipe

    def main():
        fiber = greenio.spawn(os.read, reader, 1)
        wait_all_parked()
        greenio.notify_closing(reader)
        os.close(reader)
        with pytest.raises(OSError, match=r"closed|Bad file") as caught:
            fiber.result()
        assert caught.value.errno == errno.EBADF

    greenio.run(main)


@pytest.mark.parametrize("known", [True, False], ids=["RWF_NOWAIT", "poll"])
def test_kernels_without_rwf_nowait_for_pipes(pipe, monkeypatch, known):
    reader, writer = pipe
    data = standard.urandom(200_000)

    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, standard.strerror(errno.EOPNOTSUPP))

    if not known:
        monkeypatch.setattr(os._standard, "preadv", unsupported)
        monkeypatch.setattr(os._standard, "pwritev", unsupported)

    def main():
        fiber = greenio.spawn(os.write, writer, data)
        found = bytearray()
        while len(found) < len(data):
            found += os.read(reader, 7000)
        assert found == data
        assert fiber.result() == len(data)
        process = greenio.subprocess.Popen(["cat"], stdin=-1, stdout=-1)
        assert process.communicate(data) == (data, None)

    greenio.run(main)


def test_another_error_of_the_trial_is_told(pipe, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, standard.strerror(errno.EIO))

    reader, writer = pipe
    monkeypatch.setattr(os._standard, "preadv", broken)
    monkeypatch.setattr(os._standard, "pwritev", broken)

    def main():
        for call in (lambda: os.readv(reader, [bytearray(1)]), lambda: os.writev(writer, [b"x"])):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.EIO

    greenio.run(main)


def test_the_os_thread_is_not_blocked_meanwhile(pipe):
    # The watch-dog: nobody else could wake the run.
    reader, writer = pipe

    def main():
        fiber = greenio.spawn(os.read, reader, 1)
        start = time.monotonic()
        greenio.sleep(0.01)
        assert time.monotonic() - start < 10
        os.write(writer, b"x")
        assert fiber.result() == b"x"
        assert select.select([reader], [], [], 0) == ([], [], [])

    greenio.run(main)


# --- what the standard functions do at their edges ---------------------------------------------------------------------


@pytest.fixture
def nobody_waits():
    """The system reaps children itself, as some programs ask it to."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_children_that_the_system_reaps_have_no_status(nobody_waits):
    program = ["sh", "-c", "exit 3"]
    assert standard.system("exit 3") == -1
    with pytest.raises(ChildProcessError):
        standard.spawnvp(standard.P_WAIT, "sh", program)

    def main():
        assert os.system("exit 3") == -1
        with pytest.raises(ChildProcessError):
            os.spawnvp(os.P_WAIT, "sh", program)
        for call in (lambda: os.system("exec sleep 1000"), lambda: os.spawnvp(os.P_WAIT, "sleep", ["sleep", "1000"])):
            fiber = greenio.spawn(call)
            wait_all_parked()
            fiber.cancel()
            fiber.join()
            assert fiber.cancelled()
        with pytest.raises(ChildProcessError):  # both were killed, and the system has reaped them
            standard.waitpid(-1, 0)

    greenio.run(main)


def test_a_command_that_is_too_long_starts_no_process():
    assert greenio.run(os.system, "x" * (4 << 20)) == 127 << 8


def test_readv_reads_files_as_the_standard_one(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abcde")

    def outcome(readv):
        file = standard.open(path, standard.O_RDONLY)
        try:
            rooms = [bytearray(2), bytearray(2)]
            return [(readv(file, rooms), [bytes(room) for room in rooms]) for _ in range(3)]
        finally:
            standard.close(file)

    assert greenio.run(outcome, os.readv) == outcome(standard.readv)


def test_readv_without_rwf_nowait_parks(pipe, monkeypatch):
    reader, writer = pipe

    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, standard.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os._standard, "preadv", unsupported)

    def main():
        rooms = [bytearray(1), bytearray(4)]
        fiber = greenio.spawn(os.readv, reader, rooms)
        wait_all_parked()
        assert fiber.state == "parked"
        standard.write(writer, b"abc")
        assert fiber.result() == 3
        assert rooms == [b"a", b"bc\0\0"]

    greenio.run(main)
