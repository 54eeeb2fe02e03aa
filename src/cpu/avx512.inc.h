/* SPDX-License-Identifier: BSD-2-Clause */
/* What the AVX-512 kernels and the packing for AMX share. The including file has immintrin.h. */

/* Sixteen nibbles of NF4, one to a word, the first in the upper half of its byte, with other bits
 * above them. */
static inline __m512i sixteen_nibbles(const uint8_t *packed)
{
    const __m512i shift =
        _mm512_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24, 4, 0, 12, 8, 20, 16, 28, 24);
    int32_t first, second;
    memcpy(&first, packed, sizeof(first));
    memcpy(&second, packed + sizeof(first), sizeof(second));
    const __m512i bytes = _mm512_mask_set1_epi32(_mm512_set1_epi32(first), 0xff00, second);
    return _mm512_srlv_epi32(bytes, shift);
}

/* 16 × 16 words of 32 bits turned: pairs, quarters, then the 128-bit pieces. */
static inline void turn(__m512i v[16])
{
    __m512i a[16];
    UNROLLED
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    UNROLLED
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    UNROLLED
    for (int i = 0; i < 4; i++) {
        const __m512i low = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        const __m512i high = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
        const __m512i low2 = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        const __m512i high2 = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
        a[i] = _mm512_shuffle_i32x4(low, low2, 0x88);
        a[i + 4] = _mm512_shuffle_i32x4(high, high2, 0x88);
        a[i + 8] = _mm512_shuffle_i32x4(low, low2, 0xdd);
        a[i + 12] = _mm512_shuffle_i32x4(high, high2, 0xdd);
    }
    UNROLLED
    for (int i = 0; i < 16; i++) v[i] = a[i];
}
