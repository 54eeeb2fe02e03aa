/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "base/rng.h"

#include <math.h>

#include "../npt_test.h"

/* Philox against the known answers published with Random123 (kat_vectors, philox4x32 10), and the
 * numbers made from it against their distributions. */

typedef struct answer {
    uint32_t counter[4], key[2], out[4];
} answer;

static const answer answers[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

static void philox_gives_the_published_answers(void **state)
{
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(answers); i++) {
        uint32_t out[4];
        npt_philox(answers[i].counter, answers[i].key, out);
        assert_memory_equal(out, answers[i].out, sizeof(out));
    }
}

/* Seed, stream and index 0 are the first known answer: e169c58d6627e8d5 and 9b00dbd8bc57ac4c. */
static void numbers_are_made_from_the_words_as_documented(void **state)
{
    (void)state;
    const double u = (double)(0xe169c58d6627e8d5u >> 11) / 9007199254740992.0;
    const double v = (double)(0x9b00dbd8bc57ac4cu >> 11) / 9007199254740992.0;
    const double normal = sqrt(-2.0 * log(1.0 - u)) * cos(2.0 * acos(-1.0) * v);
    assert_true(npt_rng_uniform(0, 0, 0) == u);
    assert_true(fabs(npt_rng_normal(0, 0, 0) - normal) < 1e-12);
}

static void counters_and_keys_use_all_their_bits(void **state)
{
    (void)state;
    const double base = npt_rng_uniform(1, 2, 3);
    for (int bit = 0; bit < 64; bit++) {
        const uint64_t flip = UINT64_C(1) << bit;
        assert_true(npt_rng_uniform(1 ^ flip, 2, 3) != base);
        assert_true(npt_rng_uniform(1, 2 ^ flip, 3) != base);
        assert_true(npt_rng_uniform(1, 2, 3 ^ flip) != base);
    }
    assert_true(npt_rng_uniform(1, 2, 3) == base);
}

static void uniform_numbers_are_uniform(void **state)
{
    (void)state;
    enum { N = 100000, BINS = 16 };
    int bins[BINS] = {0};
    double chi2 = 0;
    for (uint64_t i = 0; i < N; i++) {
        double u = npt_rng_uniform(42, NPT_RNG_TEACHER_FORCING, i);
        assert_true(u >= 0.0 && u < 1.0);
        bins[(int)(u * BINS)]++;
    }
    for (int b = 0; b < BINS; b++) {
        double off = bins[b] - (double)N / BINS;
        chi2 += off * off / ((double)N / BINS);
    }
    assert_true(chi2 < 37.7); /* 15 degrees of freedom, p = 0.001 */
}

static void normal_numbers_have_the_moments_of_a_normal(void **state)
{
    (void)state;
    enum { N = 200000 };
    double m1 = 0, m2 = 0, m4 = 0;
    for (uint64_t i = 0; i < N; i++) {
        double x = npt_rng_normal(7, NPT_RNG_ADAPTER, i);
        assert_true(isfinite(x));
        m1 += x;
        m2 += x * x;
        m4 += x * x * x * x;
    }
    assert_true(fabs(m1 / N) < 4.0 / sqrt(N));
    assert_true(fabs(m2 / N - 1.0) < 4.0 * sqrt(2.0 / N));
    assert_true(fabs(m4 / N - 3.0) < 4.0 * sqrt(96.0 / N));
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("philox gives the published answers", philox_gives_the_published_answers),
        NPT_CASE("numbers are made from the words as documented",
                 numbers_are_made_from_the_words_as_documented),
        NPT_CASE("counters and keys use all their bits", counters_and_keys_use_all_their_bits),
        NPT_CASE("uniform numbers are uniform", uniform_numbers_are_uniform),
        NPT_CASE("normal numbers have the moments of a normal",
                 normal_numbers_have_the_moments_of_a_normal),
    };
    return npt_test_run("rng", cases, NPT_COUNT(cases));
}
