/* SPDX-License-Identifier: BSD-2-Clause */
/* NF4 against vectors from bitsandbytes, against what its definition says at the thresholds, and
 * against the formula of the dynamic map. Real slices: test_nf4_fixtures.c. */
#include "config.h"

#include "tensor/dtype.h"
#include "tensor/nf4.h"

#include <math.h>

#include "../npt_test.h"

/* The published thresholds (precision.md §5), greatest first: a value above number i has code 15−i.
 */
static const float thresholds[15] = {
    0.8614784181118011,    0.6427869200706482,   0.5016634166240692,   0.3893125355243683,
    0.2920137718319893,    0.2035212516784668,   0.1202552504837513,   0.03979014977812767,
    -0.045525018125772476, -0.13791173323988914, -0.23460740596055984, -0.33967943489551544,
    -0.4599952697753906,   -0.6106329262256622,  -0.8480964004493439,
};

/* ---- Vectors made with bitsandbytes on a CPU (tests/golden/make_nf4.py) ---------------------- */

static char *golden; /* the file: 8 bytes of header length, header, data */

static bool load_golden(void)
{
    char *path = npt_test_path("tests/golden/nf4/vectors.safetensors");
    FILE *file = fopen(path, "rb");
    free(path);
    if (file == NULL) return false;
    golden = calloc(1, 1 << 20);
    bool good = fread(golden, 1, 1 << 20, file) > 8;
    fclose(file);
    return good;
}

/* A tensor of the file by its name; its size in bytes in `bytes`. */
static const void *tensor(const char *set, const char *name, size_t *bytes)
{
    char key[128];
    uint64_t header, from, to;
    memcpy(&header, golden, 8);
    snprintf(key, sizeof key, "\"%s%s%s\":{", set, *set ? "." : "", name);
    const char *entry = strstr(golden + 8, key);
    if (entry == NULL) fail_msg("no tensor %s", key);
    const char *span = strstr(entry, "\"data_offsets\":[");
    from = strtoull(span + 16, (char **)&span, 10);
    to = strtoull(span + 1, NULL, 10);
    *bytes = (size_t)(to - from);
    void *copy = malloc(*bytes + 1); /* aligned, and with bounds that a checker sees */
    memcpy(copy, golden + 8 + header + from, *bytes);
    return copy;
}

static void check_tensor(const char *set, const char *name, const void *got, size_t got_bytes)
{
    size_t bytes;
    const void *want = tensor(set, name, &bytes);
    assert_int_equal(bytes, got_bytes);
    for (size_t i = 0; i < bytes; i++)
        if (((const uint8_t *)want)[i] != ((const uint8_t *)got)[i])
            fail_msg("%s.%s differs from byte %zu", set, name, i);
    free((void *)(uintptr_t)want);
}

/* n values through every function, each stage compared byte by byte. */
static void check_set(const char *set, npt_dtype dtype, bool values_are_there)
{
    static uint8_t packed[1 << 14], codes[512];
    static float absmax[512], restored[512], values[1 << 15];
    float nested[2], offset, map[256];
    size_t bytes;
    const void *input = tensor(set, "input", &bytes);
    size_t n = bytes / npt_dtype_bytes(dtype), blocks = (n + 63) / 64;
    npt_nf4_quantize(input, dtype, n, packed, absmax);
    check_tensor(set, "packed", packed, (n + 1) / 2);
    check_tensor(set, "absmax", absmax, blocks * sizeof(float));
    npt_nf4_dequantize(packed, absmax, npt_nf4_levels, n, values, NPT_F32);
    for (size_t i = 0; i < n; i++) values[i] += 0.0f; /* the sign of a zero is not compared */
    if (values_are_there) check_tensor(set, "dequantized", values, n * sizeof(float));
    npt_nf4_dynamic_map(map);
    npt_nf4_nest(absmax, blocks, codes, nested, &offset);
    check_tensor(set, "nested.absmax", codes, blocks);
    /* The mean is F64 here; PyTorch's F32 sum has an order of its own. The rest follows exactly. */
    const float *their_offset = tensor(set, "nested.offset", &bytes);
    const float *their_nested = tensor(set, "nested.nested_absmax", &bytes);
    assert_true(fabsf(offset - *their_offset) <= 2e-7f * offset);
    for (size_t i = 0; i < (blocks + 255) / 256; i++)
        assert_true(fabsf(nested[i] - their_nested[i]) <= 2e-7f * offset);
    npt_nf4_unnest(codes, map, their_nested, NPT_NF4_NESTED_BLOCK, *their_offset, blocks, restored);
    check_tensor(set, "nested.restored_absmax", restored, blocks * sizeof(float));
    free((void *)(uintptr_t)their_offset);
    free((void *)(uintptr_t)their_nested);
    free((void *)(uintptr_t)input);
}

