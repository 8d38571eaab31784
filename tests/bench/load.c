/*
 * The load of the benchmark: streams that are opened and counted, and short requests that are timed.
 *
 *   load streams  PORT STREAMS IN_FLIGHT MARK REQUESTS      then, on standard input: begin N SECONDS, closed SECONDS,
 *                                                           renew N, quit
 *   load requests PORT COUNT IN_FLIGHT KEEP_ALIVE REQUESTS
 *
 * REQUESTS is a file of requests, each as "LENGTH\n" and that many bytes; stream (or request) i sends request i modulo
 * their number, with "@@@@@@@@@@" in it replaced by i in ten digits. Every answer is one line of JSON.
 *
 * An event is a line that begins with "data:". Where MARK and a number follow in it, the number is the nanosecond of
 * CLOCK_MONOTONIC at which the event was published, and the event's latency is taken when its bytes have been read.
 * One thread, epoll. `fallback.py` says the same in Python.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 2048, CHUNK = 1 << 18, BATCH = 1024, KNOWN = 1 << 16, PER_ADDRESS = 20000 };
#define PLACE "@@@@@@@@@@"
#define STDIN_KEY UINT64_MAX

enum state { CLOSED, CONNECTING, WAITING, OPEN };

struct stream {
    int fd;
    enum state state;
    bool body;         /* of a short request: the headers are over */
    int status;
    uint32_t number;   /* which request it sent */
    uint32_t events;   /* since `begin` */
    int64_t asked;     /* when it was connected or asked, ns */
    int64_t left;      /* bytes of a body of known length that are still to come; -1 when unknown */
    uint32_t held;     /* bytes of a line that has not ended yet */
    char *line;
};

struct request { char *bytes; size_t length; };
struct sample { uint32_t event, tenths; /* of a microsecond */ };

static struct stream *streams;
static struct request *requests;
static size_t request_count, stream_count, in_flight, count;
static const char *mark = "";
static uint16_t port;
static bool keep_alive, timing; /* timing: short requests, not streams */
static int poller;

static size_t sent, pending, answered, refused, broken; /* requests sent; unanswered; answered; not 2xx; cut */
static size_t open_streams, complete, expected, total;  /* complete: streams that have their `expected` events */
static int64_t last_event, last_close;
static struct sample *samples;
static size_t sample_count, sample_room;
static struct { int64_t at; uint32_t index; } known[KNOWN * 2];
static uint32_t known_count;

