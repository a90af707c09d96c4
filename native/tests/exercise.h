/* One hostile input through every function that reads octets; shared by tests/driver.c and fuzz/fuzz_codec.c.
 *
 * Memory is allocated to the octet, so that a sanitizer sees the first octet too far. What comes out is
 * checked as well: offsets inside the arena, counts that add up. A violation aborts.
 */
#ifndef NETSTACK_EXERCISE_H
#define NETSTACK_EXERCISE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/internal.h"

#define MUST(condition)                                                              \
    do {                                                                             \
        if (!(condition)) {                                                          \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);  \
            abort();                                                                 \
        }                                                                            \
    } while (0)

static uint8_t *copy_of(const uint8_t *octets, size_t length) {
    uint8_t *exact = malloc(length ? length : 1);
    if (length) memcpy(exact, octets, length);
    return exact;
}

static void check_batch(const netstack_batch *b) {
    uint32_t segments = 0, others = 0;
    MUST(b->packets <= b->capacity && b->count <= b->capacity);
    for (uint32_t i = 0; i < b->count; i++) {
        const netstack_descriptor *d = &b->descriptors[i];
        MUST(d->kind >= NETSTACK_KIND_TCP && d->kind <= NETSTACK_KIND_BAD);
        MUST((uint64_t)d->packet_at + d->packet_length <= b->arena_size);
        MUST((uint64_t)d->payload_at + d->payload_length <= b->arena_size);
        MUST((uint64_t)d->options_at + d->options_length <= b->arena_size && d->options_length <= 40);
        MUST(d->nsegs >= 1 && (d->nsegs > 1 || d->ack_advance == 0));
        MUST((d->kind == NETSTACK_KIND_BAD) == (d->reason != 0 && d->key[0] == 0));
        if (d->kind == NETSTACK_KIND_TCP || d->kind == NETSTACK_KIND_UDP) segments += d->nsegs;
        if (d->kind == NETSTACK_KIND_UDP && d->nsegs > 1) {
            MUST(d->nsegs <= NETSTACK_MAX_DATAGRAMS && d->window >= 28 && d->window <= d->packet_length);
            MUST(d->payload_length > (d->nsegs - 1u) * d->seq && d->payload_length <= d->nsegs * d->seq);
        }
        else others++;
        for (uint32_t n = 0; n < d->payload_length; n += 97) (void)*(volatile uint8_t *)(b->arena + d->payload_at + n);
    }
    MUST(others <= b->count && segments + others >= b->packets);
}

/* One packet alone, at the very end of its memory. */
static void exercise_packet(const uint8_t *packet, uint32_t length) {
    uint8_t *exact = copy_of(packet, length);
    netstack_descriptor out;
    for (int verify = 0; verify < 2; verify++) {
        netstack_parse(exact, 0, length, verify, 0, &out);
        MUST(out.packet_length <= length && out.payload_at + out.payload_length <= (length ? length : 1));
        MUST(out.options_at + out.options_length <= length + 1);
    }
    free(exact);
}

/* Packets as a batch: a switch octet, then (two octets of length, packet) again and again. */
static void exercise_batch(const uint8_t *data, size_t size) {
    static ns_filling filling;
    uint32_t lengths[96], count = 0;
    size_t used = 0;
    uint8_t *packets, switches;
    netstack_batch batch = {0};
    if (size < 2) return;
    switches = data[0];
    batch.capacity = 1 + data[1] % 80;
    data += 2, size -= 2;
    packets = malloc(size ? size : 1);
    while (size >= 2 && count < 96) {
        uint32_t length = ns_be16(data) & 0x0fff;
        data += 2, size -= 2;
        if (length > size) length = (uint32_t)size;
        memcpy(packets + used, data, length);
        lengths[count++] = length;
        used += length, data += length, size -= length;
    }
    batch.slot = switches & 8 ? 64 : 4096 + NS_VNET_HEADER;
    batch.arena_size = 2 * batch.slot * (switches & 16 ? 1 : 16) + (switches & 1);
    batch.arena = malloc(batch.arena_size);
    batch.descriptors = malloc(sizeof(netstack_descriptor) * batch.capacity);
    MUST(netstack_parse_batch(&batch, packets, lengths, count, switches & 1, switches & 2) == batch.packets);
    check_batch(&batch);
    MUST(ns_start(&filling, &batch, switches & 1, switches & 2));
    used = 0;
    for (uint32_t i = 0; i < count && ns_has_room(&filling, batch.slot); i++) {
        uint32_t length = lengths[i] < batch.slot ? lengths[i] : batch.slot;
        memcpy(batch.arena + filling.cursor, packets + used, length);
        used += lengths[i];
        ns_take_vnet(&filling, filling.cursor, length);
    }
    ns_finish(&filling);
    check_batch(&batch);
    free(batch.arena);
    free(batch.descriptors);
    free(packets);
}

