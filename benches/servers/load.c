/* Steady HTTP load that counts what a client would notice.
 *
 *     load PORT RATE new|keep CONNECTIONS      until SIGTERM; then one line of JSON on stdout
 *
 * Open loop: request k is due at start + k / RATE, whatever became of the others, and its latency counts from when it was due, so
 * that a server that stalls cannot hide the requests that waited for it. `new`: a connection a request. `keep`: a pool of
 * CONNECTIONS that stay open. A request fails when its connection is refused, reset or ends early, when the answer is not 200, or
 * after 10 s. What a client may do by RFC 9112 9.3.1 is counted apart: `reopened`, an idle kept connection that the server closed;
 * `retried`, a request on a connection used before that was closed without one byte of answer, sent once more on a new one. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 4000, PATIENCE = 10 };
enum why { REFUSED, RESET, EARLY_END, STATUS, TIMEOUT, OTHER, WHYS };
static const char *WHY[WHYS] = {"refused", "reset", "early_end", "status", "timeout", "other"};
enum state { CLOSED, CONNECTING, IDLE, ASKED };

struct conn {
    int fd;
    enum state state;
    int used;          /* answers that came on it */
    int second;        /* the request is sent for the second time */
    int64_t due, sent; /* of the request in flight, ns */
    int got;
    char buf[4096];
};

static struct conn conns[MOST];
static int pool, keep, ep, port, in_flight;
static uint32_t *latency; /* us */
static size_t answers, room;
static long fails[WHYS], retried, reopened;
static volatile sig_atomic_t stopped;

static void on_stop(int sig) { (void)sig; stopped = 1; }

static int64_t now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void drop(struct conn *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->state = CLOSED;
    c->used = 0;
}

static enum why of_errno(int error) {
    switch (error) {
    case ECONNREFUSED: case ENOENT: return REFUSED;
    case ECONNRESET: case EPIPE: return RESET;
    default: return OTHER;
    }
}

static void begin(struct conn *c);

/* The request in flight failed on this connection. */
static void fail(struct conn *c, enum why why) {
    int may_retry = c->used > 0 && c->got == 0 && !c->second && (why == RESET || why == EARLY_END);
    drop(c);
    if (may_retry) {
        retried++;
        c->second = 1;
        begin(c);
        return;
    }
    fails[why]++;
    in_flight--;
}

static void ask(struct conn *c) {
    static const char new_text[] = "GET /x HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n";
    static const char keep_text[] = "GET /x HTTP/1.1\r\nHost: load\r\n\r\n";
    const char *text = keep ? keep_text : new_text;
    size_t length = (keep ? sizeof keep_text : sizeof new_text) - 1;
    c->state = ASKED;
    c->got = 0;
    ssize_t sent = send(c->fd, text, length, MSG_NOSIGNAL);
    if (sent != (ssize_t)length) fail(c, sent < 0 ? of_errno(errno) : OTHER);
}

static void begin(struct conn *c) {
    c->sent = now();
    if (c->state == IDLE) return ask(c);
    c->got = 0;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) return fail(c, OTHER);
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) return fail(c, of_errno(errno));
    c->state = CONNECTING;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &event);
}

static void answered(struct conn *c, int may_stay) {
    if (answers == room) latency = realloc(latency, (room = room ? room * 2 : 65536) * sizeof *latency);
    latency[answers++] = (now() - c->due) / 1000;
    in_flight--;
    c->used++;
    c->second = 0;
    if (!keep || !may_stay) drop(c);
    else c->state = IDLE;
}

/* -1: not whole yet; else whether the connection stays open. */
static int whole(struct conn *c, enum why *why) {
    c->buf[c->got] = 0;
    char *body = strstr(c->buf, "\r\n\r\n");
    if (!body) return -1;
    char *length = strcasestr(c->buf, "content-length:");
    if (strncmp(c->buf, "HTTP/1.", 7) || strncmp(c->buf + 9, "200", 3) || !length || length > body) { *why = STATUS; return -2; }
    if (c->got - (body + 4 - c->buf) < atoi(length + 15)) return -1;
    char *close = strcasestr(c->buf, "connection: close");
    return !(close && close < body);
}

