"""greenio.subprocess: real processes. What waits parks, can be cancelled, and leaves neither process nor descriptor behind."""

import array
import contextlib
import errno
import fcntl
import inspect
import io
import os
import signal
import subprocess as standard
import sys
import termios
import threading
import time
import warnings

import pytest
from child import run_child
from waiters import until

import greenio
from greenio import subprocess
from greenio.testing import VirtualClock, wait_all_parked

CAT = ["cat"]
SLEEP = ["sleep", "1000"]


@pytest.fixture(autouse=True)
def leaves_no_child():
    """Fails a test after which a child of this process lives or is a zombie."""
    yield
    subprocess._standard._cleanup()
    with pytest.raises(ChildProcessError):
        found = os.waitpid(-1, os.WNOHANG)
        pytest.fail(f"a child was left behind: {found}")
    for thread in threading.enumerate():
        if thread.name.startswith("greenio wait for"):
            thread.join()  # nothing is left to wait for


@pytest.fixture
def no_pidfd(monkeypatch):
    """As in a sandbox that refuses pidfd_open."""

    def refuse(pid, flags=0):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "pidfd_open", refuse)


@pytest.fixture(params=["pidfd", "os thread"])
def either_way(request):
    """Both ways to wait for the end of a process."""
    if request.param == "os thread":
        request.getfixturevalue("no_pidfd")


@contextlib.contextmanager
def running(*args, **keywords):
    """A process that is killed and reaped in the end."""
    process = subprocess.Popen(*args, **keywords)
    try:
        yield process
    finally:
        process.kill()
        for file in (process.stdin, process.stdout, process.stderr):
            if file is not None and not file.closed:
                with contextlib.suppress(BrokenPipeError):
                    file.close()
        with greenio.shield():
            process.wait()


def python(source):
    return [sys.executable, "-S", "-c", source]


def in_fibers(function):
    """A test whose body runs as the main fiber."""

    def test(*args, **keywords):
        return greenio.run(lambda: function(*args, **keywords))

    test.__name__ = function.__name__
    test.__signature__ = inspect.signature(function)
    return test


# --- names and signatures --------------------------------------------------------------------------------------------


def test_every_name_of_the_standard_module_is_there():
    for name in dir(standard):
        assert hasattr(subprocess, name), name
    assert set(subprocess.__all__) == set(standard.__all__)
    assert subprocess.CalledProcessError is standard.CalledProcessError
    assert subprocess.list2cmdline is standard.list2cmdline


@pytest.mark.parametrize(
    "name",
    ["run", "call", "check_call", "check_output", "getoutput", "getstatusoutput", "Popen.__init__", "Popen.wait"],
)
def test_signatures_are_the_standards(name):
    ours, theirs = subprocess, standard
    for part in name.split("."):
        ours, theirs = getattr(ours, part), getattr(theirs, part)
    wanted, found = inspect.signature(theirs).parameters, inspect.signature(ours).parameters
    assert [(each.name, each.kind, each.default) for each in found.values()] == [
        (each.name, each.kind, each.default) for each in wanted.values()
    ]


def test_without_fibers_nothing_is_started():
    with pytest.raises(RuntimeError, match=r"inside greenio\.run"):
        subprocess.Popen(["true"])
    with pytest.raises(RuntimeError, match=r"inside greenio\.run"):
        subprocess.run(["true"], check=True)


# --- start -----------------------------------------------------------------------------------------------------------


@in_fibers
def test_a_process_is_a_standard_one():
    process = subprocess.Popen(["true"])
    assert isinstance(process, standard.Popen)
    assert process.wait() == 0 == process.returncode == process.poll()
    assert "returncode: 0" in repr(process)
    assert subprocess.Popen[bytes] is not None


