/* Load for an echo server: N connections over the loopback, one request outstanding on each, every byte compared.
 *
 *   load_generator PORT SERVER_PID CONNECTIONS REQUEST_BYTES WARM_UP_SECONDS SECONDS MAX_REQUESTS REQUESTS_EACH
 *
 * A connection is closed after REQUESTS_EACH requests and another one opened in its place; 0 keeps it. With WITH_TLS defined (see
 * tls_load_generator.c) the connections are TLS, whose handshakes are over before the warm-up.
 *
 * One thread, edge-triggered epoll.  After the warm-up comes the window that is measured: SECONDS, or MAX_REQUESTS if
 * those are answered sooner.  Requests still on their way at its end are not counted, but their replies are waited for
 * and compared.  The server's CPU time is read from its process clock at both ends of the window: exact, and with all
 * of its threads.  Prints one JSON object; ends with 1 and a line on stderr when a byte differs, a
 * connection breaks, or nothing has come for STALL_MS.
 *
 * What a request says: REQUEST_BYTES of one random block, from an offset that changes with connection and request, so
 * a reply to another connection or to an earlier request does not compare equal.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#  include <openssl/err.h>
#  include <openssl/ssl.h>
#endif

enum {
    OFFSETS = 64 * 1024,    /* a request begins at one of so many offsets of the block */
    STALL_MS = 10 * 1000,
    MAX_EVENTS = 1024,
    SOURCES = 200,          /* loopback addresses */
    LATENCY_STEPS = 64,     /* histogram: buckets to a power of two, so a latency is within 1.6 % */
    LATENCY_BUCKETS = 40 * LATENCY_STEPS,
};

struct connection {
    int fd;
#ifdef WITH_TLS
    SSL *tls;
#endif
    uint64_t requests;      /* begun so far */
    uint64_t left;          /* until it is closed, if REQUESTS_EACH */
    size_t sent, received;  /* bytes of the current request and of its reply */
    int64_t begun_ns;       /* when the current request began */
    int idle;               /* no request is outstanding */
};

static size_t request_bytes;
static char *block, *reply; /* OFFSETS + request_bytes; request_bytes */
static struct connection *connections;
static unsigned short port;
static uint64_t requests_each; /* 0: no limit */
static int poller;
static uint64_t outstanding; /* requests begun and not answered, never more than one a connection */

static enum { WARMING_UP, MEASURING, STOPPING } phase;
static clockid_t server_clock;          /* CPU time of the server's whole process */
static int64_t window_ns, server_ns;    /* MEASURING: the two clocks when the window began; STOPPING: its length */
static int64_t window_end_ns;           /* it ends no later than this */
static uint64_t answered, max_requests; /* within the window */
static uint64_t latencies[LATENCY_BUCKETS];

static void fail(const char *what) /* by errno */
{
    perror(what);
    exit(1);
}

static void give_up(const char *why)
{
    fprintf(stderr, "%s\n", why);
    exit(1);
}

static int64_t now_ns(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time) != 0)
        fail("clock_gettime");
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Buckets of equal width within each power of two: below LATENCY_STEPS ns each ns has its own. */
static size_t latency_bucket(uint64_t ns)
{
    unsigned shift = 0;
    while ((ns >> shift) >= 2 * LATENCY_STEPS)
        shift++;
    size_t bucket = (size_t)shift * LATENCY_STEPS + (size_t)(ns >> shift);
    return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}

static double bucket_ns(size_t bucket)
{
    if (bucket < 2 * LATENCY_STEPS)
        return (double)bucket;
    size_t shift = bucket / LATENCY_STEPS - 1;
    return (double)((bucket - shift * LATENCY_STEPS) << shift);
}

static double latency_percentile_us(double part)
{
    uint64_t wanted = (uint64_t)(part * (double)answered), seen = 0;
    for (size_t bucket = 0; bucket < LATENCY_BUCKETS; bucket++) {
        seen += latencies[bucket];
        if (seen > wanted)
            return bucket_ns(bucket) / 1000;
    }
    return 0;
}

