/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/peaks.h"

#include <immintrin.h>

/* tdpbf16ps on four sums, as the kernels use it: two row tiles against two lane tiles. */

typedef struct npt_tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} npt_tile_config;

enum { TILE = 512 /* elements, BF16 */, ROW_BYTES = 64, PRODUCT = 16 * 16 * 32 };

static float run(const uint16_t *data, int64_t rounds)
{
    npt_tile_config config = {.palette = 1};
    float sums[256];
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = ROW_BYTES;
        config.rows[i] = 16;
    }
    /* gcc 12 does not see that the next line reads the stores above */
    __asm__ volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, data, ROW_BYTES);
    _tile_loadd(5, data + TILE, ROW_BYTES);
    _tile_loadd(6, data + 2 * TILE, ROW_BYTES);
    _tile_loadd(7, data + 3 * TILE, ROW_BYTES);
    for (int64_t i = 0; i < rounds; i++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, ROW_BYTES);
    _tile_release();
    __asm__ volatile("" ::"r"(sums) : "memory");
    return sums[0];
}

void npt_peak_fill_amx(npt_peak *peak)
{
    *peak = (npt_peak){"bf16 tiles, amx", 2.0 * 4 * PRODUCT, run};
}
