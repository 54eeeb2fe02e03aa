/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "tensor/dtype.h"
#include "tensor/sites.h"

#include "npt_test.h"

/* The plan of cast sites against the table of precision.md §3, written out again here by hand, for
 * every row of the policy table; breaches; the digest. */

enum { HIDDEN = 48, INTER = 80, Q = 32, KV = 16, RANK = 4, LAYERS = 2 };

/* Layer 0 is the teacher's kind, layer 1 an NPT block. */
static void blocks_of(bool additive, bool multiplicative, bool qk_norm,
                      npt_site_block blocks[LAYERS])
{
    blocks[0] = (npt_site_block){.qk_norm = qk_norm,
                                 .hidden = HIDDEN,
                                 .inter = INTER,
                                 .q_width = Q,
                                 .kv_width = KV,
                                 .rank = RANK};
    blocks[1] = blocks[0];
    blocks[1].npt = true;
    blocks[1].additive = additive;
    blocks[1].multiplicative = multiplicative;
}

static npt_policy decide(npt_policy_request request)
{
    npt_policy policy;
    if (npt_policy_decide(&request, &policy) != NPT_OK) fail_msg("%s", npt_error_message());
    return policy;
}

static npt_sites *plan(const npt_policy *policy, bool additive, bool multiplicative, bool qk_norm)
{
    npt_site_block blocks[LAYERS];
    blocks_of(additive, multiplicative, qk_norm, blocks);
    npt_sites *sites = npt_sites_create(policy, LAYERS, blocks);
    assert_non_null(sites);
    return sites;
}

/* ---- The table ---- */

/* The policy rows with the letters of precision.md §3: H, P, the table of embeddings, the operand
 * of products, the weights as held. */
static const struct {
    npt_policy_request request;
    npt_dtype h, p, plain, compute, frozen;
} policies[] = {
    {{.use_quantization = true}, NPT_F32, NPT_F32, NPT_F32, NPT_F32, NPT_NF4},
    {{.use_fp16 = true}, NPT_F16, NPT_F16, NPT_F16, NPT_F16, NPT_F16},
    {{.use_bf16 = true}, NPT_BF16, NPT_BF16, NPT_BF16, NPT_BF16, NPT_BF16},
    {{.mixed_precision = NPT_F16}, NPT_F32, NPT_F32, NPT_F32, NPT_F16, NPT_F32},
    {{.mixed_precision = NPT_BF16}, NPT_F32, NPT_F32, NPT_F32, NPT_BF16, NPT_F32},
    {{0}, NPT_F32, NPT_F32, NPT_F32, NPT_F32, NPT_F32},
    {{.use_fp16 = true, .adapter_dtype = NPT_F32}, NPT_F16, NPT_F32, NPT_F16, NPT_F16, NPT_F16},
    {{.adapter_dtype = NPT_BF16}, NPT_F32, NPT_BF16, NPT_F32, NPT_F32, NPT_F32},
    {{.mixed_precision = NPT_F16, .adapter_dtype = NPT_BF16},
     NPT_F32,
     NPT_BF16,
     NPT_F32,
     NPT_F16,
     NPT_F32},
};

/* Letters: F F32, H act, P adapter, C operand, E embedding table, W weights as held. Places: S
 * standard block, N NPT block, M the model outside of blocks; K only with q_norm and k_norm. An
 * NPT block here has both terms. */
typedef struct site_row {
    npt_site_id id;
    const char *places;
    char from, to;
    int64_t per_token; /* forward, where from and to are not 'C' */
    const char *backward_places;
    char backward_to; /* the gradient of what the site produced: an F32 sum, rounded to this */
    int64_t backward_per_token;
    bool again; /* replayed in backward */
} site_row;

