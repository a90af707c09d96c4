/* Packets to descriptors, contiguous TCP segments of a flow to one super-segment (large receive offload),
 * datagrams of a flow to one run.
 *
 * Responsible for: what may be merged (codec/pure.py `may_merge` is the same list), where payloads lie,
 * virtio-net headers. Refuses to know: flows beyond one batch; where packets come from.
 *
 * A flow's lane is its latest descriptor, and only that one may grow: segments of a flow never change
 * their order. A segment that arrives right behind its lane's payload is moved down over its own header;
 * one that does not stays where it is until ns_finish joins the lane in the arena's second half. What is
 * joined there came out of the first half, so it always fits.
 */
#include "internal.h"

enum { PSH = 0x08, ACK = 0x10 };
enum { NEEDS_CSUM = 1, DATA_VALID = 2, GSO_NONE = 0, GSO_TCP4 = 1, GSO_TCP6 = 4, GSO_UDP = 5, GSO_ECN = 0x80 };

int ns_start(ns_filling *f, netstack_batch *batch, int verify, int coalesce) {
    uint32_t size = 16;
    batch->count = batch->packets = 0;
    batch->octets = 0;
    if (batch->capacity < 1 || batch->capacity > NETSTACK_MAX_CAPACITY) return 0;
    while (size < 2 * batch->capacity) size *= 2;
    f->batch = batch;
    f->cursor = 0;
    f->half = batch->arena_size / 2;
    f->mask = size - 1;
    f->verify = verify;
    f->coalesce = coalesce;
    f->is_apart = 0;
    __builtin_memset(f->table, 0xff, size * sizeof f->table[0]);
    return 1;
}

int ns_has_room(const ns_filling *f, uint32_t size) {
    const netstack_batch *b = f->batch;
    return b->packets < b->capacity && b->count < b->capacity && size <= f->half - f->cursor;
}

static int may_merge(const netstack_descriptor *lane, const netstack_descriptor *new) {
    uint32_t advance = new->ack - lane->ack;
    if (((lane->flags | new->flags) & ~PSH) != ACK || !(lane->flags & new->flags & ACK)) return 0;
    if (lane->options_length || new->options_length || lane->bits != new->bits) return 0;
    if (lane->tos != new->tos || lane->hop_limit != new->hop_limit) return 0;
    if (lane->seq + lane->payload_length != new->seq || lane->nsegs + new->nsegs > 0xffff) return 0;
    if (advance + lane->ack_advance > 0xffff || advance > 0xffff || new->ts_val - lane->ts_val >= 0x80000000u) return 0;
    if (lane->payload_length) return new->payload_length > 0;
    return !new->payload_length && advance > 0;
}

static uint32_t datagram_size(const netstack_descriptor *d) { return d->nsegs > 1 ? d->seq : d->payload_length; }

static void begin_run(netstack_descriptor *d, uint32_t size) {
    if (d->nsegs > 1) return;
    d->seq = size;
    d->window = (uint16_t)(d->payload_at - d->packet_at);
}

/* A run's datagrams have one size; only the last may be shorter, so that the run's length says all. An empty one
 * stays alone: nothing would show that it was there. */
static int may_join(const netstack_descriptor *run, const netstack_descriptor *new) {
    uint32_t size = datagram_size(run);
    if (!run->payload_length || !new->payload_length) return 0;
    if (run->tos != new->tos || run->hop_limit != new->hop_limit) return 0;
    if (run->nsegs + new->nsegs > NETSTACK_MAX_DATAGRAMS || run->payload_length != run->nsegs * size) return 0;
    return new->nsegs > 1 ? new->seq == size : new->payload_length <= size;
}

static int is_same_flow(const uint8_t *a, const uint8_t *b) {
    uint64_t differs = (ns_load64(a) ^ ns_load64(b)) | (ns_load64(a + 8) ^ ns_load64(b + 8)) |
                       (ns_load64(a + 16) ^ ns_load64(b + 16)) | (ns_load64(a + 24) ^ ns_load64(b + 24)) |
                       (ns_load64(a + 30) ^ ns_load64(b + 30));
    return differs == 0;
}