static const char *request_of(const struct connection *connection)
{
    size_t index = (size_t)(connection - connections);
    return block + (index * 7919 + connection->requests * 131) % OFFSETS;
}

static void begin_request(struct connection *connection, int64_t now)
{
    connection->requests++;
    connection->sent = connection->received = 0;
    connection->begun_ns = now;
    connection->idle = 0;
    outstanding++;
}

static void open_window(int64_t now, int64_t length_ns)
{
    phase = MEASURING;
    window_ns = now;
    window_end_ns = now + length_ns;
    server_ns = now_ns(server_clock);
}

static void close_window(int64_t now)
{
    phase = STOPPING;
    window_ns = now - window_ns;
    server_ns = now_ns(server_clock) - server_ns;
}

#ifdef WITH_TLS
static SSL_CTX *tls_context;

static ssize_t tls_result(const struct connection *connection, int size)
{
    if (size > 0)
        return size;
    int error = SSL_get_error(connection->tls, size);
    if (error == SSL_ERROR_ZERO_RETURN)
        return 0;
    if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
        give_up(ERR_error_string(ERR_get_error(), NULL));
    errno = EAGAIN;
    return -1;
}

static ssize_t transmit(const struct connection *connection, const char *data, size_t size)
{
    ERR_clear_error();
    return tls_result(connection, SSL_write(connection->tls, data, (int)size));
}

static ssize_t receive(const struct connection *connection, char *data, size_t size)
{
    ERR_clear_error();
    return tls_result(connection, SSL_read(connection->tls, data, (int)size));
}

static void begin_tls(struct connection *connection)
{
    if (tls_context == NULL && (tls_context = SSL_CTX_new(TLS_client_method())) == NULL)
        give_up("no TLS context");
    SSL_CTX_set_mode(tls_context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    connection->tls = SSL_new(tls_context);
    if (connection->tls == NULL || SSL_set_fd(connection->tls, connection->fd) != 1 || SSL_connect(connection->tls) != 1)
        give_up("the TLS handshake failed");
    if (fcntl(connection->fd, F_SETFL, O_NONBLOCK) != 0)
        fail("fcntl");
}

static void end_connection(struct connection *connection)
{
    SSL_shutdown(connection->tls);
    SSL_free(connection->tls);
    close(connection->fd);
}
#else
static ssize_t transmit(const struct connection *connection, const char *data, size_t size)
{
    return send(connection->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static ssize_t receive(const struct connection *connection, char *data, size_t size)
{
    return recv(connection->fd, data, size, MSG_DONTWAIT);
}

static void begin_tls(struct connection *connection)
{
    (void)connection;
}

static void end_connection(struct connection *connection)
{
    close(connection->fd);
}
#endif

static void begin_connection(struct connection *connection)
{
    struct sockaddr_in server = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    int fd = connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    if (requests_each != 0) { /* from many addresses, for the ports of one would run out: closed connections keep theirs a while */
        static uint32_t turn;
        struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + turn++ % SOURCES)};
        if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one) != 0
            || bind(fd, (struct sockaddr *)&own, sizeof own) != 0)
            fail("bind");
    }
    if (connect(fd, (struct sockaddr *)&server, sizeof server) != 0)
        fail("connect");
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0)
        fail("setsockopt");
    begin_tls(connection);
    connection->left = requests_each;
    connection->idle = 1;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = connection};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) != 0)
        fail("epoll_ctl");
}

/* The reply is whole: count it, and begin another request unless the window is over. */
static void end_request(struct connection *connection)
{
    int64_t now = now_ns(CLOCK_MONOTONIC);
    connection->idle = 1;
    outstanding--;
    if (phase == MEASURING) {
        answered++;
        latencies[latency_bucket((uint64_t)(now - connection->begun_ns))]++;
        if (now >= window_end_ns || answered == max_requests)
            close_window(now);
    }
    if (phase == STOPPING)
        return;
    if (requests_each != 0 && --connection->left == 0) {
        end_connection(connection);
        begin_connection(connection);
    }
    begin_request(connection, now);
}