static const site_row table[] = {
    {NPT_SITE_WEIGHT, "M", 'W', 'C', 0, "", 0, 0, false},
    {NPT_SITE_EMBED, "M", 'E', 'H', HIDDEN, "", 0, 0, false},
    {NPT_SITE_NORM_IN, "SN", 'F', 'H', 2 * HIDDEN, "SN", 'H', 2 * HIDDEN, false},
    {NPT_SITE_Q, "SN", 'F', 'H', Q, "SN", 'H', Q, false},
    {NPT_SITE_K, "SN", 'F', 'H', KV, "SN", 'H', KV, false},
    {NPT_SITE_V, "SN", 'F', 'H', KV, "SN", 'H', KV, false},
    {NPT_SITE_Q_NORM, "SNK", 'F', 'H', 2 * Q, "SNK", 'H', Q, false},
    {NPT_SITE_K_NORM, "SNK", 'F', 'H', 2 * KV, "SNK", 'H', KV, false},
    {NPT_SITE_ROPE_TABLE, "M", 'F', 'H', 0, "", 0, 0, false},
    {NPT_SITE_ROPE, "SN", 'F', 'H', Q + KV, "SN", 'H', Q + KV, false},
    {NPT_SITE_ATTN, "SN", 'F', 'H', Q, "SN", 'H', Q, false},
    {NPT_SITE_ATTN_OUT, "SN", 'F', 'H', HIDDEN, "N", 'H', HIDDEN, false},
    {NPT_SITE_RESIDUAL_ATTN, "S", 'F', 'H', HIDDEN, "", 0, 0, false},
    {NPT_SITE_ADAPTER_IN, "N", 'H', 'P', HIDDEN, "N", 'P', HIDDEN, false},
    {NPT_SITE_Z, "N", 'F', 'P', RANK, "N", 'P', RANK, false},
    {NPT_SITE_ADD, "N", 'F', 'P', INTER, "N", 'P', INTER, true},
    {NPT_SITE_U, "N", 'F', 'P', INTER, "N", 'P', INTER, true},
    {NPT_SITE_MULT, "N", 'F', 'P', INTER, "", 0, 0, true},
    {NPT_SITE_NORM_POST, "SN", 'F', 'H', 2 * HIDDEN, "SN", 'H', 2 * HIDDEN, false},
    {NPT_SITE_GATE, "SN", 'F', 'H', INTER, "SN", 'H', INTER, false},
    {NPT_SITE_UP, "SN", 'F', 'H', INTER, "SN", 'H', INTER, false},
    {NPT_SITE_GATE_MOD, "N", 'F', 'H', INTER, "N", 'H', INTER, true},
    {NPT_SITE_MLP_ACT, "SN", 'F', 'H', INTER, "SN", 'H', INTER, false},
    {NPT_SITE_DOWN, "SN", 'F', 'H', HIDDEN, "", 0, 0, false},
    {NPT_SITE_RESIDUAL, "SN", 'F', 'H', HIDDEN, "SN", 'H', HIDDEN, false},
    {NPT_SITE_NORM_FINAL, "M", 'F', 'H', 2 * HIDDEN, "", 0, 0, false},
    {NPT_SITE_LOGITS, "M", 'F', 'F', 0, "", 0, 0, false},
    {NPT_SITE_UPDATE, "N", 'F', 'P', 0, "", 0, 0, false},
};

static npt_dtype letter(char c, size_t policy)
{
    switch (c) {
    case 'H': return policies[policy].h;
    case 'P': return policies[policy].p;
    case 'C': return policies[policy].compute;
    case 'E': return policies[policy].plain;
    case 'W': return policies[policy].frozen;
    default: return NPT_F32;
    }
}

static bool is_at(const char *places, int layer, bool qk_norm)
{
    static const char place[] = {'M', 'S', 'N'};
    return strchr(places, place[layer + 1]) != NULL && (qk_norm || strchr(places, 'K') == NULL);
}

static void expect_plan(const npt_sites *sites, npt_site_id id, int layer, npt_direction direction,
                        npt_site_plan wanted)
{
    char label[64];
    npt_site_plan got = npt_sites_planned(sites, id, layer, direction);
    if (got.from != wanted.from || got.to != wanted.to || got.per_token != wanted.per_token)
        fail_msg("%s: %s to %s × %d, not %s to %s × %d",
                 npt_site_label(id, layer, direction, label, sizeof label),
                 npt_dtype_name(got.from), npt_dtype_name(got.to), (int)got.per_token,
                 npt_dtype_name(wanted.from), npt_dtype_name(wanted.to), (int)wanted.per_token);
}

