/* Load for an HTTP server: N clients that keep their connection as long as the server does, one GET outstanding on each, every answer's body
 * compared.
 *
 *   http_load_generator PORT SERVER_PID CONNECTIONS WARM_UP_SECONDS SECONDS PATH BODY
 *
 * One thread, level-triggered epoll. First every client asks FIRST_PATH once, CONNECTING at a time: so each has a connection that the server
 * has truly accepted, and nobody waits for a handshake that is sent again. Then all ask PATH, over and over; the window that is measured
 * begins WARM_UP_SECONDS later. An answer that says "Connection: close" is followed by a new connection, as every client does it (`fresh`
 * counts them: Werkzeug never keeps one); one that breaks off before its answer, too, but is counted as an error. The server's memory (Pss of
 * smaps_rollup, which counts page tables' pages not, and VmPTE) is read before the first connection and at the end of the window, with its
 * number of OS threads. Prints one JSON object; ends with 1 and a line on stderr when an answer is wrong or STALL_MS pass without any.
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
#define FIRST_PATH "/quick"

struct connection {
    int fd;        /* -1: closed, until the first round is over */
    int connected;
    int64_t begun_ns; /* when it last had nothing to wait for */
    size_t received;
    char answer[ANSWER_BYTES];
};

static struct connection *connections;
static int poller, wanted, begun, ready; /* in the first round: how many have begun, and how many have their answer */
static int all_ready, measuring;
static unsigned short port;
static char first_request[1024], request[1024];
static const char *body;
static size_t body_bytes;
static uint64_t answered, fresh, errors, slowest_ns;

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

static long sum_of(int pid, const char *name, const char *field)
{
    char path[64], line[256];
    long sum = 0, value;
    size_t field_bytes = strlen(field);
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        give_up("the server is gone");
    while (fgets(line, sizeof line, file))
        if (strncmp(line, field, field_bytes) == 0 && sscanf(line + field_bytes, " %ld", &value) == 1)
            sum += value;
    fclose(file);
    return sum;
}

static long memory_kib(int pid)
{
    return sum_of(pid, "smaps_rollup", "Pss:") + sum_of(pid, "status", "VmPTE:");
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
}

static void ask(struct connection *connection)
{
    const char *text = all_ready ? request : first_request;
    size_t bytes = strlen(text);
    connection->received = 0;
    if (send(connection->fd, text, bytes, MSG_NOSIGNAL) != (ssize_t)bytes && errno != EPIPE && errno != ECONNRESET)
        give_up("send");
}

static void again(struct connection *connection)
{
    close(connection->fd);
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
        errors++;
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
    int64_t now = now_ns(CLOCK_MONOTONIC);
    uint64_t took = (uint64_t)(now - connection->begun_ns);
    if (measuring) {
        answered++;
        if (took > slowest_ns)
            slowest_ns = took;
    }
    connection->begun_ns = now;
    *head = 0;
    int closes = strcasestr(connection->answer, "\r\nConnection: close") != NULL;
    if (!all_ready) {
        ready++;
        connection->received = 0;
        if (closes) {
            close(connection->fd);
            connection->fd = -1;
        }
    } else if (closes) {
        fresh += (uint64_t)measuring;
        again(connection);
    } else {
        ask(connection);
    }
}

int main(int count, char **values)
{
    if (count != 8)
        give_up("usage: http_load_generator PORT SERVER_PID CONNECTIONS WARM_UP_SECONDS SECONDS PATH BODY");
    port = (unsigned short)atoi(values[1]);
    int pid = atoi(values[2]);
    wanted = atoi(values[3]);
    int64_t warm_up_ns = (int64_t)(atof(values[4]) * 1e9), window_ns = (int64_t)(atof(values[5]) * 1e9);
    snprintf(first_request, sizeof first_request, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", FIRST_PATH);
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
        while (begun < wanted && begun - ready < CONNECTING) {
            connections[begun].begun_ns = now_ns(CLOCK_MONOTONIC);
            begin(&connections[begun++]);
        }
        int found = epoll_wait(poller, events, MAX_EVENTS, all_ready ? 10 : STALL_MS);
        int64_t now = now_ns(CLOCK_MONOTONIC);
        if (found < 0 || (found == 0 && !all_ready))
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
            if (error) {
                errors++;
                again(connection);
                continue;
            }
            connection->connected = 1;
            struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
            epoll_ctl(poller, EPOLL_CTL_MOD, connection->fd, &event);
            ask(connection);
        }
        if (!all_ready && ready == wanted) {
            ready_ns = now;
            all_ready = 1;
            for (int index = 0; index < wanted; index++) {
                connections[index].begun_ns = now;
                if (connections[index].fd < 0)
                    begin(&connections[index]);
                else
                    ask(&connections[index]);
            }
        }
        if (all_ready && !measuring && now - ready_ns >= warm_up_ns) {
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
    printf("{\"requests_per_s\": %.1f, \"cpu_us\": %.2f, \"slowest_s\": %.3f, \"fresh\": %lu, \"errors\": %lu, \"bytes_per_connection\": %.0f, "
           "\"idle_bytes\": %ld, \"first_round_s\": %.2f, \"os_threads\": %ld}\n",
           (double)answered / seconds, answered ? cpu_us / (double)answered : 0, (double)slowest_ns / 1e9,
           (unsigned long)fresh, (unsigned long)errors, (double)(memory_kib(pid) - idle_kib) * 1024 / wanted, idle_kib * 1024,
           (double)(ready_ns - started) / 1e9, sum_of(pid, "status", "Threads:"));
    return 0;
}
