/* faults.c: system calls that fail or do less than asked, as the kernel may. Loaded by LD_PRELOAD; tests/faults.py builds and steers it.
 *
 * Stands in front of libc's functions, and of syscall(), by which greenio makes some calls. Every fault is one that Linux can
 * produce, and keeps what Linux promises with it:
 *   - EAGAIN comes only where the call must not wait, and is followed by an event, as if the data (the room) had come right after: the
 *     descriptor is made ready anew in every epoll that has it. A read that was made short is, too;
 *   - only streams, pipes and the like are shortened: a datagram is whole, or an error;
 *   - a connect that must not wait is never interrupted; a close that is interrupted has closed.
 *
 * What happens is said by a text, items separated by ";":
 *
 *   seed=7                  where the random numbers begin; the same calls in the same order get the same faults
 *   recv=EINTR:0.1,short:0.5   group = fault : probability, ...
 *
 * Groups: recv send read write sendfile accept connect socket open close epoll poll wait (see `groups`). Faults: names of errors,
 * or numbers; `short`; for epoll `spurious`, readiness of what is not ready; for accept `late`, the processor was taken away before it.
 *
 * GREENIO_FAULTS holds the text of a process. It takes effect from greenio_faults_arm(1) on, or at once if GREENIO_FAULTS_ARMED is set.
 */
#define _GNU_SOURCE
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define VISIBLE __attribute__((visibility("default")))
#define NEXT(name) ({ static __typeof__(&name) next; if (next == NULL) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name); next; })

enum group { RECV, SEND, READ, WRITE, SENDFILE, ACCEPT, CONNECT, SOCKET, OPEN, CLOSE, EPOLL, POLL, WAIT, GROUPS };
static const char *const groups[GROUPS] = {
    [RECV] = "recv",         /* recv recvfrom recvmsg */
    [SEND] = "send",         /* send sendto sendmsg */
    [READ] = "read",         /* read readv */
    [WRITE] = "write",       /* write writev */
    [SENDFILE] = "sendfile",
    [ACCEPT] = "accept",     /* accept accept4 */
    [CONNECT] = "connect",
    [SOCKET] = "socket",     /* socket socketpair */
    [OPEN] = "open",         /* whatever else makes descriptors: open pipe dup eventfd epoll_create1 pidfd_open fcntl */
    [CLOSE] = "close",
    [EPOLL] = "epoll",       /* epoll_wait epoll_pwait epoll_pwait2 */
    [POLL] = "poll",         /* poll ppoll select pselect */
    [WAIT] = "wait",         /* waitpid wait4 waitid */
};

/* Faults are errnos, or one of these. */
enum { NONE = 0, SHORT = -1, SPURIOUS = -2, LATE = -3 };
static const struct { const char *name; int fault; } faults[] = {
    {"short", SHORT}, {"spurious", SPURIOUS}, {"late", LATE}, {"EINTR", EINTR}, {"EAGAIN", EAGAIN}, {"EMFILE", EMFILE}, {"ENFILE", ENFILE},
    {"ENOBUFS", ENOBUFS}, {"ENOMEM", ENOMEM}, {"ECONNABORTED", ECONNABORTED}, {"ECONNRESET", ECONNRESET}, {"EPIPE", EPIPE},
    {"ECONNREFUSED", ECONNREFUSED}, {"ETIMEDOUT", ETIMEDOUT}, {"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EPERM", EPERM},
    {"EPROTO", EPROTO}, {"EHOSTUNREACH", EHOSTUNREACH}, {"ENETDOWN", ENETDOWN},
};

#define LATEST_NS 500000
#define RULES 16                            /* in one group */
static struct rule {
    int fault;
    double probability;
    atomic_ulong count;                     /* times that it happened */
} rules[GROUPS][RULES];
static int rule_counts[GROUPS];
static uint64_t seed;
static atomic_ulong drawn;                  /* random numbers so far */
static atomic_int armed;

/* --- the kernel itself ------------------------------------------------------------------------------------------- */

