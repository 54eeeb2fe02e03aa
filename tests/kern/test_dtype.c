/* SPDX-License-Identifier: BSD-2-Clause */
/* Conversions between F32 and the halves against a definition in F64 that knows nothing of bit
 * tricks: the nearest multiple of the quantum at that exponent. `make check` goes through every
 * exponent with the mantissas where rounding turns, and 16 million floats drawn at random;
 * NPT_FULL=1 through all 2^32. */
#include "config.h"

#include "kern.h"

enum { BATCH = 65536 };

typedef struct half_kind {
    npt_dtype dtype;
    int least_exponent; /* of a normal number */
    int digits;         /* after the leading one */
    int greatest;       /* exponent of the largest finite number */
    uint16_t nan, infinity;
} half_kind;

static const half_kind kinds[2] = {
    {NPT_F16, -14, 10, 15, 0x7e00, 0x7c00},
    {NPT_BF16, -126, 7, 127, 0x7fc0, 0x7f80},
};

/* The value a half stands for. */
static double half_value(const half_kind *kind, uint16_t half)
{
    int fields = (half & 0x7fff) >> kind->digits;
    int fraction = half & ((1 << kind->digits) - 1);
    double sign = half & 0x8000 ? -1.0 : 1.0;
    int exponent = fields == 0 ? kind->least_exponent : fields - 1 + kind->least_exponent;
    double lead = fields == 0 ? 0.0 : ldexp(1.0, kind->digits);
    return sign * ldexp(lead + fraction, exponent - kind->digits);
}

/* Quantum of the half grid for each exponent field of a float, and its reciprocal. */
static double quantum[2][256], per_quantum[2][256], limit[2];

static void make_tables(void)
{
    for (int k = 0; k < 2; k++) {
        for (int field = 0; field < 256; field++) {
            int exponent = field == 0 ? -126 : field - 127;
            if (exponent < kinds[k].least_exponent) exponent = kinds[k].least_exponent;
            quantum[k][field] = ldexp(1.0, exponent - kinds[k].digits);
            per_quantum[k][field] = 1.0 / quantum[k][field];
        }
        limit[k] = ldexp(1.0, kinds[k].greatest + 1);
    }
}

/* What rounding must give, as a value; NaN for NaN. */
static double rounded(int k, float value)
{
    uint32_t field = (npt_float_bits(value) >> 23) & 255u;
    if (isnan(value) || isinf(value)) return (double)value;
    double nearest = rint((double)value * per_quantum[k][field]) * quantum[k][field];
    return fabs(nearest) >= limit[k] ? copysign(INFINITY, nearest) : nearest;
}

static bool half_is(int k, uint16_t half, double want)
{
    const half_kind *kind = &kinds[k];
    if (isnan(want)) return half == kind->nan;
    if (isinf(want)) return half == (kind->infinity | (want < 0 ? 0x8000 : 0));
    if (((half & 0x8000) != 0) != (signbit(want) != 0)) return false;
    return (half & 0x7fff) < kind->infinity && half_value(kind, half) == want;
}

static double value_of[2][65536];

static void check_batch(const float *values, int n)
{
    static uint16_t scalar[BATCH], simd[BATCH];
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < n; i++) {
            double want = rounded(k, values[i]);
            scalar[i] = k == 0 ? npt_f16_from_f32(values[i]) : npt_bf16_from_f32(values[i]);
            bool right = scalar[i] < 0x8000 && want > 0 && scalar[i] < kinds[k].infinity
                             ? value_of[k][scalar[i]] == want
                             : half_is(k, scalar[i], want);
            if (!right)
                fail_msg("%s of 0x%08x is 0x%04x", npt_dtype_name(kinds[k].dtype),
                         (unsigned)npt_float_bits(values[i]), scalar[i]);
        }
        for (int level = 0; level < the_lab.levels; level++) {
            the_lab.kernels[level].cast(&the_lab.run[0], n, (npt_in){values, NPT_F32},
                                        (npt_out){simd, kinds[k].dtype}, NULL);
            for (int i = 0; i < n; i++)
                if (simd[i] != scalar[i])
                    fail_msg("%s of 0x%08x at level %s is 0x%04x, not 0x%04x",
                             npt_dtype_name(kinds[k].dtype), (unsigned)npt_float_bits(values[i]),
                             the_lab.kernels[level].name, simd[i], scalar[i]);
        }
    }
}

static void halves_widen_to_their_value(void **state)
{
    (void)state;
    static uint16_t halves[65536];
    static float wide[65536];
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < 65536; i++) {
            uint16_t h = halves[i] = (uint16_t)i;
            float got = k == 0 ? npt_f32_from_f16(h) : npt_f32_from_bf16(h);
            uint16_t back = k == 0 ? npt_f16_from_f32(got) : npt_bf16_from_f32(got);
            int magnitude = h & 0x7fff;
            if (magnitude > kinds[k].infinity) {
                assert_int_equal(npt_float_bits(got), 0x7fc00000u);
                assert_int_equal(back, kinds[k].nan);
                continue;
            }
            double want = magnitude == kinds[k].infinity ? INFINITY : value_of[k][magnitude];
            assert_true(fabs((double)got) == want);
            assert_true((signbit(got) != 0) == (h >= 0x8000));
            assert_int_equal(back, h);
        }
        for (int level = 0; level < the_lab.levels; level++) {
            the_lab.kernels[level].cast(&the_lab.run[0], 65536, (npt_in){halves, kinds[k].dtype},
                                        (npt_out){wide, NPT_F32}, NULL);
            for (int i = 0; i < 65536; i++) {
                float want = npt_load(halves, kinds[k].dtype, (size_t)i);
                assert_int_equal(npt_float_bits(wide[i]), npt_float_bits(want));
            }
        }
    }
}