/* Send and receive as far as the sockets' buffers allow; the edge-triggered poller tells when it goes on. */
static void advance(struct connection *connection)
{
    while (!connection->idle) {
        const char *request = request_of(connection);
        ssize_t size;
        while (connection->sent < request_bytes) {
            size = transmit(connection, request + connection->sent, request_bytes - connection->sent);
            if (size < 0 && errno != EAGAIN)
                fail("send");
            if (size < 0)
                break;
            connection->sent += (size_t)size;
            if ((size_t)size == request_bytes)
                return; /* Sent in one piece, with nothing to read before: the reply will be an event. */
        }
        size = receive(connection, reply, request_bytes - connection->received);
        if (size < 0 && errno == EAGAIN)
            return;
        if (size < 0)
            fail("recv");
        if (size == 0)
            give_up("the server closed a connection");
        if (memcmp(reply, request + connection->received, (size_t)size) != 0)
            give_up("a reply differs from its request");
        connection->received += (size_t)size;
        if (connection->received == request_bytes)
            end_request(connection);
    }
}

int main(int argc, char **argv)
{
    if (argc != 9) {
        fputs("usage: load_generator PORT SERVER_PID CONNECTIONS REQUEST_BYTES WARM_UP_SECONDS SECONDS MAX_REQUESTS "
              "REQUESTS_EACH\n",
              stderr);
        return 2;
    }
    port = (unsigned short)atoi(argv[1]);
    pid_t server = atoi(argv[2]);
    size_t count = strtoul(argv[3], NULL, 10);
    request_bytes = strtoul(argv[4], NULL, 10);
    int64_t warm_up_ns = (int64_t)(atof(argv[5]) * 1e9), length_ns = (int64_t)(atof(argv[6]) * 1e9);
    max_requests = strtoull(argv[7], NULL, 10);
    requests_each = strtoull(argv[8], NULL, 10);

    if (clock_getcpuclockid(server, &server_clock) != 0)
        fail("clock_getcpuclockid");
    block = malloc(OFFSETS + request_bytes);
    reply = malloc(request_bytes);
    connections = calloc(count, sizeof *connections);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (block == NULL || reply == NULL || connections == NULL || poller < 0)
        fail("memory");
    uint64_t random = 88172645463325252u; /* xorshift64; the same block in every run */
    for (size_t i = 0; i < OFFSETS + request_bytes; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        block[i] = (char)random;
    }
    for (size_t i = 0; i < count; i++)
        begin_connection(&connections[i]);

    int64_t start_ns = now_ns(CLOCK_MONOTONIC);
    for (size_t i = 0; i < count; i++) {
        begin_request(&connections[i], start_ns);
        advance(&connections[i]);
    }
    while (outstanding > 0) {
        struct epoll_event events[MAX_EVENTS];
        int ready = epoll_wait(poller, events, MAX_EVENTS, STALL_MS);
        if (ready < 0 && errno != EINTR)
            fail("epoll_wait");
        if (ready == 0)
            give_up("no reply for 10 s");
        int64_t now = now_ns(CLOCK_MONOTONIC);
        if (phase == WARMING_UP && now - start_ns >= warm_up_ns)
            open_window(now, length_ns);
        for (int i = 0; i < ready; i++)
            advance(events[i].data.ptr);
    }
    double seconds = (double)window_ns / 1e9;
    printf("{\"requests\": %llu, \"seconds\": %.6f, \"requests_per_s\": %.1f, \"cpu_us\": %.4f, "
           "\"p50_us\": %.2f, \"p99_us\": %.2f}\n",
           (unsigned long long)answered, seconds, (double)answered / seconds,
           (double)server_ns / 1000 / (double)answered, latency_percentile_us(0.50), latency_percentile_us(0.99));
    return 0;
}