static long raw(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static long checked(long result)
{
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

/* --- whether, and which ------------------------------------------------------------------------------------------ */

static double chance(void)
{
    uint64_t z = seed + (atomic_fetch_add(&drawn, 1) + 1) * 0x9e3779b97f4a7c15u;   /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

static size_t up_to(size_t most)            /* 1 to `most` */
{
    return 1 + (size_t)(chance() * (double)most) % most;
}

/* The fault that this call gets. `may_wait`: EAGAIN is none. `whole`: nor is `short`. */
static int fault_for(enum group group, int may_wait, int whole)
{
    if (!atomic_load_explicit(&armed, memory_order_relaxed))
        return NONE;
    for (int i = 0; i < rule_counts[group]; i++) {
        struct rule *rule = &rules[group][i];
        if (chance() >= rule->probability || (rule->fault == EAGAIN && may_wait) || (rule->fault == SHORT && whole))
            continue;
        atomic_fetch_add(&rule->count, 1);
        return rule->fault;
    }
    return NONE;
}

static int refuse(int error)
{
    errno = error;
    return -1;
}

static int may_wait(int fd, int flags)
{
    return !(flags & MSG_DONTWAIT) && !(raw(SYS_fcntl, fd, F_GETFL, 0, 0, 0, 0) & O_NONBLOCK);
}

static int is_whole(int fd)                 /* no stream: its messages must not be cut */
{
    int kind = 0;
    socklen_t length = sizeof(kind);
    return raw(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, (long)&kind, (long)&length, 0) == 0 && kind != SOCK_STREAM;
}

/* --- what is registered where: to make it ready anew ------------------------------------------------------------- */

#define DESCRIPTORS 65536
#define POLLERS 8                           /* one descriptor is in so many at most; more are not heard of */
static struct registration { int epoll_fd; struct epoll_event event; } registrations[DESCRIPTORS][POLLERS];   /* epoll_fd + 1; 0: free */
static int highest;                         /* descriptor that ever was registered */
static unsigned files[DESCRIPTORS];         /* copies of one descriptor have one number here; 0: none was copied */
static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;

static void registry_lock(void) { pthread_mutex_lock(&registry); }
static void registry_unlock(void) { pthread_mutex_unlock(&registry); }

static void forget(int fd)
{
    if (fd < 0 || fd >= DESCRIPTORS)
        return;
    registry_lock();
    files[fd] = 0;
    if (fd <= highest)
        memset(registrations[fd], 0, sizeof(registrations[fd]));
    registry_unlock();
}

static int copied(int fd, int copy)
{
    static unsigned newest;
    if (fd < 0 || fd >= DESCRIPTORS || copy < 0 || copy >= DESCRIPTORS)
        return copy;
    registry_lock();
    if (files[fd] == 0)
        files[fd] = ++newest;
    files[copy] = files[fd];
    registry_unlock();
    return copy;
}

static void remember(int epoll_fd, int fd, const struct epoll_event *event)   /* NULL: it is taken out */
{
    if (fd < 0 || fd >= DESCRIPTORS)
        return;
    registry_lock();
    struct registration *found = NULL;
    for (int i = 0; i < POLLERS; i++) {
        struct registration *each = &registrations[fd][i];
        if (each->epoll_fd == epoll_fd + 1) {
            found = each;
            break;
        }
        if (each->epoll_fd == 0 && found == NULL)
            found = each;
    }
    if (found != NULL) {
        found->epoll_fd = event == NULL ? 0 : epoll_fd + 1;
        if (event != NULL)
            found->event = *event;
        if (event != NULL && fd > highest)
            highest = fd;
    }
    registry_unlock();
}

static void tell_again(int fd)
{
    for (int i = 0; i < POLLERS; i++) {
        struct registration *each = &registrations[fd][i];
        if (each->epoll_fd != 0)
            raw(SYS_epoll_ctl, each->epoll_fd - 1, EPOLL_CTL_MOD, fd, (long)&each->event, 0, 0);
    }
}

static void make_ready_anew(int fd)
{
    if (fd < 0 || fd >= DESCRIPTORS)
        return;
    registry_lock();
    tell_again(fd);
    for (int copy = 0; files[fd] != 0 && copy <= highest; copy++)
        if (copy != fd && files[copy] == files[fd])
            tell_again(copy);
    registry_unlock();
}

/* Events of descriptors that are not ready, after `count` true ones. */
static int add_spurious(int epoll_fd, struct epoll_event *events, int count, int room)
{
    registry_lock();
    for (int tries = 0; tries < 16 && count < room; tries++) {
        struct registration *there = registrations[up_to((size_t)highest + 1) - 1];
        for (int i = 0; i < POLLERS; i++)
            if (there[i].epoll_fd == epoll_fd + 1 && there[i].event.events & EPOLLOUT) {
                events[count].events = EPOLLIN | EPOLLOUT;
                events[count++].data = there[i].event.data;
                break;
            }
    }
    registry_unlock();
    return count;
}

/* --- the calls, once for libc's function and for syscall() ------------------------------------------------------- */

static ssize_t receive(int fd, void *data, size_t size, int flags, struct sockaddr *address, socklen_t *length)
{
    int plain = !(flags & (MSG_OOB | MSG_ERRQUEUE));
    int fault = plain ? fault_for(RECV, may_wait(fd, flags), size < 2 || is_whole(fd)) : NONE;
    if (fault > 0) {
        if (fault == EAGAIN)
            make_ready_anew(fd);
        return refuse(fault);
    }
    if (fault == SHORT)
        size = up_to(size);
    ssize_t count = checked(raw(SYS_recvfrom, fd, (long)data, (long)size, flags, (long)address, (long)length));
    if (fault == SHORT && count > 0)
        make_ready_anew(fd);
    return count;
}

static ssize_t transmit(int fd, const void *data, size_t size, int flags, const struct sockaddr *address, socklen_t length)
{
    int fault = flags & MSG_OOB ? NONE : fault_for(SEND, may_wait(fd, flags), size < 2 || is_whole(fd));
    if (fault > 0) {
        if (fault == EAGAIN)
            make_ready_anew(fd);
        return refuse(fault);
    }
    if (fault == SHORT)
        size = up_to(size);
    return checked(raw(SYS_sendto, fd, (long)data, (long)size, flags, (long)address, length));
}

/* `message` with buffers for `fewer` bytes than it has, at least one; its vector goes to `vector`. */
static struct msghdr shortened(const struct msghdr *message, struct iovec *vector, size_t most)
{
    struct msghdr less = *message;
    size_t total = 0;
    for (size_t i = 0; i < message->msg_iovlen; i++)
        total += message->msg_iov[i].iov_len;
    if (total < 2 || message->msg_iovlen > most)
        return less;
    size_t left = up_to(total);
    less.msg_iov = vector;
    less.msg_iovlen = 0;
    while (left > 0) {
        vector[less.msg_iovlen] = message->msg_iov[less.msg_iovlen];
        if (vector[less.msg_iovlen].iov_len > left)
            vector[less.msg_iovlen].iov_len = left;
        left -= vector[less.msg_iovlen++].iov_len;
    }
    return less;
}

static ssize_t message_call(long number, enum group group, int fd, struct msghdr *message, int flags)
{
    struct iovec vector[64];
    int plain = !(flags & (MSG_OOB | MSG_ERRQUEUE));
    int fault = plain ? fault_for(group, may_wait(fd, flags), is_whole(fd)) : NONE;
    if (fault > 0) {
        if (fault == EAGAIN)
            make_ready_anew(fd);
        return refuse(fault);
    }
    if (fault != SHORT)
        return checked(raw(number, fd, (long)message, flags, 0, 0, 0));
    struct msghdr less = shortened(message, vector, 64);
    ssize_t count = checked(raw(number, fd, (long)&less, flags, 0, 0, 0));
    message->msg_namelen = less.msg_namelen;
    message->msg_controllen = less.msg_controllen;
    message->msg_flags = less.msg_flags;
    if (count > 0 && group == RECV)
        make_ready_anew(fd);
    return count;
}

static ssize_t file_call(long number, enum group group, int fd, void *data, size_t size)
{
    int fault = fault_for(group, may_wait(fd, 0), size < 2 || is_whole(fd));
    if (fault > 0) {
        if (fault == EAGAIN)
            make_ready_anew(fd);
        return refuse(fault);
    }
    if (fault == SHORT)
        size = up_to(size);
    ssize_t count = checked(raw(number, fd, (long)data, (long)size, 0, 0, 0));
    if (fault == SHORT && group == READ && count > 0)
        make_ready_anew(fd);
    return count;
}

static ssize_t vector_call(long number, enum group group, int fd, const struct iovec *vector, int count)
{
    int fault = fault_for(group, may_wait(fd, 0), count < 2);
    if (fault > 0) {
        if (fault == EAGAIN)
            make_ready_anew(fd);
        return refuse(fault);
    }
    if (fault == SHORT)
        count = (int)up_to((size_t)count);
    ssize_t done = checked(raw(number, fd, (long)vector, count, 0, 0, 0));
    if (fault == SHORT && group == READ && done > 0)
        make_ready_anew(fd);
    return done;
}

static int accept_call(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    int fault = fault_for(ACCEPT, may_wait(fd, 0), 1);
    if (fault > 0) {
        if (fault == EAGAIN)
            make_ready_anew(fd);
        return refuse(fault);
    }
    if (fault == LATE) {
        struct timespec pause = {0, (long)up_to(LATEST_NS)};
        raw(SYS_nanosleep, (long)&pause, 0, 0, 0, 0, 0);
    }
    return (int)checked(raw(SYS_accept4, fd, (long)address, (long)length, flags, 0, 0));
}

static int epoll_call(long number, int epoll_fd, struct epoll_event *events, int room, long timeout, const void *signals, size_t size)
{
    int fault = fault_for(EPOLL, 1, 1);
    if (fault > 0)
        return refuse(fault);
    if (fault != SPURIOUS)
        return (int)checked(raw(number, epoll_fd, (long)events, room, timeout, (long)signals, (long)size));
    int count = (int)checked(raw(SYS_epoll_pwait, epoll_fd, (long)events, room, 0, (long)signals, (long)size));
    return count < 0 ? count : add_spurious(epoll_fd, events, count, room);
}

/* --- libc's functions -------------------------------------------------------------------------------------------- */

VISIBLE ssize_t recv(int fd, void *data, size_t size, int flags) { return receive(fd, data, size, flags, NULL, NULL); }
VISIBLE ssize_t __recv_chk(int fd, void *data, size_t size, size_t room, int flags);
VISIBLE ssize_t __recv_chk(int fd, void *data, size_t size, size_t room, int flags)
{
    return size > room ? refuse(EFAULT) : receive(fd, data, size, flags, NULL, NULL);
}
VISIBLE ssize_t recvfrom(int fd, void *restrict data, size_t size, int flags, struct sockaddr *restrict address, socklen_t *restrict length)
{
    return receive(fd, data, size, flags, address, length);
}
VISIBLE ssize_t __recvfrom_chk(int fd, void *data, size_t size, size_t room, int flags, struct sockaddr *address, socklen_t *length);
VISIBLE ssize_t __recvfrom_chk(int fd, void *data, size_t size, size_t room, int flags, struct sockaddr *address, socklen_t *length)
{
    return size > room ? refuse(EFAULT) : receive(fd, data, size, flags, address, length);
}
VISIBLE ssize_t recvmsg(int fd, struct msghdr *message, int flags) { return message_call(SYS_recvmsg, RECV, fd, message, flags); }
VISIBLE ssize_t send(int fd, const void *data, size_t size, int flags) { return transmit(fd, data, size, flags, NULL, 0); }
VISIBLE ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *address, socklen_t length)
{
    return transmit(fd, data, size, flags, address, length);
}
VISIBLE ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    struct msghdr copy = *message;
    return message_call(SYS_sendmsg, SEND, fd, &copy, flags);
}
VISIBLE ssize_t read(int fd, void *data, size_t size) { return file_call(SYS_read, READ, fd, data, size); }
VISIBLE ssize_t __read_chk(int fd, void *data, size_t size, size_t room);
VISIBLE ssize_t __read_chk(int fd, void *data, size_t size, size_t room)
{
    return size > room ? refuse(EFAULT) : file_call(SYS_read, READ, fd, data, size);
}
VISIBLE ssize_t readv(int fd, const struct iovec *vector, int count) { return vector_call(SYS_readv, READ, fd, vector, count); }
VISIBLE ssize_t write(int fd, const void *data, size_t size) { return file_call(SYS_write, WRITE, fd, (void *)data, size); }
VISIBLE ssize_t writev(int fd, const struct iovec *vector, int count) { return vector_call(SYS_writev, WRITE, fd, vector, count); }

VISIBLE ssize_t sendfile(int to, int from, off_t *offset, size_t size)
{
    int fault = fault_for(SENDFILE, may_wait(to, 0), size < 2);
    if (fault > 0) {
        if (fault == EAGAIN)
            make_ready_anew(to);
        return refuse(fault);
    }
    return checked(raw(SYS_sendfile, to, from, (long)offset, (long)(fault == SHORT ? up_to(size) : size), 0, 0));
}
VISIBLE ssize_t sendfile64(int to, int from, off64_t *offset, size_t size) { return sendfile(to, from, offset, size); }

VISIBLE int accept(int fd, struct sockaddr *restrict address, socklen_t *restrict length) { return accept_call(fd, address, length, 0); }
VISIBLE int accept4(int fd, struct sockaddr *restrict address, socklen_t *restrict length, int flags)
{
    return accept_call(fd, address, length, flags);
}
VISIBLE int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    int waits = may_wait(fd, 0);
    int fault = fault_for(CONNECT, waits, 1);
    if (fault > 0 && (fault != EINTR || waits) && fault != EAGAIN)
        return refuse(fault);
    return NEXT(connect)(fd, address, length);
}

