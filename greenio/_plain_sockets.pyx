# cython: binding=True
# _plain_sockets.pyx: the standard socket class's methods, for fibers.
#
# Each method asks first whether a fiber calls. If not (another OS thread, a signal handler on top of the idle loop), or if the
# object is closed, the original does what it always did. Otherwise the object's companion makes the call.
#
# A companion is found by the object's address, and is only believed if it has the object's descriptor. The class has slots and no room for
# a reference; it is told of every object's end by the class's __del__, which stands in front of the original one.
#
# Not taken: the original method with MSG_DONTWAIT and a wait when it raises. With a timeout it polls by itself, with the OS thread; and an
# exception costs more than the call.
import _socket as standard

from cpython.ref cimport PyObject
from libc.errno cimport EAGAIN, EBADF, EINTR, errno

from greenio._messages cimport MessageCore
from greenio._scheduler cimport Scheduler, close_watch, current_scheduler_or_none, current_scheduler_or_raise
from greenio._socket cimport SocketCore, address_of, fail, sockaddr_storage, socket_error, socklen_t

cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_UNIX
        MSG_DONTWAIT
        SOCK_STREAM
        SOCK_CLOEXEC
        SOL_SOCKET
        SO_LINGER
        SO_OOBINLINE
    struct sockaddr:
        pass
    struct linger:
        int l_onoff
        int l_linger
    int accept4(int fd, sockaddr *address, socklen_t *length, int flags)
    int getsockopt_call "getsockopt"(int fd, int level, int option, void *value, socklen_t *length)

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_ULP

cdef extern from "<fcntl.h>" nogil:
    enum:
        F_GETFL
        F_SETFL
        O_NONBLOCK
    int fcntl(int fd, int command, ...)

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
    struct pollfd:
        int fd
        short events
        short revents
    int poll_call "poll"(pollfd *fds, unsigned long count, int timeout_ms)

