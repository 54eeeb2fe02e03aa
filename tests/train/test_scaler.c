/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "npt_test.h"

#include "train/scaler.h"

/* precision.md §4: 65536, ×2 after 2000 unskipped steps while finite, ×0.5 at a skipped one, below
 * 1 the end. */

static void grow(npt_scaler *scaler, int steps)
{
    for (int i = 0; i < steps; i++) npt_scaler_grow(scaler);
}

static void doubles_every_2000(void **state)
{
    npt_scaler scaler;
    (void)state;
    npt_scaler_init(&scaler, true, 65536);
    assert_true(scaler.scale == 65536);
    grow(&scaler, 1999);
    assert_true(scaler.scale == 65536);
    grow(&scaler, 1);
    assert_true(scaler.scale == 131072);
    grow(&scaler, 1999);
    assert_true(scaler.scale == 131072);
    grow(&scaler, 1);
    assert_true(scaler.scale == 262144);
}

static void a_skipped_step_starts_the_count_again(void **state)
{
    npt_scaler scaler;
    (void)state;
    npt_scaler_init(&scaler, true, 65536);
    grow(&scaler, 1999);
    assert_true(npt_scaler_back_off(&scaler));
    assert_true(scaler.scale == 32768);
    grow(&scaler, 1999);
    assert_true(scaler.scale == 32768);
    grow(&scaler, 1);
    assert_true(scaler.scale == 65536);
}

static void ends_below_one(void **state)
{
    npt_scaler scaler;
    (void)state;
    npt_scaler_init(&scaler, true, 65536);
    for (int i = 0; i < 16; i++) assert_true(npt_scaler_back_off(&scaler));
    assert_true(scaler.scale == 1);
    assert_false(npt_scaler_back_off(&scaler));
}

static void stays_finite(void **state)
{
    npt_scaler scaler;
    (void)state;
    npt_scaler_init(&scaler, true, 65536);
    for (int i = 0; i < 200; i++) grow(&scaler, 2000);
    assert_true((double)(float)scaler.scale ==
                scaler.scale); /* finite in F32, and so is its reciprocal */
    assert_true(1 / (float)scaler.scale > 0);
}

static void off_is_one(void **state)
{
    npt_scaler scaler;
    (void)state;
    npt_scaler_init(&scaler, false, 65536);
    assert_true(scaler.scale == 1);
    grow(&scaler, 5000);
    assert_true(scaler.scale == 1);
    assert_true(npt_scaler_back_off(&scaler)); /* nothing to lower: the caller counts bad batches */
    assert_true(scaler.scale == 1);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("the scale doubles after every 2000 steps", doubles_every_2000),
        NPT_CASE("a skipped step halves it and starts the count again",
                 a_skipped_step_starts_the_count_again),
        NPT_CASE("below 1 the forward is broken", ends_below_one),
        NPT_CASE("the scale and its reciprocal stay finite in F32", stays_finite),
        NPT_CASE("switched off it is 1 for ever", off_is_one),
    };
    return npt_test_run("scaler", cases, NPT_COUNT(cases));
}
