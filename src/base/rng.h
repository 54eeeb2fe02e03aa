/* SPDX-License-Identifier: BSD-2-Clause */
/* Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC'11).
 * A value depends on (seed, stream, index) alone, never on the order or the thread of the call. */
#ifndef NPT_BASE_RNG_H
#define NPT_BASE_RNG_H

#include <stdint.h>

/* One block: counter and key in, four words out. */
void npt_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* Uniform in [0, 1), 53 bits; normal with mean 0 and deviation 1 (Box–Muller in F64). */
double npt_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index);
double npt_rng_normal(uint64_t seed, uint64_t stream, uint64_t index);

/* Stream numbers in use, so that no two purposes share one. */
enum npt_rng_stream {
    NPT_RNG_ADAPTER = 1, /* + 16 × layer + parameter */
    NPT_RNG_TEACHER_FORCING = 1 << 20,
    NPT_RNG_MAKE_MODEL = 1 << 22 /* + tensor number */
};

#endif