#define MAKES_DESCRIPTORS(group, name, parameters, arguments)  \
    VISIBLE int name parameters                                \
    {                                                          \
        int fault = fault_for(group, 1, 1);                    \
        return fault > 0 ? refuse(fault) : NEXT(name) arguments; \
    }
MAKES_DESCRIPTORS(SOCKET, socket, (int family, int kind, int protocol), (family, kind, protocol))
MAKES_DESCRIPTORS(SOCKET, socketpair, (int family, int kind, int protocol, int pair[2]), (family, kind, protocol, pair))
MAKES_DESCRIPTORS(OPEN, pipe, (int ends[2]), (ends))
MAKES_DESCRIPTORS(OPEN, pipe2, (int ends[2], int flags), (ends, flags))
MAKES_DESCRIPTORS(OPEN, eventfd, (unsigned int value, int flags), (value, flags))
MAKES_DESCRIPTORS(OPEN, epoll_create1, (int flags), (flags))

VISIBLE int dup(int fd)
{
    int fault = fault_for(OPEN, 1, 1);
    return fault > 0 ? refuse(fault) : copied(fd, (int)checked(raw(SYS_dup, fd, 0, 0, 0, 0, 0)));
}

#define OPENS(name, parameters, arguments)                     \
    VISIBLE int name parameters                                \
    {                                                          \
        int fault = fault_for(OPEN, 1, 1);                     \
        mode_t mode = 0;                                       \
        if (flags & (O_CREAT | O_TMPFILE)) {                   \
            va_list rest;                                      \
            va_start(rest, flags);                             \
            mode = va_arg(rest, mode_t);                       \
            va_end(rest);                                      \
        }                                                      \
        return fault > 0 ? refuse(fault) : NEXT(name) arguments; \
    }
