"""subprocess: Popen's methods park, in place, also those of objects made before.

Their files are greenio.open's, as those of the other patched modules; the process's end is waited for through a pidfd. After an
interruption all is as greenio.subprocess has it: communicate() loses nothing and can be called again, and what run, call and
check_output have killed is reaped before they raise.
"""

import io
import os
import select
import selectors
import subprocess
import types
from typing import Any

import greenio
import greenio.io
import greenio.os
import greenio.selectors
import greenio.subprocess
from greenio.compat.io import open as _open_parking
from greenio.compat.patches import Patch, stand_in

Popen: Any = subprocess.Popen
_wait = Popen._wait
_communicate = Popen.communicate
_get_handles = Popen._get_handles
_kill = Popen.kill
_exit = Popen.__exit__
_read = os.read
_write = os.write

_TO_READ = selectors.EVENT_READ
_TO_WRITE = selectors.EVENT_WRITE
_CHUNK = 32768  # bytes, as the standard reads
_KILL_PATIENCE = 10.0  # seconds that a killed process has to be gone


class _Io(types.ModuleType):
    """The io module as subprocess sees it: its pipes' files park, whether io itself is patched or not."""

    open = staticmethod(_open_parking)

    def __getattr__(self, name: str) -> Any:
        return getattr(io, name)

    @staticmethod
    def TextIOWrapper(buffer: Any, *args: Any, **keywords: Any) -> Any:
        """Text on *buffer*."""
        parking = isinstance(buffer, greenio.io.BufferedReader | greenio.io.BufferedWriter | greenio.io.BufferedRandom)
        return (greenio.io.TextIOWrapper if parking else io.TextIOWrapper)(buffer, *args, **keywords)


@stand_in(_get_handles)
def _get_handles_blocking(self: Any, stdin: Any, stdout: Any, stderr: Any) -> Any:
    # Programs do not expect O_NONBLOCK of their standard files.
    for each in (stdin, stdout, stderr):
        greenio.subprocess.let_block(each)
    return _get_handles(self, stdin, stdout, stderr)


def _reap(self: Any) -> bool:
    """As the standard's _wait does it, without waiting: whether the return code is known."""
    if self._waitpid_lock.acquire(False):
        try:
            if self.returncode is None:
                pid, status = self._try_wait(os.WNOHANG)
                if pid == self.pid:
                    self._handle_exitstatus(status)
        finally:
            self._waitpid_lock.release()
    return self.returncode is not None


@stand_in(_wait)
def _wait_parking(self: Any, timeout: float | None) -> Any:
    if not greenio.can_park():
        return _wait(self, timeout)
    if self.returncode is None:
        greenio.checkpoint()
        _reap(self)
    with greenio.move_on_after(None if timeout is None else max(timeout, 0.0)):
        while self.returncode is None:
            try:
                greenio.os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                pass  # somebody else has reaped it; what follows says so
            if not _reap(self):
                greenio.yield_now()  # another OS thread is about to, or a debugger holds it
    if self.returncode is None:
        raise subprocess.TimeoutExpired(self.args, timeout)  # type: ignore[arg-type]
    return self.returncode