static void golden_vectors(void **state)
{
    (void)state;
    float map[256];
    if (!load_golden()) {
        printf("# tests/golden/nf4 absent: not checked\n");
        return;
    }
    npt_nf4_dynamic_map(map);
    check_tensor("", "quant_map", npt_nf4_levels, sizeof npt_nf4_levels);
    check_tensor("", "nested_quant_map", map, sizeof map);
    check_set("plain", NPT_F32, true);
    check_set("edge", NPT_F32, true);
    check_set("odd", NPT_F32, true);
    check_set("many", NPT_BF16, false);
    free(golden);
}

/* ---- The definition -------------------------------------------------------------------------- */

static unsigned code_of(float value)
{
    float block[2] = {value, 1.0f}; /* absmax 1: the value is compared as it is */
    uint8_t packed;
    float absmax;
    npt_nf4_quantize(block, NPT_F32, 2, &packed, &absmax);
    assert_true(absmax == 1.0f);
    assert_int_equal(packed & 15, 15);
    return packed >> 4;
}

static void ties_go_down(void **state)
{
    (void)state;
    for (int i = 0; i < 15; i++) {
        float t = thresholds[i];
        assert_int_equal(code_of(t), 14 - i);
        assert_int_equal(code_of(nextafterf(t, 2.0f)), 15 - i);
        assert_int_equal(code_of(nextafterf(t, -2.0f)), 14 - i);
    }
}

static void levels_are_their_own_code(void **state)
{
    (void)state;
    for (unsigned code = 0; code < 16; code++)
        assert_int_equal(code_of(npt_nf4_levels[code]), code);
    for (int i = 1; i < 16; i++) assert_true(npt_nf4_levels[i] > npt_nf4_levels[i - 1]);
}

/* The code is that of the nearest level: thresholds lie midway between levels. */
static void codes_are_nearest(void **state)
{
    (void)state;
    for (int i = -2000; i <= 2000; i++) {
        float value = (float)i / 2000.0f;
        unsigned code = code_of(value);
        double got = fabs((double)npt_nf4_levels[code] - (double)value);
        for (int other = 0; other < 16; other++)
            assert_true(got <= fabs((double)npt_nf4_levels[other] - (double)value) + 1e-6);
    }
}

static void zeros_stay_zeros(void **state)
{
    (void)state;
    float zeros[130] = {0}, absmax[3], back[130];
    uint8_t packed[65];
    zeros[70] = 2.0f;
    npt_nf4_quantize(zeros, NPT_F32, 130, packed, absmax);
    assert_true(absmax[0] == 0.0f && absmax[1] == 2.0f && absmax[2] == 0.0f);
    npt_nf4_dequantize(packed, absmax, npt_nf4_levels, 130, back, NPT_F32);
    for (int i = 0; i < 130; i++) assert_true(back[i] == zeros[i]);
}

