/* SPDX-License-Identifier: BSD-2-Clause */
/* The rate of FMA in vectors of LANES floats, written once. The including file defines LANES, vf,
 * v_load(p), v_store(p, v), v_fma(a, b, c) and v_add(a, b). Twelve sums hide the latency of FMA on
 * two ports, with registers left for the factors. */

#include "cpu/matmul_native.h"
#include "cpu/peaks.h"

enum { SUMS = 12 };

static float run(const uint16_t *data, int64_t rounds)
{
    const float *values = (const void *)data;
    const vf x = v_load(values), y = v_load(values + LANES);
    vf sums[SUMS];
    float lanes[LANES], total = 0;
    UNROLLED
    for (int s = 0; s < SUMS; s++) sums[s] = v_load(values + s * LANES);
    NOT_UNROLLED
    for (int64_t i = 0; i < rounds; i++) {
        UNROLLED
        for (int s = 0; s < SUMS; s++) sums[s] = v_fma(x, y, sums[s]);
    }
    UNROLLED
    for (int s = 1; s < SUMS; s++) sums[0] = v_add(sums[0], sums[s]);
    v_store(lanes, sums[0]);
    for (int lane = 0; lane < LANES; lane++) total += lanes[lane];
    return total;
}
