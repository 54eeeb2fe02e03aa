/* SPDX-License-Identifier: BSD-2-Clause */
/* The digest changes when any cast changes. A plan cannot be changed from outside, so this program
 * compiles sites.c itself and changes every cell in every way. */
#include "config.h"

#include "tensor/sites.c"

#include "npt_test.h"

static npt_sites *make_plan(void)
{
    npt_policy policy;
    const npt_policy_request request = {.mixed_precision = NPT_F16};
    npt_site_block blocks[2];
    for (int i = 0; i < 2; i++)
        blocks[i] = (npt_site_block){.npt = i == 1,
                                     .additive = i == 1,
                                     .multiplicative = i == 1,
                                     .qk_norm = true,
                                     .hidden = 8,
                                     .inter = 24,
                                     .q_width = 8,
                                     .kv_width = 4,
                                     .rank = 2};
    assert_int_equal(npt_policy_decide(&request, &policy), NPT_OK);
    npt_sites *sites = npt_sites_create(&policy, 2, blocks);
    assert_non_null(sites);
    return sites;
}

static void any_cast_that_changes_changes_the_digest(void **state)
{
    (void)state;
    npt_sites *sites = make_plan();
    const uint64_t before = npt_sites_digest(sites);
    int changes = 0;
    for (size_t i = 0; i < cell_count(sites); i++) {
        npt_site_plan *plan = &sites->cells[i].plan, kept = *plan;
        for (int dtype = NPT_DTYPE_NONE; dtype <= NPT_NF4; dtype++) {
            if ((npt_dtype)dtype != kept.from) {
                plan->from = (npt_dtype)dtype;
                assert_true(npt_sites_digest(sites) != before);
                changes++;
            }
            *plan = kept;
            if ((npt_dtype)dtype != kept.to) {
                plan->to = (npt_dtype)dtype;
                assert_true(npt_sites_digest(sites) != before);
                changes++;
            }
            *plan = kept;
        }
        plan->per_token++;
        assert_true(npt_sites_digest(sites) != before);
        *plan = kept;
        assert_true(npt_sites_digest(sites) == before);
    }
    assert_true(changes > 2000);
    npt_sites_destroy(sites);
}

static void any_execution_changes_the_other_digest(void **state)
{
    (void)state;
    npt_sites *sites = make_plan();
    const uint64_t before = npt_sites_executed_digest(sites);
    for (size_t i = 0; i < cell_count(sites); i++) {
        sites->cells[i].executed++;
        assert_true(npt_sites_executed_digest(sites) != before);
        sites->cells[i].executed--;
    }
    assert_true(npt_sites_executed_digest(sites) == before);
    npt_sites_destroy(sites);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("any cast that changes changes the digest",
                 any_cast_that_changes_changes_the_digest),
        NPT_CASE("any execution changes the digest of executions",
                 any_execution_changes_the_other_digest),
    };
    return npt_test_run("digest", cases, NPT_COUNT(cases));
}
