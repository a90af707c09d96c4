/* One IP packet to one descriptor.
 *
 * Responsible for: every check of IPv4, IPv6 with extension headers, TCP, UDP and ICMP headers, in the
 * order that codec/pure.py has them. Refuses to know: other packets; flows.
 * RFCs: 791, 1122, 8200, 6946, 5095, 4302, 9293, 7323, 768, 792, 4443.
 */
#include "internal.h"

enum { HOP_BY_HOP = 0, ICMP = 1, TCP = 6, UDP = 17, ROUTING = 43, FRAGMENT = 44, AUTHENTICATION = 51,
       ICMPV6 = 58, NO_NEXT_HEADER = 59, DESTINATION = 60, MAX_EXTENSIONS = 8 };

static void clear(netstack_descriptor *out, uint32_t kind, uint32_t at, uint32_t length) {
    __builtin_memset(out, 0, sizeof *out);
    out->kind = (uint8_t)kind;
    out->nsegs = 1;
    out->packet_at = at;
    out->packet_length = length;
}

static void bad(netstack_descriptor *out, uint32_t reason, uint32_t at, uint32_t size) {
    clear(out, NETSTACK_KIND_BAD, at, size);
    out->reason = (uint8_t)reason;
}

/* RFC 791 3.1: lengths stay inside the header; the options themselves are skipped. */
static int are_ip_options_legal(const uint8_t *o, uint32_t end) {
    for (uint32_t at = 0; at < end;) {
        if (o[at] == 0) return 1;
        if (o[at] == 1) {
            at++;
            continue;
        }
        if (at + 1 >= end || o[at + 1] < 2 || at + o[at + 1] > end) return 0;
        at += o[at + 1];
    }
    return 1;
}

/* RFC 8200 4.2: none of the options that demand something is known, so action bits mean discard. */
static int are_v6_options_legal(const uint8_t *o, uint32_t end) {
    for (uint32_t at = 0; at < end;) {
        if (o[at] == 0) {
            at++;
            continue;
        }
        if (at + 2 > end || at + 2 + o[at + 1] > end || (o[at] & 0xc0)) return 0;
        at += 2u + o[at + 1];
    }
    return 1;
}

/* Follow the chain of extension headers from *at; 0 or the drop reason. */
static uint32_t walk(const uint8_t *packet, uint32_t *kind, uint32_t *at, uint32_t end, int *is_fragment) {
    uint32_t first = *at;
    *is_fragment = 0;
    for (int i = 0; i <= MAX_EXTENSIONS; i++) {
        const uint8_t *h = packet + *at;
        uint32_t size;
        switch (*kind) {
        case HOP_BY_HOP: case ROUTING: case FRAGMENT: case AUTHENTICATION: case DESTINATION: break;
        case NO_NEXT_HEADER: return NETSTACK_DROP_NO_NEXT_HEADER;
        default: return 0;
        }
        if (*at + 8 > end || (*kind == HOP_BY_HOP && *at != first)) break;
        size = (h[1] + 1u) * 8;
        if (*kind == FRAGMENT) {
            uint32_t where = ns_be16(h + 2), length = end - *at - 8;
            size = 8;
            if (where & 0xfff9) {
                if (!length || ((where & 1) && (length & 7)) ||
                    *at - 40 + (where & 0xfff8) + length > NS_MAX_PACKET)
                    return NETSTACK_DROP_BAD_FRAGMENT;
                *is_fragment = 1;
                return 0;
            }
        } else if (*kind == AUTHENTICATION) {
            size = (h[1] + 2u) * 4;
        }
        if (*at + size > end) break;
        if (*kind == ROUTING) {
            if (h[3]) return NETSTACK_DROP_ROUTING_HEADER;
        } else if ((*kind == HOP_BY_HOP || *kind == DESTINATION) && !are_v6_options_legal(h + 2, size - 2)) {
            break;
        }
        *kind = h[0];
        *at += size;
    }
    return NETSTACK_DROP_BAD_EXTENSION_HEADER;
}

/* 0 when an option length is illegal (RFC 9293 MUST-7). */
static int scan_tcp_options(const uint8_t *o, uint32_t end, uint32_t base, netstack_descriptor *out) {
    int more = 0;
    for (uint32_t at = 0; at < end;) {
        uint32_t size;
        if (o[at] == 0) break;
        if (o[at] == 1) {
            at++;
            continue;
        }
        if (at + 1 >= end || o[at + 1] < 2 || at + o[at + 1] > end) return 0;
        size = o[at + 1];
        if (o[at] == 8 && size == 10) {
            out->bits = NETSTACK_HAS_TS;
            out->ts_val = ns_be32(o + at + 2);
            out->ts_ecr = ns_be32(o + at + 6);
        } else {
            more = 1;
        }
        at += size;
    }
    if (more) {
        out->options_at = base;
        out->options_length = (uint16_t)end;
    }
    return 1;
}