static int64_t now_ns(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* --- samples --- */

static void sample(uint32_t event, int64_t ns) {
    if (sample_count == sample_room) {
        sample_room = sample_room ? sample_room * 2 : 1 << 16;
        samples = realloc(samples, sample_room * sizeof *samples);
        if (!samples) die("realloc");
    }
    samples[sample_count++] = (struct sample){event, ns < 0 ? 0 : (uint32_t)(ns / 100)};
}

/* The number of the event that was published at `at`; all beyond the first 65,536 are one. */
static uint32_t event_index(int64_t at) {
    size_t slot = (uint64_t)at * 0x9E3779B97F4A7C15u >> 47;
    while (known[slot].at && known[slot].at != at) slot = (slot + 1) % (KNOWN * 2);
    if (!known[slot].at) {
        if (known_count == KNOWN) return KNOWN;
        known[slot].at = at;
        known[slot].index = known_count++;
    }
    return known[slot].index;
}

static int by_event(const void *a, const void *b) {
    const struct sample *left = a, *right = b;
    if (left->event != right->event) return left->event < right->event ? -1 : 1;
    return (left->tenths > right->tenths) - (left->tenths < right->tenths);
}

static int by_size(const void *a, const void *b) {
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

static double at_share(const uint32_t *sorted, size_t size, double share) {
    if (!size) return 0;
    size_t place = (size_t)(share * (double)(size - 1) + 0.5);
    return sorted[place] / 10.0;
}

/* Print the latencies: of all samples, and of the p99 and the last of each event's. Microseconds. */
static void print_latencies(void) {
    size_t groups = 0;
    uint32_t *all = malloc((sample_count + 1) * sizeof *all);
    uint32_t *tails = malloc((sample_count + 1) * sizeof *tails), *lasts = malloc((sample_count + 1) * sizeof *lasts);
    if (!all || !tails || !lasts) die("malloc");
    qsort(samples, sample_count, sizeof *samples, by_event);
    for (size_t from = 0, to; from < sample_count; from = to, groups++) {
        for (to = from; to < sample_count && samples[to].event == samples[from].event; to++)
            all[to] = samples[to].tenths;
        lasts[groups] = samples[to - 1].tenths;
        tails[groups] = samples[from + (size_t)(0.99 * (double)(to - from - 1) + 0.5)].tenths;
    }
    qsort(all, sample_count, sizeof *all, by_size);
    qsort(tails, groups, sizeof *tails, by_size);
    qsort(lasts, groups, sizeof *lasts, by_size);
    printf("\"samples\":%zu,\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f,", sample_count, at_share(all, sample_count, 0.5),
           at_share(all, sample_count, 0.99), at_share(all, sample_count, 1));
    printf("\"groups\":%zu,\"one_p99\":%.1f,\"last_p50\":%.1f,\"last_p99\":%.1f,", groups, at_share(tails, groups, 0.5),
           at_share(lasts, groups, 0.5), at_share(lasts, groups, 0.99));
    free(all), free(tails), free(lasts);
}

/* --- one connection --- */

static void listen_for(struct stream *s, uint32_t events, int operation) {
    struct epoll_event wanted = {.events = events, .data.u64 = (uint64_t)(s - streams)};
    if (epoll_ctl(poller, operation, s->fd, &wanted)) die("epoll_ctl");
}

static void hang_up(struct stream *s) {
    /* A reset leaves no TIME_WAIT behind: the ports are needed again. */
    struct linger reset = {1, 0};
    setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(s->fd);
    if (s->state == OPEN) open_streams--;
    if (s->state == CONNECTING || s->state == WAITING) pending--;
    s->state = CLOSED;
    last_close = now_ns(CLOCK_MONOTONIC);
}

static void ask(struct stream *s) {
    static char scratch[1 << 16];
    const struct request *request = &requests[s->number % request_count];
    char digits[11];
    memcpy(scratch, request->bytes, request->length);
    snprintf(digits, sizeof digits, "%010u", s->number);
    for (char *at = scratch; (at = memmem(at, request->length - (size_t)(at - scratch), PLACE, 10)); at += 10)
        memcpy(at, digits, 10);
    s->state = WAITING;
    s->status = 0;
    s->held = 0;
    s->left = -1;
    s->body = false;
    if (write(s->fd, scratch, request->length) != (ssize_t)request->length) {
        broken++;
        hang_up(s);
    }
}

static void dial(struct stream *s) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)}, from = {.sin_family = AF_INET};
    int on = 1;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0) die("socket");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* One address has some 28,000 ports: the next streams come from the next one, 127.0.0.2, 127.0.0.3 ... */
    setsockopt(s->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)((size_t)(s - streams) / PER_ADDRESS));
    if (bind(s->fd, (struct sockaddr *)&from, sizeof from)) die("bind");
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    s->asked = now_ns(CLOCK_MONOTONIC);
    s->state = CONNECTING;
    if (connect(s->fd, (struct sockaddr *)&to, sizeof to) == 0) {
        listen_for(s, EPOLLIN, EPOLL_CTL_ADD);
        ask(s);
    } else if (errno == EINPROGRESS) {
        listen_for(s, EPOLLOUT, EPOLL_CTL_ADD);
    } else {
        die("connect");
    }
}

/* Send the next request over `s`, which is new, done, or hung up. */
static void start(struct stream *s) {
    bool connected = s->state == WAITING;
    s->number = (uint32_t)sent++;
    if (!connected) {
        pending++;
        dial(s);
    } else {
        s->asked = now_ns(CLOCK_MONOTONIC);
        ask(s);
    }
}

static void event(struct stream *s, const char *text, size_t length, int64_t now) {
    total++;
    last_event = now;
    if (++s->events == expected) complete++;
    const char *at = *mark ? memmem(text, length, mark, strlen(mark)) : NULL;
    int64_t published = at ? strtoll(at + strlen(mark), NULL, 10) : 0;
    if (published) sample(event_index(published), now - published);
}

/* A short request has its answer (in a stream: the first byte of it). */
static void answer(struct stream *s, int64_t now) {
    answered++;
    if (s->status / 100 != 2) refused++;
    sample(0, now - s->asked);
    if (!keep_alive) hang_up(s);
    if (sent < count) start(s);
    else if (keep_alive) hang_up(s);
}

static void headers_end(struct stream *s) {
    if (timing) {
        s->body = true;
        return;
    }
    s->state = OPEN;
    pending--;
    answered++;
    open_streams++;
    if (s->status != 200) refused++;
}