/* Where the table holds this flow's lane, or where it would. Hostile ports can make every flow of a batch
 * collide; that costs one batch a walk over its own descriptors, no more. */
static uint16_t *lane_of(ns_filling *f, const uint8_t *key) {
    uint32_t mixed = (ns_load32(key + 34) ^ ns_load32(key + 18) ^ ns_load32(key + 2)) * 0x9e3779b1u;
    for (uint32_t i = mixed >> 16;; i++) {
        uint16_t *place = &f->table[i & f->mask];
        if (*place == NS_NONE || is_same_flow(f->batch->descriptors[*place].key, key)) return place;
    }
}

/* Add the payload of `new`, which came in as packet `number` at `base`, to a lane. */
static void grow(ns_filling *f, uint32_t index, const netstack_descriptor *new, uint32_t number, uint32_t base) {
    netstack_descriptor *lane = &f->batch->descriptors[index];
    if (f->first[index] == NS_NONE && lane->payload_at + lane->payload_length == base) {
        __builtin_memmove(f->batch->arena + base, f->batch->arena + new->payload_at, new->payload_length);
        f->cursor = base + new->payload_length;
    } else {
        if (f->first[index] == NS_NONE) f->first[index] = (uint16_t)number;
        else f->next[f->last[index]] = (uint16_t)number;
        f->last[index] = (uint16_t)number;
        f->next[number] = NS_NONE;
        f->piece_at[number] = new->payload_at;
        f->piece_length[number] = new->payload_length;
        f->is_apart = 1;
    }
    lane->payload_length += new->payload_length;
}

/* The packet in the next free descriptor is complete; it came in at `base`. */
static void add(ns_filling *f, uint32_t base) {
    netstack_batch *b = f->batch;
    netstack_descriptor *new = &b->descriptors[b->count], *lane;
    uint16_t *place;
    f->first[b->count] = NS_NONE;
    if ((new->kind != NETSTACK_KIND_TCP && new->kind != NETSTACK_KIND_UDP) || !f->coalesce) {
        b->count++;
        return;
    }
    place = lane_of(f, new->key);
    if (*place != NS_NONE && new->kind == NETSTACK_KIND_UDP && may_join(&b->descriptors[*place], new)) {
        lane = &b->descriptors[*place];
        begin_run(lane, datagram_size(lane));
        grow(f, *place, new, b->packets - 1, base);
        lane->nsegs = (uint16_t)(lane->nsegs + new->nsegs);
        return;
    }
    if (*place == NS_NONE || new->kind == NETSTACK_KIND_UDP || !may_merge(&b->descriptors[*place], new)) {
        *place = (uint16_t)b->count++;
        return;
    }
    lane = &b->descriptors[*place];
    if (new->payload_length) grow(f, *place, new, b->packets - 1, base);
    else f->cursor = base; /* nothing of a pure ACK has to stay */
    lane->flags |= new->flags;
    lane->nsegs = (uint16_t)(lane->nsegs + new->nsegs);
    lane->window = new->window;
    lane->ack_advance = (uint16_t)(lane->ack_advance + (new->ack - lane->ack));
    lane->ack = new->ack;
    lane->ts_val = new->ts_val;
    lane->ts_ecr = new->ts_ecr;
}

void ns_take(ns_filling *f, uint32_t at, uint32_t size) {
    netstack_batch *b = f->batch;
    b->packets++;
    b->octets += size;
    f->cursor = at + size;
    netstack_parse(b->arena, at, size, f->verify, 0, &b->descriptors[b->count]);
    add(f, at);
}

/* linux/virtio_net.h: what a header may not say. */
static void refuse_gso(ns_filling *f, uint32_t at, uint32_t size) {
    netstack_descriptor *d = &f->batch->descriptors[f->batch->count];
    __builtin_memset(d, 0, sizeof *d);
    d->kind = NETSTACK_KIND_BAD;
    d->nsegs = 1;
    d->reason = NETSTACK_DROP_BAD_GSO;
    d->packet_at = at;
    d->packet_length = size;
    f->first[f->batch->count++] = NS_NONE;
}

