/* System calls on a UDP socket: many datagrams for each.
 *
 * Responsible for: receiving what waits and joining what belongs together to runs; sending a run, in one piece where
 * the kernel cuts it (UDP_SEGMENT). Refuses to know: flows. Descriptors are the caller's and non-blocking.
 * udp(7), recvmmsg(2).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "internal.h"

enum { SOL_UDP_ = 17, UDP_SEGMENT_ = 103, UDP_GRO_ = 104, LARGEST = 65507 };

#ifdef __linux__
typedef struct mmsghdr message;
#else
typedef struct {
    struct msghdr msg_hdr;
    unsigned int msg_len;
} message;
#endif

static int receive(int fd, message *messages, uint32_t slots) {
#ifdef __linux__
    for (;;) {
        int count = recvmmsg(fd, messages, slots, MSG_DONTWAIT, NULL);
        if (count >= 0 || errno != EINTR) return count < 0 ? -errno : count;
    }
#else
    for (uint32_t i = 0; i < slots; i++) {
        ssize_t size = recvmsg(fd, &messages[i].msg_hdr, MSG_DONTWAIT);
        if (size < 0) return i ? (int)i : -errno;
        messages[i].msg_len = (unsigned int)size;
    }
    return (int)slots;
#endif
}

static void name_sender(const struct sockaddr_storage *from, uint8_t *sender) {
    __builtin_memset(sender, 0, 18);
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *four = (const void *)from;
        __builtin_memcpy(sender, &four->sin_addr, 4);
        __builtin_memcpy(sender + 16, &four->sin_port, 2);
    } else if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const void *)from;
        __builtin_memcpy(sender, &six->sin6_addr, 16);
        __builtin_memcpy(sender + 16, &six->sin6_port, 2);
    }
}

/* The size of the datagrams that the kernel joined to one message; 0 when it is just one. */
static uint32_t joined_size(struct msghdr *header) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
        int size;
        if (c->cmsg_level != SOL_UDP_ || c->cmsg_type != UDP_GRO_ || c->cmsg_len < CMSG_LEN(sizeof size)) continue;
        __builtin_memcpy(&size, CMSG_DATA(c), sizeof size);
        return size > 0 ? (uint32_t)size : 0;
    }
    return 0;
}

/* The message may follow the run `r`: the same sender, nothing shorter before it. */
static int may_follow(const netstack_received *r, const uint8_t *sender, uint32_t count, uint32_t size,
                      uint32_t length) {
    if (!r->length || !length || r->count + count > NETSTACK_MAX_DATAGRAMS) return 0;
    if (r->length != r->count * r->size || (count > 1 ? size != r->size : length > r->size)) return 0;
    return !__builtin_memcmp(r->sender, sender, sizeof r->sender);
}

/* One message, at `at` in the arena: it moves behind the last run, or begins a new one. */
uint32_t ns_receive_one(uint8_t *arena, netstack_received *records, uint32_t used, const uint8_t *sender,
                        uint32_t at, uint32_t length, uint32_t joined) {
    uint32_t size = joined && joined < length ? joined : length;
    uint32_t count = length ? (length + size - 1) / size : 1;
    netstack_received *last = records + used - 1;
    if (used && may_follow(last, sender, count, size, length)) {
        __builtin_memmove(arena + last->at + last->length, arena + at, length);
        last->length += length;
        last->count = (uint16_t)(last->count + count);
        return used;
    }
    __builtin_memcpy(records[used].sender, sender, sizeof last->sender);
    records[used].count = (uint16_t)count;
    records[used].size = size;
    records[used].at = at;
    records[used].length = length;
    return used + 1;
}