/* One line, without its end. Heads of chunks are lines that mean nothing. */
static void line(struct stream *s, const char *text, size_t length, int64_t now) {
    if (s->state == OPEN) {
        if (length > 5 && !memcmp(text, "data:", 5)) event(s, text, length, now);
    } else if (!s->status && length > 12 && !memcmp(text, "HTTP/1.", 7)) {
        s->status = atoi(text + 9);
    } else if (length > 15 && !strncasecmp(text, "content-length:", 15)) {
        s->left = atoll(text + 15);
    } else if (length == 0 || (length == 1 && *text == '\r')) {
        headers_end(s);
    }
}

static void hold(struct stream *s, const char *from, size_t length) {
    if (!s->line && !(s->line = malloc(LINE))) die("malloc");
    if (length > LINE - 1 - s->held) length = LINE - 1 - s->held;
    memcpy(s->line + s->held, from, length);
    s->held += (uint32_t)length;
    s->line[s->held] = 0;
}

/* Take the lines that have come; of a short request only its headers. Returns where what was not taken begins. */
static char *take(struct stream *s, char *from, char *to, int64_t now) {
    while (from < to && !s->body) {
        char *end = memchr(from, '\n', (size_t)(to - from));
        if (!end) {
            hold(s, from, (size_t)(to - from));
            return to;
        }
        if (s->held) {
            hold(s, from, (size_t)(end - from));
            line(s, s->line, s->held, now);
            s->held = 0;
        } else {
            line(s, from, (size_t)(end - from), now);
        }
        from = end + 1;
    }
    return from;
}

/* A short request is answered by the first byte of its body; where the connection is kept, by the last. */
static void take_body(struct stream *s, size_t length, int64_t now) {
    s->left -= (int64_t)length;
    if (keep_alive ? s->left <= 0 : length > 0) answer(s, now);
}

static void readable(struct stream *s) {
    static char buffer[CHUNK];
    ssize_t got = read(s->fd, buffer, sizeof buffer - 1);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        if (s->state != OPEN) broken++;
        hang_up(s);
        return;
    }
    buffer[got] = 0;
    int64_t now = now_ns(CLOCK_MONOTONIC);
    char *rest = take(s, buffer, buffer + got, now);
    if (s->body) take_body(s, (size_t)(buffer + got - rest), now);
}

static void ready(struct stream *s) {
    int error = 0;
    socklen_t size = sizeof error;
    if (s->state == CLOSED) return;
    if (s->state != CONNECTING) {
        readable(s);
        return;
    }
    getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        broken++;
        hang_up(s);
        return;
    }
    listen_for(s, EPOLLIN, EPOLL_CTL_MOD);
    ask(s);
}

/* Wait for sockets for up to a tenth of a second; true when standard input has something to say. */
static bool turn(void) {
    static struct epoll_event found[BATCH];
    bool asked = false;
    int number = epoll_wait(poller, found, BATCH, 100);
    for (int i = 0; i < number; i++) {
        if (found[i].data.u64 == STDIN_KEY) asked = true;
        else ready(&streams[found[i].data.u64]);
    }
    return asked;
}

/* --- what is asked on standard input --- */

static double seconds(int64_t ns) { return (double)ns / 1e9; }

/* Open every stream that is closed, with no more than `in_flight` unanswered. */
static void open_all(void) {
    int64_t began = now_ns(CLOCK_MONOTONIC), cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID), last = began;
    size_t before = answered, wrong = refused, cut = broken, next = 0;
    while (next < stream_count || pending) {
        for (; next < stream_count && pending < in_flight; next++)
            if (streams[next].state == CLOSED) start(&streams[next]);
        if (next < stream_count || pending) turn();
        last = now_ns(CLOCK_MONOTONIC);
    }
    printf("{\"opened\":%zu,\"refused\":%zu,\"broken\":%zu,\"open\":%zu,\"seconds\":%.6f,\"cpu\":%.6f}\n", answered - before,
           refused - wrong, broken - cut, open_streams, seconds(last - began), seconds(now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu));
    fflush(stdout);
}