static void floats_where_rounding_turns(void **state)
{
    (void)state;
    static const uint32_t low[] = {0,      1,      2,      0x0fff, 0x1000, 0x1001,
                                   0x1fff, 0x2000, 0x7fff, 0x8000, 0x8001, 0xffff};
    static const uint32_t high[] = {0,        0x10000,  0x20000,  0x30000,  0x2a0000, 0x3f0000,
                                    0x400000, 0x410000, 0x7c0000, 0x7d0000, 0x7e0000, 0x7f0000};
    static const uint32_t middle[] = {0, 0x2000, 0x4000, 0x6000, 0xc000, 0xe000};
    static float values[BATCH];
    int n = 0;
    for (uint32_t top = 0; top < 512; top++)
        for (size_t h = 0; h < NPT_COUNT(high); h++)
            for (size_t m = 0; m < NPT_COUNT(middle); m++)
                for (size_t l = 0; l < NPT_COUNT(low); l++) {
                    values[n++] = npt_bits_float(top << 23 | (high[h] ^ middle[m] ^ low[l]));
                    if (n == BATCH) check_batch(values, n), n = 0;
                }
    check_batch(values, n);
}

static void many_floats(void **state)
{
    (void)state;
    static float values[BATCH];
    const char *full = getenv("NPT_FULL");
    bool all = full != NULL && strcmp(full, "1") == 0;
    int64_t batches = all ? 65536 : 256;
    for (int64_t b = 0; b < batches; b++) {
        for (int i = 0; i < BATCH; i += 2) {
            uint64_t bits = next_random();
            if (all) bits = (uint64_t)(b * BATCH + i) | (uint64_t)(b * BATCH + i + 1) << 32;
            values[i] = npt_bits_float((uint32_t)bits);
            values[i + 1] = npt_bits_float((uint32_t)(bits >> 32));
        }
        check_batch(values, BATCH);
    }
}

static void known_roundings(void **state)
{
    (void)state;
    assert_int_equal(npt_f16_from_f32(65519.99f), 0x7bff);
    assert_int_equal(npt_f16_from_f32(65520.0f), 0x7c00);
    assert_int_equal(npt_f16_from_f32(-65520.0f), 0xfc00);
    assert_int_equal(npt_f16_from_f32(1e-8f), 0);
    assert_int_equal(npt_f16_from_f32(0x1p-24f), 1);
    assert_int_equal(npt_f16_from_f32(0x1p-25f), 0);
    assert_int_equal(npt_bf16_from_f32(npt_bits_float(0x7f7fffffu)), 0x7f80);
    assert_int_equal(npt_bf16_from_f32(npt_bits_float(0xff800001u)), 0x7fc0);
    assert_int_equal(npt_bf16_from_f32(257.0f), npt_bf16_from_f32(256.0f));
}

static void words_and_sizes(void **state)
{
    (void)state;
    assert_int_equal(npt_dtype_from_word("fp16"), NPT_F16);
    assert_int_equal(npt_dtype_from_word("Half"), NPT_F16);
    assert_int_equal(npt_dtype_from_word("F16"), NPT_F16);
    assert_int_equal(npt_dtype_from_word("torch.bfloat16"), NPT_BF16);
    assert_int_equal(npt_dtype_from_word("float32"), NPT_F32);
    assert_int_equal(npt_dtype_from_word("float33"), NPT_DTYPE_NONE);
    assert_int_equal(npt_dtype_from_word(""), NPT_DTYPE_NONE);
    assert_int_equal(npt_dtype_from_word(NULL), NPT_DTYPE_NONE);
    assert_int_equal(npt_dtype_bytes(NPT_F32), 4);
    assert_int_equal(npt_dtype_bytes(NPT_BF16), 2);
    assert_int_equal(npt_dtype_bytes(NPT_NF4), 0);
    assert_string_equal(npt_dtype_name(NPT_F8_E4M3), "F8_E4M3");
    for (int d = NPT_F32; d < NPT_DTYPE_COUNT; d++)
        assert_true(npt_dtype_bytes((npt_dtype)d) > 0 || d == NPT_NF4);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("known roundings at the edges", known_roundings),
        NPT_CASE("every half widens to its value, and back to itself", halves_widen_to_their_value),
        NPT_CASE("floats round right at every exponent where rounding turns",
                 floats_where_rounding_turns),
        NPT_CASE("floats round right all over (all of them with NPT_FULL=1)", many_floats),
        NPT_CASE("words and sizes", words_and_sizes),
    };
    lab_open(1, 1);
    make_tables();
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < 65536; i++) value_of[k][i] = half_value(&kinds[k], (uint16_t)i);
    int status = npt_test_run("dtype", cases, NPT_COUNT(cases));
    lab_close();
    return status;
}
