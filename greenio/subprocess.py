"""The standard subprocess module's names, for fibers: whatever waits parks the fiber, and can be cancelled.

Signatures, results and exceptions are the standard's; what is not here by itself is the standard's own. What differs:

- A process's end is waited for through a pidfd, or an OS thread where the kernel refuses one; no handler for SIGCHLD is installed.
- `stdin`, `stdout` and `stderr` are files that park. O_NONBLOCK is not set on them, so they can be handed to further processes.
- A file or socket of greenio's that is given to a process as its standard file loses O_NONBLOCK, which programs do not expect.
- Cancelled, or timed out, while waiting for a process: the process goes on, and nothing is lost of what it wrote. `run`, `call`,
  `check_call`, `check_output`, `getoutput` and `getstatusoutput` kill and reap theirs, then raise.
- Timeouts are on the run's clock.

Processes are started inside greenio.run(). A Popen may be used from any fiber and any OS thread, also one without fibers, which it then
blocks. In a forked process the parent's processes are nobody's children: waiting for one raises ChildProcessError.

Starting a process stops the OS thread until the program is loaded (vfork: under a millisecond, as a rule), as the standard does. Where
it takes a real fork, because of `preexec_fn`, `user`, `group` or `extra_groups`, the fiber parks until the program is loaded.
"""

import errno
import io
import os
import select as _poll
import signal
import subprocess as _standard
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from subprocess import DEVNULL, PIPE, STDOUT, CalledProcessError, CompletedProcess, SubprocessError, TimeoutExpired
from typing import TYPE_CHECKING, Any, AnyStr

from greenio._children import Pidfd, open_pidfd, wait_for_change, watch_children
from greenio._files import layers
from greenio._io import FdIO, notify_closing, read_now, wait_readable
from greenio._scheduler import checkpoint, running_scheduler, yield_now
from greenio._scopes import move_on_after, shield
from greenio._select import Mapped, after, readable, select, writable
from greenio._socket import SocketCore
from greenio._sync import Event
from greenio._waiting import Selectable

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "CalledProcessError",
    "CompletedProcess",
    "Popen",
    "SubprocessError",
    "TimeoutExpired",
    "call",
    "check_call",
    "check_output",
    "getoutput",
    "getstatusoutput",
    "run",
]

_pollable: Callable[[], Any] = _poll.poll  # as these are now: greenio.monkey puts others in their place
_write = os.write

_RWF_NOWAIT = 0x8  # linux/fs.h; os.RWF_NOWAIT is there only if libc knows it
_CHUNK = 65536  # bytes: a pipe's usual room
_PIPE_BUF = _poll.PIPE_BUF
_KILL_PATIENCE = 10.0  # seconds that a killed process has to be gone; longer takes one that hangs in the kernel


def __getattr__(name: str) -> Any:
    return getattr(_standard, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_standard)})


# --- pipes -----------------------------------------------------------------------------------------------------------


