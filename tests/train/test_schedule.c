/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "npt_test.h"

#include <math.h>

#include "train/schedule.h"

/* Against the formulas of transformers' get_scheduler (method.md §5); its values are in the golden
 * cases. */

static void assert_factor(npt_scheduler scheduler, int64_t taken, int64_t warmup, int64_t total,
                          double truth)
{
    double factor = npt_schedule_factor(scheduler, taken, warmup, total);
    if (!(fabs(factor - truth) <= 1e-15))
        fail_msg("after %d steps, warm-up %d of %d: %.17g, not %.17g", (int)taken, (int)warmup,
                 (int)total, factor, truth);
}

static void warm_up(void **state)
{
    static const npt_scheduler all[] = {NPT_SCHEDULER_LINEAR, NPT_SCHEDULER_COSINE,
                                        NPT_SCHEDULER_CONSTANT_WITH_WARMUP};
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(all); i++)
        for (int64_t n = 0; n <= 7; n++) assert_factor(all[i], n, 7, 100, (double)n / 7);
}

static void linear(void **state)
{
    (void)state;
    for (int64_t n = 7; n <= 100; n++)
        assert_factor(NPT_SCHEDULER_LINEAR, n, 7, 100, (double)(100 - n) / 93);
    for (int64_t n = 0; n <= 10; n++)
        assert_factor(NPT_SCHEDULER_LINEAR, n, 0, 10, (double)(10 - n) / 10);
    assert_factor(NPT_SCHEDULER_LINEAR, 200, 7, 100, 0);
}

static void cosine(void **state)
{
    const double pi = acos(-1);
    (void)state;
    for (int64_t n = 7; n <= 100; n++)
        assert_factor(NPT_SCHEDULER_COSINE, n, 7, 100, 0.5 * (1 + cos(pi * (double)(n - 7) / 93)));
    assert_factor(NPT_SCHEDULER_COSINE, 5, 0, 10, 0.5);
    assert_factor(NPT_SCHEDULER_COSINE, 10, 0, 10, 0);
}

static void constant(void **state)
{
    (void)state;
    assert_factor(NPT_SCHEDULER_CONSTANT, 0, 7, 100, 1);
    assert_factor(NPT_SCHEDULER_CONSTANT, 500, 7, 100, 1);
    assert_factor(NPT_SCHEDULER_CONSTANT_WITH_WARMUP, 7, 7, 100, 1);
    assert_factor(NPT_SCHEDULER_CONSTANT_WITH_WARMUP, 500, 7, 100, 1);
}

/* A warm-up as long as the run, or longer: no division by zero, nothing negative. */
static void degenerate(void **state)
{
    (void)state;
    assert_factor(NPT_SCHEDULER_LINEAR, 3, 10, 5, 0.3);
    assert_factor(NPT_SCHEDULER_LINEAR, 5, 5, 5, 0);
    assert_factor(NPT_SCHEDULER_COSINE, 5, 5, 5, 1);
    assert_factor(NPT_SCHEDULER_LINEAR, 12, 10, 5, 0);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("a warm-up rises from 0 in equal parts", warm_up),
        NPT_CASE("linear falls to 0 at the last step and stays there", linear),
        NPT_CASE("cosine falls from 1 to 0 in half a turn", cosine),
        NPT_CASE("constant is 1; with warm-up, after it", constant),
        NPT_CASE("a warm-up as long as the run is no division by zero", degenerate),
    };
    return npt_test_run("schedule", cases, NPT_COUNT(cases));
}
