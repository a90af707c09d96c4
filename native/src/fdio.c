/* System calls on a TUN: read(2) and writev(2).
 *
 * Responsible for: loops over packets, what an error means for what was done before it.
 * Refuses to know: what is in the packets. Descriptors are the caller's and non-blocking.
 */
#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#include "internal.h"

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8 };

int64_t netstack_read_batch(int fd, netstack_batch *batch, int vnet) {
    ns_filling f;
    if (!ns_start(&f, batch, 1, 1)) return -EINVAL;
    while (ns_has_room(&f, batch->slot)) {
        ssize_t size = read(fd, batch->arena + f.cursor, batch->slot);
        if (size > 0) {
            if (vnet) ns_take_vnet(&f, f.cursor, (uint32_t)size);
            else ns_take(&f, f.cursor, (uint32_t)size);
            continue;
        }
        if (size < 0 && errno == EINTR) continue;
        if (batch->packets) break;
        if (size == 0) return -ENODEV; /* end of file: a TUN has none, a socket in its place has it for ever */
        if (errno != EAGAIN && errno != EWOULDBLOCK) return -errno;
        break;
    }
    return ns_finish(&f);
}

/* One packet in two pieces; 0 or -errno. A TUN takes a packet whole or not at all. Copying a packet of
 * ordinary size together is a little cheaper than having the kernel gather it. */
static int64_t put(int fd, const uint8_t *head, size_t head_length, const uint8_t *rest, size_t rest_length) {
    struct iovec pieces[2] = {{(void *)(uintptr_t)head, head_length}, {(void *)(uintptr_t)rest, rest_length}};
    uint8_t whole[2048];
    size_t length = head_length + rest_length;
    if (length <= sizeof whole) {
        __builtin_memcpy(whole, head, head_length);
        if (rest_length) __builtin_memcpy(whole + head_length, rest, rest_length);
    }
    for (;;) {
        ssize_t size = length <= sizeof whole ? write(fd, whole, length) : writev(fd, pieces, 2);
        if (size >= 0) return (size_t)size == length ? 0 : -EMSGSIZE;
        if (errno != EINTR) return -errno;
    }
}

int64_t netstack_write_run(int fd, const uint8_t *key, uint32_t seq, uint32_t ack, uint32_t flags,
                           uint32_t window, uint32_t mss, const uint8_t *options, uint32_t options_length,
                           const uint8_t *payload, size_t length, int vnet) {
    ns_run run = {key, options, options_length, seq, ack, flags, window, mss};
    uint8_t head[NS_VNET_HEADER + NS_MAX_HEADER];
    uint32_t size, most;
    size_t at = 0;
    if (ns_run_is_bad(&run, length)) return -EINVAL;
    most = ns_run_room(&run);
    size = mss < most ? mss : most;
    if (vnet) size = most / size * size;
    if (flags & (SYN | RST)) size = most;
    for (;;) {
        int last = length - at <= size;
        uint32_t piece = last ? (uint32_t)(length - at) : size;
        uint32_t its_flags = last ? flags : flags & ~(uint32_t)(FIN | PSH);
        uint32_t header = ns_segment(&run, seq + (uint32_t)at, its_flags, payload + at, piece, vnet, head);
        int64_t problem = put(fd, head, header, payload + at, piece);
        if (problem) return at ? (int64_t)at : problem;
        at += piece;
        if (last) return (int64_t)at;
    }
}

int64_t netstack_write_datagram(int fd, const uint8_t *key, uint32_t tos, uint32_t hop_limit,
                                const uint8_t *payload, size_t length, int vnet) {
    uint8_t head[NS_VNET_HEADER + NS_MAX_HEADER];
    uint32_t header;
    if (length > ns_datagram_room(key)) return -EMSGSIZE;
    header = ns_datagram(key, tos, hop_limit, payload, (uint32_t)length, 0, vnet, head);
    return put(fd, head, header, payload, length);
}

int64_t netstack_write_datagrams(int fd, const uint8_t *key, uint32_t tos, uint32_t hop_limit,
                                 const uint8_t *payload, size_t length, uint32_t size, int vnet, int uso) {
    uint8_t head[NS_VNET_HEADER + NS_MAX_HEADER];
    size_t at = 0, most = size, room = ns_datagram_room(key);
    int64_t count = 0;
    if (!size || size > room) return -EMSGSIZE;
    if (vnet && uso) {
        most = room / size;
        most = (most < NETSTACK_MAX_SEGMENTS ? most : NETSTACK_MAX_SEGMENTS) * size;
    }
    for (; at < length; at += most) {
        uint32_t piece = (uint32_t)(length - at < most ? length - at : most);
        uint32_t header = ns_datagram(key, tos, hop_limit, payload + at, piece, piece > size ? size : 0, vnet, head);
        int64_t problem = put(fd, head, header, payload + at, piece);
        if (problem) return count ? count : problem;
        count += (piece + size - 1) / size;
    }
    return count;
}

int64_t netstack_write_packet(int fd, const uint8_t *packet, size_t length, int vnet) {
    static const uint8_t virtio[NS_VNET_HEADER] = {0};
    if (vnet) return put(fd, virtio, sizeof virtio, packet, length);
    return put(fd, packet, length, packet, 0);
}