cdef extern from "<unistd.h>" nogil:
    int close_call "close"(int fd)

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <pthread.h>
    #include <sys/mman.h>
    #include <time.h>

    /* Processes that were forked from one another share their listeners, and O_NONBLOCK with them. What one does from its look at the flag
     * to the end of its accept must not be mixed with another one's, whose accept would wait in the kernel. So there is a lock in memory that
     * they share; who dies with it is noticed. NULL: there is no such memory, and each does what it likes. */
    static pthread_mutex_t *greenio_accept_lock;

    static void greenio_accept_lock_make(void)
    {
        pthread_mutexattr_t shared;
        void *memory = mmap(NULL, sizeof(pthread_mutex_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            return;
        pthread_mutexattr_init(&shared);
        pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
        pthread_mutexattr_setrobust(&shared, PTHREAD_MUTEX_ROBUST);
        if (pthread_mutex_init(memory, &shared) == 0)
            greenio_accept_lock = memory;
        pthread_mutexattr_destroy(&shared);
    }

    /* 0: the caller has it. EBUSY: it has not, after `patience_ms`. */
    static int greenio_accept_lock_take(long patience_ms)
    {
        struct timespec until;
        int error;
        if (greenio_accept_lock == NULL)
            return 0;
        error = pthread_mutex_trylock(greenio_accept_lock);
        if (error == EBUSY && patience_ms > 0) {
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_nsec += patience_ms * 1000000;
            until.tv_sec += until.tv_nsec / 1000000000;
            until.tv_nsec %= 1000000000;
            error = pthread_mutex_timedlock(greenio_accept_lock, &until);
        }
        if (error == EOWNERDEAD)
            return pthread_mutex_consistent(greenio_accept_lock);
        return error == 0 ? 0 : EBUSY;
    }

    static void greenio_accept_lock_give(void)
    {
        if (greenio_accept_lock != NULL)
            pthread_mutex_unlock(greenio_accept_lock);
    }
    """
    void make_accept_lock "greenio_accept_lock_make"()
    int take_accept_lock "greenio_accept_lock_take"(long patience_ms)
    void give_accept_lock "greenio_accept_lock_give"()

cdef enum:
    ACCEPT_PATIENCE_MS = 100      # another process has the lock for microseconds, unless it was stopped with it

# The C class's own, whatever a subclass makes of these names.
cdef object plain = standard.socket
cdef object fileno_of = plain.fileno
cdef object timeout_of = plain.gettimeout
cdef object family_of = plain.family.__get__
cdef object type_of = plain.type.__get__
cdef object proto_of = plain.proto.__get__
cdef object detach_plain = plain.detach
cdef object accept_plain = plain._accept
cdef object finalize_plain = plain.__del__

cdef type companion_class = None
cdef dict companions = {}             # by the object's address
cdef dict tls_companions = {}         # by the object's address: those that carry TLS, see standard_sockets.py
cdef set foreign = set()              # addresses of objects that were given a descriptor which was not made here
cdef int just_accepted = -1           # a descriptor that was, and has no object yet; -1: none


def set_companion_class(cls not None):
    """What companions are made of: a subclass of PlainCore and greenio.socket.socket."""
    global companion_class
    companion_class = cls


cdef inline object key_of(object sock):
    return <size_t><PyObject *>sock


cdef inline bint parks() noexcept:
    cdef Scheduler scheduler = current_scheduler_or_none()
    return scheduler is not None and not scheduler.hosting


def adopt(SocketCore core not None, sock):
    """Let *core*, which is new, be on the descriptor of *sock*, an open one of the standard class. It must never close it."""
    core.domain = family_of(sock)
    core.kind = type_of(sock)
    core.protocol = proto_of(sock)
    core.timeout_seconds = timeout_of(sock)
    core.fd = fileno_of(sock)


def set_timeout(SocketCore core not None, timeout):
    """Let the calls of *core* wait that long from now on."""
    core.timeout_seconds = timeout


def forget(SocketCore core not None):
    """*core* has no descriptor any more; nobody is told, and nothing is closed."""
    core.fd = -1
    core.watch = None
    if core.inner is not None:
        core.inner.detach()
        core.inner = None


cdef bint is_plain(int fd) noexcept:
    # No urgent data among the rest, and no protocol such as TLS on top of TCP, which ends a read at the end of a record.
    cdef int inline_too = 0
    cdef char protocol[16]
    cdef socklen_t length = sizeof(inline_too)
    if getsockopt_call(fd, SOL_SOCKET, SO_OOBINLINE, &inline_too, &length) < 0 or inline_too:
        return False
    length = sizeof(protocol)
    protocol[0] = 0
    return getsockopt_call(fd, IPPROTO_TCP, TCP_ULP, protocol, &length) < 0 or length == 0 or protocol[0] == 0


cdef PlainCore companion_of(object sock):
    # With the object's timeout. None: it is the original's turn.
    cdef PlainCore found
    cdef int fd
    if not parks():
        return None
    fd = fileno_of(sock)
    if fd < 0:
        return None
    key = key_of(sock)
    found = companions.get(key)
    if found is None or found.fd != fd:
        if found is not None:
            forget(found)
        found = <PlainCore>companion_class.__new__(companion_class)
        adopt(found, sock)
        found.foreign = key in foreign
        found.short_means_drained = found.is_tcp() and is_plain(fd)
        companions[key] = found
    found.timeout_seconds = timeout_of(sock)
    return found


cdef int let_go(object sock) except -1:
    # The descriptor is about to be closed or given away: whoever waits on it gets EBADF.
    cdef int fd = fileno_of(sock)
    cdef SocketCore core
    key = key_of(sock)
    foreign.discard(key)
    for of in (companions, tls_companions):
        core = (<dict>of).pop(key, None)
        if core is None:
            continue
        if core.fd == fd:
            core.detach()
        else:
            forget(core)
    if fd >= 0:
        close_watch(fd)


def add_tls_companion(sock, SocketCore core not None):
    """*core* carries TLS for *sock*: it is told when that closes."""
    tls_companions[key_of(sock)] = core


def forget_all():
    """No object has a companion any more; who waits on one gets OSError (EBADF)."""
    for of in (companions, tls_companions):
        while of:
            (<dict>of).popitem()[1].detach()
    foreign.clear()


cdef class PlainCore(MessageCore):
    """The companion of a socket of the standard class, on the same descriptor, which it never closes."""

    def __del__(self):
        forget(self)

    cdef int try_accept(self, sockaddr_storage *address, socklen_t *length) noexcept:
        # As the standard class has it: the new descriptor is not O_NONBLOCK.
        cdef int taken = take_accept_lock(0)
        cdef int fd
        if taken != 0:
            with nogil:
                taken = take_accept_lock(ACCEPT_PATIENCE_MS)
        fd = self.accept_now(taken == 0, address, length)
        if taken == 0:
            give_accept_lock()
        return fd

    cdef int accept_now(self, bint locked, sockaddr_storage *address, socklen_t *length) noexcept:
        cdef pollfd ready
        cdef int found
        cdef int fd = self.fd
        cdef int number
        cdef int flags = fcntl(fd, F_GETFL)
        length[0] = sizeof(sockaddr_storage)
        if flags < 0 or (locked and flags & O_NONBLOCK):
            fd = accept4(fd, <sockaddr *>address, length, SOCK_CLOEXEC)
            return fd if fd >= 0 else -errno
        ready.fd = fd
        ready.events = POLLIN
        ready.revents = 0
        found = poll_call(&ready, 1, 0)
        if found <= 0:
            return -EAGAIN if found == 0 else -errno
        if self.foreign or not locked:
            # Should a process be faster now that does not know the lock, this blocks: the OS thread, but not those that wait for the GIL.
            with nogil:
                fd = accept4(fd, <sockaddr *>address, length, SOCK_CLOEXEC)
                if fd < 0:
                    fd = -errno
            return fd
        fcntl(self.fd, F_SETFL, flags | O_NONBLOCK)
        fd = accept4(fd, <sockaddr *>address, length, SOCK_CLOEXEC)
        number = errno
        fcntl(self.fd, F_SETFL, flags)
        return fd if fd >= 0 else -number

    def accept_descriptor(self):
        """Wait for a connection: (its descriptor, address of the peer), as socket._accept."""
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef sockaddr_storage address
        cdef socklen_t length
        cdef int fd
        scheduler.check()
        watch = self.watch_of(scheduler)
        if watch is None or watch.readers.first is NULL:
            # Always asked: another process or OS thread may take connections, too, and a listener has few calls.
            fd = self.try_accept(&address, &length)
            if fd == -EAGAIN:
                self.watch_to_wait(scheduler).readable = False
            elif fd < 0 and fd != -EINTR:
                fail(scheduler, -fd)
        else:
            fd = -EAGAIN
        if fd < 0:
            fd = self.accept_waiting(scheduler, &address, &length)
        try:
            peer = address_of(self.domain, &address, length)
            if peer is None:
                known = standard.socket(self.domain, self.kind, self.protocol, fd)
                try:
                    peer = known.getpeername()
                finally:
                    known.detach()
        except BaseException:
            close_call(fd)
            raise
        scheduler.spend()
        return fd, peer

    def _connect_now(self, address):
        cdef int flags = fcntl(self.fd, F_GETFL)
        if flags & O_NONBLOCK or flags < 0:
            return self._inner().connect_ex(address)
        if self.foreign:
            return None
        inner = self._inner()
        fcntl(self.fd, F_SETFL, flags | O_NONBLOCK)
        try:
            return inner.connect_ex(address)
        finally:
            if self.fd >= 0:
                fcntl(self.fd, F_SETFL, flags)


# --- the standard class's methods ------------------------------------------------------------------------------------


def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
    global just_accepted
    init_standard(self, family, type, proto, fileno)
    if fileno is not None:
        if just_accepted >= 0 and fileno_of(self) == just_accepted:
            just_accepted = -1
        else:
            foreign.add(key_of(self))


def __del__(self):
    try:
        let_go(self)
    finally:
        finalize_plain(self)


def recv(self, bufsize, flags=0, /):
    cdef PlainCore companion = companion_of(self)
    if companion is None:
        return recv_plain(self, bufsize, flags)
    return companion.recv(bufsize, flags)


def recv_into(self, buffer, nbytes=0, flags=0):
    cdef PlainCore companion = companion_of(self)
    if companion is None:
        return recv_into_plain(self, buffer, nbytes, flags)
    return companion.recv_into(buffer, nbytes, flags)


def recvfrom(self, bufsize, flags=0, /):
    cdef PlainCore companion = companion_of(self)
    if companion is None:
        return recvfrom_plain(self, bufsize, flags)
    return companion.recvfrom(bufsize, flags)


def recvfrom_into(self, buffer, nbytes=0, flags=0):
    cdef PlainCore companion = companion_of(self)
    if companion is None:
        return recvfrom_into_plain(self, buffer, nbytes, flags)
    return companion.recvfrom_into(buffer, nbytes, flags)


def recvmsg(self, bufsize, ancbufsize=0, flags=0, /):
    cdef PlainCore companion = companion_of(self)
    if companion is None:
        return recvmsg_plain(self, bufsize, ancbufsize, flags)
    return companion.recvmsg(bufsize, ancbufsize, flags)


def recvmsg_into(self, buffers, ancbufsize=0, flags=0, /):
    cdef PlainCore companion = companion_of(self)
    if companion is None:
        return recvmsg_into_plain(self, buffers, ancbufsize, flags)
    return companion.recvmsg_into(buffers, ancbufsize, flags)


def send(self, data, flags=0, /):
    cdef PlainCore companion = companion_of(self)
    if companion is None:
        return send_plain(self, data, flags)
    return companion.send(data, flags)


def sendall(self, data, flags=0, /):
    cdef PlainCore companion = companion_of(self)
    if companion is None:
        return sendall_plain(self, data, flags)
    return companion.sendall(data, flags)


def sendto(self, *args):
    cdef PlainCore companion = companion_of(self) if 2 <= len(args) <= 3 else None
    if companion is None:
        return sendto_plain(self, *args)
    return companion.sendto(*args)


def sendmsg(self, buffers, ancdata=(), flags=0, address=None, /):
    cdef PlainCore companion = companion_of(self)
    if companion is None:
        return sendmsg_plain(self, buffers, ancdata, flags, address)
    return companion.sendmsg(buffers, ancdata, flags, address)


def sendmsg_afalg(self, *args, **keywords):
    cdef PlainCore companion = companion_of(self)
    if companion is None:
        return sendmsg_afalg_plain(self, *args, **keywords)
    return companion.sendmsg_afalg(*args, **keywords)


def _accept(self):
    global just_accepted
    cdef PlainCore companion = companion_of(self)
    if companion is None or companion.never_waits():
        return accept_plain(self)
    accepted = companion.accept_descriptor()
    just_accepted = accepted[0]
    return accepted


def connect(self, address, /):
    cdef PlainCore companion = companion_of(self)
    if companion is None:
        return connect_plain(self, address)
    if companion.never_waits():
        return connect_plain(self, companion._looked_up(address))
    return companion.connect(address)


def connect_ex(self, address, /):
    cdef PlainCore companion = companion_of(self)
    if companion is None:
        return connect_ex_plain(self, address)
    if companion.never_waits():
        return connect_ex_plain(self, companion._looked_up(address))
    return companion.connect_ex(address)


def bind(self, address, /):
    cdef PlainCore companion = companion_of(self)
    return bind_plain(self, address if companion is None else companion._looked_up(address))


def setsockopt(self, level, optname, /, *value):
    cdef PlainCore companion
    setsockopt_plain(self, level, optname, *value)
    if (level == SOL_SOCKET and optname == SO_OOBINLINE) or (level == IPPROTO_TCP and optname == TCP_ULP):
        companion = companions.get(key_of(self))
        if companion is not None:
            companion.short_means_drained = False


cdef bint lingers(int fd) noexcept:
    cdef linger option
    cdef socklen_t length = sizeof(option)
    return getsockopt_call(fd, SOL_SOCKET, SO_LINGER, &option, &length) == 0 and option.l_onoff != 0 and option.l_linger != 0


def _real_close(self, _ss=plain):
    cdef PlainCore companion
    cdef int fd = fileno_of(self)
    if fd < 0:
        _ss.close(self)
        return
    if lingers(fd):
        companion = companion_of(self)
        if companion is not None and companion.kind == SOCK_STREAM and companion.domain != AF_UNIX:
            let_go(self)
            companion._close_lingering(detach_plain(self))
            return
    let_go(self)
    _ss.close(self)


def detach(self):
    let_go(self)
    return detach_standard(self)


def parking_lookup(original, ours, bint of_address):
    """A function that is *ours* where a fiber calls, else *original*; that one, too, says what is wrong with what is no address."""
    # Here for a reason: a frame of Python's would keep the arguments, when it raises, for as long as somebody has the traceback.
    def look_up(*args, **keywords):
        if not parks() or (of_address and not (args and isinstance(args[0], tuple))):
            return original(*args, **keywords)
        return ours(*args, **keywords)

    for name in ("__name__", "__qualname__", "__doc__", "__module__"):
        setattr(look_up, name, getattr(original, name))
    look_up.__wrapped__ = original
    return look_up


# The originals, taken when this is imported: before anything is replaced.
import socket as _module

cdef object recv_plain = plain.recv
cdef object recv_into_plain = plain.recv_into
cdef object recvfrom_plain = plain.recvfrom
cdef object recvfrom_into_plain = plain.recvfrom_into
cdef object recvmsg_plain = plain.recvmsg
cdef object recvmsg_into_plain = plain.recvmsg_into
cdef object send_plain = plain.send
cdef object sendall_plain = plain.sendall
cdef object sendto_plain = plain.sendto
cdef object sendmsg_plain = plain.sendmsg
cdef object sendmsg_afalg_plain = getattr(plain, "sendmsg_afalg", None)
cdef object connect_plain = plain.connect
cdef object connect_ex_plain = plain.connect_ex
cdef object bind_plain = plain.bind
cdef object setsockopt_plain = plain.setsockopt
cdef object init_standard = _module.socket.__init__
cdef object detach_standard = _module.socket.detach

METHODS = {}
for each in (
    __init__, __del__, recv, recv_into, recvfrom, recvfrom_into, recvmsg, recvmsg_into, send, sendall, sendto, sendmsg, sendmsg_afalg,
    _accept, connect, connect_ex, bind, setsockopt, _real_close, detach,
):
    name = each.__name__
    if not hasattr(_module.socket, name):
        continue
    original = getattr(_module.socket, name)
    each.__qualname__ = f"socket.{name}"
    each.__module__ = "socket"
    each.__doc__ = original.__doc__
    METHODS[name] = each
del each, name, original

make_accept_lock()
