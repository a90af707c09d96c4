/* The far end and the client of the live benchmarks.
 *
 *   load serve ADDRESS                          TCP 7001 takes, 7002 gives, 7003 echoes, 7004 answers once;
 *                                               UDP 7003 echoes, 53 answers any DNS question with one A record.
 *                                               A line on standard input asks "nanoseconds octets taken".
 *   load up|down ADDRESS STREAMS SECONDS        bulk, after WARM_UP seconds
 *   load crr ADDRESS IN_FLIGHT SECONDS          connect, request of 64 octets, answer of 128, close
 *   load rtt|urtt ADDRESS 1 SECONDS             one octet there and back, TCP or UDP
 *   load uecho ADDRESS SIZE SECONDS             datagrams there and back, WINDOW in flight
 *   load dns ADDRESS IN_FLIGHT SECONDS          questions to ADDRESS, each with another name
 *   load hold ADDRESS FLOWS 1                   open connections, one octet each; waits for the end of its input
 *
 * One JSON object on standard output. Single thread, epoll, no allocation in the loops. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { TAKE = 7001, GIVE, ECHO, ONCE, DNS = 53, WINDOW = 32, MAX_FD = 65536, MAX_TIMES = 1 << 20 };
#define WARM_UP 0.3
#define LOST_AFTER 0.2

static char buffer[1 << 17];
static double times[MAX_TIMES];
static size_t count;
static double began[MAX_FD];
static uint16_t role[MAX_FD];
static char asked[MAX_FD];
static struct in_addr address;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what)
{
    printf("{\"error\": \"%s: %s\"}\n", what, strerror(errno));
    exit(1);
}

static struct sockaddr_in at(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = address};
    return a;
}

static int open_socket(int kind)
{
    int fd = socket(AF_INET, kind, 0), on = 1, size = 4 << 20;
    if (fd < 0 || fd >= MAX_FD)
        fail("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if ((kind & 0xf) == SOCK_STREAM) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    } else {
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
        setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    }
    return fd;
}

static int open_connected(int kind, int port, double patience)
{
    int fd = open_socket(kind);
    struct sockaddr_in a = at(port);
    struct timeval limit = {(time_t)patience, (suseconds_t)((patience - (time_t)patience) * 1e6)};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
        fail("connect");
    return fd;
}

static void watch(int epoll, int operation, int fd, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.fd = fd};
    epoll_ctl(epoll, operation, fd, &e);
}

static void sample(double seconds)
{
    if (count < MAX_TIMES)
        times[count++] = seconds;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double at_share(double share)
{
    return count ? times[(size_t)((count - 1) * share)] * 1e6 : 0;
}

static void report(const char *name, double rate, uint64_t failed)
{
    qsort(times, count, sizeof *times, compare);
    printf("{\"%s\": %.1f, \"failed\": %llu, \"p50_us\": %.1f, \"p99_us\": %.1f}\n", name, rate,
           (unsigned long long)failed, at_share(.5), at_share(.99));
}

/* ---- the far end ---- */

static uint64_t taken;

static ssize_t answer_dns(char *message, ssize_t size)
{
    static const char record[] = "\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4\xcb\0\x71\7"; /* pointer, A, IN, 300 s, 203.0.113.7 */
    ssize_t end = 12;
    if (size < 17)
        return 0;
    while (end < size && message[end])
        end += (uint8_t)message[end] + 1;
    end += 5;
    if (end > size)
        return 0;
    message[2] = (char)0x81, message[3] = (char)0x80; /* answer, recursion desired and available */
    memset(message + 6, 0, 6);
    message[7] = 1;
    memcpy(message + end, record, sizeof record - 1);
    return end + (ssize_t)sizeof record - 1;
}

