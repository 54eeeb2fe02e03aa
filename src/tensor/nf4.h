/* SPDX-License-Identifier: BSD-2-Clause */
/* NF4, bit for bit as bitsandbytes defines it on CUDA (precision.md §5). Plain C; the SIMD copies
 * in cpu/ are tested against these. n elements, blocks of 64 along the flattened row-major weight;
 * packed bytes: even element in the high nibble; (n+1)/2 bytes, (n+63)/64 absmax. */
#ifndef NPT_TENSOR_NF4_H
#define NPT_TENSOR_NF4_H

#include "base/status.h"

enum { NPT_NF4_BLOCK = 64, NPT_NF4_NESTED_BLOCK = 256 };

extern const float npt_nf4_levels[16];

/* src: n elements of F32, F16 or BF16. */
void npt_nf4_quantize(const void *src, npt_dtype dtype, size_t n, uint8_t *packed, float *absmax);
/* dst: n of F32, F16 or BF16; level × absmax in F32, one rounding. `levels`: 16 entries (a file's
 * own map, or npt_nf4_levels). */
void npt_nf4_dequantize(const uint8_t *packed, const float *absmax, const float *levels, size_t n,
                        void *dst, npt_dtype dtype);

/* Double quantization of absmax (blocks of 256 of them). */
void npt_nf4_dynamic_map(float map[256]); /* the signed dynamic map, sorted */
/* codes: one per absmax; nested_absmax: (blocks+255)/256; offset: the mean of absmax. */
void npt_nf4_nest(const float *absmax, size_t blocks, uint8_t *codes, float *nested_absmax,
                  float *offset);
/* absmax = map[code] · nested_absmax[i / nested_block] + offset, in F32, two roundings. */
void npt_nf4_unnest(const uint8_t *codes, const float map[256], const float *nested_absmax,
                    size_t nested_block, float offset, size_t blocks, float *absmax);

#endif