/* What the IP header said, for the transport's sake. */
typedef struct {
    const uint8_t *arena;
    uint32_t at, size, length, start, version, protocol, tos, hop_limit;
    const uint8_t *addresses; /* source and destination, one behind the other */
    int verify;
} ip_packet;

static int is_sum_wrong(const ip_packet *ip, uint32_t length) {
    uint32_t both = ip->version == 4 ? 8 : 32;
    uint64_t pseudo = ns_pseudo(ip->addresses, both, ip->protocol, length);
    return ns_fold(pseudo + ns_sum(ip->arena + ip->start, length)) != 0xffff;
}

static void describe(const ip_packet *ip, uint32_t kind, uint32_t sport, uint32_t dport, uint32_t payload,
                     uint32_t payload_length, netstack_descriptor *out) {
    clear(out, kind, ip->at, ip->length);
    out->tos = (uint8_t)ip->tos;
    out->hop_limit = (uint8_t)ip->hop_limit;
    out->key[0] = (uint8_t)ip->version;
    out->key[1] = (uint8_t)ip->protocol;
    if (ip->version == 4) {
        __builtin_memcpy(out->key + 2, ip->addresses, 4);
        __builtin_memcpy(out->key + 18, ip->addresses + 4, 4);
    } else {
        __builtin_memcpy(out->key + 2, ip->addresses, 32);
    }
    ns_put16(out->key + 34, sport);
    ns_put16(out->key + 36, dport);
    out->payload_at = payload;
    out->payload_length = payload_length;
}

static void parse_tcp(const ip_packet *ip, netstack_descriptor *out) {
    const uint8_t *t = ip->arena + ip->start;
    uint32_t length = ip->at + ip->length - ip->start, header;
    if (length < 20) {
        bad(out, NETSTACK_DROP_TRUNCATED_TRANSPORT, ip->at, ip->size);
        return;
    }
    header = (t[12] >> 4) * 4u;
    if (header < 20 || header > length) {
        bad(out, NETSTACK_DROP_BAD_TRANSPORT_HEADER, ip->at, ip->size);
        return;
    }
    if (ip->verify && is_sum_wrong(ip, length)) {
        bad(out, NETSTACK_DROP_BAD_TCP_CHECKSUM, ip->at, ip->size);
        return;
    }
    describe(ip, NETSTACK_KIND_TCP, ns_be16(t), ns_be16(t + 2), ip->start + header, length - header, out);
    out->flags = t[13];
    out->window = (uint16_t)ns_be16(t + 14);
    out->seq = ns_be32(t + 4);
    out->ack = ns_be32(t + 8);
    if (header > 20 && !scan_tcp_options(t + 20, header - 20, ip->start + 20, out))
        bad(out, NETSTACK_DROP_BAD_TCP_OPTION, ip->at, ip->size);
}

static void parse_udp(const ip_packet *ip, netstack_descriptor *out) {
    const uint8_t *u = ip->arena + ip->start;
    uint32_t length = ip->at + ip->length - ip->start, own;
    if (length < 8) {
        bad(out, NETSTACK_DROP_TRUNCATED_TRANSPORT, ip->at, ip->size);
        return;
    }
    own = ns_be16(u + 4);
    if (own < 8 || own > length) {
        bad(out, NETSTACK_DROP_BAD_TRANSPORT_HEADER, ip->at, ip->size);
        return;
    }
    if (ip->verify) {
        uint32_t reason = 0;
        if (ns_load16(u + 6) == 0)
            reason = ip->version == 6 ? NETSTACK_DROP_ZERO_UDP_CHECKSUM_V6 : 0;
        else if (is_sum_wrong(ip, own))
            reason = NETSTACK_DROP_BAD_UDP_CHECKSUM;
        if (reason) {
            bad(out, reason, ip->at, ip->size);
            return;
        }
    }
    describe(ip, NETSTACK_KIND_UDP, ns_be16(u), ns_be16(u + 2), ip->start + 8, own - 8, out);
}

static void parse_icmp(const ip_packet *ip, netstack_descriptor *out) {
    const uint8_t *m = ip->arena + ip->start;
    uint32_t length = ip->at + ip->length - ip->start;
    int is_echo;
    if (length < 8) {
        bad(out, NETSTACK_DROP_TRUNCATED_TRANSPORT, ip->at, ip->size);
        return;
    }
    if (ip->verify && (ip->version == 4 ? ns_fold(ns_sum(m, length)) != 0xffff : is_sum_wrong(ip, length))) {
        bad(out, NETSTACK_DROP_BAD_ICMP_CHECKSUM, ip->at, ip->size);
        return;
    }
    is_echo = ip->version == 4 ? m[0] == 0 || m[0] == 8 : m[0] == 128 || m[0] == 129;
    describe(ip, NETSTACK_KIND_ICMP, is_echo ? ns_be16(m + 4) : 0, 0, ip->start + 8, length - 8, out);
    out->flags = m[0];
    out->reason = m[1];
    out->seq = ns_be32(m + 4);
}