class _Output(FdIO):
    """The end of a pipe that a process writes to. What `communicate` has read so far comes first, whoever reads then."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "r")
        self.ahead: deque[bytes] = deque()
        self.ended = False

    def fetch(self) -> bool:
        """Read what is there, without waiting; False if nothing is. Then, or at the end (`ended`), there is no need to ask again."""
        part = read_now(self.fileno(), _CHUNK)
        if part is None:
            return False
        if part:
            self.ahead.append(part)
        else:
            self.ended = True
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self.closed and (self.ahead or self.ended):
            with memoryview(buffer) as view, view.cast("B") as plain:
                part = self._take(len(plain))
                plain[: len(part)] = part
                return len(part)
        return super().readinto(buffer)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        if not self.closed and (self.ahead or self.ended):
            return self._take(size)
        return super().read(size)

    def _take(self, size: int) -> bytes:
        if not self.ahead:
            return b""
        part = self.ahead.popleft()
        if len(part) > size:
            self.ahead.appendleft(part[size:])
            part = part[:size]
        return part

    def readall(self) -> bytes:
        # An interruption leaves what has come in `ahead`.
        while not self.ended:
            part = super().read(_CHUNK)
            if not part:
                break
            self.ahead.append(part)
        whole = b"".join(self.ahead)
        self.ahead.clear()
        return whole


class _Input(FdIO):
    """The end of a pipe that a process reads from."""

    def __init__(self, fd: int, whole: bool) -> None:
        super().__init__(fd, "w")
        self.whole = whole  # nobody above looks at how many bytes were written
        # What `communicate` has not written yet; None: writes go straight to the pipe.
        self.held: list[memoryview] | None = None

    def write(self, data: Any, /) -> int:
        """Write some of *data*; all of it if nobody above looks at the result, as with bufsize=0. Parks while there is no room.

        Raises:
            Cancelled, OSError: the first `characters_written` bytes (the exception's attribute) were written.
        """
        if self.held is not None:
            self.held.append(memoryview(bytes(data)))
            return len(self.held[-1])
        count = 0
        try:
            count = super().write(data)
            if self.whole:
                view = memoryview(data).cast("B")
                while count < len(view):
                    count += super().write(view[count:])
        except BaseException as error:
            error.characters_written = count  # type: ignore[attr-defined]
            raise
        return count

    def push(self) -> bool:
        """Write what there is room for, without waiting; False if there is no room. Closes itself when all is written."""
        while self.held:
            try:
                count = _write_now(self.fileno(), self.held[0])
            except BrokenPipeError:
                self.held.clear()  # communicate() must ignore it
                break
            if count is None:
                return False
            rest = self.held[0][count:]
            if rest:
                self.held[0] = rest
                return True
            del self.held[0]
        return True


def _is_ready(fd: int, event: int) -> bool:
    poll = _pollable()
    poll.register(fd, event)
    return bool(poll.poll(0))


def _write_now(fd: int, data: memoryview) -> int | None:
    try:
        return os.pwritev(fd, [data], -1, _RWF_NOWAIT)
    except (BlockingIOError, BrokenPipeError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        return None
    except OSError:
        # A pipe with room, says poll, has room for PIPE_BUF bytes.
        return _write(fd, data[:_PIPE_BUF]) if _is_ready(fd, _poll.POLLOUT) else None


def _wait_for_any(files: list[_Output | _Input], timeout: float | None) -> bool:
    """Whether one of the pipes is ready within *timeout* seconds; None: for ever."""
    if running_scheduler() is not None:
        cases = [readable(file) if isinstance(file, _Output) else writable(file) for file in files]
        # As a case: a TimeoutError is then a signal handler's own.
        return select(*cases, *([] if timeout is None else [after(timeout)])).index < len(files)
    poll = _pollable()
    for file in files:
        poll.register(file, _poll.POLLIN if isinstance(file, _Output) else _poll.POLLOUT)
    return bool(poll.poll(None if timeout is None else max(0.0, timeout) * 1000))


def _pipe_of(file: Any) -> Any:
    """The raw file below *file*, through whatever was put on top of it."""
    below = file
    while not isinstance(below, (_Output, _Input)):
        below = getattr(below, "buffer", None) or getattr(below, "raw", None)
        if below is None:
            raise TypeError(f"communicate() talks through the pipes that Popen made, and {file!r} is on none of them")
    return below


def let_block(file: Any) -> None:
    """Take O_NONBLOCK off *file*, if it is one that greenio has set it on: programs do not expect it of their standard files."""
    for below in ("buffer", "raw"):
        if isinstance(file, io.IOBase):
            file = getattr(file, below, file)
    if isinstance(file, FdIO):
        if not file.closed:
            file._let_block()
    elif isinstance(file, SocketCore):
        file._let_block()


# --- processes -------------------------------------------------------------------------------------------------------


def _now() -> float:
    scheduler = running_scheduler()
    return time.monotonic() if scheduler is None else scheduler.time()


def _checkpoint() -> None:
    if running_scheduler() is not None:
        checkpoint()


class Popen(_standard.Popen[AnyStr]):
    """A process, as subprocess.Popen makes it; what waits parks the fiber. Arguments and attributes are the standard's.

    Making one parks for as long as it takes to load the program if it takes a real fork (see the module). Cancelled then: the new
    process is killed and reaped. A process that nobody refers to any more goes on, with a ResourceWarning, and is reaped
    when the next one is started, as the standard does.

    ``select(process)`` waits for its end; the value is the return code.

    As a context manager it closes its files and waits for the end, as the standard; if the fiber was cancelled the
    process goes on.

    Raises:
        RuntimeError: no fibers run on this OS thread. Nothing was started.
        OSError, ValueError, SubprocessError: as the standard. Nothing is left open or running.
        Cancelled: this fiber was cancelled. No process is left.
    """

    _pidfd: Pidfd | None = None
    _parent: int = -1  # the process whose child it is
    _result: tuple[Any, Any] | None = None  # what communicate returned
    _written = False  # communicate's input is on its way
    _our_ends: Sequence[int] = ()  # descriptors of stdin, stdout, stderr that are no file yet; -1: none

    if TYPE_CHECKING:
        _found: list[Any]  # what communicate has taken from stdout and stderr
        encoding: str | None
        errors: str | None
        text_mode: Any
        _wanted_bufsize: int | None

    if not TYPE_CHECKING:  # the overloads are the standard's

        def __init__(
            self,
            args,
            bufsize=-1,
            executable=None,
            stdin=None,
            stdout=None,
            stderr=None,
            preexec_fn=None,
            close_fds=True,
            shell=False,
            cwd=None,
            env=None,
            universal_newlines=None,
            startupinfo=None,
            creationflags=0,
            restore_signals=True,
            start_new_session=False,
            pass_fds=(),
            *,
            user=None,
            group=None,
            extra_groups=None,
            encoding=None,
            errors=None,
            text=None,
            umask=-1,
            pipesize=-1,
            process_group=None,
        ):
            if running_scheduler() is None:
                raise RuntimeError(
                    "no fibers run on this OS thread: start the process inside greenio.run(main), or use the standard subprocess module"
                )
            checkpoint()
            self._found = [None, None]
            self._parent = os.getpid()
            self._wanted_bufsize = bufsize
            try:
                super().__init__(
                    args,
                    bufsize,
                    executable,
                    stdin,
                    stdout,
                    stderr,
                    preexec_fn,
                    close_fds,
                    shell,
                    cwd,
                    env,
                    universal_newlines,
                    startupinfo,
                    creationflags,
                    restore_signals,
                    start_new_session,
                    pass_fds,
                    user=user,
                    group=group,
                    extra_groups=extra_groups,
                    encoding=encoding,
                    errors=errors,
                    text=text,
                    umask=umask,
                    pipesize=pipesize,
                    process_group=process_group,
                )
            except BaseException:
                if self._child_created and self.returncode is None:
                    _kill_and_reap(self)
                raise
            finally:
                for fd in self._our_ends:  # those that became no file
                    if fd != -1:
                        os.close(fd)
                self._our_ends = ()

    # The standard's __init__ would put blocking files on our ends of the pipes. It is shown the others' only; _execute_child, which it
    # calls next, makes the files and knows all the numbers.
    def _get_handles(self, stdin: Any, stdout: Any, stderr: Any) -> tuple[int, int, int, int, int, int]:
        for file in (stdin, stdout, stderr):
            let_block(file)
        handles: tuple[int, int, int, int, int, int] = super()._get_handles(stdin, stdout, stderr)  # type: ignore[misc]
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = handles
        self._our_ends = [p2cwrite, c2pread, errread]
        return p2cread, -1, -1, c2pwrite, -1, errwrite

    def _execute_child(self, *given: Any) -> None:
        arguments = list(given)
        arguments[11], arguments[12], arguments[14] = self._our_ends  # p2cwrite, c2pread, errread
        self._open_files()
        super()._execute_child(*arguments)  # type: ignore[misc]
        self._pidfd = open_pidfd(self.pid)

    def _open_files(self) -> None:
        bufsize = -1 if self._wanted_bufsize is None else self._wanted_bufsize
        text = self.text_mode
        lines = bufsize == 1
        if lines:
            bufsize = -1
            if not text and any(fd != -1 for fd in self._our_ends):
                warnings.warn(
                    "line buffering (buffering=1) isn't supported in binary mode, the default buffer size will be used",
                    RuntimeWarning,
                    stacklevel=5,
                )
        left = list(self._our_ends)
        self._our_ends = left
        for place, name in enumerate(("stdin", "stdout", "stderr")):
            fd = left[place]
            if fd == -1:
                continue
            raw = _Input(fd, bufsize == 0 and not text) if name == "stdin" else _Output(fd)
            left[place] = -1
            setattr(self, name, raw)  # from here on somebody closes it, whatever happens
            if bufsize == 0 and not text:
                continue
            layered = layers(
                raw,
                text=bool(text),
                buffering=-1 if bufsize == 0 else bufsize,
                encoding=self.encoding,
                errors=self.errors,
                line_buffering=lines,
                write_through=bufsize == 0,
            )
            setattr(self, name, layered)

    def _close_pipe_fds(self, *arguments: Any) -> None:
        super()._close_pipe_fds(*arguments)  # type: ignore[misc]
        # Next the standard reads from this pipe what became of the exec, and would block in it until then. (_posix_spawn has none.)
        fd = sys._getframe(1).f_locals.get("errpipe_read")
        if isinstance(fd, int):
            try:
                wait_readable(fd)
            finally:
                notify_closing(fd)

    def _is_ours(self, getpid: Callable[[], int] = os.getpid) -> bool:
        return self._parent == getpid()

    def _internal_poll(
        self,
        _deadstate: int | None = None,
        *_: Any,
        standard: Callable[..., int | None] = _standard.Popen._internal_poll,  # type: ignore[attr-defined]
    ) -> int | None:
        # Called by __del__, maybe at the interpreter's end: refers to nothing outside.
        if self.returncode is None:
            if not self._is_ours():
                return None
            if standard(self, _deadstate) is not None:
                self._pidfd = None
        return self.returncode

    def __del__(
        self,
        *arguments: Any,
        standard: Callable[..., None] = _standard.Popen.__del__,
    ) -> None:
        if self._is_ours():
            standard(self)

    def poll(self) -> int | None:
        """The return code, or None while the process runs; always None in a forked process, whose child it is not. Never parks."""
        return super().poll()

    def wait(self, timeout: float | None = None) -> int:
        """Park until the process has ended; its return code: the exit status, or minus the number of the signal that ended it.

        0 if something else has reaped it (os.waitpid(-1, …), SIGCHLD ignored): the status is lost then, as with the standard.

        Args:
            timeout: seconds, or None for ever; 0 or less does not park.
        Raises:
            TimeoutExpired: it has not ended within *timeout*. It goes on.
            Cancelled: this fiber was cancelled. The process goes on, and can be waited for again.
            ChildProcessError: it is a child of the process that this one was forked from.
        """
        return super().wait(timeout)

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is not None:
            return self.returncode
        _checkpoint()
        if not self._is_ours():
            raise ChildProcessError(
                errno.ECHILD,
                f"process {self.pid} is a child of process {self._parent}, from which this one, {os.getpid()}, was forked; "
                "only that one can wait for it",
            )
        deadline = None if timeout is None else _now() + timeout
        exited = False
        while self._internal_poll() is None:
            left = None if deadline is None else max(0.0, deadline - _now())
            if self._waitpid_lock.locked():  # type: ignore[attr-defined]
                _give_way()  # another OS thread is about to reap it
                continue
            # No name for it here: whoever keeps what is raised would keep the descriptor open.
            if self._pidfd is not None and not exited:
                exited = self._pidfd.wait(left)
                come = exited
            else:  # no pidfd; or it has exited and cannot be reaped yet, because a debugger holds it
                come = (left is None or left > 0) and wait_for_change(os.P_PID, self.pid, os.WEXITED, left)
            if not come and self._internal_poll() is None:
                assert timeout is not None
                raise TimeoutExpired(self.args, timeout)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, input: AnyStr | None = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Write *input* to the process, read all that it writes, wait for its end; close the files. Parks.

        Everything goes both ways at once, whatever the sizes. After a TimeoutExpired or Cancelled, calling it again goes on where it
        was: nothing is lost and no input is written twice. What was read by then is also there for whoever reads `stdout` and
        `stderr` instead. Called again after it has returned, it returns the same.

        Args:
            input: bytes, in text mode str; only in the first call.
            timeout: seconds until the process must have ended, or None.
        Returns:
            (stdout, stderr), each bytes, in text mode str, and None where it is not a pipe.
        Raises:
            TimeoutExpired: the process goes on; its attributes `stdout` and `stderr` are the bytes so far, or None.
            Cancelled: this fiber was cancelled. The process goes on.
            ValueError: *input* in a second call, or to a file that is closed. TypeError: it is of the wrong type. Nothing was done.
            ChildProcessError: it is a child of the process that this one was forked from.
        """
        if self._communication_started and input:  # type: ignore[has-type]
            raise ValueError("Cannot send input after starting communication")
        if self._result is not None:
            return self._result
        _checkpoint()
        deadline = None if timeout is None else _now() + timeout
        self._begin_to_write(input)
        self._communication_started = True
        try:
            self._exchange(deadline, timeout)
        except KeyboardInterrupt:
            # As the standard: a child on the same terminal got the Ctrl-C as well, and has a moment to end.
            patience, self._sigint_wait_secs = self._sigint_wait_secs, 0  # type: ignore[has-type]
            try:
                self._wait(patience if deadline is None else min(patience, max(0.0, deadline - _now())))
            except TimeoutExpired:
                pass
            raise
        try:
            self.wait(None if deadline is None else deadline - _now())
        except TimeoutExpired:
            raise self._expired(timeout) from None
        # Both pipes have ended, so nothing waits from here on; but locks are checkpoints, and what is taken must arrive.
        with nullcontext() if running_scheduler() is None else shield():
            if self.stdout is not None and self._found[0] is None:
                self._found[0] = self._rest_of(self.stdout)
            if self.stderr is not None and self._found[1] is None:
                self._found[1] = self._rest_of(self.stderr)
            for file in (self.stdout, self.stderr):
                if file is not None:
                    file.close()
            self._result = (self._found[0], self._found[1])
        return self._result

    def _begin_to_write(self, input: Any) -> None:
        file: Any = self.stdin
        if file is None or self._written:
            return
        if file.closed:
            if input:
                raise ValueError("write to closed file")
            self._written = True
            return
        if input is None:
            data = memoryview(b"")
        elif self.text_mode:
            if not isinstance(input, str):
                raise TypeError(f"input must be str in text mode, not {type(input).__name__}")
            data = memoryview(input.encode(file.encoding, file.errors))
        else:
            data = memoryview(input).cast("B")
        pipe = _pipe_of(file)
        pipe.held = []
        file.flush()  # what the program has written itself goes first: to `held`, without waiting
        if data:
            pipe.held.append(data)
        self._written = True

    def _exchange(self, deadline: float | None, timeout: float | None) -> None:
        outputs = [_pipe_of(file) for file in (self.stdout, self.stderr) if file is not None and not file.closed]
        stdin: Any = self.stdin
        while True:
            waiting: list[Any] = []
            progress = False
            if stdin is not None and not stdin.closed:
                pipe = _pipe_of(stdin)
                if not pipe.push():
                    waiting.append(pipe)
                elif pipe.held:
                    progress = True
                else:
                    stdin.close()
            for output in outputs:
                if output.ended or output.closed:
                    continue
                if output.fetch():
                    progress = True
                else:
                    waiting.append(output)
            if not waiting and not progress:
                return
            left = None if deadline is None else deadline - _now()
            if left is not None and left < 0:
                raise self._expired(timeout)
            if progress:
                _checkpoint()
                continue
            if not _wait_for_any(waiting, left):
                raise self._expired(timeout)

    def _expired(self, timeout: float | None) -> TimeoutExpired:
        parts = [
            None if file is None else b"".join(_pipe_of(file).ahead) or None for file in (self.stdout, self.stderr)
        ]
        assert timeout is not None
        return TimeoutExpired(self.args, timeout, output=parts[0], stderr=parts[1])

    def _rest_of(self, file: Any) -> Any:
        # What somebody had read before, into a buffer, comes first, and is decoded with the rest.
        if file.closed:
            return "" if self.text_mode else b""
        return file.read()

    def send_signal(self, sig: int) -> None:
        """Send a signal to the process, and to no other: through its pidfd, where there is one. Does nothing if it has ended.

        Nor in a forked process: so a clean-up that a fork has carried along does no harm to the parent's.
        """
        if not self._is_ours() or self.poll() is not None:
            return
        pidfd = self._pidfd
        if pidfd is None:
            super().send_signal(sig)
            return
        try:
            signal.pidfd_send_signal(pidfd.fd, sig)
        except ProcessLookupError:
            pass  # it has ended just now
        except PermissionError:
            super().send_signal(sig)  # a sandbox may refuse the one and not the other

    def __exit__(self, exception_type: Any, value: Any, traceback: Any) -> None:
        if not self._is_ours():
            for file in (self.stdout, self.stderr, self.stdin):
                if file is not None:
                    file.close()
            return
        super().__exit__(exception_type, value, traceback)

    def __select__(self) -> Selectable:
        """For greenio.select: the process's end, with the return code as the value. None, if a debugger holds the status."""
        if self.returncode is None and not self._is_ours():
            raise ChildProcessError(errno.ECHILD, f"process {self.pid} is not a child of this one, {os.getpid()}")
        pidfd = self._pidfd
        if self._internal_poll() is not None:
            over = Event()
            over.set()
            return Mapped(over, self._reap)
        return Mapped(
            readable(pidfd) if pidfd is not None else watch_children(os.P_PID, self.pid, os.WEXITED).happened,
            self._reap,
        )

    def _reap(self, _: object) -> int | None:
        # It has ended. Another OS thread may be in the middle of reaping it.
        for _attempt in range(1000):
            if self._internal_poll() is not None:
                break
            os.sched_yield()
        return self.returncode


def _give_way() -> None:
    if running_scheduler() is not None:
        yield_now()
    else:
        os.sched_yield()


def _kill_and_reap(process: _standard.Popen[Any]) -> None:
    """Kill *process* and wait for its end, whatever else is cancelled; but not for ever."""
    process.kill()
    scheduler = running_scheduler()
    if scheduler is None:
        process.wait()
        return
    scheduler.outside_call(1)  # a virtual clock stands still meanwhile
    try:
        with move_on_after(_KILL_PATIENCE, shield=True):
            process.wait()
    finally:
        scheduler.outside_call(-1)


# --- calls -----------------------------------------------------------------------------------------------------------

if TYPE_CHECKING:  # signatures: the standard's, with all their overloads
    from subprocess import call, check_call, check_output, getoutput, getstatusoutput, run
else:

    def run(*popenargs, input=None, capture_output=False, timeout=None, check=False, **kwargs):
        """Run a command, and return a CompletedProcess once it has ended. Parks; arguments and result as subprocess.run.

        Raises:
            TimeoutExpired, Cancelled, KeyboardInterrupt: the process was killed and reaped (should it still hang in the kernel 10
                seconds later, it is left to be reaped with the next one that is started). A TimeoutExpired has the output so far.
            CalledProcessError: with *check*, it failed; it has ended, and the error has its output.
            RuntimeError: no fibers run on this OS thread.
        """
        if input is not None:
            if kwargs.get("stdin") is not None:
                raise ValueError("stdin and input arguments may not both be used.")
            kwargs["stdin"] = PIPE
        if capture_output:
            if kwargs.get("stdout") is not None or kwargs.get("stderr") is not None:
                raise ValueError("stdout and stderr arguments may not be used with capture_output.")
            kwargs["stdout"] = PIPE
            kwargs["stderr"] = PIPE
        with Popen(*popenargs, **kwargs) as process:
            try:
                stdout, stderr = process.communicate(input, timeout=timeout)
            except BaseException:
                _kill_and_reap(process)
                raise
            status = process.poll()
        if check and status:
            raise CalledProcessError(status, process.args, output=stdout, stderr=stderr)
        return CompletedProcess(process.args, status, stdout, stderr)

    def call(*popenargs, timeout=None, **kwargs):
        """Run a command; its return code. Parks, kills and raises as `run`; arguments as subprocess.call."""
        with Popen(*popenargs, **kwargs) as process:
            try:
                return process.wait(timeout=timeout)
            except BaseException:
                _kill_and_reap(process)
                raise

    def check_call(*popenargs, **kwargs):
        """Run a command; 0. Parks, kills and raises as `run`.

        Raises:
            CalledProcessError: its return code is another one.
        """
        status = call(*popenargs, **kwargs)
        if status:
            command = kwargs.get("args")
            raise CalledProcessError(status, popenargs[0] if command is None else command)
        return 0

    def check_output(*popenargs, timeout=None, **kwargs):
        """Run a command; what it wrote to its standard output. Parks, kills and raises as `run`; arguments as subprocess.check_output.

        Raises:
            CalledProcessError: it failed; the error has its output.
        """
        for name in ("stdout", "check"):
            if name in kwargs:
                raise ValueError(f"{name} argument not allowed, it will be overridden.")
        if "input" in kwargs and kwargs["input"] is None:
            text = any(kwargs.get(name) for name in ("universal_newlines", "text", "encoding", "errors"))
            kwargs["input"] = "" if text else b""
        return run(*popenargs, stdout=PIPE, timeout=timeout, check=True, **kwargs).stdout

    def getstatusoutput(cmd, *, encoding=None, errors=None):
        """(return code, output) of a command of the shell's, as subprocess.getstatusoutput. Parks, kills and raises as `run`."""
        try:
            data = check_output(cmd, shell=True, text=True, stderr=STDOUT, encoding=encoding, errors=errors)
            status = 0
        except CalledProcessError as error:
            data = error.output
            status = error.returncode
        return status, data.removesuffix("\n")

    def getoutput(cmd, *, encoding=None, errors=None):
        """The output of a command of the shell's, as subprocess.getoutput. Parks, kills and raises as `run`."""
        return getstatusoutput(cmd, encoding=encoding, errors=errors)[1]