/* Count until every open stream has had `events` events, or `limit` seconds are over. */
static void count_events(size_t events, double limit) {
    int64_t began = now_ns(CLOCK_MONOTONIC), cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    size_t had = open_streams;
    expected = events, complete = total = sample_count = known_count = 0, last_event = began;
    memset(known, 0, sizeof known);
    for (size_t i = 0; i < stream_count; i++) streams[i].events = 0;
    puts("{\"begun\":true}");
    fflush(stdout);
    while (complete < had && seconds(now_ns(CLOCK_MONOTONIC) - began) < limit) turn();
    printf("{\"events\":%zu,\"streams\":%zu,\"complete\":%zu,\"open\":%zu,\"seconds\":%.6f,", total, had, complete,
           open_streams, seconds(last_event - began));
    printf("\"wall\":%.6f,\"cpu\":%.6f,", seconds(now_ns(CLOCK_MONOTONIC) - began),
           seconds(now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu));
    print_latencies();
    puts("\"unit\":\"us\"}");
    fflush(stdout);
}

/* Wait until the server has closed every stream; the latencies are those since `begin`, or since the start. */
static void wait_closed(double limit) {
    int64_t began = now_ns(CLOCK_MONOTONIC);
    last_close = began;
    puts("{\"begun\":true}");
    fflush(stdout);
    while (open_streams && seconds(now_ns(CLOCK_MONOTONIC) - began) < limit) turn();
    printf("{\"open\":%zu,\"seconds\":%.6f,", open_streams, seconds(last_close - began));
    print_latencies();
    puts("\"unit\":\"us\"}");
    fflush(stdout);
}

/* Leave `number` streams, the next ones in turn, then open all that are closed. */
static void renew(size_t number) {
    static size_t next;
    for (size_t i = 0; i < number; i++, next = (next + 1) % stream_count)
        if (streams[next].state != CLOSED) hang_up(&streams[next]);
    open_all();
}

static void serve_input(void) {
    char said[128];
    struct epoll_event wanted = {.events = EPOLLIN, .data.u64 = STDIN_KEY};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, 0, &wanted)) die("epoll_ctl");
    for (;;) {
        size_t number = 0;
        double limit = 0;
        while (!turn()) continue;
        if (!fgets(said, sizeof said, stdin) || !strncmp(said, "quit", 4)) return;
        if (sscanf(said, "begin %zu %lf", &number, &limit) == 2) count_events(number, limit);
        else if (sscanf(said, "closed %lf", &limit) == 1) wait_closed(limit);
        else if (sscanf(said, "renew %zu", &number) == 1) renew(number);
    }
}

/* --- the two ways to be called --- */

static void read_requests(const char *path) {
    FILE *file = fopen(path, "rb");
    size_t length, room = 0;
    if (!file) die(path);
    while (fscanf(file, "%zu%*1[\n]", &length) == 1) {
        if (request_count == room) requests = realloc(requests, (room = room ? room * 2 : 64) * sizeof *requests);
        char *bytes = malloc(length);
        if (!requests || !bytes || length > 1 << 16 || fread(bytes, 1, length, file) != length) die(path);
        requests[request_count++] = (struct request){bytes, length};
    }
    fclose(file);
}

static void time_requests(void) {
    int64_t began = now_ns(CLOCK_MONOTONIC), cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID), wall;
    for (size_t i = 0; i < stream_count && sent < count; i++) start(&streams[i]);
    while (pending) turn();
    wall = now_ns(CLOCK_MONOTONIC) - began;
    printf("{\"answered\":%zu,\"refused\":%zu,\"broken\":%zu,\"seconds\":%.6f,", answered, refused, broken, seconds(wall));
    printf("\"wall\":%.6f,\"cpu\":%.6f,", seconds(wall), seconds(now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu));
    print_latencies();
    puts("\"unit\":\"us\"}");
}

int main(int argc, char **argv) {
    if (argc != 7) {
        fputs("usage: load streams PORT STREAMS IN_FLIGHT MARK REQUESTS\n"
              "       load requests PORT COUNT IN_FLIGHT KEEP_ALIVE REQUESTS\n", stderr);
        return 2;
    }
    timing = !strcmp(argv[1], "requests");
    port = (uint16_t)atoi(argv[2]);
    count = stream_count = (size_t)atoll(argv[3]);
    in_flight = (size_t)atoll(argv[4]);
    mark = timing ? "" : argv[5];
    keep_alive = timing && atoi(argv[5]);
    if (timing && in_flight < count) stream_count = in_flight;
    read_requests(argv[6]);
    streams = calloc(stream_count, sizeof *streams);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (!streams || !request_count || poller < 0) die("start");
    if (timing) {
        time_requests();
        return 0;
    }
    open_all();
    serve_input();
    return 0;
}
