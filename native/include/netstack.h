/* The native codec's interface: what codec/native.py sees of it.
 *
 * Everything between the two cdef marks is also cffi's declaration of it (build_native.py), so there is
 * nothing there but plain C declarations. The caller owns all memory; no function keeps a pointer.
 */
#ifndef NETSTACK_H
#define NETSTACK_H

#include <stddef.h>
#include <stdint.h>

/* cdef begin */

/* Of the descriptor and of every signature below; netstack/codec/base.py holds the same number. */
#define NETSTACK_LAYOUT_VERSION 3

#define NETSTACK_KIND_TCP 1
#define NETSTACK_KIND_UDP 2
#define NETSTACK_KIND_ICMP 3
#define NETSTACK_KIND_FRAGMENT 4
#define NETSTACK_KIND_OTHER 5
#define NETSTACK_KIND_BAD 6
#define NETSTACK_HAS_TS 1

/* core/drops.py, 1..31 */
#define NETSTACK_DROP_EMPTY 1
#define NETSTACK_DROP_BAD_VERSION 2
#define NETSTACK_DROP_TRUNCATED_IP 3
#define NETSTACK_DROP_BAD_IP_HEADER 4
#define NETSTACK_DROP_BAD_IP_CHECKSUM 5
#define NETSTACK_DROP_TRUNCATED_TRANSPORT 6
#define NETSTACK_DROP_BAD_TRANSPORT_HEADER 7
#define NETSTACK_DROP_BAD_TCP_CHECKSUM 8
#define NETSTACK_DROP_BAD_UDP_CHECKSUM 9
#define NETSTACK_DROP_ZERO_UDP_CHECKSUM_V6 10
#define NETSTACK_DROP_BAD_ICMP_CHECKSUM 11
#define NETSTACK_DROP_BAD_TCP_OPTION 12
#define NETSTACK_DROP_BAD_EXTENSION_HEADER 13
#define NETSTACK_DROP_BAD_ADDRESS 14
#define NETSTACK_DROP_BAD_FRAGMENT 15
#define NETSTACK_DROP_BAD_GSO 16
#define NETSTACK_DROP_NO_NEXT_HEADER 17
#define NETSTACK_DROP_ROUTING_HEADER 18

#define NETSTACK_MAX_CAPACITY 1024 /* packets of one batch */
#define NETSTACK_MAX_DATAGRAMS 128 /* datagrams of one run */
#define NETSTACK_MAX_SEGMENTS 64 /* datagrams of one GSO packet that is sent; what every kernel takes */
#define NETSTACK_MAX_SLOTS 64 /* datagrams of one receive call */

/* codec/base.py DESCRIPTOR, field by field; 88 octets, offsets are into the arena.
 * UDP with nsegs over 1: datagrams of `seq` octets each, the last may be shorter, the payload holds them all one
 * behind the other; `window` octets of headers begin the first one's packet. */
typedef struct {
    uint8_t kind, bits, flags, tos;
    uint16_t nsegs;
    uint8_t reason, hop_limit;
    uint8_t key[38];
    uint16_t window;
    uint32_t seq, ack, ts_val, ts_ecr;
    uint32_t packet_at, packet_length;
    uint32_t payload_at, payload_length;
    uint32_t options_at;
    uint16_t options_length, ack_advance;
} netstack_descriptor;

/* codec/base.py PacketBatch; `descriptors` has `capacity` records. */
typedef struct {
    uint8_t *arena;
    uint32_t arena_size;
    uint32_t slot;
    netstack_descriptor *descriptors;
    uint32_t capacity;
    uint32_t count;
    uint32_t packets;
    uint64_t octets;
} netstack_batch;

uint32_t netstack_layout_version(void);
uint32_t netstack_descriptor_size(void);
/* Numbers the fields 1, 2, 3...: Python unpacks the record and sees whether both mean the same layout. */
void netstack_number_fields(netstack_descriptor *descriptor);

/* One packet; fills *out. `verify`: check checksums; `trusted`: but not the transport's. */
void netstack_parse(const uint8_t *arena, uint32_t at, uint32_t size, int verify, int trusted,
                    netstack_descriptor *out);

/* Packets one behind the other in `packets`, their lengths in `lengths`; returns how many were taken. */
uint32_t netstack_parse_batch(netstack_batch *batch, const uint8_t *packets, const uint32_t *lengths,
                              uint32_t count, int verify, int coalesce);

/* Packets read(2) from a TUN until it has no more; their number, or -errno when the first read failed. */
int64_t netstack_read_batch(int fd, netstack_batch *batch, int vnet);

/* The packets of a run into `out`, one behind the other; octets written, or -1 when they do not fit. */
int64_t netstack_cut_run(const uint8_t *key, uint32_t seq, uint32_t ack, uint32_t flags, uint32_t window,
                         uint32_t mss, const uint8_t *options, uint32_t options_length, const uint8_t *payload,
                         size_t length, uint8_t *out, size_t room);
/* Written to a TUN; payload octets that went, or -errno when nothing did. */
int64_t netstack_write_run(int fd, const uint8_t *key, uint32_t seq, uint32_t ack, uint32_t flags,
                           uint32_t window, uint32_t mss, const uint8_t *options, uint32_t options_length,
                           const uint8_t *payload, size_t length, int vnet);

/* A whole, unfragmented UDP packet into `out`; octets written, or -1 when it does not fit. */
int64_t netstack_emit_datagram(const uint8_t *key, uint32_t tos, uint32_t hop_limit, const uint8_t *payload,
                               size_t length, uint8_t *out, size_t room);
/* Written to a TUN; 0, or -errno. */
int64_t netstack_write_datagram(int fd, const uint8_t *key, uint32_t tos, uint32_t hop_limit,
                                const uint8_t *payload, size_t length, int vnet);
/* A run of datagrams of `size` octets, the last may be shorter; how many went, or -errno when none did.
 * `uso`: the device takes GSO packets (virtio_net.h, UDP_L4). */
int64_t netstack_write_datagrams(int fd, const uint8_t *key, uint32_t tos, uint32_t hop_limit,
                                 const uint8_t *payload, size_t length, uint32_t size, int vnet, int uso);
/* A whole IP packet as it is; 0, or -errno. */
int64_t netstack_write_packet(int fd, const uint8_t *packet, size_t length, int vnet);

/* upstream/bursts.py RECORD: datagrams of one sender, one behind the other; `at` is into the arena. */
typedef struct {
    uint8_t sender[18]; /* address (IPv4 in the first four octets), port */
    uint16_t count;
    uint32_t size, at, length;
} netstack_received;

/* What waits in a UDP socket, at most one datagram (or one GRO packet) for each of the arena's `slots` of `slot`
 * octets; records of runs as above, or -errno. *used: how many slots were. */
int64_t netstack_receive_datagrams(int fd, uint8_t *arena, uint32_t slot, uint32_t slots,
                                   netstack_received *records, uint32_t *used);
/* A run of datagrams to one place (`destination` as a sender above); how many went, or -errno when none did.
 * `gso`: the socket knows UDP_SEGMENT. */
int64_t netstack_send_datagrams(int fd, int version, const uint8_t *destination, const uint8_t *payload,
                                size_t length, uint32_t size, int gso);

/* cdef end */
#endif