static void serve_datagrams(int fd)
{
    struct sockaddr_in from;
    for (int n = 0; n < 64; n++) {
        socklen_t length = sizeof from;
        ssize_t size = recvfrom(fd, buffer, 4096, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
        if (size < 0)
            return;
        if (role[fd] == DNS)
            size = answer_dns(buffer, size);
        sendto(fd, buffer, size, MSG_DONTWAIT, (struct sockaddr *)&from, length);
    }
}

static void serve_stream(int fd, uint32_t events)
{
    ssize_t size;
    if (role[fd] == GIVE) {
        if (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) {
            close(fd);
            return;
        }
        for (int n = 0; n < 4 && send(fd, buffer, sizeof buffer, MSG_NOSIGNAL) > 0; n++)
            ;
        return;
    }
    size = recv(fd, buffer, role[fd] == TAKE ? sizeof buffer : 4096, 0);
    if (size < 0 && errno == EAGAIN)
        return;
    if (size <= 0) {
        close(fd);
    } else if (role[fd] == TAKE) {
        taken += size;
    } else if (role[fd] == ECHO) {
        send(fd, buffer, size, MSG_NOSIGNAL);
    } else {
        send(fd, buffer, 128, MSG_NOSIGNAL);
        close(fd);
    }
}

static int serve(void)
{
    int epoll = epoll_create1(0), fd;
    struct epoll_event events[256];
    static const uint16_t udp_ports[] = {ECHO, DNS};
    for (int port = TAKE; port <= ONCE; port++) {
        struct sockaddr_in a = at(port);
        fd = open_socket(SOCK_STREAM | SOCK_NONBLOCK);
        if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096))
            fail("listen");
        role[fd] = port, asked[fd] = 1; /* asked: a listener */
        watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
    }
    for (int n = 0; n < 2; n++) {
        struct sockaddr_in a = at(udp_ports[n]);
        fd = open_socket(SOCK_DGRAM | SOCK_NONBLOCK);
        if (bind(fd, (struct sockaddr *)&a, sizeof a))
            fail("bind");
        role[fd] = udp_ports[n], asked[fd] = 2;
        watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
    }
    watch(epoll, EPOLL_CTL_ADD, 0, EPOLLIN);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(epoll, events, 256, -1);
        for (int n = 0; n < ready; n++) {
            fd = events[n].data.fd;
            if (fd == 0) {
                if (read(0, buffer, 64) <= 0)
                    return 0; /* whoever started this is gone */
                printf("%.0f %llu\n", now() * 1e9, (unsigned long long)taken);
                fflush(stdout);
            } else if (asked[fd] == 1) {
                int new = accept4(fd, NULL, NULL, SOCK_NONBLOCK), on = 1;
                if (new < 0 || new >= MAX_FD)
                    continue;
                setsockopt(new, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                role[new] = role[fd], asked[new] = 0;
                watch(epoll, EPOLL_CTL_ADD, new, (role[fd] == GIVE ? EPOLLOUT : EPOLLIN) | EPOLLRDHUP);
            } else if (asked[fd] == 2) {
                serve_datagrams(fd);
            } else {
                serve_stream(fd, events[n].events);
            }
        }
    }
}

/* ---- the client ---- */

static void bulk(int up, int streams, double seconds)
{
    int epoll = epoll_create1(0);
    struct epoll_event events[256];
    uint64_t moved = 0;
    double start, begin = 0, t;
    for (int n = 0; n < streams; n++)
        watch(epoll, EPOLL_CTL_ADD, open_connected(SOCK_STREAM, up ? TAKE : GIVE, 5), up ? EPOLLOUT : EPOLLIN);
    start = now();
    while ((t = now()) < start + WARM_UP + seconds) {
        if (!begin && t >= start + WARM_UP)
            begin = t, moved = 0;
        int ready = epoll_wait(epoll, events, 256, 50);
        for (int n = 0; n < ready; n++) {
            int fd = events[n].data.fd;
            ssize_t size = up ? send(fd, buffer, sizeof buffer, MSG_DONTWAIT | MSG_NOSIGNAL)
                              : recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
            if (size > 0)
                moved += size;
            else if (size == 0 || errno != EAGAIN)
                fail("stream");
        }
    }
    printf("{\"mbit\": %.1f}\n", moved * 8e-6 / (now() - begin));
}

static void transactions(int in_flight, double seconds)
{
    int epoll = epoll_create1(0), open = 0;
    struct epoll_event events[256];
    struct sockaddr_in a = at(ONCE);
    uint64_t done = 0, failed = 0;
    double start = now(), t;
    while ((t = now()) < start + seconds) {
        while (open < in_flight && failed < 10000) {
            int fd = open_socket(SOCK_STREAM | SOCK_NONBLOCK);
            began[fd] = now(), asked[fd] = 0;
            if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS) {
                close(fd), failed++;
                continue;
            }
            watch(epoll, EPOLL_CTL_ADD, fd, EPOLLOUT);
            open++;
        }
        int ready = epoll_wait(epoll, events, 256, 50);
        for (int n = 0; n < ready; n++) {
            int fd = events[n].data.fd;
            ssize_t size;
            if (!asked[fd]) {
                if (send(fd, buffer, 64, MSG_NOSIGNAL) == 64) {
                    asked[fd] = 1;
                    watch(epoll, EPOLL_CTL_MOD, fd, EPOLLIN);
                } else {
                    close(fd), open--, failed++;
                }
                continue;
            }
            size = recv(fd, buffer, 4096, MSG_DONTWAIT);
            if (size > 0)
                asked[fd] = 2;
            else if (size == 0 || errno != EAGAIN) {
                if (size == 0 && asked[fd] == 2)
                    done++, sample(now() - began[fd]);
                else
                    failed++;
                close(fd), open--;
            }
        }
    }
    report("rate", done / (now() - start), failed);
}