@in_fibers
def test_failures_to_start_are_the_standards_and_leave_nothing():
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError, match="no such thing"):
        subprocess.Popen(["/no such thing"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        subprocess.Popen(["true"], cwd="/no such folder", stdout=subprocess.PIPE)
    with pytest.raises(PermissionError):
        subprocess.Popen(["/etc/passwd"])
    with pytest.raises(LookupError):
        subprocess.Popen(["true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="no such encoding")
    with pytest.raises(TypeError):
        subprocess.Popen(["true"], bufsize="8", stdout=subprocess.PIPE)
    with pytest.raises(standard.SubprocessError):
        subprocess.Popen(["true"], stdout=subprocess.PIPE, preexec_fn=lambda: 1 / 0)
    assert sorted(os.listdir("/proc/self/fd")) == before


@in_fibers
def test_options_reach_the_process(tmp_path):
    reader, writer = os.pipe()
    try:
        found = subprocess.check_output(
            python(
                f"import os; os.write({writer}, b'!'); print(os.getcwd(), os.environ['A'], os.getsid(0) == os.getpid())"
            ),
            cwd=tmp_path,
            env={"A": "b"},
            start_new_session=True,
            pass_fds=[writer],
            text=True,
        )
        assert os.read(reader, 10) == b"!"
    finally:
        os.close(reader)
        os.close(writer)
    assert found == f"{tmp_path} b True\n"
    assert subprocess.check_output("echo $0 $1", shell=True) == b"/bin/sh\n"
    group = subprocess.check_output(python("import os; print(os.getpgrp() == os.getpid())"), process_group=0)
    assert group == b"True\n"


@in_fibers
def test_other_fibers_run_until_a_slow_preexec_fn_is_through():
    reader, writer = os.pipe()

    def others():
        for _ in range(5):
            greenio.yield_now()
        os.write(writer, b"x")  # without it the preexec_fn would wait for ever

    fiber = greenio.spawn(others)
    process = subprocess.Popen(["true"], preexec_fn=lambda: os.read(reader, 1))
    assert fiber.done()
    assert process.wait() == 0
    os.close(reader)
    os.close(writer)


@in_fibers
def test_cancelled_while_a_preexec_fn_runs_leaves_no_process():
    reader, writer = os.pipe()  # ends when the last process that has the other end is gone
    made = []

    def start():
        made.append(subprocess.Popen(["true"], preexec_fn=lambda: time.sleep(100), pass_fds=[writer]))

    fiber = greenio.spawn(start)
    wait_all_parked()
    assert fiber.waits_for[0] == "descriptor readable"
    fiber.cancel()
    fiber.join()
    assert fiber.cancelled()
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert made == []


@in_fibers
def test_cancelled_before_the_start_nothing_is_started():
    with greenio.CancelScope() as scope:
        scope.cancel()
        subprocess.Popen(["true"])
    assert scope.cancelled_caught


# --- wait ------------------------------------------------------------------------------------------------------------


@in_fibers
def test_wait_parks_and_says_how_it_ended(either_way):
    with running(CAT, stdin=subprocess.PIPE) as process:
        fiber = greenio.spawn(process.wait)
        wait_all_parked()
        assert fiber.state == "parked"
        assert process.poll() is None
        process.stdin.close()
        assert fiber.result() == 0
    with running(["sh", "-c", "exit 7"]) as process:
        assert process.wait() == 7
    with running(SLEEP) as process:
        process.terminate()
        assert process.wait() == -signal.SIGTERM
        assert process.wait(timeout=0) == -signal.SIGTERM


@in_fibers
def test_wait_times_out_and_the_process_goes_on(either_way):
    with running(SLEEP) as process:
        for timeout in (0, -1, 0.01):
            with pytest.raises(subprocess.TimeoutExpired) as caught:
                process.wait(timeout)
            assert caught.value.timeout == timeout
            assert caught.value.cmd == SLEEP
        assert process.poll() is None


def test_timeouts_are_on_the_runs_clock():
    def main():
        with running(SLEEP) as process:
            start = greenio.current_time()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=1000)
            assert greenio.current_time() - start == pytest.approx(1000)
            with pytest.raises(subprocess.TimeoutExpired), running(SLEEP, stdin=-1, stdout=-1) as other:
                other.communicate(timeout=500)
            assert greenio.current_time() - start == pytest.approx(1500)
            # What run() has to kill is reaped all the same, though that takes real time.
            with pytest.raises(subprocess.TimeoutExpired):
                subprocess.run(SLEEP, timeout=3)
        with greenio.move_on_after(5) as scope:
            subprocess.run(SLEEP)
        assert scope.cancelled_caught
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    greenio.run(main, clock=VirtualClock())


@in_fibers
def test_wait_is_cancelled_and_the_process_goes_on(either_way):
    with running(SLEEP) as process:
        fiber = greenio.spawn(process.wait)
        wait_all_parked()
        fiber.cancel()
        fiber.join()
        assert fiber.cancelled()
        assert process.poll() is None
        with greenio.move_on_after(0.01):
            process.wait()
        with pytest.raises(TimeoutError), greenio.timeout(0.01):
            process.wait()
        process.kill()
        assert process.wait() == -signal.SIGKILL


@in_fibers
def test_many_fibers_wait_for_one_process(either_way):
    with running(CAT, stdin=subprocess.PIPE) as process:
        fibers = [greenio.spawn(process.wait) for _ in range(20)]
        wait_all_parked()
        fibers[0].cancel()
        process.stdin.close()
        assert [fiber.result() for fiber in fibers[1:]] == [0] * 19


@in_fibers
def test_waited_for_from_other_os_threads_with_and_without_fibers(either_way):
    results = []
    with running(CAT, stdin=subprocess.PIPE) as process:
        threads = [threading.Thread(target=lambda: results.append(process.wait())) for _ in range(3)]
        threads += [threading.Thread(target=lambda: results.append(greenio.run(process.wait))) for _ in range(3)]
        for thread in threads:
            thread.start()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.02)
        process.stdin.close()
        assert process.wait() == 0
        for thread in threads:
            while thread.is_alive():
                greenio.sleep(0.001)
    assert results == [0] * 6


def test_an_os_thread_without_fibers_can_time_out():
    def main():
        with running(SLEEP) as process:
            caught = []

            def wait():
                try:
                    process.wait(0.01)
                except subprocess.TimeoutExpired as error:
                    caught.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            while thread.is_alive():
                greenio.sleep(0.001)
            assert caught

    greenio.run(main)


@in_fibers
def test_what_something_else_has_reaped_returned_0_as_the_standard_says(either_way):
    process = subprocess.Popen(["sh", "-c", "exit 3"])
    fiber = greenio.spawn(process.wait)
    assert os.waitpid(process.pid, 0)[1] == 3 << 8
    assert fiber.result() == 0
    process.kill()  # nobody is hit


def test_with_sigchld_ignored_the_status_is_lost_and_nothing_hangs():
    run_child("""
        import signal
        import greenio
        from greenio import subprocess

        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        assert greenio.run(lambda: subprocess.call(["sh", "-c", "exit 3"])) == 0
    """)


@in_fibers
def test_no_handler_for_sigchld_is_installed_or_needed():
    before = signal.getsignal(signal.SIGCHLD)
    seen = []
    signal.signal(signal.SIGCHLD, lambda *_: seen.append(1))
    try:
        handler = signal.getsignal(signal.SIGCHLD)
        subprocess.call(["true"])
        assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert seen


@in_fibers
def test_the_pidfd_is_inherited_by_nobody_and_closed_after_the_wait():
    with running(SLEEP) as process:
        fd = process._pidfd.fileno()
        assert not os.get_inheritable(fd)
        process.kill()
        process.wait()
        assert process._pidfd is None
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)


@in_fibers
def test_without_a_free_descriptor_for_the_pidfd_an_os_thread_waits(monkeypatch):
    def full(pid, flags=0):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", full)
    assert subprocess.call(["sh", "-c", "exit 3"]) == 3


@in_fibers
def test_waits_that_were_cancelled_share_one_os_thread(no_pidfd):
    with running(SLEEP) as process:
        for _ in range(20):
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.001)
        waiting = [thread for thread in threading.enumerate() if str(process.pid) in thread.name]
        assert len(waiting) == 1
        process.kill()
        process.wait()
        waiting[0].join()


