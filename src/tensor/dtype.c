/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "tensor/dtype.h"

#include <string.h>
#include <strings.h>

/* The scalar conversions are integer arithmetic on the bits, so that no compiler, rounding unit or
 * flag has a say in them; everything faster (src/cpu) is tested against them. Invariant: a NaN
 * never keeps its sign or payload. */

static const struct {
    const char *name;
    size_t bytes;
} dtypes[NPT_DTYPE_COUNT] = {
    [NPT_DTYPE_NONE] = {"none", 0}, [NPT_F32] = {"F32", 4},         [NPT_F16] = {"F16", 2},
    [NPT_BF16] = {"BF16", 2},       [NPT_NF4] = {"NF4", 0},         [NPT_F64] = {"F64", 8},
    [NPT_C64] = {"C64", 8},         [NPT_U64] = {"U64", 8},         [NPT_I64] = {"I64", 8},
    [NPT_U32] = {"U32", 4},         [NPT_I32] = {"I32", 4},         [NPT_U16] = {"U16", 2},
    [NPT_I16] = {"I16", 2},         [NPT_U8] = {"U8", 1},           [NPT_I8] = {"I8", 1},
    [NPT_F8_E4M3] = {"F8_E4M3", 1}, [NPT_F8_E5M2] = {"F8_E5M2", 1}, [NPT_BOOL] = {"BOOL", 1},
};

static const struct {
    const char *word;
    npt_dtype dtype;
} words[] = {
    {"fp32", NPT_F32},    {"float32", NPT_F32},   {"f32", NPT_F32},    {"float", NPT_F32},
    {"fp16", NPT_F16},    {"float16", NPT_F16},   {"f16", NPT_F16},    {"half", NPT_F16},
    {"bf16", NPT_BF16},   {"bfloat16", NPT_BF16}, {"nf4", NPT_NF4},    {"fp64", NPT_F64},
    {"float64", NPT_F64}, {"f64", NPT_F64},       {"double", NPT_F64}, {"int8", NPT_I8},
    {"i8", NPT_I8},       {"uint8", NPT_U8},      {"u8", NPT_U8},
};

const char *npt_dtype_name(npt_dtype dtype)
{
    return (unsigned)dtype < NPT_DTYPE_COUNT ? dtypes[dtype].name : "none";
}

size_t npt_dtype_bytes(npt_dtype dtype)
{
    return (unsigned)dtype < NPT_DTYPE_COUNT ? dtypes[dtype].bytes : 0;
}

bool npt_dtype_is_float(npt_dtype dtype)
{
    return dtype == NPT_F32 || dtype == NPT_F16 || dtype == NPT_BF16;
}

double npt_dtype_largest(npt_dtype dtype)
{
    return dtype == NPT_F16 ? 65504 : dtype == NPT_BF16 ? 0x1.fep127 : 0x1.fffffep127;
}

double npt_dtype_smallest_normal(npt_dtype dtype)
{
    return dtype == NPT_F16 ? 0x1p-14 : 0x1p-126;
}

double npt_dtype_epsilon(npt_dtype dtype)
{
    return dtype == NPT_F16 ? 0x1p-10 : dtype == NPT_BF16 ? 0x1p-7 : 0x1p-23;
}

npt_dtype npt_dtype_from_word(const char *word)
{
    if (word == NULL) return NPT_DTYPE_NONE;
    if (strncasecmp(word, "torch.", 6) == 0) word += 6; /* as older config.json files spell it */
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcasecmp(word, words[i].word) == 0) return words[i].dtype;
    return NPT_DTYPE_NONE;
}

float npt_f32_from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t magnitude = half & 0x7fffu;
    if (magnitude > 0x7c00u) return npt_bits_float(0x7fc00000u);
    if (magnitude == 0x7c00u) return npt_bits_float(sign | 0x7f800000u);
    if (magnitude >= 0x0400u) return npt_bits_float(sign | ((magnitude << 13) + (112u << 23)));
    /* Subnormal: at most ten bits, so the conversion and the product are exact. */
    return npt_bits_float(sign | npt_float_bits((float)magnitude * 0x1p-24f));
}

/* `bits` with its low `drop` bits rounded away, to nearest even. */
static uint32_t round_off(uint32_t bits, uint32_t drop)
{
    uint32_t odd = (bits >> drop) & 1u;
    return (bits + (1u << (drop - 1)) - 1u + odd) >> drop;
}

uint16_t npt_f16_from_f32(float value)
{
    uint32_t bits = npt_float_bits(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7e00;
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and up */
    if (magnitude >= 0x38800000u)                                    /* 2^-14: normal */
        return (uint16_t)(sign | round_off(magnitude - (112u << 23), 13));
    if (magnitude <= 0x33000000u) return (uint16_t)sign; /* 2^-25 is a tie with zero, which wins */
    uint32_t significand = (magnitude & 0x007fffffu) | 0x00800000u;
    return (uint16_t)(sign | round_off(significand, 126u - (magnitude >> 23)));
}

/* By memcpy, because a tensor of a file lies at any address where the header was not padded. */
float npt_load(const void *src, npt_dtype dtype, size_t index)
{
    float single;
    uint16_t half;
    if (dtype == NPT_F32)
        memcpy(&single, (const char *)src + index * sizeof single, sizeof single);
    else
        memcpy(&half, (const char *)src + index * sizeof half, sizeof half);
    switch (dtype) {
    case NPT_F32: return single;
    case NPT_F16: return npt_f32_from_f16(half);
    case NPT_BF16: return npt_f32_from_bf16(half);
    default: NPT_ASSERT(!"a dtype that is computed with"); return 0.0f;
    }
}

void npt_store(void *dst, npt_dtype dtype, size_t index, float value)
{
    switch (dtype) {
    case NPT_F32: ((float *)dst)[index] = value; break;
    case NPT_F16: ((uint16_t *)dst)[index] = npt_f16_from_f32(value); break;
    case NPT_BF16: ((uint16_t *)dst)[index] = npt_bf16_from_f32(value); break;
    default: NPT_ASSERT(!"a dtype that is computed with");
    }
}
