/* CRC-32 as zlib's, four bytes at a time: a quarter of the table of its quickest way, since nothing is warm here. */
#include "attempts.h"

static uint32_t table[4][256];

__attribute__((constructor)) static void
fill_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t sum = byte;
        for (int bit = 0; bit < 8; bit++) {
            sum = sum & 1 ? sum >> 1 ^ 0xEDB88320u : sum >> 1;
        }
        table[0][byte] = sum;
    }
    for (int byte = 0; byte < 256; byte++) {
        for (int ahead = 1; ahead < 4; ahead++) {
            uint32_t sum = table[ahead - 1][byte];
            table[ahead][byte] = sum >> 8 ^ table[0][sum & 0xFF];
        }
    }
}

uint32_t
crc32_of(uint32_t before, const void *data, size_t size)
{
    const uint8_t *at = data;
    uint32_t sum = ~before;
    for (; size >= 4; size -= 4, at += 4) {
        uint32_t four;
        memcpy(&four, at, 4);
        sum ^= four;
        sum = table[3][sum & 0xFF] ^ table[2][sum >> 8 & 0xFF] ^ table[1][sum >> 16 & 0xFF] ^ table[0][sum >> 24];
    }
    for (; size > 0; size--, at++) {
        sum = sum >> 8 ^ table[0][(sum ^ *at) & 0xFF];
    }
    return ~sum;
}