static void readable(struct conn *c) {
    for (;;) {
        if (c->got >= (int)sizeof c->buf - 1) return fail(c, OTHER);
        ssize_t got = recv(c->fd, c->buf + c->got, sizeof c->buf - 1 - c->got, 0);
        if (got < 0 && errno == EAGAIN) return;
        if (c->state == IDLE) { /* closed, or an answer that nobody asked for */
            drop(c);
            reopened++;
            return;
        }
        if (got < 0) return fail(c, of_errno(errno));
        if (got == 0) return fail(c, EARLY_END);
        c->got += got;
        enum why why = OTHER;
        int stays = whole(c, &why);
        if (stays == -2) return fail(c, why);
        if (stays >= 0) { answered(c, stays); if (c->state == CLOSED) return; }
    }
}

static void on_event(struct conn *c, uint32_t events) {
    if (c->state == CLOSED) return;
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) return fail(c, of_errno(error));
        if (!(events & EPOLLOUT)) return;
        ask(c);
    }
    if (c->state != CLOSED && c->state != CONNECTING && (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))) readable(c);
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 5) return fprintf(stderr, "usage: load PORT RATE new|keep CONNECTIONS\n"), 2;
    port = atoi(argv[1]);
    double rate = atof(argv[2]);
    keep = !strcmp(argv[3], "keep");
    pool = keep ? atoi(argv[4]) : MOST;
    if (pool < 1 || pool > MOST) return 2;
    signal(SIGTERM, on_stop);
    signal(SIGINT, on_stop);
    ep = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < pool; i++) conns[i].fd = -1;
    int64_t start = now(), gap = 1e9 / rate, looked = start;
    long next = 0;
    struct epoll_event events[256];
    while (!stopped || in_flight) {
        int64_t at = now();
        int free_from = 0;
        while (!stopped && start + next * gap <= at) {
            /* Kept ones in turn, so that all of the pool is open and used, whatever the latency is. */
            struct conn *c = NULL;
            for (int i = 0; keep && i < pool && !c; i++) {
                struct conn *one = &conns[(next + i) % pool];
                if (one->state == IDLE || one->state == CLOSED) c = one;
            }
            for (; !keep && free_from < pool && !c; free_from++)
                if (conns[free_from].state == CLOSED) c = &conns[free_from];
            if (!c) break; /* it waits, and its latency counts on */
            c->due = start + next++ * gap;
            c->second = 0;
            in_flight++;
            begin(c);
        }
        if (at - looked > 100000000) {
            looked = at;
            for (int i = 0; i < pool; i++)
                if ((conns[i].state == ASKED || conns[i].state == CONNECTING) && at - conns[i].sent > PATIENCE * 1000000000LL)
                    fail(&conns[i], TIMEOUT);
        }
        int64_t wait = start + next * gap - now();
        if (stopped || wait > 50000000) wait = 50000000;
        if (wait < 0) wait = 500000; /* no connection is free */
        struct timespec until = {0, wait};
        int n = epoll_pwait2(ep, events, 256, &until, NULL);
        for (int i = 0; i < n; i++) on_event(events[i].data.ptr, events[i].events);
    }
    double seconds = (now() - start) / 1e9;
    qsort(latency, answers, sizeof *latency, by_size);
    long failed = 0;
    for (int i = 0; i < WHYS; i++) failed += fails[i];
    size_t p50 = answers / 2, p99 = answers * 99 / 100, last = answers ? answers - 1 : 0;
    printf("{\"asked\": %ld, \"answered\": %zu, \"failed\": %ld, \"retried\": %ld, \"reopened\": %ld, \"seconds\": %.2f, "
           "\"p50_us\": %u, \"p99_us\": %u, \"max_us\": %u",
           next, answers, failed, retried, reopened, seconds, answers ? latency[p50] : 0, answers ? latency[p99] : 0, answers ? latency[last] : 0);
    for (int i = 0; i < WHYS; i++) printf(", \"%s\": %ld", WHY[i], fails[i]);
    puts("}");
    return 0;
}
