# _io.pyx: waiting for descriptors of any kind, and raw files on them. The contract is in _io.pxd.
#
# How a call is kept from blocking where O_NONBLOCK is not ours to set, best first: MSG_DONTWAIT (sockets), RWF_NOWAIT (anonymous
# pipes, regular files' reads, …; the kernel says for which), poll and then the call, with the GIL let go. With the last (ttys, FIFOs that
# others have opened) another process that takes the data, or the room, between the two makes the call block this OS thread.
import errno as errors
import io
import os
import stat
import warnings
import weakref

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EBADF, EEXIST, EINTR, EINVAL, ENOENT, ENOSYS, EOPNOTSUPP, EPERM, ESPIPE, errno
from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from greenio._scheduler cimport (
    NEVER, Fiber, Scheduler, WaitNode, Watch, close_watch, current_scheduler_or_none, current_scheduler_or_raise, deadline_of,
    leave_io, unpark)
from greenio._waiting cimport deadline_after

from greenio._scheduler import listen_for_closing
from greenio._scopes import shield
from greenio._sync import Lock
from greenio._threads import to_thread

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
        POLLPRI
        POLLOUT
        POLLERR
        POLLHUP
        POLLNVAL
    int poll_call "poll"(pollfd *fds, unsigned long count, int timeout_ms)

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLLET
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event *event)

cdef extern from "<unistd.h>" nogil:
    int close_call "close"(int fd)
    int isatty_call "isatty"(int fd)
    int64_t lseek_call "lseek"(int fd, int64_t offset, int whence)
    enum:
        SEEK_SET
        SEEK_CUR

