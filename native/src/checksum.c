/* The Internet checksum (RFC 1071), summed as 32-bit words into 64-bit lanes.
 *
 * Responsible for: sums of octets and of pseudo-headers. Refuses to know: which header they belong to.
 * A packet of 64 KiB cannot overflow: 2^14 words of 2^32. The loop is plain, so that the compiler
 * vectorises it for whatever processor there is.
 */
#include "internal.h"

uint64_t ns_sum(const uint8_t *octets, size_t length) {
    uint64_t sum = 0;
    size_t words = length / 4;
    for (size_t i = 0; i < words; i++) sum += ns_load32(octets + 4 * i);
    octets += 4 * words;
    if (length & 2) {
        sum += ns_load16(octets);
        octets += 2;
    }
    if (length & 1) {
        uint8_t last[2] = {octets[0], 0};
        sum += ns_load16(last);
    }
    return sum;
}

/* `addresses` is where source and destination lie, `both` how many octets they are together. */
uint64_t ns_pseudo(const uint8_t *addresses, uint32_t both, uint32_t protocol, uint32_t length) {
    uint64_t sum = (uint64_t)NS_HTON16((uint16_t)protocol) + NS_HTON16((uint16_t)length);
    for (uint32_t i = 0; i < both; i += 4) sum += ns_load32(addresses + i);
    return sum;
}