class Told(TimeoutError):
    """A signal handler's, as programs raise it to end whatever takes too long."""


@pytest.mark.parametrize("timeout", [None, 1000])
@pytest.mark.parametrize("wait", ["wait", "communicate"])
def test_a_handlers_timeout_error_is_not_taken_for_the_waits_own(wait, timeout):
    def tell(*_):
        raise Told

    def main():
        with running(SLEEP, stdout=subprocess.PIPE) as process, pytest.raises(Told):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            getattr(process, wait)(timeout=timeout)

    before = signal.signal(signal.SIGALRM, tell)
    try:
        greenio.run(main)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@in_fibers
def test_no_poller_knows_a_pidfd_that_is_closed():
    def watched():
        found = []
        for name in os.listdir("/proc/self/fdinfo"):
            with contextlib.suppress(FileNotFoundError), open(f"/proc/self/fdinfo/{name}") as info:
                found += [line.split()[1] for line in info if line.startswith("tfd:")]
        return found

    with running(SLEEP) as process:
        waiting = greenio.spawn(process.wait)
        wait_all_parked()
        number = process._pidfd.fd
        copy = os.dup(number)  # keeps the file open, and with it what nobody has taken out
        try:
            assert str(number) in watched()
            process.kill()
            assert waiting.result() == -signal.SIGKILL
            with pytest.raises(OSError):
                os.fstat(number)
            assert str(number) not in watched()
        finally:
            os.close(copy)


# --- signals to processes --------------------------------------------------------------------------------------------


@in_fibers
def test_signals_reach_the_process_and_after_its_end_nobody(either_way):
    with running(SLEEP) as process:
        process.send_signal(0)
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)
        process.terminate()
        assert process.wait() == -signal.SIGTERM
        process.kill()
        process.send_signal(signal.SIGUSR1)


@in_fibers
def test_where_signals_through_pidfds_are_refused_the_pid_is_used(monkeypatch):
    def refuse(fd, sig):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    with running(SLEEP) as process:
        process.terminate()
        assert process.wait() == -signal.SIGTERM