OPENS(open, (const char *path, int flags, ...), (path, flags, mode))
OPENS(open64, (const char *path, int flags, ...), (path, flags, mode))
OPENS(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPENS(openat64, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))

static int control(int fd, int command, long argument)
{
    int fault = command == F_DUPFD || command == F_DUPFD_CLOEXEC ? fault_for(OPEN, 1, 1) : NONE;
    if (fault > 0)
        return refuse(fault);
    int result = (int)checked(raw(SYS_fcntl, fd, command, argument, 0, 0, 0));
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? copied(fd, result) : result;
}
VISIBLE int fcntl(int fd, int command, ...)
{
    va_list rest;
    va_start(rest, command);
    long argument = va_arg(rest, long);
    va_end(rest);
    return control(fd, command, argument);
}
VISIBLE int fcntl64(int fd, int command, ...)
{
    va_list rest;
    va_start(rest, command);
    long argument = va_arg(rest, long);
    va_end(rest);
    return control(fd, command, argument);
}

VISIBLE int close(int fd)
{
    int fault = fault_for(CLOSE, 1, 1);
    forget(fd);
    int result = (int)checked(raw(SYS_close, fd, 0, 0, 0, 0, 0));
    return fault > 0 && result == 0 ? refuse(fault) : result;
}

VISIBLE int epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
    int result = (int)checked(raw(SYS_epoll_ctl, epoll_fd, operation, fd, (long)event, 0, 0));
    if (result == 0 && operation == EPOLL_CTL_DEL)
        remember(epoll_fd, fd, NULL);
    else if (result == 0)
        remember(epoll_fd, fd, event);
    return result;
}
VISIBLE int epoll_wait(int epoll_fd, struct epoll_event *events, int room, int timeout_ms)
{
    return epoll_call(SYS_epoll_wait, epoll_fd, events, room, timeout_ms, NULL, 0);
}
VISIBLE int epoll_pwait(int epoll_fd, struct epoll_event *events, int room, int timeout_ms, const sigset_t *signals)
{
    return epoll_call(SYS_epoll_pwait, epoll_fd, events, room, timeout_ms, signals, 8);
}