@stand_in(_communicate)
def communicate(self: Any, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
    # What stands in for a file (in a test) is written to as the standard does it.
    one_output = not isinstance(self.stdin, io.IOBase) and [self.stdin, self.stdout, self.stderr].count(None) >= 2
    if not greenio.can_park() or (one_output and timeout is None and not self._communication_started):
        # One output alone the standard reads through its file, to the end; what has come stays in that when it is interrupted.
        return _communicate(self, input, timeout)
    if self._communication_started and input:
        raise ValueError("Cannot send input after starting communication")
    endtime = None if timeout is None else greenio.current_time() + timeout
    try:
        _exchange(self, input, endtime, timeout)
    except KeyboardInterrupt:
        # As the standard: a child on the same terminal got the Ctrl-C as well, and has a moment to end.
        patience, self._sigint_wait_secs = self._sigint_wait_secs, 0
        if endtime is not None:
            patience = min(patience, max(0.0, endtime - greenio.current_time()))
        try:
            self._wait(timeout=patience)
        except subprocess.TimeoutExpired:
            pass
        raise
    finally:
        self._communication_started = True
    try:
        self.wait(None if endtime is None else endtime - greenio.current_time())
    except subprocess.TimeoutExpired:
        raise _expired(self, timeout) from None
    outputs = self._fileobj2output
    parts = []
    for file in (self.stdout, self.stderr):
        if file is None:
            parts.append(None)
            continue
        data = b"".join(outputs.get(file, ()))
        parts.append(self._translate_newlines(data, file.encoding, file.errors) if self.text_mode else data)
    return parts[0], parts[1]


def _expired(self: Any, timeout: Any) -> subprocess.TimeoutExpired:
    output = self._fileobj2output
    stdout, stderr = (
        b"".join(output[file]) if file is not None and output.get(file) else None for file in (self.stdout, self.stderr)
    )
    return subprocess.TimeoutExpired(self.args, timeout, output=stdout, stderr=stderr)


def _exchange(self: Any, input: Any, endtime: float | None, timeout: float | None) -> None:
    """Write, and read up to the ends, whatever comes first. Raises TimeoutExpired; what came is in self._fileobj2output."""
    if self.stdin and not self._communication_started:
        try:
            self.stdin.flush()
        except BrokenPipeError:
            pass  # communicate() must ignore it
        if not input:
            try:
                self.stdin.close()
            except BrokenPipeError:
                pass
    if not self._communication_started:
        self._fileobj2output = {file: [] for file in (self.stdout, self.stderr) if file}
    outputs = self._fileobj2output
    self._save_input(input)
    left: Any = memoryview(self._input).cast("B") if self._input else b""
    with greenio.selectors.PollSelector() as selector:
        if self.stdin and not self.stdin.closed and self._input:
            selector.register(self.stdin, _TO_WRITE)
        for file in (self.stdout, self.stderr):
            if file and not file.closed:
                selector.register(file, _TO_READ)
        while selector.get_map():
            remaining = None if endtime is None else endtime - greenio.current_time()
            if remaining is not None and remaining < 0:
                raise _expired(self, timeout)
            ready = selector.select(remaining)
            if endtime is not None and greenio.current_time() > endtime:
                raise _expired(self, timeout)
            for key, _ in ready:
                if key.fileobj is self.stdin:
                    try:
                        # A pipe with room has room for PIPE_BUF bytes.
                        self._input_offset += _write(
                            key.fd, left[self._input_offset : self._input_offset + select.PIPE_BUF]
                        )
                    except BrokenPipeError:
                        self._input_offset = len(left)
                    except BlockingIOError:
                        continue
                    if self._input_offset >= len(left):
                        selector.unregister(key.fileobj)
                        _close_quietly(key.fileobj)
                else:
                    try:
                        data = _read(key.fd, _CHUNK)
                    except BlockingIOError:
                        continue
                    if not data:
                        selector.unregister(key.fileobj)
                        key.fileobj.close()  # type: ignore[union-attr]
                    else:
                        outputs[key.fileobj].append(data)


def _close_quietly(file: Any) -> None:
    try:
        file.close()
    except BrokenPipeError:
        pass


@stand_in(_kill)
def kill(self: Any) -> None:
    self._greenio_killed = True
    _kill(self)


@stand_in(_exit)
def __exit__(self: Any, exc_type: Any, value: Any, traceback: Any) -> None:
    # run() and the like kill the process when they are interrupted, and leave it to this to reap it.
    if getattr(self, "_greenio_killed", False) and isinstance(value, greenio.Cancelled) and greenio.can_park():
        with greenio.move_on_after(_KILL_PATIENCE, shield=True):
            _exit(self, exc_type, value, traceback)
    else:
        _exit(self, exc_type, value, traceback)


def apply(patch: Patch) -> None:
    """Make the replacements."""
    patch.replace(subprocess, "io", _Io("io"))
    patch.replace(Popen, "_wait", _wait_parking)
    patch.replace(Popen, "communicate", communicate)
    patch.replace(Popen, "_get_handles", _get_handles_blocking)
    patch.replace(Popen, "kill", kill)
    patch.replace(Popen, "__exit__", __exit__)