@in_fibers
def test_a_process_that_ends_as_it_is_signalled_is_no_error(monkeypatch):
    def too_late(fd, sig):
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    with running(SLEEP) as process:
        with monkeypatch.context() as patch:
            patch.setattr(signal, "pidfd_send_signal", too_late)
            process.terminate()
        assert process.poll() is None


@in_fibers
def test_a_reused_pid_is_not_hit():
    bystander = subprocess.Popen(SLEEP)
    process = subprocess.Popen(["true"])
    pidfd = process._pidfd
    assert pidfd.wait()
    try:
        os.waitpid(process.pid, 0)
        process.pid = bystander.pid  # as if the number had been given to another one
        process._internal_poll = lambda *_: None
        process.kill()
        with pytest.raises(subprocess.TimeoutExpired):
            bystander.wait(0.05)  # a killed one would be gone by then
    finally:
        del process._internal_poll
        process.returncode = 0
        bystander.kill()
        bystander.wait()


# --- communicate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_000])
@in_fibers
def test_communicate_both_ways_at_once(size, either_way):
    data = os.urandom(size)
    with running(
        python("import sys; d = sys.stdin.buffer.read(); sys.stdout.buffer.write(d); sys.stderr.buffer.write(d[::-1])"),
        stdin=-1,
        stdout=-1,
        stderr=-1,
    ) as process:
        assert process.communicate(data) == (data, data[::-1])
        assert process.returncode == 0
        assert process.stdin.closed
        assert process.stdout.closed
        assert process.communicate() == (data, data[::-1])
    with running(CAT, stdin=-1, stdout=-1) as process:
        assert process.communicate(data) == (data, None)


@in_fibers
def test_communicate_goes_on_where_a_timeout_stopped_it():
    data = os.urandom(500_000)
    reader, writer = os.pipe()
    source = f"import os, sys; os.write(1, b'ready'); os.read({reader}, 1); os.write(2, b'going on'); "
    with running(
        python(source + "d = sys.stdin.buffer.read(); sys.stdout.buffer.write(d)"),
        stdin=-1,
        stdout=-1,
        stderr=-1,
        pass_fds=[reader],
    ) as process:
        seen = None
        timeouts = set()
        for attempt in range(10_000):
            try:
                found = process.communicate(None if attempt else data, timeout=0.01)
                break
            except subprocess.TimeoutExpired as error:
                seen = error.output or seen
                timeouts.add(error.timeout)
                with pytest.raises(ValueError, match="Cannot send input"):
                    process.communicate(b"more")
                if seen and attempt >= 3:
                    os.write(writer, b"x")
        assert seen.startswith(b"ready")
        assert timeouts == {0.01}
        assert found == (b"ready" + data, b"going on")
    os.close(reader)
    os.close(writer)


@in_fibers
def test_communicate_loses_nothing_when_cancelled():
    data = os.urandom(2_000_000)
    with running(CAT, stdin=-1, stdout=-1) as process:
        process.send_signal(signal.SIGSTOP)
        first = greenio.spawn(process.communicate, data)
        wait_all_parked()
        first.cancel()
        first.join()
        assert first.cancelled()
        assert process.poll() is None
        process.send_signal(signal.SIGCONT)
        # Interrupted again and again, in the middle of the stream.
        for _ in range(50):
            with greenio.move_on_after(0.0005) as scope:
                process.communicate()
        assert process.communicate() == (data, None)
        del scope


@pytest.mark.parametrize("text", [False, True])
@in_fibers
def test_communicate_loses_nothing_when_cancelled_at_its_very_end(text):
    scope = greenio.CancelScope()

    class Cancelling(subprocess.Popen):
        def wait(self, timeout=None):
            status = super().wait(timeout)
            scope.cancel()
            return status

    process = Cancelling(["sh", "-c", "echo out; echo error >&2"], stdout=-1, stderr=-1, text=text)
    with scope:
        process.communicate()
    wanted = ("out\n", "error\n")
    assert process.communicate() == (wanted if text else tuple(part.encode() for part in wanted))


@in_fibers
def test_what_communicate_has_read_before_a_timeout_is_there_for_other_readers():
    with running(["sh", "-c", "echo one; echo two; exec sleep 1000"], stdout=-1, text=True) as process:
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            while True:
                process.communicate(timeout=0.05)
        if caught.value.output == b"one\ntwo\n":
            assert process.stdout.readline() == "one\n"
            assert process.stdout.readline() == "two\n"


@in_fibers
def test_what_was_read_ahead_before_communicate_is_not_lost():
    text = "näin\nüber\n€\n" * 1000
    with running(CAT, stdin=-1, stdout=-1, encoding="utf-8") as process:
        process.stdin.write(text[:10])
        process.stdin.flush()
        assert process.stdout.readline() == "näin\n"
        process.stdin.write(text[10:])
        process.stdin.write("still in a buffer ")
        out, _ = process.communicate("the end")
        assert "näin\n" + out == text + "still in a buffer the end"


