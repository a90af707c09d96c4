/* Runs the C sources under sanitizers: ./driver SECONDS [CORPUS]
 *
 * CORPUS holds packets as (four octets of length, big-endian; octets). Each is parsed whole and cut at every
 * length; then random mixtures and mutations of them go through everything until the time is over.
 * The seed is fixed, so that a failure can be had again.
 */
#define _POSIX_C_SOURCE 199309L
#include <time.h>

#include "exercise.h"

enum { MOST = 65536 };
static uint8_t *packets[MOST];
static uint32_t lengths[MOST], known;
static uint64_t state = 0x6e6574737461636bu;

static uint32_t chance(uint32_t below) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)((state >> 11) % below);
}

static void remember(const uint8_t *octets, uint32_t length) {
    if (known == MOST) return;
    packets[known] = copy_of(octets, length);
    lengths[known++] = length;
}

/* What is there without a corpus: a run of three segments over each version, and a datagram. */
static void own_packets(void) {
    static const uint8_t stamps[12] = {1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2};
    uint8_t key[38] = {4, 6, 10, 0, 0, 2}, payload[600] = {1}, out[2048];
    key[18] = 9;
    for (int version = 4; version <= 6; version += 2) {
        netstack_descriptor d;
        uint32_t at = 0;
        key[0] = (uint8_t)version;
        int64_t cut = netstack_cut_run(key, 1, 2, 0x18, 3, 250, stamps, 12, payload, 600, out, sizeof out);
        for (; at < cut; at += d.packet_length) {
            netstack_parse(out, at, (uint32_t)cut - at, 1, 0, &d);
            MUST(d.kind == NETSTACK_KIND_TCP);
            remember(out + at, d.packet_length);
        }
        cut = netstack_emit_datagram(key, 0, 64, payload, 99, out, sizeof out);
        remember(out, (uint32_t)cut);
    }
}

static void load(const char *path) {
    FILE *file = fopen(path, "rb");
    uint8_t head[4], octets[MOST];
    MUST(file != NULL);
    while (fread(head, 1, 4, file) == 4) {
        uint32_t length = ns_be32(head);
        MUST(length < MOST && fread(octets, 1, length, file) == length);
        remember(octets, length);
    }
    fclose(file);
}

static void one_round(void) {
    static uint8_t data[1 << 17];
    uint32_t size = 2, count = 1 + chance(24);
    data[0] = (uint8_t)chance(256);
    data[1] = (uint8_t)chance(256);
    while (count--) {
        uint32_t which = chance(known), length = lengths[which] & 0x0fff, extra = chance(2) ? 0 : 10;
        uint8_t *p = data + size + 2;
        if (length + extra > 0x0fff) length -= extra;
        ns_put16(data + size, length + extra);
        for (uint32_t i = 0; i < extra; i++) p[i] = (uint8_t)(chance(3) ? 0 : chance(6));
        memcpy(p + extra, packets[which], length);
        size += 2 + extra + length;
    }
    for (uint32_t flips = chance(12); flips--;) data[chance(chance(4) ? size : (size < 80 ? size : 80))] = (uint8_t)chance(256);
    exercise(data, size);
}

int main(int count, char **words) {
    double seconds = count > 1 ? atof(words[1]) : 2;
    struct timespec begin, now;
    unsigned long rounds = 0, cuts = 0;
    own_packets();
    if (count > 2) load(words[2]);
    for (uint32_t i = 0; i < known; i++)
        for (uint32_t length = 0; length <= lengths[i]; length++, cuts++) exercise_packet(packets[i], length);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do {
        for (int i = 0; i < 64; i++, rounds++) one_round();
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((double)(now.tv_sec - begin.tv_sec) + (double)(now.tv_nsec - begin.tv_nsec) / 1e9 < seconds);
    printf("%u packets, %lu cuts, %lu rounds: clean\n", known, cuts, rounds);
    for (uint32_t i = 0; i < known; i++) free(packets[i]);
    return 0;
}