static void expect_row(const npt_sites *sites, const site_row *row, size_t policy, bool qk_norm)
{
    for (int layer = -1; layer < LAYERS; layer++) {
        npt_site_plan forward = {0}, backward = {0};
        if (is_at(row->places, layer, qk_norm))
            forward =
                (npt_site_plan){letter(row->from, policy), letter(row->to, policy), row->per_token};
        if (is_at(row->backward_places, layer, qk_norm))
            backward =
                (npt_site_plan){NPT_F32, letter(row->backward_to, policy), row->backward_per_token};
        expect_plan(sites, row->id, layer, NPT_FORWARD, forward);
        expect_plan(sites, row->id, layer, NPT_BACKWARD, backward);
        expect_plan(sites, row->id, layer, NPT_RECOMPUTE,
                    row->again ? forward : (npt_site_plan){0});
    }
}

static void every_site_is_planned_as_specified(void **state)
{
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(policies); i++)
        for (int qk_norm = 0; qk_norm < 2; qk_norm++) {
            npt_policy policy = decide(policies[i].request);
            npt_sites *sites = plan(&policy, true, true, qk_norm);
            for (size_t r = 0; r < NPT_COUNT(table); r++) expect_row(sites, &table[r], i, qk_norm);
            npt_sites_destroy(sites);
        }
}

/* Forward n, attn, m, act; backward dh, da, dgate, dup, dq, dk, dv. Of an adapter, in its own
 * dtype: forward a, z; backward dz, z, a and a gradient a term. */
static void operands_are_cast_under_r4_alone(void **state)
{
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(policies); i++) {
        npt_policy policy = decide(policies[i].request);
        npt_sites *sites = plan(&policy, true, true, false);
        const npt_dtype h = policies[i].h, c = policies[i].compute, p = policies[i].p;
        const bool casts = h != c;
        const int64_t forward = 2 * HIDDEN + Q + INTER,
                      backward = 2 * HIDDEN + 2 * INTER + Q + 2 * KV;
        for (int layer = -1; layer < LAYERS; layer++) {
            npt_site_plan f = {0}, b = {0}, p_f = {0}, p_b = {0};
            if (casts && layer >= 0) {
                f = (npt_site_plan){h, c, forward};
                b = (npt_site_plan){h, c, backward};
            }
            if (casts && layer == 1) {
                p_f = (npt_site_plan){p, c, HIDDEN + RANK};
                p_b = (npt_site_plan){p, c, HIDDEN + 2 * RANK + 2 * INTER};
            }
            expect_plan(sites, NPT_SITE_OPERAND, layer, NPT_FORWARD, f);
            expect_plan(sites, NPT_SITE_OPERAND, layer, NPT_BACKWARD, b);
            expect_plan(sites, NPT_SITE_ADAPTER_OPERAND, layer, NPT_FORWARD, p_f);
            expect_plan(sites, NPT_SITE_ADAPTER_OPERAND, layer, NPT_BACKWARD, p_b);
        }
        npt_sites_destroy(sites);
    }
}

static void a_term_that_is_absent_has_no_sites(void **state)
{
    (void)state;
    npt_policy policy = decide((npt_policy_request){.use_fp16 = true});
    for (int additive = 0; additive < 2; additive++) {
        npt_sites *sites = plan(&policy, additive, !additive, false);
        npt_dtype add = additive ? NPT_F16 : NPT_DTYPE_NONE,
                  u = additive ? NPT_DTYPE_NONE : NPT_F16;
        assert_int_equal(npt_sites_planned(sites, NPT_SITE_ADD, 1, NPT_FORWARD).to, add);
        assert_int_equal(npt_sites_planned(sites, NPT_SITE_ADD, 1, NPT_BACKWARD).to, add);
        assert_int_equal(npt_sites_planned(sites, NPT_SITE_U, 1, NPT_FORWARD).to, u);
        assert_int_equal(npt_sites_planned(sites, NPT_SITE_MULT, 1, NPT_FORWARD).to, u);
        assert_int_equal(npt_sites_planned(sites, NPT_SITE_MULT, 1, NPT_RECOMPUTE).to, u);
        npt_sites_destroy(sites);
    }
}

