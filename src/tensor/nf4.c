/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "tensor/nf4.h"

#include "tensor/dtype.h"

#include <math.h>
#include <stdlib.h>

/* NF4 as bitsandbytes' CUDA kernels define it (precision.md §5): scale by the F32 reciprocal,
 * fifteen strict comparisons, level × absmax in F32. The one special case is a block of zeros,
 * where 0 × (1/0) would be NaN: it takes the code of zero, as bitsandbytes' CPU build stores it,
 * and decodes to 0 (the CUDA kernel lets the NaN fall through to code 0: -1 × 0). */

const float npt_nf4_levels[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

/* A value above threshold i has a code above i. Decimal to F64 to F32, without the suffix f: three
 * of them lie next to the middle of two floats, and this is where bitsandbytes has them. */
static const float thresholds[15] = {
    -0.8480964004493439,  -0.6106329262256622,  -0.4599952697753906,   -0.33967943489551544,
    -0.23460740596055984, -0.13791173323988914, -0.045525018125772476, 0.03979014977812767,
    0.1202552504837513,   0.2035212516784668,   0.2920137718319893,    0.3893125355243683,
    0.5016634166240692,   0.6427869200706482,   0.8614784181118011,
};

static unsigned nf4_code(float scaled)
{
    unsigned code = 0;
    for (int i = 0; i < 15; i++) code += scaled > thresholds[i];
    return code;
}

/* Largest magnitude; NaN is passed over. */
static float largest(const float *values, size_t n)
{
    float top = 0.0f;
    for (size_t i = 0; i < n; i++) top = fmaxf(top, fabsf(values[i]));
    return top;
}

void npt_nf4_quantize(const void *src, npt_dtype dtype, size_t n, uint8_t *packed, float *absmax)
{
    for (size_t start = 0; start < n; start += NPT_NF4_BLOCK) {
        size_t count = n - start < NPT_NF4_BLOCK ? n - start : NPT_NF4_BLOCK;
        float block[NPT_NF4_BLOCK] = {0};
        for (size_t i = 0; i < count; i++) block[i] = npt_load(src, dtype, start + i);
        float top = largest(block, count);
        float reciprocal = top > 0.0f ? 1.0f / top : 0.0f;
        for (size_t i = 0; i < count; i += 2) {
            unsigned high = nf4_code(block[i] * reciprocal);
            unsigned low = nf4_code(block[i + 1] * reciprocal);
            packed[(start + i) / 2] = (uint8_t)(high << 4 | low);
        }
        absmax[start / NPT_NF4_BLOCK] = top;
    }
}

void npt_nf4_dequantize(const uint8_t *packed, const float *absmax, const float *levels, size_t n,
                        void *dst, npt_dtype dtype)
{
    for (size_t start = 0; start < n; start += NPT_NF4_BLOCK) {
        size_t count = n - start < NPT_NF4_BLOCK ? n - start : NPT_NF4_BLOCK;
        float scaled[16];
        for (int code = 0; code < 16; code++)
            scaled[code] = levels[code] * absmax[start / NPT_NF4_BLOCK];
        for (size_t i = 0; i < count; i++) {
            unsigned byte = packed[(start + i) / 2];
            npt_store(dst, dtype, start + i, scaled[i % 2 == 0 ? byte >> 4 : byte & 15u]);
        }
    }
}

static int compare_floats(const void *left, const void *right)
{
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

/* Edge i of `parts` equal parts of [0.1, 1], counted from the nearer end with one rounding:
 * PyTorch's linspace in F32. The maps in published checkpoints have exactly these bits. */
static float part_edge(int i, int parts)
{
    float step = (1.0f - 0.1f) / (float)parts;
    if (i < (parts + 1) / 2) return fmaf(step, (float)i, 0.1f);
    return fmaf(-step, (float)(parts - i), 1.0f);
}

void npt_nf4_dynamic_map(float map[256])
{
    size_t count = 0;
    double decade = 1e-6;
    map[count++] = 0.0f;
    map[count++] = 1.0f;
    for (int i = 0; i < 7; i++, decade *= 10.0) {
        int parts = 1 << i;
        for (int j = 0; j < parts; j++) {
            float middle = (part_edge(j, parts) + part_edge(j + 1, parts)) / 2.0f;
            map[count++] = (float)decade * middle;
            map[count++] = -(float)decade * middle;
        }
    }
    qsort(map, count, sizeof(*map), compare_floats);
}

/* The nearest entry; of two equally near, the one with the even index, where the binary search over
 * 256 entries comes to rest. A NaN falls through every comparison to entry 0. */
static uint8_t nearest_entry(const float map[256], float value)
{
    unsigned below = 0; /* the last entry below `value`, or 0 */
    for (unsigned step = 128; step > 0; step >>= 1)
        if (value > map[below + step]) below += step;
    if (below == 255 || !(value > map[below])) return (uint8_t)below;
    float middle = (map[below] + map[below + 1]) * 0.5f;
    if (value == middle) return (uint8_t)(below + (below & 1u));
    return (uint8_t)(below + (value > middle));
}

void npt_nf4_nest(const float *absmax, size_t blocks, uint8_t *codes, float *nested_absmax,
                  float *offset)
{
    float map[256];
    npt_nf4_dynamic_map(map);
    double sum = 0.0;
    for (size_t i = 0; i < blocks; i++) sum += (double)absmax[i];
    float mean = blocks > 0 ? (float)(sum / (double)blocks) : 0.0f;
    for (size_t start = 0; start < blocks; start += NPT_NF4_NESTED_BLOCK) {
        size_t count = blocks - start;
        if (count > NPT_NF4_NESTED_BLOCK) count = NPT_NF4_NESTED_BLOCK;
        float centred[NPT_NF4_NESTED_BLOCK];
        for (size_t i = 0; i < count; i++) centred[i] = absmax[start + i] - mean;
        float top = largest(centred, count);
        float reciprocal = 1.0f / top;
        for (size_t i = 0; i < count; i++)
            codes[start + i] = nearest_entry(map, centred[i] * reciprocal);
        nested_absmax[start / NPT_NF4_NESTED_BLOCK] = top;
    }
    *offset = mean;
}

void npt_nf4_unnest(const uint8_t *codes, const float map[256], const float *nested_absmax,
                    size_t nested_block, float offset, size_t blocks, float *absmax)
{
    for (size_t i = 0; i < blocks; i++)
        absmax[i] = map[codes[i]] * nested_absmax[i / nested_block] + offset;
}