void ns_take_vnet(ns_filling *f, uint32_t base, uint32_t size) {
    netstack_batch *b = f->batch;
    netstack_descriptor *d = &b->descriptors[b->count];
    const uint8_t *virtio = b->arena + base;
    uint32_t at = base + NS_VNET_HEADER, gso_type, gso_size, count = 0;
    f->cursor = base + size;
    b->packets++;
    if (size < NS_VNET_HEADER) {
        b->octets += size;
        refuse_gso(f, base, size);
        return;
    }
    size -= NS_VNET_HEADER;
    b->octets += size;
    gso_type = virtio[1] & ~(uint32_t)GSO_ECN;
    gso_size = ns_load16(virtio + 4);
    netstack_parse(b->arena, at, size, f->verify, gso_type != GSO_NONE || (virtio[0] & (NEEDS_CSUM | DATA_VALID)), d);
    if (gso_type == GSO_NONE || d->kind == NETSTACK_KIND_BAD) {
        add(f, base);
        return;
    }
    if (gso_size) count = d->payload_length ? (d->payload_length + gso_size - 1) / gso_size : 1;
    if (count && d->kind == NETSTACK_KIND_TCP && gso_type == (d->key[0] == 4 ? GSO_TCP4 : GSO_TCP6)) {
        d->nsegs = (uint16_t)count;
        add(f, base);
    } else if (count && count <= NETSTACK_MAX_DATAGRAMS && d->kind == NETSTACK_KIND_UDP && gso_type == GSO_UDP) {
        if (count > 1) begin_run(d, gso_size);
        d->nsegs = (uint16_t)count;
        add(f, base);
    } else {
        refuse_gso(f, at, size);
    }
}

uint32_t ns_finish(ns_filling *f) {
    netstack_batch *b = f->batch;
    uint32_t to = f->half;
    if (!f->is_apart) return b->packets;
    for (uint32_t i = 0; i < b->count; i++) {
        netstack_descriptor *lane = &b->descriptors[i];
        uint32_t start = to, here = lane->payload_length;
        if (f->first[i] == NS_NONE) continue;
        for (uint32_t p = f->first[i]; p != NS_NONE; p = f->next[p]) here -= f->piece_length[p];
        __builtin_memcpy(b->arena + to, b->arena + lane->payload_at, here);
        to += here;
        for (uint32_t p = f->first[i]; p != NS_NONE; p = f->next[p]) {
            __builtin_memcpy(b->arena + to, b->arena + f->piece_at[p], f->piece_length[p]);
            to += f->piece_length[p];
        }
        lane->payload_at = start;
    }
    return b->packets;
}

uint32_t netstack_parse_batch(netstack_batch *batch, const uint8_t *packets, const uint32_t *lengths,
                              uint32_t count, int verify, int coalesce) {
    ns_filling f;
    if (!ns_start(&f, batch, verify, coalesce)) return 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t size = lengths[i];
        if (!ns_has_room(&f, size)) {
            if (batch->packets) break;
            size = f.half;
        }
        __builtin_memcpy(batch->arena + f.cursor, packets, size);
        packets += lengths[i];
        ns_take(&f, f.cursor, size);
    }
    return ns_finish(&f);
}

uint32_t netstack_layout_version(void) { return NETSTACK_LAYOUT_VERSION; }
uint32_t netstack_descriptor_size(void) { return sizeof(netstack_descriptor); }

void netstack_number_fields(netstack_descriptor *d) {
    __builtin_memset(d, 0, sizeof *d);
    d->kind = 1, d->bits = 2, d->flags = 3, d->tos = 4, d->nsegs = 5, d->reason = 6, d->hop_limit = 7;
    d->key[0] = d->key[37] = 8, d->window = 9, d->seq = 10, d->ack = 11, d->ts_val = 12, d->ts_ecr = 13;
    d->packet_at = 14, d->packet_length = 15, d->payload_at = 16, d->payload_length = 17;
    d->options_at = 18, d->options_length = 19, d->ack_advance = 20;
}