/* ---- Execution and breaches ---- */

static void casts_are_counted(void **state)
{
    (void)state;
    npt_policy policy = decide((npt_policy_request){.use_fp16 = true});
    npt_sites *sites = plan(&policy, true, true, false);
    assert_int_equal(npt_site(sites, NPT_SITE_GATE_MOD, 1, NPT_FORWARD, NPT_F32, 800), NPT_F16);
    assert_int_equal(npt_site(sites, NPT_SITE_GATE_MOD, 1, NPT_FORWARD, NPT_F32, 80), NPT_F16);
    assert_int_equal(npt_site(sites, NPT_SITE_GATE_MOD, 1, NPT_RECOMPUTE, NPT_F32, 8), NPT_F16);
    assert_int_equal(npt_sites_executed(sites, NPT_SITE_GATE_MOD, 1, NPT_FORWARD), 880);
    assert_int_equal(npt_sites_executed(sites, NPT_SITE_GATE_MOD, 1, NPT_RECOMPUTE), 8);
    assert_int_equal(npt_sites_executed(sites, NPT_SITE_GATE_MOD, 1, NPT_BACKWARD), 0);
    assert_int_equal(npt_sites_check(sites), NPT_OK);
    npt_sites_reset_counts(sites);
    assert_int_equal(npt_sites_executed(sites, NPT_SITE_GATE_MOD, 1, NPT_FORWARD), 0);
    npt_sites_destroy(sites);
}

static void expect_breach(const npt_sites *sites, const char *const *parts, size_t count)
{
    assert_int_equal(npt_sites_check(sites), NPT_E_INTERNAL);
    for (size_t i = 0; i < count; i++)
        if (strstr(npt_error_message(), parts[i]) == NULL)
            fail_msg("'%s' does not say '%s'", npt_error_message(), parts[i]);
}

static void an_unplanned_cast_is_a_breach(void **state)
{
    static const char *const wrong_dtype[] = {
        "expected mat1 and mat2 to have the same dtype, but got: c10::BFloat16 != c10::Half",
        "L01.adapter_in", "BF16 arrived", "F16 → F16", "R2"};
    static const char *const arithmetic[] = {"expected scalar type Float but found Byte",
                                             "L01.gate_mod", "U8 arrived", "F32 → F16", "R2"};
    static const char *const no_such_site[] = {"L00.gate_mod.backward", "F32 arrived",
                                               "has no cast", "R2"};
    static const char *const outside[] = {"unplanned cast at embed.backward:", "F32 arrived"};
    (void)state;
    npt_policy policy = decide((npt_policy_request){.use_fp16 = true});
    npt_sites *sites = plan(&policy, true, true, false);
    /* what leaves is what was planned; the first breach is the one that is told */
    assert_int_equal(npt_site(sites, NPT_SITE_ADAPTER_IN, 1, NPT_FORWARD, NPT_BF16, 5), NPT_F16);
    assert_int_equal(npt_site(sites, NPT_SITE_GATE_MOD, 0, NPT_BACKWARD, NPT_F32, 5), NPT_F32);
    expect_breach(sites, wrong_dtype, NPT_COUNT(wrong_dtype));
    assert_int_equal(npt_sites_executed(sites, NPT_SITE_ADAPTER_IN, 1, NPT_FORWARD), 0);
    npt_sites_reset_counts(sites);
    assert_int_equal(npt_sites_check(sites), NPT_OK);
    npt_site(sites, NPT_SITE_GATE_MOD, 1, NPT_FORWARD, NPT_U8, 5);
    expect_breach(sites, arithmetic, NPT_COUNT(arithmetic));
    npt_sites_reset_counts(sites);
    npt_site(sites, NPT_SITE_GATE_MOD, 0, NPT_BACKWARD, NPT_F32, 5);
    expect_breach(sites, no_such_site, NPT_COUNT(no_such_site));
    npt_sites_reset_counts(sites);
    npt_site(sites, NPT_SITE_EMBED, -1, NPT_BACKWARD, NPT_F32, 5);
    expect_breach(sites, outside, NPT_COUNT(outside));
    npt_sites_destroy(sites);
}