static void round_trips(int kind, double seconds)
{
    int fd = open_connected(kind, ECHO, .3);
    uint64_t lost = 0;
    double start = now(), t;
    char octet = 'x';
    while ((t = now()) < start + seconds) {
        if (send(fd, &octet, 1, MSG_NOSIGNAL) == 1 && recv(fd, &octet, 1, 0) == 1)
            sample(now() - t);
        else if (++lost && kind == SOCK_STREAM)
            fail("echo");
    }
    report("rate", count / (now() - start), lost);
}

static void datagrams(int size, double seconds)
{
    int fd = open_connected(SOCK_DGRAM, ECHO, .02), out = 0;
    uint64_t done = 0, lost = 0;
    double start, last;
    send(fd, buffer, size, 0); /* opens the flow */
    usleep(50000);
    recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
    start = last = now();
    while (now() < start + seconds) {
        while (out < WINDOW && send(fd, buffer, size, MSG_DONTWAIT) == size)
            out++;
        int flags = 0; /* wait for the first, take what else is there */
        while (recv(fd, buffer, sizeof buffer, flags) > 0) {
            done++, out -= out > 0, flags = MSG_DONTWAIT;
            last = now();
        }
        if (now() > last + LOST_AFTER)
            lost += out, out = 0, last = now();
    }
    report("rate", done / (now() - start), lost);
}

static void questions(int in_flight, double seconds)
{
    int fd = open_connected(SOCK_DGRAM, DNS, .02), out = 0;
    unsigned char message[64] = {0, 0, 1, 0, 0, 1};
    uint64_t done = 0, lost = 0;
    unsigned serial = 0;
    double start = now(), last = start;
    while (now() < start + seconds) {
        while (out < in_flight) {
            double sent = now();
            serial++;
            message[0] = serial >> 8, message[1] = serial;
            message[12] = 8;
            snprintf((char *)message + 13, 9, "n%07x", serial & 0xfffffff);
            memcpy(message + 21, "\5bench\4test\0\0\1\0\1", 16);
            if (send(fd, message, 37, MSG_DONTWAIT) != 37)
                break;
            began[serial & 0xffff] = sent;
            out++;
        }
        int flags = 0;
        while (recv(fd, buffer, sizeof buffer, flags) > 12) {
            sample(now() - began[(uint8_t)buffer[0] << 8 | (uint8_t)buffer[1]]);
            if ((buffer[3] & 15) == 0)
                done++;
            else
                lost++;
            out -= out > 0, flags = MSG_DONTWAIT;
            last = now();
        }
        if (now() > last + LOST_AFTER)
            lost += out, out = 0, last = now();
    }
    report("rate", done / (now() - start), lost);
}

static void hold(int flows)
{
    for (int n = 0; n < flows; n++) {
        int fd = open_connected(SOCK_STREAM, ECHO, 5);
        if (send(fd, buffer, 1, MSG_NOSIGNAL) != 1 || recv(fd, buffer, 1, 0) != 1)
            fail("hold");
    }
    printf("{\"flows\": %d}\n", flows);
    fflush(stdout);
    while (read(0, buffer, 64) > 0)
        ;
}

int main(int argc, char **argv)
{
    struct rlimit limit;
    if (argc < 3 || inet_pton(AF_INET, argv[2], &address) != 1)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (!strcmp(argv[1], "serve"))
        return serve();
    if (argc < 5)
        return 2;
    int number = atoi(argv[3]);
    double seconds = atof(argv[4]);
    alarm((unsigned)seconds + 20);
    if (!strcmp(argv[1], "up") || !strcmp(argv[1], "down"))
        bulk(argv[1][0] == 'u', number, seconds);
    else if (!strcmp(argv[1], "crr"))
        transactions(number, seconds);
    else if (!strcmp(argv[1], "rtt"))
        round_trips(SOCK_STREAM, seconds);
    else if (!strcmp(argv[1], "urtt"))
        round_trips(SOCK_DGRAM, seconds);
    else if (!strcmp(argv[1], "uecho"))
        datagrams(number, seconds);
    else if (!strcmp(argv[1], "dns"))
        questions(number, seconds);
    else if (!strcmp(argv[1], "hold"))
        alarm(0), hold(number);
    else
        return 2;
    return 0;
}