@in_fibers
def test_communicate_ignores_a_process_that_does_not_read():
    with running(["true"], stdin=-1, stdout=-1) as process:
        assert process.communicate(b"x" * 1_000_000) == (b"", None)


@in_fibers
def test_communicate_refuses_wrong_input_and_changes_nothing():
    with running(CAT, stdin=-1, stdout=-1) as process:
        with pytest.raises(TypeError):
            process.communicate("text")
        assert process.communicate(b"bytes") == (b"bytes", None)
    with running(CAT, stdin=-1, stdout=-1, text=True) as process:
        with pytest.raises(TypeError, match="must be str"):
            process.communicate(b"bytes")
        assert process.communicate("text") == ("text", None)
    with running(CAT, stdin=-1, stdout=-1) as process:
        process.stdin.close()
        with pytest.raises(ValueError, match="closed"):
            process.communicate(b"bytes")
        assert process.communicate() == (b"", None)


@in_fibers
def test_communicate_refuses_files_that_are_not_on_its_pipes(tmp_path):
    with running(["cat"], stdin=-1, stdout=-1, stderr=-1) as process:
        mine = process.stderr
        with (tmp_path / "file").open("w+b") as process.stderr, pytest.raises(TypeError, match="none of them"):
            process.communicate(b"x")
        process.stderr = mine


@in_fibers
def test_what_communicate_left_is_read_in_parts():
    with running(["sh", "-c", "printf 0123456789; exec sleep 1000"], stdout=-1, bufsize=0) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=0.02)
        process.kill()
        process.wait()
        buffer = bytearray(3)
        assert (process.stdout.readinto(buffer), bytes(buffer)) == (3, b"012")
        assert process.stdout.read(2) == b"34"
        assert process.stdout.read() == b"56789"
        assert process.stdout.read(1) == b"" == process.stdout.read()


@in_fibers
def test_communicate_takes_any_buffer():
    import array

    numbers = array.array("I", range(1000))
    with running(CAT, stdin=-1, stdout=-1) as process:
        assert process.communicate(numbers)[0] == numbers.tobytes()


@in_fibers
def test_communicate_without_pipes_waits():
    with running(["sh", "-c", "exit 3"]) as process:
        assert process.communicate() == (None, None)
        assert process.returncode == 3


def test_communicate_on_an_os_thread_without_fibers():
    found = []

    def main():
        with running(CAT, stdin=-1, stdout=-1) as process:
            thread = threading.Thread(target=lambda: found.append(process.communicate(b"x" * 300_000, timeout=50)))
            thread.start()
            while thread.is_alive():
                greenio.sleep(0.001)

    greenio.run(main)
    assert found == [(b"x" * 300_000, None)]


# --- pipes -----------------------------------------------------------------------------------------------------------


@in_fibers
def test_reading_and_writing_pipes_parks():
    with running(CAT, stdin=-1, stdout=-1) as process:
        reader = greenio.spawn(process.stdout.read, 5)
        wait_all_parked()
        assert reader.state == "parked"
        process.stdin.write(b"hello")
        process.stdin.flush()
        assert reader.result() == b"hello"
        writer = greenio.spawn(lambda: (process.stdin.write(b"x" * 1_000_000), process.stdin.close()))
        wait_all_parked()
        assert writer.state == "parked"
        assert process.stdout.read() == b"x" * 1_000_000
        writer.join()


@in_fibers
def test_a_cancelled_read_or_write_can_be_done_again():
    with running(CAT, stdin=-1, stdout=-1, bufsize=0) as process:
        reader = greenio.spawn(process.stdout.read, 5)
        wait_all_parked()
        reader.cancel()
        reader.join()
        assert reader.cancelled()
        process.stdin.write(b"hello")
        assert process.stdout.read(10) == b"hello"
        whole = greenio.spawn(process.stdout.readall)
        process.stdin.write(b"first")
        wait_all_parked()
        whole.cancel()
        whole.join()
        process.stdin.write(b"second")
        process.stdin.close()
        assert process.stdout.read() == b"firstsecond"


@in_fibers
def test_closing_a_pipe_wakes_who_reads_it():
    with running(SLEEP, stdout=-1, bufsize=0) as process:
        reader = greenio.spawn(process.stdout.read, 5)
        wait_all_parked()
        process.stdout.close()
        with pytest.raises(OSError, match=r"closed|Bad file"):
            reader.result()


