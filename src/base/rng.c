/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "base/rng.h"

#include <math.h>

/* Philox4x32-10: ten rounds of two 32×32→64 multiplications. The seed is the key; the counter holds
 * (index low, index high, stream low, stream high), so that every value has a block of its own and
 * no state is kept anywhere. */

enum { ROUNDS = 10 };
static const uint32_t MULTIPLIER_0 = 0xD2511F53, MULTIPLIER_1 = 0xCD9E8D57;
static const uint32_t WEYL_0 = 0x9E3779B9, WEYL_1 = 0xBB67AE85;

void npt_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t x0 = counter[0], x1 = counter[1], x2 = counter[2], x3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t p0 = (uint64_t)MULTIPLIER_0 * x0, p1 = (uint64_t)MULTIPLIER_1 * x2;
        uint32_t y0 = (uint32_t)(p1 >> 32) ^ x1 ^ k0, y2 = (uint32_t)(p0 >> 32) ^ x3 ^ k1;
        x1 = (uint32_t)p1;
        x3 = (uint32_t)p0;
        x0 = y0;
        x2 = y2;
        k0 += WEYL_0;
        k1 += WEYL_1;
    }
    out[0] = x0;
    out[1] = x1;
    out[2] = x2;
    out[3] = x3;
}

/* The two 64-bit words of value `index`. */
static void draw(uint64_t seed, uint64_t stream, uint64_t index, uint64_t words[2])
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream,
                                 (uint32_t)(stream >> 32)};
    uint32_t out[4];
    npt_philox(counter, key, out);
    words[0] = (uint64_t)out[1] << 32 | out[0];
    words[1] = (uint64_t)out[3] << 32 | out[2];
}

/* The upper 53 bits as a multiple of 2^-53. */
static double unit(uint64_t word)
{
    return (double)(word >> 11) * 0x1p-53;
}

double npt_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint64_t words[2];
    draw(seed, stream, index, words);
    return unit(words[0]);
}

double npt_rng_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    const double two_pi = 6.283185307179586476925;
    uint64_t words[2];
    draw(seed, stream, index, words);
    double radius = sqrt(-2.0 * log(1.0 - unit(words[0]))); /* 1 - u is in (0, 1] */
    return radius * cos(two_pi * unit(words[1]));
}