cdef extern from "<sys/inotify.h>" nogil:
    enum:
        IN_NONBLOCK
        IN_CLOEXEC
        IN_OPEN
    int inotify_init1(int flags)
    int inotify_add_watch(int fd, const char *path, uint32_t mask)

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <stdint.h>
    #include <sys/socket.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <sys/uio.h>
    #include <time.h>
    #include <unistd.h>

    #ifndef POLLRDHUP
    #define POLLRDHUP 0x2000   /* Linux; the header shows it with _GNU_SOURCE only */
    #endif

    /* At the file's own position, and never waiting: EAGAIN instead. The kernel's call, so that a libc without it does not matter. */
    static inline Py_ssize_t greenio_transfer_now(int fd, void *data, size_t size, int to_write)
    {
        struct iovec part = {data, size};
        return syscall(to_write ? SYS_pwritev2 : SYS_preadv2, fd, &part, 1UL, -1L, -1L, 0x8 /* RWF_NOWAIT */);
    }

    static inline Py_ssize_t greenio_transfer(int fd, void *data, size_t size, int to_write)
    {
        return syscall(to_write ? SYS_write : SYS_read, fd, data, size);
    }

    static inline Py_ssize_t greenio_transfer_by_socket(int fd, void *data, size_t size, int to_write)
    {
        if (to_write)
            return syscall(SYS_sendto, fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
        return syscall(SYS_recvfrom, fd, data, size, MSG_DONTWAIT, NULL, NULL);
    }

    /* libc shows it with _GNU_SOURCE only. */
    static inline Py_ssize_t greenio_tee(int from, int to, size_t size, unsigned int flags)
    {
        return syscall(SYS_tee, from, to, size, flags);
    }

    static inline int greenio_file_type(int fd)
    {
        struct stat status;
        return fstat(fd, &status) < 0 ? -1 : (int)(status.st_mode & S_IFMT);
    }

    static inline int64_t greenio_io_now_ns(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    """
    const int POLLRDHUP
    Py_ssize_t transfer_now "greenio_transfer_now"(int fd, void *data, size_t size, int to_write)
    Py_ssize_t transfer_call "greenio_transfer"(int fd, void *data, size_t size, int to_write)
    Py_ssize_t transfer_by_socket "greenio_transfer_by_socket"(int fd, void *data, size_t size, int to_write)
    Py_ssize_t tee_call "greenio_tee"(int from_fd, int to_fd, size_t size, unsigned int flags)
    int file_type "greenio_file_type"(int fd)
    int64_t monotonic_ns "greenio_io_now_ns"()
    enum:
        S_IFREG
        S_IFBLK
        S_IFDIR
        S_IFIFO
        S_IFSOCK

cdef enum:
    GIL_HELD_BYTES = 128 * 1024      # what is copied with the GIL held; more lets the others compute meanwhile
    PIPE_PIECE = 4096                # bytes: PIPE_BUF. A pipe is writable when a page of it is free
    TTY_PIECE = 256                  # bytes: a tty's buffers grow by so much, and WAKEUP_CHARS is no less
    FEW = 16                         # descriptors whose state is asked without memory of the heap
    SPLICE_F_NONBLOCK = 2            # the kernel's
    FIRST_READ = 64 * 1024           # bytes: readall, where nothing tells the size

# What a poll of one direction asks for. Errors and hang-ups come by themselves.
cdef int FOR_READING = POLLIN | POLLPRI | POLLRDHUP


cdef object system_error(int number):
    return OSError(number, os.strerror(number))


cdef int descriptor_of(object source) except -1:
    fd = source if isinstance(source, int) else None
    if fd is None:
        try:
            fileno = source.fileno
        except AttributeError:
            raise TypeError(f"a descriptor is an int, or something with fileno(), not {source!r}") from None
        fd = fileno()
        if not isinstance(fd, int):
            raise TypeError(f"fileno() of {source!r} returned {fd!r}, not an int")
        if fd < 0:
            raise OSError(EBADF, f"{source!r} is closed")
    if not 0 <= fd <= INT_MAX:
        raise ValueError(f"a descriptor is an int >= 0, not {fd}")
    return fd


# --- readiness of one ------------------------------------------------------------------------------------------------


cdef int state_of(int fd, int events) except -1:
    # The flags that poll reports now. EBADF where nothing is open under that number.
    cdef pollfd state
    state.fd = fd
    state.events = <short>events
    state.revents = 0
    while poll_call(&state, 1, 0) < 0:
        if errno != EINTR:
            raise system_error(errno)
    if state.revents & POLLNVAL:
        raise OSError(EBADF, f"{os.strerror(EBADF)}: {fd}")
    return state.revents


cdef int poll_in_thread(pollfd *states, unsigned long count, int64_t deadline_ns) except -1:
    # Blocks this OS thread, which has no fibers, until one is ready or the deadline (on CLOCK_MONOTONIC) has come.
    cdef int64_t left_ms
    cdef int found
    while True:
        left_ms = -1
        if deadline_ns != NEVER:
            left_ms = max(0, (deadline_ns - monotonic_ns() + 999_999) // 1_000_000)
        with nogil:
            found = poll_call(states, count, <int>min(left_ms, <int64_t>INT_MAX))
        if found > 0:
            return found
        if found < 0 and errno != EINTR:
            raise system_error(errno)
        PyErr_CheckSignals()
        if deadline_ns != NEVER and monotonic_ns() >= deadline_ns:
            return 0


cdef bint is_over(Scheduler scheduler, int64_t deadline_ns) except -1:
    # Whether a TimeoutError is the deadline's. Else it is a signal handler's own, and for whoever called.
    return deadline_ns != NEVER and scheduler.now() >= deadline_ns


cdef bint in_time_in_thread(int fd, int events, object timeout) except -1:
    cdef pollfd state
    cdef int64_t deadline_ns = deadline_after(None, timeout)
    state.fd = fd
    state.events = <short>events
    state.revents = 0
    if not poll_in_thread(&state, 1, deadline_ns):
        return False
    if state.revents & POLLNVAL:
        raise OSError(EBADF, f"{os.strerror(EBADF)}: {fd}")
    return True


cdef int in_time(bint ready, object source, object what, object timeout) except -1:
    if not ready:
        raise TimeoutError(f"{source!r} was not {what} within {timeout} seconds")
    return 0


cdef bint ready_in_time(object source, bint to_write, object timeout) except -1:
    cdef Scheduler scheduler = current_scheduler_or_none()
    cdef WaitNode node
    cdef int64_t deadline_ns
    cdef Watch watch
    cdef int fd = descriptor_of(source)
    cdef int events = POLLOUT if to_write else FOR_READING
    cdef int state
    if scheduler is None:
        return in_time_in_thread(fd, events & ~POLLPRI, timeout)
    scheduler.check()
    deadline_ns = deadline_of(scheduler, timeout)
    state = state_of(fd, events)
    if state & ~POLLPRI:
        scheduler.spend()
        return True
    if state:
        return ready_in_nest(fd, POLLIN | POLLRDHUP, "readable", source, timeout)
    if deadline_ns != NEVER and timeout == 0:
        scheduler.spend()
        return False
    watch = scheduler.watch_for(fd)
    node.fiber = NULL
    try:
        while True:
            if to_write:
                watch.writable = False
            else:
                watch.readable = False
            scheduler.wait_io(watch, to_write, &node, deadline_ns, "descriptor writable" if to_write else "descriptor readable", source)
            state = state_of(fd, events)
            if state & ~POLLPRI:
                return True
            if state:
                break
    except TimeoutError:
        if not is_over(scheduler, deadline_ns):
            raise
        # Ready, even so: somebody else stands before us in line, and takes his time.
        return state_of(fd, events) & ~POLLPRI != 0
    finally:
        leave_io(watch, to_write, &node)
    # Urgent data and nothing else: no line for readers can wait past that.
    left = None if deadline_ns == NEVER else max(0, (deadline_ns - scheduler.now()) / 1e9)
    return ready_in_nest(fd, POLLIN | POLLRDHUP, "readable", source, left)


cdef bint ready_in_nest(int fd, int events, object what, object source, object timeout) except -1:
    found = wait_many([(fd, events)], timeout, f"descriptor {what}", source)
    if not found:
        return False
    if found[0][1] & POLLNVAL:
        raise OSError(EBADF, f"the descriptor was closed while somebody waited for {source!r}")
    return True


def wait_readable(source, /, timeout=None):
    """Park until a read from *source* would not wait: there are data, a connection, the end of the stream, or an error.

    Nothing is read; whoever else reads there may be faster. What is never waited for (a regular file, /dev/null) is ready.
    On an OS thread without fibers it blocks the thread.

    Args:
        source: a descriptor's number, or anything with fileno(): sockets, pipes, ttys, eventfd, timerfd, pidfd, inotify, epoll, …
        timeout: seconds, or None for ever; 0 does not park.
    Raises:
        TimeoutError: it was not ready within *timeout*.
        Cancelled: this fiber was cancelled.
        OSError: EBADF: nothing is open under that number; or it was closed meanwhile, see notify_closing.
        TypeError, ValueError: *source* is no descriptor, *timeout* is negative.
    """
    in_time(ready_in_time(source, False, timeout), source, "readable", timeout)


def wait_writable(source, /, timeout=None):
    """Park until a write to *source* would not wait, or fail at once, or a connect is over. As `wait_readable` otherwise."""
    in_time(ready_in_time(source, True, timeout), source, "writable", timeout)


def becomes_readable(source, timeout):
    """Whether *source* is readable within *timeout* seconds; None: for ever. As `wait_readable`, without the TimeoutError."""
    return ready_in_time(source, False, timeout)


def wait_priority(source, /, timeout=None):
    """Park until *source* has something urgent: POLLPRI (out-of-band data, a change in /proc or sysfs, a pty's packet mode), or an error.

    As `wait_readable` otherwise. It takes a descriptor while it waits (an epoll one).
    """
    cdef Scheduler scheduler = current_scheduler_or_none()
    cdef int fd = descriptor_of(source)
    if scheduler is None:
        in_time(in_time_in_thread(fd, POLLPRI, timeout), source, "urgent", timeout)
    else:
        in_time(ready_in_nest(fd, POLLPRI, "urgent", source, timeout), source, "urgent", timeout)


def notify_closing(source, /):
    """Whoever waits for *source* gets OSError (EBADF), as it is about to be closed. From any OS thread.

    To be called just before a descriptor is closed that greenio did not make and that fibers may wait for: without it they wait on,
    and for another file once the number is used again. greenio's own sockets and files do it by themselves.

    Raises:
        TypeError, ValueError: *source* is no descriptor.
        OSError: *source* is an object that is closed already.
    """
    close_watch(descriptor_of(source))


# --- readiness of many -----------------------------------------------------------------------------------------------

cdef dict nests = {}                  # by descriptor: a list of the Nests that wait for it


def _closing(int fd):
    # From close_watch: any OS thread, with the GIL; nothing here lets it go.
    cdef Nest nest
    waiting = nests.get(fd)
    if waiting is None:
        return
    for nest in waiting:
        nest.closed.add(fd)
        nest.watch.readable = True
        if nest.watch.readers.first is not NULL:
            unpark(<Fiber>nest.watch.readers.first.fiber, 0)


listen_for_closing(nests, _closing)


def _after_fork_in_child():
    # After the scheduler's own: who has not come along waits in no line any more.
    cdef Nest nest
    for nest in {each for waiting in nests.values() for each in waiting}:
        if nest.scheduler.closed or nest.watch.readers.first is NULL:
            for number in nest.wanted:
                nests[number].remove(nest)
                if not nests[number]:
                    del nests[number]
            nest.wanted = {}
            close_call(nest.epoll_fd)
            nest.epoll_fd = -1


os.register_at_fork(after_in_child=_after_fork_in_child)


cdef class Nest:
    """One wait for many descriptors."""

    def __cinit__(self):
        self.epoll_fd = -1

    def __dealloc__(self):
        if self.epoll_fd >= 0:
            close_call(self.epoll_fd)

    cdef int open(self, Scheduler scheduler, pollfd *states, Py_ssize_t count) except -1:
        cdef epoll_event event
        cdef Py_ssize_t index
        cdef int fd
        self.scheduler = scheduler
        self.closed = set()
        self.wanted = {}
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll_fd < 0:
            raise system_error(errno)
        for index in range(count):
            fd = states[index].fd
            if fd < 0:
                continue
            # The flags of poll and epoll are the same bits on Linux.
            event.events = <uint32_t>(<unsigned short>states[index].events)
            event.data.u64 = <uint64_t>fd
            if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
                if errno == EPERM or errno == EEXIST:
                    continue      # never anything to wait for; or it is there twice: both are asked when one is told
                raise OSError(errno, f"{os.strerror(errno)}: descriptor {fd} cannot be waited for")
            self.wanted[fd] = None
        self.watch = scheduler.watch_for(self.epoll_fd)
        for number in self.wanted:
            nests.setdefault(number, []).append(self)
        return 0

    cdef int leave(self) except -1:
        cdef int fd = self.epoll_fd
        if self.watch is not None:
            for number in self.wanted:
                waiting = nests[number]
                waiting.remove(self)
                if not waiting:
                    del nests[number]
        if fd >= 0:
            self.epoll_fd = -1
            close_watch(fd)
            close_call(fd)
        return 0

    cdef int wait(self, pollfd *states, Py_ssize_t count, int64_t deadline_ns, object reason, object waiting_on) except -1:
        # How many are ready, 0 when the deadline came. Where one was closed, states[].revents says POLLNVAL.
        cdef WaitNode node
        cdef int found
        node.fiber = NULL
        try:
            while True:
                found = ask(states, count)
                if self.closed:
                    found = 0
                    for index in range(count):
                        if states[index].fd in self.closed:
                            states[index].revents = POLLNVAL
                        found += states[index].revents != 0
                if found:
                    return found
                if not state_of(self.epoll_fd, POLLIN):
                    self.watch.readable = False
                try:
                    self.scheduler.wait_io(self.watch, False, &node, deadline_ns, reason, waiting_on)
                except TimeoutError:
                    if not is_over(self.scheduler, deadline_ns):
                        raise
                    return ask(states, count)
        finally:
            leave_io(self.watch, False, &node)


cdef int ask(pollfd *states, Py_ssize_t count) except -1:
    cdef int found = poll_call(states, count, 0)
    while found < 0 and errno == EINTR:
        found = poll_call(states, count, 0)
    if found < 0:
        raise system_error(errno)
    return found


def wait_many(descriptors, timeout, reason, waiting_on):
    """Park until one of *descriptors* is ready; what poll(2) says of all of them, in their order, without those that are not.

    Args:
        descriptors: a list of (number, POLL* events wanted).
        timeout: seconds, or None for ever; 0 does not park.
        reason, waiting_on: for dumps.
    Returns:
        A list of (number, POLL* events); POLLNVAL for what is not open, or was closed meanwhile. Empty after *timeout*.
    Raises:
        Cancelled: this fiber was cancelled.
        OSError: EMFILE, ENOSPC, …: there is no descriptor left for the wait, or too many are watched.
        RuntimeError: no fibers run on this OS thread.
    """
    cdef Scheduler scheduler = current_scheduler_or_raise()
    cdef pollfd few[FEW]
    cdef pollfd *states = few
    cdef Py_ssize_t count = len(descriptors)
    cdef Py_ssize_t index = 0
    cdef int64_t deadline_ns
    cdef int found
    cdef Nest nest
    scheduler.check()
    deadline_ns = deadline_of(scheduler, timeout)
    if count > FEW:
        states = <pollfd *>malloc(count * sizeof(pollfd))
        if states is NULL:
            raise MemoryError(f"no room for {count} descriptors")
    try:
        for fd, events in descriptors:
            states[index].fd = fd
            states[index].events = <short><unsigned short>events
            states[index].revents = 0
            index += 1
        found = ask(states, count)
        if found or (timeout is not None and timeout == 0):
            scheduler.spend()
        else:
            nest = Nest()
            try:
                nest.open(scheduler, states, count)
                found = nest.wait(states, count, deadline_ns, reason, waiting_on)
            finally:
                nest.leave()
        if not found:
            return []
        return [(states[index].fd, <unsigned short>states[index].revents) for index in range(count) if states[index].revents]
    finally:
        if states is not few:
            free(states)


# --- reading and writing ---------------------------------------------------------------------------------------------


def read_now(int fd, Py_ssize_t size):
    """At most *size* bytes, b"" at the end; None instead of waiting. O_NONBLOCK need not be set.

    Raises:
        OSError: as the system says.
    """
    cdef Py_ssize_t count
    data = PyBytes_FromStringAndSize(NULL, size)     # memory that nothing is read into is not touched
    cdef char *buffer = PyBytes_AS_STRING(data)
    if size <= GIL_HELD_BYTES:
        count = transfer_now(fd, buffer, size, False)
    else:
        with nogil:
            count = transfer_now(fd, buffer, size, False)
    if count < 0 and errno != EAGAIN and errno != EINTR:
        if errno not in (EOPNOTSUPP, EINVAL, ENOSYS, EPERM, ESPIPE):
            raise system_error(errno)
        # A tty, or an old kernel. Should another process read between the two calls, the second one waits, and the OS thread with it.
        if not state_of(fd, POLLIN):
            return None
        with nogil:
            count = transfer_call(fd, buffer, size, False)
        if count < 0 and errno != EAGAIN and errno != EINTR:
            raise system_error(errno)
    if count < 0:
        return None
    return data if count == size else PyBytes_FromStringAndSize(buffer, count)


class _Call:
    # A call in another OS thread. It may go on when nobody waits for it any more; it may never begin.
    __slots__ = ("arguments", "begun", "dropped", "fn", "owner")

    def __init__(self, owner, fn, arguments):
        self.owner = owner
        self.fn = fn
        self.arguments = arguments
        self.begun = self.dropped = False

    def __call__(self):
        if self.dropped:
            return None
        self.begun = True
        try:
            return self.fn(*self.arguments)
        finally:
            (<Descriptor>self.owner).call_ended()

    def __repr__(self):
        return f"{self.fn.__name__} on descriptor {self.owner.fd}"


cdef object in_other_thread(Descriptor owner, bint cancellable, object fn, tuple arguments):
    # Not cancellable: once begun it is seen to its end, and Cancelled is raised by whatever comes next.
    call = _Call(owner, fn, arguments)
    owner.calls += 1
    try:
        return to_thread(call, cancellable=cancellable)
    finally:
        if not call.begun:
            call.dropped = True
            owner.call_ended()


def _close_first(list fds):
    os.close(fds.pop())


cdef class Descriptor:
    """A descriptor and how it is read and written without blocking; FdIO is the file on it.

    Attributes:
        fd: its number, -1 once closed.
        owned: whether close() closes it.
        nonblocking: greenio made it and set O_NONBLOCK.
    """

    def __cinit__(self):
        self.fd = -1
        self.number = -1

    def __init__(self, int fd, bint owned, bint nonblocking, source):
        cdef int type = file_type(fd)
        if type < 0:
            raise OSError(errno, f"{os.strerror(errno)}: {fd}")
        self.owned = owned
        self.nonblocking = nonblocking
        self.kind = SOCKET if type == S_IFSOCK else DISK if type in (S_IFREG, S_IFBLK, S_IFDIR) else WAITED
        self.ask_to_read = self.ask_to_write = True
        self.piece = TTY_PIECE if isatty_call(fd) else PIPE_PIECE
        self.source = weakref.ref(source)
        if self.kind == DISK:
            self.lock = Lock()
            self.ask_to_write = False
        self.fd = fd
        self.number = fd

    @property
    def on_disk(self):
        """Whether it is a regular file or a block device: always ready, and slow; other OS threads make its calls."""
        return self.kind == DISK

    def read_into(self, buffer):
        """Read into *buffer*, at most as much as it holds; how many bytes, 0 at the end. Parks while there are none."""
        cdef Py_buffer view
        try:
            PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        except BufferError:
            raise TypeError(f"readinto() argument must be read-write bytes-like object, not {type(buffer).__name__}") from None
        try:
            return self.transfer(<char *>view.buf, view.len, False)
        finally:
            PyBuffer_Release(&view)

    def read(self, Py_ssize_t size):
        """At most *size* bytes, b"" at the end. Parks while there are none."""
        cdef Py_ssize_t count
        data = PyBytes_FromStringAndSize(NULL, size)
        count = self.transfer(PyBytes_AS_STRING(data), size, False)
        return data if count == size else PyBytes_FromStringAndSize(PyBytes_AS_STRING(data), count)

    def write(self, data):
        """Write some of *data*, as much as there is room for; how many bytes. Parks while there is no room."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return self.transfer(<char *>view.buf, view.len, True)
        finally:
            PyBuffer_Release(&view)

    def write_now(self, data):
        """Write what there is room for now, without parking; how many bytes, 0 also where it would wait or fail."""
        cdef Py_buffer view
        cdef Py_ssize_t count = 0
        if self.fd < 0 or self.kind == DISK:
            return 0
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            count = self.try_write(<const char *>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        return max(0, count)

    def let_block(self):
        """Take O_NONBLOCK off again, as other processes get the descriptor too, and go on as with one that greenio did not make."""
        if self.nonblocking and self.fd >= 0:
            os.set_blocking(self.fd, True)
            self.nonblocking = False

    def call(self, fn, *args):
        """fn(descriptor, *args), in another OS thread, to its end. For what disks are slow at: truncate, fsync."""
        cdef Scheduler scheduler = current_scheduler_or_none()
        if scheduler is not None:
            scheduler.check()
        if self.lock is None:
            return in_other_thread(self, False, fn, (self.fd, *args))
        with self.lock:
            return in_other_thread(self, False, fn, (self.fd, *args))

    def close(self, bint slow):
        """Whoever waits on it gets OSError (EBADF). Closed in the system's eyes once no other OS thread uses it. Again: does nothing.

        *slow*: by another OS thread, since a file system may write out what it has first. Parks, and cannot be cancelled.
        """
        cdef int fd = self.fd
        cdef Scheduler scheduler
        self.fd = -1
        if fd < 0:
            return
        close_watch(fd)
        self.watch = None
        if self.calls:
            return
        self.number = -1
        if not self.owned:
            return
        if slow and self.kind == DISK:
            scheduler = current_scheduler_or_none()
            if scheduler is not None and not scheduler.hosting:
                closing = [fd]
                try:
                    with shield():
                        to_thread(_close_first, closing)
                finally:
                    if closing:                # no OS thread was to be had
                        close_call(closing.pop())
                return
        if close_call(fd) < 0 and errno != EINTR:
            raise system_error(errno)

    cdef void call_ended(self) noexcept:
        self.calls -= 1
        if self.calls == 0 and self.fd < 0 and self.number >= 0:
            if self.owned:
                close_call(self.number)
            self.number = -1

    # Bytes, or an errno below zero; EAGAIN says that it would wait.

    cdef Py_ssize_t try_read(self, char *buffer, Py_ssize_t size) noexcept:
        cdef pollfd state
        cdef int fd = self.fd
        cdef Py_ssize_t count
        if self.kind == SOCKET:
            count = transfer_by_socket(fd, buffer, size, False)
            return count if count >= 0 else -errno
        if self.nonblocking and size <= GIL_HELD_BYTES:
            count = transfer_call(fd, buffer, size, False)
            return count if count >= 0 else -errno
        if self.ask_to_read and not self.nonblocking:
            if size <= GIL_HELD_BYTES:
                count = transfer_now(fd, buffer, size, False)
            else:
                with nogil:
                    count = transfer_now(fd, buffer, size, False)
            if count >= 0:
                return count
            if errno != EOPNOTSUPP and errno != ENOSYS and errno != EINVAL:
                return -errno
            self.ask_to_read = False
        if not self.nonblocking:
            if self.kind == DISK:
                return -EAGAIN
            state.fd = fd
            state.events = POLLIN
            state.revents = 0
            count = poll_call(&state, 1, 0)
            if count <= 0:
                return -EAGAIN if count == 0 else -errno
            if state.revents & POLLNVAL:
                return -EBADF
        with nogil:
            count = transfer_call(fd, buffer, size, False)
            if count < 0:
                count = -errno
        return count

    cdef Py_ssize_t try_write(self, const char *data, Py_ssize_t size) noexcept:
        cdef pollfd state
        cdef int fd = self.fd
        cdef Py_ssize_t count
        if self.kind == SOCKET:
            count = transfer_by_socket(fd, <void *>data, size, True)
            return count if count >= 0 else -errno
        if self.nonblocking and size <= GIL_HELD_BYTES:
            count = transfer_call(fd, <void *>data, size, True)
            return count if count >= 0 else -errno
        if self.ask_to_write and not self.nonblocking:
            if size <= GIL_HELD_BYTES:
                count = transfer_now(fd, <void *>data, size, True)
            else:
                with nogil:
                    count = transfer_now(fd, <void *>data, size, True)
            if count >= 0:
                return count
            if errno != EOPNOTSUPP and errno != ENOSYS and errno != EINVAL:
                return -errno
            self.ask_to_write = False
        if not self.nonblocking:
            state.fd = fd
            state.events = POLLOUT
            state.revents = 0
            count = poll_call(&state, 1, 0)
            if count <= 0:
                return -EAGAIN if count == 0 else -errno
            if state.revents & POLLNVAL:
                return -EBADF
            size = min(size, self.piece)
        with nogil:
            count = transfer_call(fd, <void *>data, size, True)
            if count < 0:
                count = -errno
        return count

    cdef Watch watch_of(self, Scheduler scheduler):
        # The caller's scheduler's, if it has one. It may be of an earlier file under the same number, if that is not ours alone.
        cdef Watch watch = self.watch
        if watch is None or watch.scheduler is not scheduler or watch.fd < 0:
            watch = scheduler.watches.get(self.fd)
        return watch

    cdef Watch watch_to_wait(self, Scheduler scheduler):
        cdef Watch watch = self.watch
        if watch is None or watch.scheduler is not scheduler or watch.fd < 0:
            watch = scheduler.watch_for(self.fd)
            if self.owned:
                self.watch = watch
        return watch

    cdef Py_ssize_t transfer(self, char *buffer, Py_ssize_t size, bint to_write) except -1:
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef Watch watch
        cdef Py_ssize_t count
        if self.fd < 0:
            raise OSError(EBADF, "the file is closed")
        if scheduler is None or scheduler.hosting:      # a signal handler on top of the idle loop: what it prints must go out
            return self.transfer_in_thread(buffer, size, to_write)
        scheduler.check()
        if self.kind == DISK:
            return self.write_disk(scheduler, buffer, size) if to_write else self.read_disk(scheduler, buffer, size)
        watch = self.watch_of(scheduler)
        if watch is None or (watch.writers.first is NULL and watch.writable if to_write else
                             watch.readers.first is NULL and watch.readable):
            count = self.try_write(buffer, size) if to_write else self.try_read(buffer, size)
            if count >= 0:
                scheduler.spend()
                return count
            if count == -EAGAIN:
                watch = self.watch_to_wait(scheduler)
                if to_write:
                    watch.writable = False
                else:
                    watch.readable = False
            elif count != -EINTR:
                scheduler.spend()
                raise system_error(<int>-count)
        return self.transfer_waiting(scheduler, buffer, size, to_write)

    cdef Py_ssize_t transfer_waiting(self, Scheduler scheduler, char *buffer, Py_ssize_t size, bint to_write) except -1:
        cdef WaitNode node
        cdef Py_ssize_t count
        cdef Watch watch = self.watch_to_wait(scheduler)
        reason = "file write" if to_write else "file read"
        source = self.source()
        node.fiber = NULL
        try:
            while True:
                scheduler.wait_io(watch, to_write, &node, NEVER, reason, source)
                count = self.try_write(buffer, size) if to_write else self.try_read(buffer, size)
                if count >= 0:
                    return count
                if count == -EAGAIN:
                    if to_write:
                        watch.writable = False
                    else:
                        watch.readable = False
                elif count == -EINTR:
                    PyErr_CheckSignals()
                else:
                    raise system_error(<int>-count)
        finally:
            leave_io(watch, to_write, &node)

    cdef Py_ssize_t transfer_in_thread(self, char *buffer, Py_ssize_t size, bint to_write) except -1:
        # An OS thread without fibers: as the standard file does.
        cdef pollfd state
        cdef Py_ssize_t count
        cdef int fd = self.fd
        while True:
            self.calls += 1
            try:
                with nogil:
                    count = transfer_call(fd, buffer, size, to_write)
                    if count < 0:
                        count = -errno
                if count == -EAGAIN:
                    state.fd = fd
                    state.events = POLLOUT if to_write else POLLIN
                    state.revents = 0
                    poll_in_thread(&state, 1, NEVER)
            finally:
                self.call_ended()
            if count >= 0:
                return count
            if count == -EINTR:
                PyErr_CheckSignals()
            elif count != -EAGAIN:
                raise system_error(<int>-count)
            if self.fd < 0:
                raise OSError(EBADF, "the file was closed meanwhile")

    cdef Py_ssize_t read_disk(self, Scheduler scheduler, char *buffer, Py_ssize_t size) except -1:
        # The other OS thread reads at a given position, into bytes of its own: if nobody waits for it any more, nothing has happened.
        cdef Py_ssize_t count = 0
        cdef int64_t position
        self.lock.acquire()
        try:
            if self.fd < 0:
                raise OSError(EBADF, "the file was closed meanwhile")
            count = self.try_read(buffer, size)
            if count >= 0:
                pass
            elif count != -EAGAIN and count != -EINTR:
                raise system_error(<int>-count)
            else:
                position = lseek_call(self.fd, 0, SEEK_CUR)
                if position < 0:
                    raise system_error(errno)
                data = in_other_thread(self, True, os.pread, (self.fd, size, position))
                if self.fd < 0:
                    raise OSError(EBADF, "the file was closed meanwhile")
                count = len(data)
                memcpy(buffer, PyBytes_AS_STRING(data), count)
                lseek_call(self.fd, position + count, SEEK_SET)
        finally:
            self.lock.release()
        scheduler.spend()
        return count

    cdef Py_ssize_t write_disk(self, Scheduler scheduler, const char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t count = 0
        self.lock.acquire()
        try:
            if self.fd < 0:
                raise OSError(EBADF, "the file was closed meanwhile")
            # A copy: whoever is thrown an exception meanwhile leaves, and takes the buffer along.
            count = in_other_thread(self, False, os.write, (self.fd, PyBytes_FromStringAndSize(data, size)))
        finally:
            self.lock.release()
        return count


# --- FIFOs -----------------------------------------------------------------------------------------------------------


def fifo_has_writer(int fd):
    """Whether the FIFO that *fd* reads, with O_NONBLOCK, has a writer, or has had one since it was opened. Takes no data."""
    cdef Py_ssize_t count
    if state_of(fd, POLLIN):
        return True
    # Nothing is there, and nobody has hung up. tee takes nothing, and tells "nobody writes" (0) from "not yet" (EAGAIN).
    reader, writer = os.pipe()
    try:
        count = tee_call(fd, writer, 1, SPLICE_F_NONBLOCK)
        return count > 0 or (count < 0 and errno == EAGAIN)
    finally:
        os.close(reader)
        os.close(writer)


def watch_opens(path):
    """A descriptor (inotify) that becomes readable whenever somebody has opened *path*; -1 if the system has none left."""
    cdef int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
    if fd < 0:
        return -1
    name = os.fsencode(path)
    if inotify_add_watch(fd, name, IN_OPEN) < 0:
        close_call(fd)
        return -1
    return fd


# --- the file --------------------------------------------------------------------------------------------------------

cdef dict modes = {
    "r": ("rb", True, False), "w": ("wb", False, True), "a": ("ab", False, True), "x": ("xb", False, True),
    "r+": ("rb+", True, True), "w+": ("rb+", True, True), "a+": ("ab+", True, True), "x+": ("xb+", True, True)}


with io.FileIO(os.devnull, "w+") as _probe:
    modes["w+"] = (_probe.mode, True, True)    # "rb+" until Python 3.14, "wb+" from then on
del _probe


# For destructors: what the interpreter still finds when it ends, after the names of modules are gone.
cdef object close_raw = io.RawIOBase.close
cdef object warn = warnings.warn


class FdIO(io.RawIOBase):
    """A raw file on an open descriptor, whose reads and writes park the fiber instead of blocking the OS thread.

    On an OS thread without fibers it is an ordinary raw file. O_NONBLOCK is not set on the descriptor, nor expected: unless
    *nonblocking*, the kernel is asked for each call not to wait (MSG_DONTWAIT, RWF_NOWAIT), or where it cannot be (ttys, opened FIFOs)
    whether it would. There another process that takes the data or the room in between can still make the call block.

    Regular files and block devices are read and written by other OS threads, in this call's place, but for what the kernel has at hand.

    Args:
        fd: the descriptor.
        mode: "r", "w", "a" or "x", with "+" for both directions and "b" or not, as in open().
        closefd: close() closes the descriptor too.
        name: for repr and the attribute `name`; the number unless given.
        nonblocking: greenio made the descriptor and has set O_NONBLOCK on it.
    Raises:
        OSError: *fd* is not open (EBADF), or a directory (EISDIR).
        ValueError: the mode is none.
    """

    name = None       # each has its own
    mode = "rb"

    def __init__(self, fd, mode="r", *, closefd=True, name=None, nonblocking=False):
        if isinstance(fd, float) or not isinstance(fd, int):
            raise TypeError(f"a descriptor is an int, not {fd!r}")
        if fd < 0:
            raise ValueError("negative file descriptor")
        plain = mode.replace("b", "", 1)
        if plain not in modes and plain[::-1] not in modes:
            raise ValueError(f"invalid mode: {mode!r}")
        self.mode, self._can_read, self._can_write = modes.get(plain) or modes[plain[::-1]]
        self.name = fd if name is None else name
        self._core = Descriptor(fd, closefd, nonblocking, self)
        self._seekable = None
        self._dealloc_warned = False
        self._finalizing = False
        if file_type(fd) == S_IFDIR:
            (<Descriptor>self._core).fd = -1
            raise IsADirectoryError(errors.EISDIR, os.strerror(errors.EISDIR), self.name)
        if "a" in mode:
            try:
                os.lseek(fd, 0, os.SEEK_END)
            except OSError as error:
                if error.errno != errors.ESPIPE:
                    (<Descriptor>self._core).fd = -1
                    raise

    def __repr__(self):
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        core = getattr(self, "_core", None)
        if core is None or core.fd < 0:
            return f"<{kind} [closed]>"
        return f"<{kind} fd={core.fd} name={self.name!r} mode={self.mode!r} closefd={core.owned}>"

    def __del__(self):
        core = getattr(self, "_core", None)
        if core is not None and core.fd >= 0:
            self._finalizing = True
            if core.owned:
                self._dealloc_warn(self)
            self.close()

    def __reduce__(self):
        raise TypeError(f"cannot pickle {type(self).__name__!r} object: it is an open descriptor")

    def _dealloc_warn(self, source):
        core = self._core
        if core.fd >= 0 and core.owned and not self._dealloc_warned:
            self._dealloc_warned = True
            warn(f"unclosed file {source!r}", ResourceWarning, source=source, stacklevel=2)

    def _open(self):
        core = self._core
        if core.fd < 0:
            raise ValueError("I/O operation on closed file")
        return core

    @property
    def closefd(self):
        """Whether close() closes the descriptor."""
        return self._core.owned

    @property
    def nonblocking(self):
        """Whether greenio made the descriptor and set O_NONBLOCK on it."""
        return self._core.nonblocking

    @property
    def on_disk(self):
        """Whether it is a regular file or a block device: always ready, and slow; other OS threads make its calls."""
        return self._core.on_disk

    def fileno(self):
        """The descriptor's number. ValueError once closed."""
        return self._open().fd

    def _let_block(self):
        """Take O_NONBLOCK off again, if greenio has set it, since another process gets the descriptor too. Fibers park as before."""
        self._core.let_block()

    def readable(self):
        """Whether the mode lets one read."""
        self._open()
        return self._can_read

    def writable(self):
        """Whether the mode lets one write."""
        self._open()
        return self._can_write

    def isatty(self):
        """Whether it is a terminal."""
        return os.isatty(self._open().fd)

    def seekable(self):
        """Whether it has a position: pipes, sockets and ttys have none."""
        core = self._open()
        if self._seekable is None:
            self._seekable = lseek_call(core.fd, 0, SEEK_CUR) >= 0
        return self._seekable

    def readinto(self, buffer, /):
        """Read into *buffer*, at most as much as it holds; returns how many bytes, 0 at the end. Parks while there are none.

        Raises:
            Cancelled: this fiber was cancelled. Nothing was taken; *buffer* is as it was.
            OSError: as the system says; EBADF if the file is closed while it waits.
            ValueError: it is closed. io.UnsupportedOperation: it is not open for reading.
        """
        core = self._open()
        if not self._can_read:
            raise io.UnsupportedOperation("File not open for reading")
        return core.read_into(buffer)

    def read(self, size=-1, /):
        """At most *size* bytes, b"" at the end; below 0 or None, all up to the end, as readall. Parks and raises as readinto."""
        core = self._open()
        if not self._can_read:
            raise io.UnsupportedOperation("File not open for reading")
        if size is None or size < 0:
            return self.readall()
        return core.read(size)

    def readall(self):
        """All bytes up to the end. Parks.

        Raises:
            Cancelled, OSError: as readinto; what was read by then is the exception's attribute `received`.
        """
        core = self._open()
        if not self._can_read:
            raise io.UnsupportedOperation("File not open for reading")
        size = FIRST_READ
        if core.on_disk:
            try:
                # One more than there is to come, to see the end with as few calls as can be.
                size = max(os.fstat(core.fd).st_size - os.lseek(core.fd, 0, os.SEEK_CUR) + 1, 1)
            except OSError:
                pass
            size = min(size, 1 << 24)
        parts = []
        try:
            while True:
                part = core.read(size)
                if not part:
                    return b"".join(parts) if len(parts) != 1 else parts[0]
                parts.append(part)
                self._open()
                if len(part) == size:
                    size = min(2 * size, 1 << 24)
        except BaseException as error:
            error.received = b"".join(parts)
            raise

    def write(self, data, /):
        """Write some of *data*, as much as there is room for; returns how many bytes. Parks while there is no room.

        A call to a regular file or a block device, once begun, is seen to its end: Cancelled comes before or by the next operation.

        Raises:
            Cancelled: this fiber was cancelled. Nothing was written.
            OSError: as the system says; EBADF if the file is closed while it waits.
            ValueError: it is closed. io.UnsupportedOperation: it is not open for writing.
        """
        core = self._open()
        if not self._can_write:
            raise io.UnsupportedOperation("File not open for writing")
        return core.write(data)

    def write_now(self, data, /):
        """Write what there is room for now; returns how many bytes, maybe 0. Never parks."""
        return self._core.write_now(data)

    def seek(self, offset, whence=os.SEEK_SET, /):
        """Move to a position in bytes; returns the new one. Does not park."""
        return os.lseek(self._open().fd, offset, whence)

    def tell(self):
        """The position in bytes."""
        return os.lseek(self._open().fd, 0, os.SEEK_CUR)

    def truncate(self, size=None, /):
        """Cut or extend the file to *size* bytes, the position unless given; returns the size. By another OS thread; parks."""
        core = self._open()
        if not self._can_write:
            raise io.UnsupportedOperation("File not open for writing")
        if size is None:
            size = self.tell()
        core.call(os.ftruncate, size)
        return size

    def close(self):
        """Close it; whoever waits on it gets OSError (EBADF). Again: does nothing.

        A file on a disk that was open for writing is closed by another OS thread: that parks, and cannot be cancelled.
        """
        core = getattr(self, "_core", None)
        if core is None or self.closed:
            return
        try:
            close_raw(self)
        finally:
            core.close(self._can_write and not self._finalizing)