@in_fibers
def test_text_lines_and_universal_newlines():
    with running(["printf", r"a\r\nb\rc\nd"], stdout=-1, universal_newlines=True) as process:
        assert isinstance(process.stdout, io.TextIOWrapper)
        assert list(process.stdout) == ["a\n", "b\n", "c\n", "d"]
    with running(["printf", r"a\r\nb\rc\nd"], stdout=-1, text=True) as process:
        assert process.communicate()[0] == "a\nb\nc\nd"
    with running(["printf", r"\344\n"], stdout=-1, encoding="latin-1") as process:
        assert process.communicate()[0] == "ä\n"
    with running(["printf", r"\344\n"], stdout=-1, encoding="ascii", errors="replace") as process:
        assert process.communicate()[0] == "\ufffd\n"
    with running(CAT, stdin=-1, stdout=-1, text=True, bufsize=1) as process:
        process.stdin.write("line\n")  # goes at once
        assert process.stdout.readline() == "line\n"
        process.communicate()


@in_fibers
def test_unbuffered_pipes_write_all():
    with running(CAT, stdin=-1, stdout=-1, bufsize=0) as process:
        reader = greenio.spawn(lambda: process.stdout.readall())
        assert process.stdin.write(b"x" * 1_000_000) == 1_000_000
        process.stdin.close()
        assert len(reader.result()) == 1_000_000


@in_fibers
def test_line_buffering_in_binary_mode_warns_as_the_standard():
    with pytest.warns(RuntimeWarning, match="line buffering"):
        process = subprocess.Popen(CAT, stdin=-1, stdout=-1, bufsize=1)
    process.communicate()


@in_fibers
def test_a_pipe_can_be_handed_to_the_next_process():
    # `yes | head -n 3`: the second one reads from what is our end; were it non-blocking, it would see EAGAIN.
    with (
        running(["sh", "-c", "sleep 0.1; printf 'a\nb\nc\n'"], stdout=-1) as first,
        running(["head", "-n", "2"], stdin=first.stdout, stdout=-1) as second,
    ):
        first.stdout.close()
        assert second.communicate()[0] == b"a\nb\n"
        assert second.returncode == 0


@in_fibers
def test_the_childs_descriptors_block():
    with running(
        python("import os; print(*[os.get_blocking(fd) for fd in (0, 1, 2)])"), stdin=-1, stdout=-1, stderr=-1
    ) as process:
        for file in (process.stdin, process.stdout, process.stderr):
            assert os.get_blocking(file.fileno())
        assert process.communicate()[0] == b"True True True\n"


@in_fibers
def test_stderr_into_stdout_and_devnull():
    both = subprocess.run("echo a; echo b >&2", shell=True, stdout=-1, stderr=subprocess.STDOUT, check=True)
    assert both.stdout == b"a\nb\n"
    none = subprocess.run("echo a", shell=True, stdout=subprocess.DEVNULL, stderr=-1, stdin=subprocess.DEVNULL)
    assert (none.stdout, none.stderr) == (None, b"")


@in_fibers
def test_an_unbuffered_write_that_is_cancelled_says_how_much_was_written():
    with running(SLEEP, stdin=subprocess.PIPE, bufsize=0) as process:
        told = []

        def write():
            try:
                process.stdin.write(bytes(300_000))
            except greenio.Cancelled as error:
                told.append(error.characters_written)
                raise

        writing = greenio.spawn(write)
        wait_all_parked()
        writing.cancel()
        wait_all_parked()
        held = array.array("i", [0])
        fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, held)
        assert told == [held[0]]
        assert 0 < held[0] < 300_000


@pytest.mark.parametrize("mode", ["wb", "w"])
@in_fibers
def test_a_file_of_greenios_as_standard_file_blocks_in_the_process_and_parks_here(tmp_path, mode):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    opening = greenio.spawn(greenio.open, path, "rb")
    with greenio.open(path, mode) as writer, opening.result() as reader:
        assert not os.get_blocking(writer.fileno())
        source = "import os, sys; sys.exit(os.get_blocking(1))"
        assert subprocess.call(python(source), stdout=writer) == 1
        flood = "x" * 300_000 if mode == "w" else b"x" * 300_000
        fiber = greenio.spawn(lambda: (writer.write(flood), writer.flush()))
        wait_all_parked()
        assert fiber.state == "parked"
        with greenio.timeout(10):
            assert len(reader.read(300_000)) == 300_000
            fiber.result()


@in_fibers
def test_a_socket_of_greenios_as_standard_file_blocks_in_the_process_and_parks_here():
    with greenio.socket.create_server(("127.0.0.1", 0)) as listener:
        client = greenio.socket.create_connection(listener.getsockname())
        served, _ = listener.accept()
    with client, served:
        with running(CAT, stdin=served, stdout=served) as process:
            wait_all_parked()
            client.sendall(b"one")
            assert client.recv(10) == b"one"
            client.shutdown(greenio.socket.SHUT_WR)
            assert process.wait() == 0
        client.setblocking(True)
        reading = greenio.spawn(client.recv, 10)
        wait_all_parked()
        assert reading.state == "parked"
        served.sendall(b"two")
        assert reading.result() == b"two"