static void parse_transport(const ip_packet *ip, netstack_descriptor *out) {
    if (ip->protocol == TCP) {
        parse_tcp(ip, out);
    } else if (ip->protocol == UDP) {
        parse_udp(ip, out);
    } else if (ip->protocol == (ip->version == 4 ? ICMP : ICMPV6)) {
        parse_icmp(ip, out);
    } else {
        describe(ip, NETSTACK_KIND_OTHER, 0, 0, ip->start, ip->at + ip->length - ip->start, out);
        out->reason = (uint8_t)ip->protocol;
    }
}

/* A source that no host has: unspecified, multicast, broadcast (RFC 1122 3.2.1.3). */
static int is_bad_source4(const uint8_t *source) {
    uint32_t address = ns_load32(source);
    return (source[0] & 0xf0) == 0xe0 || address == 0 || address == 0xffffffffu;
}

static void parse4(ip_packet *ip, int trusted, netstack_descriptor *out) {
    const uint8_t *p = ip->arena + ip->at;
    uint32_t header, where, size = ip->size, reason = 0;
    if (size < 20) {
        bad(out, NETSTACK_DROP_TRUNCATED_IP, ip->at, size);
        return;
    }
    header = (p[0] & 15) * 4u;
    ip->length = ns_be16(p + 2);
    if (header < 20 || ip->length < header) reason = NETSTACK_DROP_BAD_IP_HEADER;
    else if (ip->length > size) reason = NETSTACK_DROP_TRUNCATED_IP;
    else if (ip->verify && ns_fold(ns_sum(p, header)) != 0xffff) reason = NETSTACK_DROP_BAD_IP_CHECKSUM;
    else if (header > 20 && !are_ip_options_legal(p + 20, header - 20)) reason = NETSTACK_DROP_BAD_IP_HEADER;
    else if (is_bad_source4(p + 12)) reason = NETSTACK_DROP_BAD_ADDRESS;
    if (reason) {
        bad(out, reason, ip->at, size);
        return;
    }
    where = ns_be16(p + 6);
    if (where & 0x3fff) {
        uint32_t payload = ip->length - header;
        if (!payload || ((where & 0x2000) && (payload & 7)) ||
            header + (where & 0x1fff) * 8 + payload > NS_MAX_PACKET)
            bad(out, NETSTACK_DROP_BAD_FRAGMENT, ip->at, size);
        else
            clear(out, NETSTACK_KIND_FRAGMENT, ip->at, ip->length);
        return;
    }
    ip->start = ip->at + header;
    ip->protocol = p[9];
    ip->tos = p[1];
    ip->hop_limit = p[8];
    ip->addresses = p + 12;
    ip->verify = ip->verify && !trusted;
    parse_transport(ip, out);
}

static void parse6(ip_packet *ip, int trusted, netstack_descriptor *out) {
    const uint8_t *p = ip->arena + ip->at;
    uint32_t size = ip->size, reason, start = 40;
    int is_fragment;
    if (size < 40) {
        bad(out, NETSTACK_DROP_TRUNCATED_IP, ip->at, size);
        return;
    }
    ip->length = ns_be16(p + 4) + 40;
    if (ip->length > size) {
        bad(out, NETSTACK_DROP_TRUNCATED_IP, ip->at, size);
        return;
    }
    if (p[8] == 0xff || (ns_load64(p + 8) | ns_load64(p + 16)) == 0) {
        bad(out, NETSTACK_DROP_BAD_ADDRESS, ip->at, size);
        return;
    }
    ip->protocol = p[6];
    reason = walk(p, &ip->protocol, &start, ip->length, &is_fragment);
    if (reason) {
        bad(out, reason, ip->at, size);
        return;
    }
    if (is_fragment) {
        clear(out, NETSTACK_KIND_FRAGMENT, ip->at, ip->length);
        return;
    }
    ip->start = ip->at + start;
    ip->tos = (ns_be16(p) >> 4) & 0xff;
    ip->hop_limit = p[7];
    ip->addresses = p + 8;
    ip->verify = ip->verify && !trusted;
    parse_transport(ip, out);
}

void netstack_parse(const uint8_t *arena, uint32_t at, uint32_t size, int verify, int trusted,
                    netstack_descriptor *out) {
    ip_packet ip = {.arena = arena, .at = at, .size = size, .verify = verify};
    if (!size) {
        bad(out, NETSTACK_DROP_EMPTY, at, 0);
        return;
    }
    ip.version = arena[at] >> 4;
    if (ip.version == 4) parse4(&ip, trusted, out);
    else if (ip.version == 6) parse6(&ip, trusted, out);
    else bad(out, NETSTACK_DROP_BAD_VERSION, at, size);
}
