/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/scaler.h"

enum { GROWTH_INTERVAL = 2000 };
static const double largest_scale = 0x1p127; /* still finite in F32 */

void npt_scaler_init(npt_scaler *scaler, bool enabled, double initial_scale)
{
    *scaler = (npt_scaler){.enabled = enabled, .scale = enabled ? initial_scale : 1};
}

void npt_scaler_grow(npt_scaler *scaler)
{
    if (!scaler->enabled || ++scaler->good_steps < GROWTH_INTERVAL) return;
    scaler->good_steps = 0;
    if (scaler->scale < largest_scale) scaler->scale *= 2;
}

bool npt_scaler_back_off(npt_scaler *scaler)
{
    scaler->good_steps = 0;
    if (scaler->enabled) scaler->scale *= 0.5;
    return scaler->scale >= 1;
}