# --- calls -----------------------------------------------------------------------------------------------------------


@in_fibers
def test_calls_return_and_raise_what_the_standard_does():
    assert subprocess.call(["sh", "-c", "exit 3"]) == 3
    assert subprocess.check_call(["true"]) == 0
    with pytest.raises(subprocess.CalledProcessError) as caught:
        subprocess.check_call(["sh", "-c", "exit 3"])
    assert (caught.value.returncode, caught.value.cmd) == (3, ["sh", "-c", "exit 3"])
    assert subprocess.check_output(CAT, input=b"in") == b"in"
    assert subprocess.check_output(CAT, input=None, text=True) == ""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        subprocess.check_output("echo out; exit 4", shell=True)
    assert (caught.value.returncode, caught.value.output) == (4, b"out\n")
    with pytest.raises(ValueError, match="stdout argument not allowed"):
        subprocess.check_output(["true"], stdout=-1)
    with pytest.raises(ValueError, match="capture_output"):
        subprocess.run(["true"], capture_output=True, stdout=-1)
    with pytest.raises(ValueError, match="both be used"):
        subprocess.run(["true"], input=b"", stdin=-1)
    done = subprocess.run("cat; echo error >&2; exit 5", shell=True, input="text", capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (5, "text", "error\n")
    assert subprocess.getstatusoutput("echo a; exit 6") == (6, "a")
    assert subprocess.getoutput("echo a; echo b >&2") == "a\nb"


@pytest.mark.parametrize("name", ["run", "call", "check_call", "check_output"])
@in_fibers
def test_calls_that_time_out_or_are_cancelled_kill_and_reap(name, either_way):
    # The autouse fixture sees that there is no child left.
    function = getattr(subprocess, name)
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        function(["sh", "-c", "echo $$; exec sleep 1000"], timeout=0.05, **({} if "output" in name else {"stdout": -1}))
    del caught
    fiber = greenio.spawn(function, SLEEP)
    wait_all_parked()
    fiber.cancel()
    fiber.join()
    assert fiber.cancelled()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@in_fibers
def test_a_timeout_of_run_has_the_output_so_far():
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        subprocess.run(["sh", "-c", "echo so far; exec sleep 1000"], timeout=0.3, capture_output=True, text=True)
    assert caught.value.stdout == b"so far\n"
    assert caught.value.stderr is None


def test_keyboard_interrupt_kills_what_run_has_started():
    done = run_child("""
        import os, signal, threading
        import greenio
        from greenio import subprocess
        from greenio.testing import wait_all_parked

        def interrupt():
            wait_all_parked()
            os.kill(os.getpid(), signal.SIGINT)

        def main():
            greenio.spawn(interrupt)
            try:
                subprocess.run(["sleep", "1000"])
            except KeyboardInterrupt:
                print("interrupted")
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                print("reaped")

        greenio.run(main)
    """)
    assert done.stdout == "interrupted\nreaped\n"


# --- contexts and ends -----------------------------------------------------------------------------------------------


@in_fibers
def test_the_context_closes_files_and_waits():
    with subprocess.Popen(CAT, stdin=-1, stdout=-1) as process:
        process.stdin.write(b"buffered")
    assert process.returncode is not None
    assert process.stdin.closed
    assert process.stdout.closed


@in_fibers
def test_a_cancelled_context_leaves_the_process():
    with greenio.CancelScope() as scope, subprocess.Popen(SLEEP, stdout=-1) as process:
        scope.cancel()
        greenio.sleep(1)
    assert scope.cancelled_caught
    assert process.stdout.closed
    assert process.poll() is None
    process.kill()
    process.wait()


@in_fibers
def test_a_forgotten_process_warns_and_is_reaped_with_the_next_one():
    process = subprocess.Popen(SLEEP)
    pid = process.pid
    holder = [process]
    del process
    with pytest.warns(ResourceWarning, match="still running"):
        holder.clear()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    subprocess.call(["true"])
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_the_interpreter_ends_quietly_with_a_process_running():
    done = run_child(
        """
        import os, signal
        import greenio
        from greenio import subprocess

        kept = greenio.run(lambda: subprocess.Popen(["sleep", "1000"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
        print(kept.pid)
        """,
        flags=("-W", "ignore::ResourceWarning"),  # which debug builds show
    )
    os.kill(int(done.stdout), signal.SIGKILL)
    assert done.stderr == ""


@pytest.mark.parametrize("text", [True, False])
def test_what_is_pending_is_written_when_the_interpreter_ends(text, tmp_path):
    # The standard module keeps a process that was dropped while it ran, and with it the files, longer than greenio keeps its names.
    child = run_child("""
        import subprocess, unittest.mock
        import greenio, sys, warnings

        def main():
            text, directory = sys.argv[1] == "True", sys.argv[2]
            word = "pending" if text else b"pending"
            command = ["sh", "-c", 'cat > "$0"/pipe; echo > "$0"/done', directory]
            process = greenio.subprocess.Popen(command, stdin=-1, stdout=-1, text=text)
            process.stdin.write(word)
            for mode in ("w", "w+"):
                file = greenio.open(f"{directory}/{mode}", mode if text else mode + "b")
                file.write(word)
                setattr(process, "file" + mode, file)

        warnings.simplefilter("ignore")
        greenio.run(main)
    """, str(text), str(tmp_path))  # fmt: skip
    assert child.stderr == ""
    until((tmp_path / "done").exists)
    for name in ("pipe", "w", "w+"):
        assert (tmp_path / name).read_text() == "pending"


# --- select ----------------------------------------------------------------------------------------------------------


@in_fibers
def test_select_takes_a_process_and_gives_its_return_code(either_way):
    with running(CAT, stdin=-1) as process, running(SLEEP) as other:
        with pytest.raises(TimeoutError):
            greenio.select(process, other, timeout=0.01)
        assert greenio.select(process, default="none") == (-1, "none")
        fiber = greenio.spawn(greenio.select, other, process)
        wait_all_parked()
        process.stdin.close()
        assert fiber.result() == (1, 0)
        assert process.returncode == 0
        assert greenio.select(process) == (0, 0)
        assert other.poll() is None
        other.kill()
        assert greenio.select(other, greenio.after(100)) == (0, -signal.SIGKILL)


@in_fibers
def test_a_cancelled_select_reaps_nothing():
    with running(SLEEP) as process:
        fiber = greenio.spawn(greenio.select, process)
        wait_all_parked()
        fiber.cancel()
        fiber.join()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process.returncode is None


# --- fork ------------------------------------------------------------------------------------------------------------


def test_a_forked_process_does_not_reap_its_parents_children():
    run_child("""
        import gc, os, signal, sys, warnings
        import greenio
        from greenio import subprocess

        def main():
            process = subprocess.Popen(["sleep", "1000"])
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    assert process.poll() is None
                    for wait in (process.wait, lambda: process.wait(1), process.communicate, lambda: greenio.select(process)):
                        try:
                            wait()
                        except ChildProcessError as error:
                            assert str(os.getpid()) in str(error)
                        else:
                            raise AssertionError("waited")
                    process.kill()      # does nothing
                    with process:
                        pass
                    # its own
                    assert subprocess.call(["sh", "-c", "exit 3"]) == 3
                    del process
                    gc.collect()
                    assert subprocess._standard._active == []
                    status = 0
                finally:
                    os._exit(status)
            assert greenio.os.waitpid(pid, 0) == (pid, 0)
            assert process.poll() is None
            process.kill()
            assert process.wait() == -9

        greenio.run(main)
    """)


# --- many ------------------------------------------------------------------------------------------------------------


def start_and_wait(count):
    def one(number):
        process = subprocess.Popen(["sh", "-c", f"exit {number % 200}"])
        return process.wait() == number % 200

    with greenio.TaskGroup() as group:
        fibers = [group.spawn(one, number) for number in range(count)]
    return all(fiber.result() for fiber in fibers)


@pytest.mark.slow
def test_200_processes_of_200_fibers():
    assert greenio.run(start_and_wait, 200)


@pytest.mark.slow
def test_200_processes_from_two_os_threads_at_once():
    results = []
    other = threading.Thread(target=lambda: results.append(greenio.run(start_and_wait, 100)))
    other.start()
    results.append(greenio.run(start_and_wait, 100))
    other.join()
    assert results == [True, True]


def spawn_in_turn(count):
    def worker(count):
        for _ in range(count):
            assert subprocess.Popen(["true"]).wait() == 0

    before = len(os.listdir("/proc/self/fd"))
    with greenio.TaskGroup() as group:
        for _ in range(10):
            group.spawn(worker, count // 10)
    assert len(os.listdir("/proc/self/fd")) == before


def test_100_spawns_leave_no_descriptor():
    greenio.run(spawn_in_turn, 100)


@pytest.mark.slow
def test_10_000_spawns_leave_no_zombie_and_no_descriptor():
    greenio.run(spawn_in_turn, 10_000)


def test_warnings_are_not_hidden():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        greenio.run(lambda: subprocess.run(["true"], check=True))


def test_communicate_takes_closed_files_as_the_standard_one():
    def outcomes(module):
        found = []
        for text in (False, True):
            with module.Popen(["cat"], stdin=-1, stdout=-1, stderr=-1, text=text) as process:
                process.stdout.close()
                found.append((process.communicate(), process.returncode))
        return found

    assert greenio.run(outcomes, subprocess) == outcomes(standard)
