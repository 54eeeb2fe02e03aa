/* SPDX-License-Identifier: BSD-2-Clause */
/* NF4 against real slices that bitsandbytes quantized and dequantized on a GPU. A file is ten u32,
 * then the byte runs. */
#include "config.h"

#include "tensor/dtype.h"
#include "tensor/nf4.h"

#include "../npt_test.h"

static const char single[] = "bnb/llama_1b_nf4.bin";
static const char nested[] = "bnb/llama_1b_nf4_double_quant.bin";

typedef struct slice {
    uint32_t head[10];
    float offset;
    uint8_t packed[2048], absmax[256];
    float levels[16], nested_absmax[16], nested_map[256];
    uint16_t expected[4096];
} slice;

static void load_slice(const char *name, slice *s)
{
    char *path = npt_test_fixture(name);
    FILE *file = path != NULL ? fopen(path, "rb") : NULL;
    free(path);
    if (file == NULL) fail_msg("%s is not there", name);
    void *runs[] = {s->packed, s->absmax, s->levels, s->nested_absmax, s->nested_map, s->expected};
    size_t room[] = {sizeof s->packed,        sizeof s->absmax,     sizeof s->levels,
                     sizeof s->nested_absmax, sizeof s->nested_map, sizeof s->expected};
    bool good = fread(s->head, 4, 10, file) == 10 && s->head[1] == 4096;
    memcpy(&s->offset, &s->head[9], 4);
    for (int i = 0; i < 6 && good; i++) {
        size_t bytes = s->head[3 + i];
        good = bytes <= room[i] && fread(runs[i], 1, bytes, file) == bytes;
    }
    fclose(file);
    assert_true(good);
}

static void check_slice(const char *name)
{
    static slice s;
    static uint16_t got[4096];
    float absmax[64];
    load_slice(name, &s);
    if (s.head[0] == 2)
        npt_nf4_unnest(s.absmax, s.nested_map, s.nested_absmax, NPT_NF4_NESTED_BLOCK, s.offset, 64,
                       absmax);
    else
        memcpy(absmax, s.absmax, sizeof absmax);
    npt_nf4_dequantize(s.packed, absmax, s.levels, 4096, got, NPT_BF16);
    assert_memory_equal(got, s.expected, sizeof got);
    assert_memory_equal(s.levels, npt_nf4_levels, sizeof s.levels);
}

static void single_slice_decodes(void **state)
{
    (void)state;
    check_slice(single);
}

static void nested_slice_decodes(void **state)
{
    (void)state;
    check_slice(nested);
}

static void published_map(void **state)
{
    (void)state;
    static slice s;
    float map[256];
    load_slice(nested, &s);
    npt_nf4_dynamic_map(map);
    assert_memory_equal(map, s.nested_map, sizeof map);
}

/* Levels of a decoded slice times their absmax quantize to the same bytes: each is its own level.
 */
static void decoded_slice_quantizes_back(void **state)
{
    (void)state;
    static slice s;
    static float values[4096];
    uint8_t packed[2048];
    float absmax[64];
    load_slice(single, &s);
    npt_nf4_dequantize(s.packed, (const float *)(const void *)s.absmax, s.levels, 4096, values,
                       NPT_F32);
    npt_nf4_quantize(values, NPT_F32, 4096, packed, absmax);
    assert_memory_equal(packed, s.packed, sizeof packed);
    assert_memory_equal(absmax, s.absmax, sizeof absmax);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("a slice quantized by bitsandbytes decodes to its BF16 values",
                 single_slice_decodes),
        NPT_CASE("a doubly quantized slice decodes to its BF16 values", nested_slice_decodes),
        NPT_CASE("the dynamic map has the bits of a published one", published_map),
        NPT_CASE("a decoded slice quantizes back to its bytes", decoded_slice_quantizes_back),
    };
    char *there = npt_test_fixture(single);
    if (there == NULL) return npt_test_skip_all("the fixtures of bitsandbytes are not there");
    free(there);
    return npt_test_run("nf4 fixtures", cases, NPT_COUNT(cases));
}