#define WAITS(group, name, parameters, arguments)              \
    VISIBLE int name parameters                                \
    {                                                          \
        int fault = fault_for(group, 1, 1);                    \
        return fault > 0 ? refuse(fault) : NEXT(name) arguments; \
    }
WAITS(POLL, poll, (struct pollfd *fds, nfds_t count, int timeout_ms), (fds, count, timeout_ms))
WAITS(POLL, ppoll, (struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *signals),
      (fds, count, timeout, signals))
WAITS(POLL, select, (int count, fd_set *restrict r, fd_set *restrict w, fd_set *restrict x, struct timeval *restrict timeout),
      (count, r, w, x, timeout))
WAITS(WAIT, waitpid, (pid_t pid, int *status, int options), (pid, status, options))
WAITS(WAIT, waitid, (idtype_t kind, id_t id, siginfo_t *told, int options), (kind, id, told, options))

VISIBLE long syscall(long number, ...)
{
    va_list rest;
    va_start(rest, number);
    long a = va_arg(rest, long);
    long b = va_arg(rest, long);
    long c = va_arg(rest, long);
    long d = va_arg(rest, long);
    long e = va_arg(rest, long);
    long f = va_arg(rest, long);
    va_end(rest);
    enum group group = OPEN;
    switch (number) {
    case SYS_recvfrom:
        return receive((int)a, (void *)b, (size_t)c, (int)d, (struct sockaddr *)e, (socklen_t *)f);
    case SYS_sendto:
        return transmit((int)a, (const void *)b, (size_t)c, (int)d, (const struct sockaddr *)e, (socklen_t)f);
    case SYS_recvmsg:
        return message_call(number, RECV, (int)a, (struct msghdr *)b, (int)c);
    case SYS_sendmsg:
        return message_call(number, SEND, (int)a, (struct msghdr *)b, (int)c);
    case SYS_read:
        return file_call(number, READ, (int)a, (void *)b, (size_t)c);
    case SYS_write:
        return file_call(number, WRITE, (int)a, (void *)b, (size_t)c);
    case SYS_accept4:
        return accept_call((int)a, (struct sockaddr *)b, (socklen_t *)c, (int)d);
    case SYS_close:
        return close((int)a);
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
        return epoll_call(number, (int)a, (struct epoll_event *)b, (int)c, d, (const void *)e, (size_t)f);
    case SYS_waitid:
    case SYS_wait4:
        group = WAIT;
        break;
#ifdef SYS_pidfd_open
    case SYS_pidfd_open:
        break;
#endif
    default:
        return checked(raw(number, a, b, c, d, e, f));
    }
    int fault = fault_for(group, 1, 1);
    return fault > 0 ? refuse(fault) : checked(raw(number, a, b, c, d, e, f));
}