/* A site of another layer, direction or dtype than planned is a breach, wherever it is. */
static void every_deviation_is_found(void **state)
{
    static const npt_dtype dtypes[] = {NPT_F32, NPT_F16, NPT_BF16, NPT_NF4, NPT_I8};
    (void)state;
    npt_policy policy = decide((npt_policy_request){.mixed_precision = NPT_BF16});
    npt_sites *sites = plan(&policy, true, false, true);
    for (int id = 0; id < NPT_SITE_COUNT; id++)
        for (int layer = -1; layer < LAYERS; layer++)
            for (int direction = 0; direction < NPT_DIRECTION_COUNT; direction++)
                for (size_t d = 0; d < NPT_COUNT(dtypes); d++) {
                    const npt_site_id site = (npt_site_id)id;
                    const npt_direction way = (npt_direction)direction;
                    npt_site_plan p = npt_sites_planned(sites, site, layer, way);
                    bool planned = p.to != NPT_DTYPE_NONE && p.from == dtypes[d];
                    /* the file's own dtype may stay until it is cast (precision.md §2) */
                    if (p.to != NPT_DTYPE_NONE && (id == NPT_SITE_WEIGHT || id == NPT_SITE_EMBED))
                        planned = planned || npt_dtype_is_float(dtypes[d]);
                    npt_sites_reset_counts(sites);
                    npt_dtype to = npt_site(sites, site, layer, way, dtypes[d], 1);
                    assert_int_equal(to, p.to != NPT_DTYPE_NONE ? p.to : dtypes[d]);
                    assert_int_equal(npt_sites_check(sites), planned ? NPT_OK : NPT_E_INTERNAL);
                }
    npt_sites_destroy(sites);
}

/* ---- The digest ---- */

/* FNV-1a over from, to and the roundings a token of every cell, as 64-bit little-endian words. */
static uint64_t digest_by_definition(const npt_sites *sites, int layers)
{
    uint64_t hash = 14695981039346656037u;
    for (int layer = -1; layer < layers; layer++)
        for (int id = 0; id < NPT_SITE_COUNT; id++)
            for (int way = 0; way < NPT_DIRECTION_COUNT; way++) {
                npt_site_plan p =
                    npt_sites_planned(sites, (npt_site_id)id, layer, (npt_direction)way);
                uint64_t words[3] = {p.from, p.to, (uint64_t)p.per_token};
                for (int byte = 0; byte < 24; byte++) {
                    hash ^= words[byte / 8] >> (8 * (byte % 8)) & 255;
                    hash *= 1099511628211u;
                }
            }
    return hash;
}

static void the_digest_is_fnv_of_the_plan(void **state)
{
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(policies); i++) {
        npt_policy policy = decide(policies[i].request);
        npt_sites *sites = plan(&policy, true, true, true), *twin = plan(&policy, true, true, true);
        uint64_t before = npt_sites_digest(sites);
        assert_true(before == digest_by_definition(sites, LAYERS));
        npt_site(sites, NPT_SITE_Q, 0, NPT_FORWARD, NPT_F32, 5); /* execution changes nothing */
        npt_site(sites, NPT_SITE_Q, 0, NPT_FORWARD, NPT_I8, 5);
        assert_true(before == npt_sites_digest(sites));
        assert_true(before == npt_sites_digest(twin));
        npt_sites_destroy(sites);
        npt_sites_destroy(twin);
    }
}

