/* What the C files share: octet order, the checksum, and a batch while it is being filled. */
#ifndef NETSTACK_INTERNAL_H
#define NETSTACK_INTERNAL_H

#include "../include/netstack.h"

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NS_HTON16(x) __builtin_bswap16(x)
#define NS_HTON32(x) __builtin_bswap32(x)
#else
#define NS_HTON16(x) ((uint16_t)(x))
#define NS_HTON32(x) ((uint32_t)(x))
#endif

/* Offsets in a packet have any alignment; a fixed-size memcpy is one load or store. */
static inline uint16_t ns_load16(const uint8_t *p) {
    uint16_t x;
    __builtin_memcpy(&x, p, 2);
    return x;
}
static inline uint32_t ns_load32(const uint8_t *p) {
    uint32_t x;
    __builtin_memcpy(&x, p, 4);
    return x;
}
static inline uint64_t ns_load64(const uint8_t *p) {
    uint64_t x;
    __builtin_memcpy(&x, p, 8);
    return x;
}
static inline uint32_t ns_be16(const uint8_t *p) { return NS_HTON16(ns_load16(p)); }
static inline uint32_t ns_be32(const uint8_t *p) { return NS_HTON32(ns_load32(p)); }
static inline void ns_put16(uint8_t *p, uint32_t value) {
    uint16_t x = NS_HTON16((uint16_t)value);
    __builtin_memcpy(p, &x, 2);
}
static inline void ns_put32(uint8_t *p, uint32_t value) {
    uint32_t x = NS_HTON32(value);
    __builtin_memcpy(p, &x, 4);
}

/* checksum.c: sums are of 16-bit words as they lie in memory, so no octet is ever swapped. */
uint64_t ns_sum(const uint8_t *octets, size_t length);
static inline uint32_t ns_fold(uint64_t sum) {
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffu) + (sum >> 16);
    sum = (sum & 0xffffu) + (sum >> 16);
    return (uint32_t)((sum & 0xffffu) + (sum >> 16));
}
uint64_t ns_pseudo(const uint8_t *addresses, uint32_t both, uint32_t protocol, uint32_t length);

/* core/packet.py SegmentRun without its payload. */
typedef struct {
    const uint8_t *key;
    const uint8_t *options;
    uint32_t options_length;
    uint32_t seq, ack, flags, window, mss;
} ns_run;

/* segment.c: the headers of one packet; `vnet` leaves the pseudo-header's sum in place of the checksum.
 * `gso_size` other than 0: datagrams of this size in one packet (with `vnet` only). */
enum { NS_MAX_HEADER = 40 + 60, NS_VNET_HEADER = 10, NS_MAX_PACKET = 65535 };
uint32_t ns_run_room(const ns_run *run);
int ns_run_is_bad(const ns_run *run, size_t length);
uint32_t ns_segment(const ns_run *run, uint32_t seq, uint32_t flags, const uint8_t *payload,
                    uint32_t length, int vnet, uint8_t *out);
uint32_t ns_datagram(const uint8_t *key, uint32_t tos, uint32_t hop_limit, const uint8_t *payload,
                     uint32_t length, uint32_t gso_size, int vnet, uint8_t *out);
uint32_t ns_datagram_room(const uint8_t *key);

/* coalesce.c: a batch while it is being filled. Lanes are found by a table of descriptor numbers; pieces of
 * payload that do not lie side by side are chained by packet number and joined at the end. */
enum { NS_TABLE = 2 * NETSTACK_MAX_CAPACITY, NS_NONE = 0xffff };
typedef struct {
    netstack_batch *batch;
    uint32_t cursor, half, mask;
    int verify, coalesce, is_apart;
    uint16_t table[NS_TABLE];
    uint16_t first[NETSTACK_MAX_CAPACITY], last[NETSTACK_MAX_CAPACITY], next[NETSTACK_MAX_CAPACITY];
    uint32_t piece_at[NETSTACK_MAX_CAPACITY], piece_length[NETSTACK_MAX_CAPACITY];
} ns_filling;

int ns_start(ns_filling *f, netstack_batch *batch, int verify, int coalesce);
int ns_has_room(const ns_filling *f, uint32_t size);
void ns_take(ns_filling *f, uint32_t at, uint32_t size);
void ns_take_vnet(ns_filling *f, uint32_t at, uint32_t size);
uint32_t ns_finish(ns_filling *f);

/* datagrams.c: one message more of those that a socket gave. */
uint32_t ns_receive_one(uint8_t *arena, netstack_received *records, uint32_t used, const uint8_t *sender,
                        uint32_t at, uint32_t length, uint32_t joined);

#endif
