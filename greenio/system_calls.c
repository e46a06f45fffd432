/* system_calls.c: names of the calls that programs get stuck in, and which argument of each is a descriptor. */
#define _GNU_SOURCE
#include "system_calls.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum about {
    NOTHING,
    DESCRIPTOR, /* the first argument is one */
    POLLED,     /* the first argument points to pollfds */
};

static const struct {
    int number;
    enum about about;
    const char *name;
} known[] = {
#define CALL(name, about) {SYS_##name, about, #name}
    CALL(read, DESCRIPTOR), CALL(write, DESCRIPTOR), CALL(readv, DESCRIPTOR), CALL(writev, DESCRIPTOR),
    CALL(pread64, DESCRIPTOR), CALL(pwrite64, DESCRIPTOR), CALL(preadv, DESCRIPTOR), CALL(pwritev, DESCRIPTOR),
    CALL(recvfrom, DESCRIPTOR), CALL(sendto, DESCRIPTOR), CALL(recvmsg, DESCRIPTOR), CALL(sendmsg, DESCRIPTOR),
    CALL(recvmmsg, DESCRIPTOR), CALL(sendmmsg, DESCRIPTOR), CALL(connect, DESCRIPTOR), CALL(accept, DESCRIPTOR),
    CALL(accept4, DESCRIPTOR), CALL(sendfile, DESCRIPTOR), CALL(splice, DESCRIPTOR), CALL(copy_file_range, DESCRIPTOR),
    CALL(ioctl, DESCRIPTOR), CALL(fcntl, DESCRIPTOR), CALL(flock, DESCRIPTOR), CALL(fsync, DESCRIPTOR),
    CALL(fdatasync, DESCRIPTOR), CALL(ftruncate, DESCRIPTOR), CALL(fallocate, DESCRIPTOR), CALL(getdents64, DESCRIPTOR),
    CALL(epoll_pwait, DESCRIPTOR), CALL(close, DESCRIPTOR), CALL(ppoll, POLLED), CALL(pselect6, NOTHING),
    CALL(nanosleep, NOTHING), CALL(clock_nanosleep, NOTHING), CALL(futex, NOTHING), CALL(wait4, NOTHING),
    CALL(waitid, NOTHING), CALL(openat, NOTHING), CALL(unlinkat, NOTHING), CALL(renameat2, NOTHING),
    CALL(statx, NOTHING), CALL(newfstatat, NOTHING), CALL(semtimedop, NOTHING), CALL(msgrcv, NOTHING),
    CALL(rt_sigtimedwait, NOTHING), CALL(rt_sigsuspend, NOTHING), CALL(msync, NOTHING), CALL(sync, NOTHING),
    CALL(mmap, NOTHING), CALL(munmap, NOTHING), CALL(madvise, NOTHING), CALL(getrandom, NOTHING),
    CALL(io_uring_enter, DESCRIPTOR),
    /* Newer architectures lack these. */
#ifdef SYS_poll
    CALL(poll, POLLED), CALL(select, NOTHING), CALL(epoll_wait, DESCRIPTOR), CALL(pause, NOTHING), CALL(open, NOTHING),
    CALL(stat, NOTHING), CALL(lstat, NOTHING), CALL(rename, NOTHING), CALL(unlink, NOTHING), CALL(mkdir, NOTHING),
    CALL(rmdir, NOTHING),
#endif
#undef CALL
};

static int first_polled(unsigned long address, unsigned long count)
{
    /* It may return from the call at any moment, and the memory may go: the kernel reads it for us. */
    struct pollfd polled;
    struct iovec here = {&polled, sizeof polled}, there = {(void *)address, sizeof polled};
    return count > 0 && process_vm_readv(getpid(), &here, 1, &there, 1, 0) == (ssize_t)sizeof polled ? polled.fd : -1;
}

void greenio_system_call_of(int thread_id, struct greenio_system_call *call)
{
    char text[256];
    snprintf(text, sizeof text, "/proc/self/task/%d/syscall", thread_id);
    int fd = open(text, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    if (fd >= 0)
        close(fd);
    text[length > 0 ? length : 0] = '\0';
    call->number = -2;
    call->descriptor = -1;
    call->name = NULL;
    if (strncmp(text, "running", 7) == 0)
        call->number = -1;
    unsigned long first, second;
    if (length <= 0 || call->number == -1 || sscanf(text, "%d %lx %lx", &call->number, &first, &second) != 3)
        return;
    for (size_t index = 0; index < sizeof known / sizeof known[0]; index++) {
        if (known[index].number != call->number)
            continue;
        call->name = known[index].name;
        if (known[index].about == DESCRIPTOR)
            call->descriptor = (int)first;
        else if (known[index].about == POLLED)
            call->descriptor = first_polled(first, second);
    }
}
