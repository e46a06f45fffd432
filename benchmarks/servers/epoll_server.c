/* Echo server: the floor.  One thread, level-triggered epoll, one recv and one send a request, no allocation.
 *
 * Only a reply that the socket's buffer does not take at once costs more: its rest goes to the connection's own
 * buffer, and until that has left, the connection is watched for writing and not for reading.  Told apart by fd.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    READ_BYTES = 64 * 1024,
    BACKLOG = 4096,    /* connections */
    MAX_FDS = 4096,    /* fds from here on are closed again */
    MAX_EVENTS = 1024, /* taken from one epoll_wait */
};

/* What a connection still has to send; both 0 where nothing is left over. */
struct rest {
    size_t sent, size; /* bytes of its row of `rest_bytes` */
};

static struct rest rests[MAX_FDS];
static char rest_bytes[MAX_FDS][READ_BYTES]; /* untouched rows cost no memory */
static char received[READ_BYTES];
static int poller;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void watch(int fd, int operation, unsigned events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(poller, operation, fd, &event) != 0)
        fail("epoll_ctl");
}

static void accept_one(int listener)
{
    int one = 1;
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (fd >= MAX_FDS) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    rests[fd] = (struct rest){0, 0};
    watch(fd, EPOLL_CTL_ADD, EPOLLIN);
}

static void echo(int fd)
{
    ssize_t sent, size = recv(fd, received, sizeof received, 0);
    if (size < 0 && errno == EAGAIN)
        return;
    if (size <= 0) {
        close(fd);
        return;
    }
    sent = send(fd, received, (size_t)size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        close(fd);
        return;
    }
    if (sent < 0)
        sent = 0;
    if (sent < size) {
        memcpy(rest_bytes[fd], received + sent, (size_t)(size - sent));
        rests[fd] = (struct rest){0, (size_t)(size - sent)};
        watch(fd, EPOLL_CTL_MOD, EPOLLOUT);
    }
}

static void send_rest(int fd)
{
    struct rest *rest = &rests[fd];
    ssize_t sent = send(fd, rest_bytes[fd] + rest->sent, rest->size - rest->sent, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        close(fd);
        return;
    }
    if (sent > 0)
        rest->sent += (size_t)sent;
    if (rest->sent == rest->size) {
        *rest = (struct rest){0, 0};
        watch(fd, EPOLL_CTL_MOD, EPOLLIN);
    }
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0
        || listen(listener, BACKLOG) != 0 || getsockname(listener, (struct sockaddr *)&address, &length) != 0)
        fail("listen");
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        fail("epoll_create1");
    watch(listener, EPOLL_CTL_ADD, EPOLLIN);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event events[MAX_EVENTS];
        int count = epoll_wait(poller, events, MAX_EVENTS, -1);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                accept_one(listener);
            else if (rests[fd].size != 0)
                send_rest(fd);
            else
                echo(fd);
        }
    }
}