int64_t netstack_receive_datagrams(int fd, uint8_t *arena, uint32_t slot, uint32_t slots,
                                   netstack_received *records, uint32_t *used) {
    message messages[NETSTACK_MAX_SLOTS];
    struct iovec pieces[NETSTACK_MAX_SLOTS];
    struct sockaddr_storage names[NETSTACK_MAX_SLOTS];
    union {
        struct cmsghdr header;
        uint8_t room[CMSG_SPACE(sizeof(int))];
    } controls[NETSTACK_MAX_SLOTS];
    uint32_t found = 0;
    int count;
    *used = 0;
    if (!slots || slots > NETSTACK_MAX_SLOTS) return -EINVAL;
    for (uint32_t i = 0; i < slots; i++) {
        struct msghdr *h = &messages[i].msg_hdr;
        pieces[i].iov_base = arena + (size_t)i * slot;
        pieces[i].iov_len = slot;
        __builtin_memset(h, 0, sizeof *h);
        h->msg_name = &names[i];
        h->msg_namelen = sizeof names[i];
        h->msg_iov = &pieces[i];
        h->msg_iovlen = 1;
        h->msg_control = controls[i].room;
        h->msg_controllen = sizeof controls[i].room;
    }
    count = receive(fd, messages, slots);
    if (count < 0) return count;
    for (int i = 0; i < count; i++) {
        uint8_t sender[18];
        name_sender(&names[i], sender);
        found = ns_receive_one(arena, records, found, sender, (uint32_t)i * slot, messages[i].msg_len,
                               joined_size(&messages[i].msg_hdr));
    }
    *used = (uint32_t)count;
    return found;
}

static int64_t send_piece(int fd, struct sockaddr *to, socklen_t to_length, const uint8_t *payload, size_t length,
                          uint32_t segment) {
    union {
        struct cmsghdr header;
        uint8_t room[CMSG_SPACE(sizeof(uint16_t))];
    } control;
    struct iovec piece = {(void *)(uintptr_t)payload, length};
    struct msghdr h;
    if (!segment) {
        for (;;) {
            if (sendto(fd, payload, length, MSG_DONTWAIT, to, to_length) >= 0) return 0;
            if (errno != EINTR) return -errno;
        }
    }
    __builtin_memset(&h, 0, sizeof h);
    __builtin_memset(&control, 0, sizeof control);
    h.msg_name = to;
    h.msg_namelen = to_length;
    h.msg_iov = &piece;
    h.msg_iovlen = 1;
    h.msg_control = control.room;
    h.msg_controllen = sizeof control.room;
    control.header.cmsg_level = SOL_UDP_;
    control.header.cmsg_type = UDP_SEGMENT_;
    control.header.cmsg_len = CMSG_LEN(sizeof(uint16_t));
    {
        uint16_t size = (uint16_t)segment;
        __builtin_memcpy(CMSG_DATA(&control.header), &size, sizeof size);
    }
    for (;;) {
        if (sendmsg(fd, &h, MSG_DONTWAIT) >= 0) return 0;
        if (errno != EINTR) return -errno;
    }
}

int64_t netstack_send_datagrams(int fd, int version, const uint8_t *destination, const uint8_t *payload,
                                size_t length, uint32_t size, int gso) {
    union {
        struct sockaddr any;
        struct sockaddr_in four;
        struct sockaddr_in6 six;
    } to;
    socklen_t to_length = version == 4 ? sizeof to.four : sizeof to.six;
    int64_t count = 0;
    size_t at = 0;
    if (!size && length) return -EINVAL;
    __builtin_memset(&to, 0, sizeof to);
    if (version == 4) {
        to.four.sin_family = AF_INET;
        __builtin_memcpy(&to.four.sin_addr, destination, 4);
        __builtin_memcpy(&to.four.sin_port, destination + 16, 2);
    } else {
        to.six.sin6_family = AF_INET6;
        __builtin_memcpy(&to.six.sin6_addr, destination, 16);
        __builtin_memcpy(&to.six.sin6_port, destination + 16, 2);
    }
    do {
        size_t left = length - at, most = gso && size && size <= LARGEST / 2 ? LARGEST / size : 1, piece;
        int64_t problem;
        if (most > NETSTACK_MAX_SEGMENTS) most = NETSTACK_MAX_SEGMENTS;
        piece = left < most * size ? left : most * size;
        problem = send_piece(fd, &to.any, to_length, payload + at, piece, piece > size ? size : 0);
        if (problem && piece > size &&
            (problem == -EINVAL || problem == -EIO || problem == -EMSGSIZE || problem == -EOPNOTSUPP)) {
            gso = 0; /* the path takes no such packets (size over its MTU, IPsec): one by one */
            continue;
        }
        if (problem) return count ? count : problem;
        at += piece;
        count += piece > size ? (int64_t)((piece + size - 1) / size) : 1;
    } while (at < length);
    return count;
}