static void odd_lengths_and_halves(void **state)
{
    (void)state;
    enum { N = 193 };
    static const npt_dtype dtypes[] = {NPT_F32, NPT_F16, NPT_BF16};
    for (size_t d = 0; d < NPT_COUNT(dtypes); d++) {
        float values[N], back[N], absmax[5] = {0, 0, 0, 0, -7.0f};
        float stored[N]; /* room enough for halves */
        uint8_t packed[98];
        packed[97] = 0xa5;
        for (int i = 0; i < N; i++) {
            npt_store(stored, dtypes[d], (size_t)i, sinf((float)i) * (float)(1 + i / 64));
            values[i] = npt_load(stored, dtypes[d], (size_t)i);
        }
        npt_nf4_quantize(stored, dtypes[d], N, packed, absmax);
        assert_int_equal(packed[97], 0xa5);
        assert_true(absmax[4] == -7.0f);
        npt_nf4_dequantize(packed, absmax, npt_nf4_levels, N, back, NPT_F32);
        for (int i = 0; i < N; i++) /* half the widest gap between levels */
            assert_true(fabsf(back[i] - values[i]) <= 0.1520f * absmax[i / 64]);
    }
}

/* ---- Double quantization --------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void map_follows_its_formula(void **state)
{
    (void)state;
    double want[256] = {0.0, 1.0};
    int count = 2;
    for (int i = 0; i < 7; i++)
        for (int j = 0; j < 1 << i; j++) {
            double part = 0.9 / (1 << i), middle = 0.1 + part * (j + 0.5);
            want[count++] = pow(10.0, i - 6) * middle;
            want[count++] = -pow(10.0, i - 6) * middle;
        }
    assert_int_equal(count, 256);
    qsort(want, 256, sizeof *want, by_value);
    float map[256];
    npt_nf4_dynamic_map(map);
    for (int i = 0; i < 256; i++) assert_true(fabs(map[i] - want[i]) <= 4e-7 * fabs(want[i]));
}

static void nested_absmax_is_nearest(void **state)
{
    (void)state;
    enum { N = 700 };
    float absmax[N], map[256], nested[3], offset, back[N];
    uint8_t codes[N];
    double mean = 0.0;
    for (int i = 0; i < N; i++) absmax[i] = 0.05f + 0.02f * sinf((float)i * 1.7f);
    for (int i = 0; i < N; i++) mean += absmax[i] / (double)N;
    npt_nf4_dynamic_map(map);
    npt_nf4_nest(absmax, N, codes, nested, &offset);
    npt_nf4_unnest(codes, map, nested, NPT_NF4_NESTED_BLOCK, offset, N, back);
    assert_true(fabs(offset - mean) < 1e-8);
    for (int i = 0; i < N; i++) {
        double scale = nested[i / 256], x = ((double)absmax[i] - offset) / scale;
        double got = fabs(map[codes[i]] - x);
        for (int other = 0; other < 256; other++) assert_true(got <= fabs(map[other] - x) + 1e-6);
        assert_true(fabs(back[i] - absmax[i]) <= 0.0071 * scale); /* half the widest gap */
    }
}

static void equal_absmax_nests_to_itself(void **state)
{
    (void)state;
    float absmax[3] = {0.25f, 0.25f, 0.25f}, map[256], nested, offset, back[3];
    uint8_t codes[3];
    npt_nf4_dynamic_map(map);
    npt_nf4_nest(absmax, 3, codes, &nested, &offset);
    npt_nf4_unnest(codes, map, &nested, NPT_NF4_NESTED_BLOCK, offset, 3, back);
    assert_memory_equal(back, absmax, sizeof back);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("quantizing gives the bytes of bitsandbytes' own vectors", golden_vectors),
        NPT_CASE("a value on a threshold goes down", ties_go_down),
        NPT_CASE("every level is its own code", levels_are_their_own_code),
        NPT_CASE("a code is that of the nearest level", codes_are_nearest),
        NPT_CASE("blocks of zeros decode to zeros", zeros_stay_zeros),
        NPT_CASE("lengths that fill neither byte nor block, from each dtype",
                 odd_lengths_and_halves),
        NPT_CASE("the dynamic map follows its formula", map_follows_its_formula),
        NPT_CASE("a nested absmax is the nearest entry", nested_absmax_is_nearest),
        NPT_CASE("equal absmax survive nesting", equal_absmax_nests_to_itself),
    };
    return npt_test_run("nf4", cases, NPT_COUNT(cases));
}