/* The way down: octets as a run's fields and payload; what comes out has to parse. */
static void exercise_run(const uint8_t *data, size_t size) {
    uint8_t key[38], *payload, *options, *out;
    uint32_t mss, flags, options_length, header, at = 0;
    size_t room, count;
    int64_t cut;
    if (size < 48) return;
    memcpy(key, data, 38);
    key[0] = data[0] & 1 ? 4 : 6;
    key[1] = 6;
    flags = data[38];
    mss = ns_be16(data + 39);
    options_length = data[41] % 48;
    options = copy_of(data + 42, options_length < size - 42 ? options_length : 4);
    if (options_length >= size - 42) options_length = 4;
    data += 42, size -= 42;
    payload = copy_of(data, size);
    header = (key[0] == 4 ? 20 : 40) + 20 + options_length;
    count = mss ? size / mss + 1 : 1;
    room = size + count * header;
    out = malloc(room);
    cut = netstack_cut_run(key, ns_be32(data), 7, flags, 9, mss, options, options_length, payload, size, out, room);
    MUST(cut < 0 || (uint64_t)cut <= room);
    while (cut > 0 && at < (uint64_t)cut) {
        netstack_descriptor d;
        netstack_parse(out, at, (uint32_t)cut - at, 1, 0, &d);
        MUST(d.kind == NETSTACK_KIND_TCP || d.reason == NETSTACK_DROP_BAD_TCP_OPTION ||
             d.reason == NETSTACK_DROP_BAD_ADDRESS);
        if (d.kind != NETSTACK_KIND_TCP) break;
        at += d.packet_length;
    }
    MUST(netstack_cut_run(key, 1, 7, flags, 9, mss, options, options_length, payload, size, out, header - 1) < 0);
    key[1] = 17;
    if (netstack_emit_datagram(key, 0, 64, payload, size, out, room) > 0) {
        netstack_descriptor d;
        netstack_parse(out, 0, (uint32_t)room, 1, 0, &d);
        MUST(d.kind == NETSTACK_KIND_UDP || d.reason == NETSTACK_DROP_BAD_ADDRESS);
    }
    free(out);
    free(payload);
    free(options);
}

/* Messages as a socket gives them: one octet each for the sender, what the kernel joined, and the length. */
static void exercise_receive(const uint8_t *data, size_t size) {
    enum { SLOT = 512, SLOTS = NETSTACK_MAX_SLOTS };
    uint8_t *arena = malloc(SLOT * SLOTS), *expected = malloc(SLOT * SLOTS), sender[18] = {0};
    netstack_received *records = malloc(sizeof *records * SLOTS);
    uint32_t used = 0, slots = (uint32_t)(size / 4 < SLOTS ? size / 4 : SLOTS), length, total = 0, at = 0;
    for (uint32_t i = 0; i < slots; i++, data += 4) {
        sender[17] = data[0] & 1;
        length = (data[2] & 3 ? data[2] & 0xf0 : (uint32_t)data[2] * 2) + (data[3] & 1);
        for (uint32_t n = 0; n < length; n++) expected[total++] = arena[i * SLOT + n] = (uint8_t)(n + data[3]);
        used = ns_receive_one(arena, records, used, sender, i * SLOT, length, data[1] & 1 ? data[1] : 0);
    }
    MUST(used <= slots);
    for (uint32_t i = 0; i < used; i++) {
        const netstack_received *r = &records[i];
        MUST(r->count >= 1 && r->count <= SLOT && (uint64_t)r->at + r->length <= SLOT * SLOTS);
        MUST(r->length <= r->count * r->size && (!r->length || r->length > (r->count - 1u) * r->size));
        MUST(at + r->length <= total && !memcmp(arena + r->at, expected + at, r->length));
        at += r->length;
    }
    MUST(at == total);
    free(arena);
    free(expected);
    free(records);
}

static void exercise(const uint8_t *data, size_t size) {
    exercise_packet(data, (uint32_t)(size < 65536 ? size : 65536));
    exercise_batch(data, size);
    exercise_run(data, size);
    exercise_receive(data, size);
}

#endif