static void every_decision_is_in_the_digest(void **state)
{
    enum { PLANS = 18 };
    uint64_t digests[PLANS];
    size_t count = 0;
    (void)state;
    /* another policy */
    for (size_t i = 0; i < NPT_COUNT(policies); i++) {
        npt_policy policy = decide(policies[i].request);
        npt_sites *sites = plan(&policy, true, true, true);
        digests[count++] = npt_sites_digest(sites);
        npt_sites_destroy(sites);
    }
    /* another block */
    npt_policy policy = decide((npt_policy_request){.use_bf16 = true});
    for (int change = 0; change < 9; change++) {
        npt_site_block blocks[LAYERS];
        blocks_of(true, true, true, blocks);
        if (change == 0) blocks[0].npt = blocks[0].additive = true;
        if (change == 1) blocks[1].additive = false;
        if (change == 2) blocks[1].multiplicative = false;
        if (change == 3) blocks[0].qk_norm = false;
        if (change == 4) blocks[0].hidden++;
        if (change == 5) blocks[1].inter++;
        if (change == 6) blocks[1].q_width++;
        if (change == 7) blocks[1].kv_width++;
        if (change == 8) blocks[1].rank++;
        npt_sites *sites = npt_sites_create(&policy, LAYERS, blocks);
        assert_non_null(sites);
        digests[count++] = npt_sites_digest(sites);
        npt_sites_destroy(sites);
    }
    assert_int_equal(count, PLANS);
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < i; k++)
            if (digests[i] == digests[k]) fail_msg("plans %zu and %zu have one digest", k, i);
}

/* ---- Names ---- */

static void labels_say_layer_site_and_direction(void **state)
{
    char text[64], cut[6];
    (void)state;
    assert_string_equal(npt_site_label(NPT_SITE_GATE_MOD, 7, NPT_FORWARD, text, sizeof text),
                        "L07.gate_mod");
    assert_string_equal(npt_site_label(NPT_SITE_GATE_MOD, 123, NPT_BACKWARD, text, sizeof text),
                        "L123.gate_mod.backward");
    assert_string_equal(npt_site_label(NPT_SITE_MULT, 0, NPT_RECOMPUTE, text, sizeof text),
                        "L00.mult.recompute");
    assert_string_equal(npt_site_label(NPT_SITE_EMBED, -1, NPT_FORWARD, text, sizeof text),
                        "embed");
    assert_string_equal(npt_site_label(NPT_SITE_GATE_MOD, 7, NPT_FORWARD, cut, sizeof cut),
                        "L07.g");
}

static void site_names_are_told_apart(void **state)
{
    (void)state;
    for (int i = 0; i < NPT_SITE_COUNT; i++) {
        assert_non_null(npt_site_name((npt_site_id)i));
        for (int k = 0; k < i; k++)
            if (strcmp(npt_site_name((npt_site_id)i), npt_site_name((npt_site_id)k)) == 0)
                fail_msg("two sites are named %s", npt_site_name((npt_site_id)i));
    }
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("every site is planned as specified, for every row of the policy",
                 every_site_is_planned_as_specified),
        NPT_CASE("operands are cast under R4 alone", operands_are_cast_under_r4_alone),
        NPT_CASE("a term that is absent has no sites", a_term_that_is_absent_has_no_sites),
        NPT_CASE("casts are counted", casts_are_counted),
        NPT_CASE("an unplanned cast is a breach, told with site, dtypes and rule",
                 an_unplanned_cast_is_a_breach),
        NPT_CASE("every deviation from the plan is found", every_deviation_is_found),
        NPT_CASE("the digest is FNV-1a of the plan and of nothing else",
                 the_digest_is_fnv_of_the_plan),
        NPT_CASE("every decision is in the digest", every_decision_is_in_the_digest),
        NPT_CASE("labels say layer, site and direction", labels_say_layer_site_and_direction),
        NPT_CASE("site names are told apart", site_names_are_told_apart),
    };
    return npt_test_run("sites", cases, NPT_COUNT(cases));
}
