/* Headers for the app: a run cut into TCP segments, and UDP datagrams.
 *
 * Responsible for: IPv4 and IPv6 headers, TCP and UDP headers, their checksums, virtio-net headers.
 * Refuses to know: descriptors, file descriptors. codec/emit.py says the same in Python.
 * RFCs: 791, 6864 (DF and identification 0), 8200, 9293, 768.
 */
#include "internal.h"

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, TCP = 6, UDP = 17, HOP_LIMIT = 64 };
enum { NEEDS_CSUM = 1, GSO_TCP4 = 1, GSO_TCP6 = 4, GSO_UDP = 5 };

static uint32_t ip_size(const uint8_t *key) { return key[0] == 4 ? 20 : 40; }

uint32_t ns_run_room(const ns_run *run) {
    return NS_MAX_PACKET - ip_size(run->key) - 20 - run->options_length;
}

int ns_run_is_bad(const ns_run *run, size_t length) {
    return run->mss < 1 || run->options_length > 40 || (run->options_length & 3) ||
           ((run->flags & (SYN | RST)) && length > ns_run_room(run));
}

/* An IP header for `length` octets of transport; returns its size and the addresses' pseudo-header sum. */
static uint32_t ip_header(const uint8_t *key, uint32_t protocol, uint32_t length, uint32_t tos,
                          uint32_t hop_limit, uint8_t *out, uint64_t *pseudo) {
    uint32_t total;
    uint16_t sum;
    if (key[0] == 4) {
        __builtin_memset(out, 0, 12);
        total = 20 + length;
        out[0] = 0x45;
        out[1] = (uint8_t)tos;
        ns_put16(out + 2, total);
        out[6] = 0x40;
        out[8] = (uint8_t)hop_limit;
        out[9] = (uint8_t)protocol;
        __builtin_memcpy(out + 12, key + 2, 4);
        __builtin_memcpy(out + 16, key + 18, 4);
        sum = (uint16_t)~ns_fold(ns_sum(out, 20));
        __builtin_memcpy(out + 10, &sum, 2);
        *pseudo = ns_pseudo(out + 12, 8, protocol, length);
        return 20;
    }
    ns_put32(out, 0x60000000u | tos << 20);
    ns_put16(out + 4, length);
    out[6] = (uint8_t)protocol;
    out[7] = (uint8_t)hop_limit;
    __builtin_memcpy(out + 8, key + 2, 32);
    *pseudo = ns_pseudo(out + 8, 32, protocol, length);
    return 40;
}

static void virtio_header(uint8_t *out, uint32_t gso_type, uint32_t header, uint32_t gso_size, uint32_t start,
                          uint32_t offset) {
    uint16_t words[4] = {(uint16_t)header, (uint16_t)gso_size, (uint16_t)start, (uint16_t)offset};
    out[0] = NEEDS_CSUM;
    out[1] = (uint8_t)gso_type;
    __builtin_memcpy(out + 2, words, 8);
}

uint32_t ns_segment(const ns_run *run, uint32_t seq, uint32_t flags, const uint8_t *payload,
                    uint32_t length, int vnet, uint8_t *out) {
    uint8_t *ip = out + (vnet ? NS_VNET_HEADER : 0), *t;
    uint32_t header = 20 + run->options_length, start;
    uint64_t pseudo;
    uint16_t sum;
    start = ip_header(run->key, TCP, header + length, 0, HOP_LIMIT, ip, &pseudo);
    t = ip + start;
    __builtin_memcpy(t, run->key + 34, 4);
    ns_put32(t + 4, seq);
    ns_put32(t + 8, run->ack);
    t[12] = (uint8_t)(header << 2);
    t[13] = (uint8_t)flags;
    ns_put16(t + 14, run->window);
    __builtin_memset(t + 16, 0, 4);
    if (run->options_length) __builtin_memcpy(t + 20, run->options, run->options_length);
    if (vnet) {
        uint32_t room = ns_run_room(run), mss = run->mss < room ? run->mss : room;
        uint32_t type = length > mss && !(flags & (SYN | RST)) ? (start == 20 ? GSO_TCP4 : GSO_TCP6) : 0;
        virtio_header(out, type, type ? start + header : 0, type ? mss : 0, start, 16);
        sum = (uint16_t)ns_fold(pseudo);
    } else {
        sum = (uint16_t)~ns_fold(pseudo + ns_sum(t, header) + ns_sum(payload, length));
    }
    __builtin_memcpy(t + 16, &sum, 2);
    return (uint32_t)(t - out) + header;
}

uint32_t ns_datagram_room(const uint8_t *key) { return NS_MAX_PACKET - 8 - (key[0] == 4 ? 20 : 0); }

uint32_t ns_datagram(const uint8_t *key, uint32_t tos, uint32_t hop_limit, const uint8_t *payload,
                     uint32_t length, uint32_t gso_size, int vnet, uint8_t *out) {
    uint8_t *ip = out + (vnet ? NS_VNET_HEADER : 0), *u;
    uint64_t pseudo;
    uint16_t sum;
    uint32_t start = ip_header(key, UDP, 8 + length, tos, hop_limit, ip, &pseudo);
    u = ip + start;
    __builtin_memcpy(u, key + 34, 4);
    ns_put16(u + 4, 8 + length);
    __builtin_memset(u + 6, 0, 2);
    if (vnet) {
        virtio_header(out, gso_size ? GSO_UDP : 0, gso_size ? start + 8 : 0, gso_size, start, 6);
        sum = (uint16_t)ns_fold(pseudo);
    } else {
        sum = (uint16_t)~ns_fold(pseudo + ns_sum(u, 8) + ns_sum(payload, length));
        if (!sum) sum = 0xffff; /* RFC 768: zero would mean that there is none */
    }
    __builtin_memcpy(u + 6, &sum, 2);
    return (uint32_t)(u - out) + 8;
}

int64_t netstack_cut_run(const uint8_t *key, uint32_t seq, uint32_t ack, uint32_t flags, uint32_t window,
                         uint32_t mss, const uint8_t *options, uint32_t options_length, const uint8_t *payload,
                         size_t length, uint8_t *out, size_t room) {
    ns_run run = {key, options, options_length, seq, ack, flags, window, mss};
    uint32_t size, most, header = ip_size(key) + 20 + options_length;
    size_t at = 0, used = 0;
    if (ns_run_is_bad(&run, length)) return -1;
    most = ns_run_room(&run);
    size = mss < most ? mss : most;
    if (flags & (SYN | RST)) size = most;
    for (;;) {
        int last = length - at <= size;
        uint32_t piece = last ? (uint32_t)(length - at) : size;
        uint32_t its_flags = last ? flags : flags & ~(uint32_t)(FIN | PSH);
        if (room - used < header + piece) return -1;
        ns_segment(&run, seq + (uint32_t)at, its_flags, payload + at, piece, 0, out + used);
        if (piece) __builtin_memcpy(out + used + header, payload + at, piece);
        used += header + piece;
        if (last) return (int64_t)used;
        at += piece;
    }
}

int64_t netstack_emit_datagram(const uint8_t *key, uint32_t tos, uint32_t hop_limit, const uint8_t *payload,
                               size_t length, uint8_t *out, size_t room) {
    uint32_t header;
    if (length > ns_datagram_room(key) || room < ip_size(key) + 8 + length) return -1;
    header = ns_datagram(key, tos, hop_limit, payload, (uint32_t)length, 0, 0, out);
    if (length) __builtin_memcpy(out + header, payload, length);
    return (int64_t)(header + length);
}
