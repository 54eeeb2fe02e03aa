/* SPDX-License-Identifier: BSD-2-Clause */
/* Dtypes: sizes, and the scalar conversions that define what rounding means here.
 *
 * Halves are stored as uint16_t and computed in float (precision.md §7). Rounding is to nearest,
 * ties to even, subnormals kept; every NaN becomes the canonical quiet NaN of its sign-less form
 * (0x7e00, 0x7fc0), so that all levels and backends give the same bits. */
#ifndef NPT_TENSOR_DTYPE_H
#define NPT_TENSOR_DTYPE_H

#include <string.h>

#include "base/status.h"

/* Bytes of one element; 0 for NF4 (half a byte; see nf4.h) and NONE. */
size_t npt_dtype_bytes(npt_dtype dtype);
/* Bits of one element of an operand of a product: F32, F16, BF16, NF4. */
static inline int npt_dtype_bits(npt_dtype dtype)
{
    return dtype == NPT_NF4 ? 4 : dtype == NPT_F32 ? 32 : 16;
}
/* F32, F16, BF16: what activations, adapters and unquantized weights can be. */
bool npt_dtype_is_float(npt_dtype dtype);
/* Of a float dtype: the largest finite value, and the smallest normal one. */
double npt_dtype_largest(npt_dtype dtype);
double npt_dtype_smallest_normal(npt_dtype dtype);
/* … and the distance from 1 to the next larger value. */
double npt_dtype_epsilon(npt_dtype dtype);
/* "fp16", "float16", "f16", "half", … (any case) → NPT_F16; NONE where the word is unknown. */
npt_dtype npt_dtype_from_word(const char *word);

static inline uint32_t npt_float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float npt_bits_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float npt_f32_from_bf16(uint16_t half)
{
    if ((half & 0x7fffu) > 0x7f80u) return npt_bits_float(0x7fc00000u);
    return npt_bits_float((uint32_t)half << 16);
}

static inline uint16_t npt_bf16_from_f32(float value)
{
    uint32_t bits = npt_float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float npt_f32_from_f16(uint16_t half);
uint16_t npt_f16_from_f32(float value);

/* One element of an array of F32, F16 or BF16. */
float npt_load(const void *src, npt_dtype dtype, size_t index);
void npt_store(void *dst, npt_dtype dtype, size_t index, float value);

#endif