/* --- steering ---------------------------------------------------------------------------------------------------- */

static int fault_named(const char *name, size_t length)
{
    for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++)
        if (strlen(faults[i].name) == length && memcmp(faults[i].name, name, length) == 0)
            return faults[i].fault;
    return atoi(name);                      /* NONE if it is no number either */
}

static int group_named(const char *name, size_t length)
{
    for (int group = 0; group < GROUPS; group++)
        if (strlen(groups[group]) == length && memcmp(groups[group], name, length) == 0)
            return group;
    return -1;
}

VISIBLE int greenio_faults_set(const char *text);
VISIBLE void greenio_faults_arm(int on);
VISIBLE long greenio_faults_count(const char *group, const char *fault);

/* What `text` says, from here on; counts begin anew. -1: it says nothing that is known, and no fault happens. */
int greenio_faults_set(const char *text)
{
    memset(rule_counts, 0, sizeof(rule_counts));
    memset(rules, 0, sizeof(rules));
    drawn = 0;
    while (*text != '\0') {
        size_t name = strcspn(text, "=");
        const char *values = text + name;
        int group = group_named(text, name);
        if (*values != '=')
            return -1;
        values++;
        text = values + strcspn(values, ";");
        if (name == 4 && memcmp(values - 5, "seed", 4) == 0) {
            seed = strtoull(values, NULL, 10) * 0x2545f4914f6cdd1du;
        } else {
            while (group >= 0 && values < text) {
                size_t length = strcspn(values, ":;");
                struct rule *rule = &rules[group][rule_counts[group]];
                rule->fault = fault_named(values, length);
                if (values[length] != ':' || rule->fault == NONE || rule_counts[group] == RULES - 1)
                    group = -1;
                else {
                    char *end;
                    rule->probability = strtod(values + length + 1, &end);
                    rule_counts[group]++;
                    values = *end == ',' ? end + 1 : end;
                    if (*end != ',' && end != text)
                        group = -1;
                }
            }
            if (group < 0) {
                memset(rule_counts, 0, sizeof(rule_counts));
                return -1;
            }
        }
        if (*text == ';')
            text++;
    }
    return 0;
}

void greenio_faults_arm(int on)
{
    atomic_store(&armed, on);
}

/* How often a fault has happened; -1: there is no such rule. */
long greenio_faults_count(const char *group_name, const char *fault_name)
{
    int group = group_named(group_name, strlen(group_name));
    for (int i = 0; group >= 0 && i < rule_counts[group]; i++)
        if (rules[group][i].fault == fault_named(fault_name, strlen(fault_name)))
            return (long)rules[group][i].count;
    return -1;
}

__attribute__((constructor)) static void begin(void)
{
    const char *text = getenv("GREENIO_FAULTS");
    pthread_atfork(registry_lock, registry_unlock, registry_unlock);
    if (text != NULL && greenio_faults_set(text) < 0) {
        fprintf(stderr, "GREENIO_FAULTS: cannot make sense of %s\n", text);
        _exit(2);
    }
    if (getenv("GREENIO_FAULTS_ARMED") != NULL)
        greenio_faults_arm(1);
}
