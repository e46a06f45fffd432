/* Load for an HTTP server: N connections that are kept alive, one GET outstanding on each, every answer's body compared.
 *
 *   http_load_generator PORT SERVER_PID CONNECTIONS WARM_UP_SECONDS SECONDS PATH BODY
 *
 * One thread, level-triggered epoll. Connections are made a few at a time (CONNECTING), since an unchanged server's backlog is
 * short, and each asks at once. The window that is measured begins WARM_UP_SECONDS after the last one is connected. A connection that the
 * server closes is made anew, and counted. The server's memory (VmRSS + VmPTE) is read before the first connection and at the end of
 * the window. Prints one JSON object; ends with 1 and a line on stderr when an answer is wrong or STALL_MS pass without any.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTING = 4, STALL_MS = 20 * 1000, MAX_EVENTS = 1024, ANSWER_BYTES = 4096, SOURCES = 200 };

struct connection {
    int fd, connected;
    int64_t begun_ns;
    size_t received;
    char answer[ANSWER_BYTES];
};

static struct connection *connections;
static int poller, connecting, wanted, made, connected;
static unsigned short port;
static char request[1024];
static const char *body;
static size_t body_bytes;
static uint64_t answered, reconnects, slowest_ns;
static int measuring;

static int64_t now_ns(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void give_up(const char *why)
{
    fprintf(stderr, "%s (%s)\n", why, strerror(errno));
    exit(1);
}

static long memory_kib(int pid)
{
    char path[64], line[256];
    long sum = 0, value;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        give_up("the server is gone");
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "VmRSS: %ld", &value) == 1 || sscanf(line, "VmPTE: %ld", &value) == 1)
            sum += value;
    fclose(file);
    return sum;
}

static void begin(struct connection *connection)
{
    int index = (int)(connection - connections), one = 1;
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000002 + (uint32_t)(index % SOURCES))};
    struct sockaddr_in target = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    connection->connected = 0;
    connection->received = 0;
    setsockopt(connection->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connection->fd < 0 || bind(connection->fd, (struct sockaddr *)&source, sizeof source) < 0)
        give_up("socket");
    if (connect(connection->fd, (struct sockaddr *)&target, sizeof target) < 0 && errno != EINPROGRESS)
        give_up("connect");
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = connection};
    epoll_ctl(poller, EPOLL_CTL_ADD, connection->fd, &event);
    connecting++;
}

static void ask(struct connection *connection)
{
    size_t bytes = strlen(request);
    connection->received = 0;
    connection->begun_ns = now_ns(CLOCK_MONOTONIC);
    if (send(connection->fd, request, bytes, MSG_NOSIGNAL) != (ssize_t)bytes && errno != EPIPE && errno != ECONNRESET)
        give_up("send");
}

static void again(struct connection *connection)
{
    close(connection->fd);
    reconnects++;
    begin(connection);
}

static void receive(struct connection *connection)
{
    ssize_t got = recv(connection->fd, connection->answer + connection->received, ANSWER_BYTES - 1 - connection->received, 0);
    int one = 1; /* head and body come in two pieces; the second one is not held back for an acknowledgement that is late */
    setsockopt(connection->fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof one);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        again(connection);
        return;
    }
    connection->received += (size_t)got;
    connection->answer[connection->received] = 0;
    char *head = strstr(connection->answer, "\r\n\r\n");
    if (head == NULL || strlen(head + 4) < body_bytes)
        return;
    if (strncmp(connection->answer, "HTTP/1.1 200", 12) != 0 || strcmp(head + 4, body) != 0)
        give_up("a wrong answer");
    uint64_t took = (uint64_t)(now_ns(CLOCK_MONOTONIC) - connection->begun_ns);
    if (measuring) {
        answered++;
        if (took > slowest_ns)
            slowest_ns = took;
    }
    ask(connection);
}

int main(int count, char **values)
{
    if (count != 8)
        give_up("usage: http_load_generator PORT SERVER_PID CONNECTIONS WARM_UP_SECONDS SECONDS PATH BODY");
    port = (unsigned short)atoi(values[1]);
    int pid = atoi(values[2]);
    wanted = atoi(values[3]);
    int64_t warm_up_ns = (int64_t)(atof(values[4]) * 1e9), window_ns = (int64_t)(atof(values[5]) * 1e9);
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", values[6]);
    body = values[7];
    body_bytes = strlen(body);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    connections = calloc((size_t)wanted, sizeof *connections);
    poller = epoll_create1(0);
    clockid_t server_clock;
    clock_getcpuclockid(pid, &server_clock);
    long idle_kib = memory_kib(pid);
    int64_t started = now_ns(CLOCK_MONOTONIC), ready_ns = 0, window_from = 0, server_from = 0;
    struct epoll_event events[MAX_EVENTS];
    for (;;) {
        while (made < wanted && connecting < CONNECTING)
            begin(&connections[made++]);
        int found = epoll_wait(poller, events, MAX_EVENTS, measuring || ready_ns ? 10 : STALL_MS);
        int64_t now = now_ns(CLOCK_MONOTONIC);
        if (found < 0 || (found == 0 && !ready_ns))
            give_up("nothing comes");
        for (int index = 0; index < found; index++) {
            struct connection *connection = events[index].data.ptr;
            if (connection->connected) {
                receive(connection);
                continue;
            }
            int error = 0;
            socklen_t length = sizeof error;
            getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &length);
            connecting--;
            if (error) {
                again(connection);
                continue;
            }
            connection->connected = 1;
            connected++;
            struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
            epoll_ctl(poller, EPOLL_CTL_MOD, connection->fd, &event);
            ask(connection);
        }
        if (!ready_ns && made == wanted && connecting == 0)
            ready_ns = now;
        if (ready_ns && !measuring && now - ready_ns >= warm_up_ns) {
            measuring = 1;
            window_from = now;
            server_from = now_ns(server_clock);
        }
        if (measuring && now - window_from >= window_ns)
            break;
        if (now - started > 120 * (int64_t)1000000000)
            give_up("it takes too long");
    }
    double seconds = (double)(now_ns(CLOCK_MONOTONIC) - window_from) / 1e9;
    double cpu_us = (double)(now_ns(server_clock) - server_from) / 1e3;
    int64_t oldest = 0, now = now_ns(CLOCK_MONOTONIC);
    for (int index = 0; index < wanted; index++)
        if (now - connections[index].begun_ns > oldest)
            oldest = now - connections[index].begun_ns;
    if ((uint64_t)oldest > slowest_ns)
        slowest_ns = (uint64_t)oldest;
    printf("{\"requests_per_s\": %.1f, \"cpu_us\": %.2f, \"slowest_s\": %.3f, \"reconnects\": %lu, \"bytes_per_connection\": %.0f, "
           "\"idle_bytes\": %ld, \"connect_s\": %.2f}\n",
           (double)answered / seconds, answered ? cpu_us / (double)answered : 0, (double)slowest_ns / 1e9,
           (unsigned long)reconnects, (double)(memory_kib(pid) - idle_kib) * 1024 / wanted, idle_kib * 1024,
           (double)(ready_ns - started) / 1e9);
    return 0;
}
