/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "tensor/policy.h"

#include "npt_test.h"

/* The policy against the table of precision.md §2, row by row, and its conflicts. */

static npt_policy decide(npt_policy_request request)
{
    npt_policy policy;
    if (npt_policy_decide(&request, &policy) != NPT_OK) fail_msg("%s", npt_error_message());
    return policy;
}

static void expect_refused(npt_policy_request request, const char *first, const char *second)
{
    npt_policy policy, untouched;
    memset(&policy, 0x5a, sizeof policy);
    memset(&untouched, 0x5a, sizeof untouched);
    assert_int_equal(npt_policy_decide(&request, &policy), NPT_E_USAGE);
    assert_memory_equal(&policy, &untouched, sizeof policy);
    if (strstr(npt_error_message(), first) == NULL || strstr(npt_error_message(), second) == NULL)
        fail_msg("'%s' does not name '%s' and '%s'", npt_error_message(), first, second);
}

/* ---- The table ---- */

typedef struct row {
    npt_policy_request request;
    npt_rule rule;
    npt_dtype frozen, plain, act, compute, adapter, master;
    bool dynamic, quantize;
} row;

static const row table[] = {
    {{.use_quantization = true},
     NPT_R1,
     NPT_NF4,
     NPT_F32,
     NPT_F32,
     NPT_F32,
     NPT_F32,
     NPT_DTYPE_NONE,
     false,
     true},
    {{.base_is_quantized = true},
     NPT_R1,
     NPT_NF4,
     NPT_F32,
     NPT_F32,
     NPT_F32,
     NPT_F32,
     NPT_DTYPE_NONE,
     false,
     false},
    {{.use_quantization = true, .base_is_quantized = true},
     NPT_R1,
     NPT_NF4,
     NPT_F32,
     NPT_F32,
     NPT_F32,
     NPT_F32,
     NPT_DTYPE_NONE,
     false,
     false},
    {{.use_fp16 = true}, NPT_R2, NPT_F16, NPT_F16, NPT_F16, NPT_F16, NPT_F16, NPT_F32, true, false},
    {{.use_fp16 = true, .mixed_precision = NPT_F16},
     NPT_R2,
     NPT_F16,
     NPT_F16,
     NPT_F16,
     NPT_F16,
     NPT_F16,
     NPT_F32,
     true,
     false},
    {{.use_bf16 = true},
     NPT_R3,
     NPT_BF16,
     NPT_BF16,
     NPT_BF16,
     NPT_BF16,
     NPT_BF16,
     NPT_F32,
     false,
     false},
    {{.use_bf16 = true, .mixed_precision = NPT_BF16},
     NPT_R3,
     NPT_BF16,
     NPT_BF16,
     NPT_BF16,
     NPT_BF16,
     NPT_BF16,
     NPT_F32,
     false,
     false},
    {{.mixed_precision = NPT_F16},
     NPT_R4,
     NPT_F32,
     NPT_F32,
     NPT_F32,
     NPT_F16,
     NPT_F32,
     NPT_DTYPE_NONE,
     true,
     false},
    {{.mixed_precision = NPT_BF16},
     NPT_R4,
     NPT_F32,
     NPT_F32,
     NPT_F32,
     NPT_BF16,
     NPT_F32,
     NPT_DTYPE_NONE,
     false,
     false},
    {{0}, NPT_R5, NPT_F32, NPT_F32, NPT_F32, NPT_F32, NPT_F32, NPT_DTYPE_NONE, false, false},
};

static void every_row_is_as_specified(void **state)
{
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(table); i++) {
        const row *want = &table[i];
        npt_policy p = decide(want->request);
        const npt_dtype dtypes[NPT_ROLE_COUNT] = {
            [NPT_ROLE_FROZEN] = want->frozen,   [NPT_ROLE_PLAIN] = want->plain,
            [NPT_ROLE_ACT] = want->act,         [NPT_ROLE_COMPUTE] = want->compute,
            [NPT_ROLE_ADAPTER] = want->adapter, [NPT_ROLE_MASTER] = want->master,
            [NPT_ROLE_ACCUM] = NPT_F32,         [NPT_ROLE_GRAD] = NPT_F32,
            [NPT_ROLE_OPT] = NPT_F32,           [NPT_ROLE_LOSS] = NPT_F32,
        };
        for (int role = 0; role < NPT_ROLE_COUNT; role++) {
            if (p.dtype[role] != dtypes[role])
                fail_msg("row %zu: %s is %s, not %s", i, npt_role_name((npt_role)role),
                         npt_dtype_name(p.dtype[role]), npt_dtype_name(dtypes[role]));
            assert_int_equal(p.rule[role], want->rule);
        }
        assert_int_equal(p.base_rule, want->rule);
        assert_int_equal(p.dynamic_loss_scale, want->dynamic);
        assert_int_equal(p.quantize_on_load, want->quantize);
        assert_false(p.mixed_switched_off);
    }
}

static void quantization_switches_mixed_precision_off(void **state)
{
    (void)state;
    npt_policy p =
        decide((npt_policy_request){.use_quantization = true, .mixed_precision = NPT_F16});
    assert_true(p.mixed_switched_off);
    assert_int_equal(p.dtype[NPT_ROLE_COMPUTE], NPT_F32);
    assert_false(p.dynamic_loss_scale);
    p = decide((npt_policy_request){.base_is_quantized = true, .mixed_precision = NPT_BF16});
    assert_true(p.mixed_switched_off);
    assert_int_equal(p.dtype[NPT_ROLE_COMPUTE], NPT_F32);
}

/* ---- R6 ---- */

/* Every row that is not quantized × every adapter dtype: only the adapter and its master change. */
static void adapter_dtype_changes_the_adapter_alone(void **state)
{
    static const npt_dtype dtypes[] = {NPT_F32, NPT_F16, NPT_BF16};
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(table); i++)
        for (size_t d = 0; d < NPT_COUNT(dtypes); d++) {
            if (table[i].rule == NPT_R1) continue;
            npt_policy_request request = table[i].request;
            npt_policy before = decide(request);
            request.adapter_dtype = dtypes[d];
            npt_policy p = decide(request);
            for (int role = 0; role < NPT_ROLE_COUNT; role++) {
                bool own = role == NPT_ROLE_ADAPTER || role == NPT_ROLE_MASTER;
                assert_int_equal(p.rule[role], own ? NPT_R6 : before.rule[role]);
                if (!own) assert_int_equal(p.dtype[role], before.dtype[role]);
            }
            assert_int_equal(p.dtype[NPT_ROLE_ADAPTER], dtypes[d]);
            assert_int_equal(p.dtype[NPT_ROLE_MASTER], d == 0 ? NPT_DTYPE_NONE : NPT_F32);
            assert_int_equal(p.base_rule, before.base_rule);
            assert_int_equal(p.dynamic_loss_scale, before.dynamic_loss_scale);
        }
}

static void an_adapter_on_a_quantized_base_is_f32(void **state)
{
    (void)state;
    npt_policy p =
        decide((npt_policy_request){.base_is_quantized = true, .adapter_dtype = NPT_F32});
    assert_int_equal(p.dtype[NPT_ROLE_ADAPTER], NPT_F32);
    assert_int_equal(p.dtype[NPT_ROLE_MASTER], NPT_DTYPE_NONE);
    expect_refused((npt_policy_request){.use_quantization = true, .adapter_dtype = NPT_F16},
                   "--adapter_dtype F16", "R1");
    expect_refused((npt_policy_request){.base_is_quantized = true, .adapter_dtype = NPT_BF16},
                   "--adapter_dtype BF16", "drop --adapter_dtype");
}

static bool is_legal_adapter(npt_dtype dtype)
{
    return dtype == NPT_DTYPE_NONE || dtype == NPT_F32 || dtype == NPT_F16 || dtype == NPT_BF16;
}

static void nothing_but_a_float_is_ever_an_adapter(void **state)
{
    (void)state;
    for (int dtype = 0; dtype < NPT_DTYPE_COUNT; dtype++) {
        if (is_legal_adapter((npt_dtype)dtype)) continue;
        for (size_t i = 0; i < NPT_COUNT(table); i++) {
            npt_policy_request request = table[i].request;
            request.adapter_dtype = (npt_dtype)dtype;
            expect_refused(request, npt_dtype_name((npt_dtype)dtype), "--adapter_dtype");
        }
    }
}

static void mixed_precision_is_fp16_or_bf16(void **state)
{
    (void)state;
    for (int dtype = 0; dtype < NPT_DTYPE_COUNT; dtype++) {
        if (dtype == NPT_DTYPE_NONE || dtype == NPT_F16 || dtype == NPT_BF16) continue;
        expect_refused((npt_policy_request){.mixed_precision = (npt_dtype)dtype},
                       npt_dtype_name((npt_dtype)dtype), "--mixed_precision");
    }
}

/* ---- Conflicts ---- */

static void conflicts_say_what_to_drop(void **state)
{
    (void)state;
    expect_refused((npt_policy_request){.use_quantization = true, .use_fp16 = true},
                   "--use_quantization", "--use_fp16");
    expect_refused((npt_policy_request){.use_quantization = true, .use_bf16 = true},
                   "--use_quantization", "--use_bf16");
    expect_refused((npt_policy_request){.base_is_quantized = true, .use_fp16 = true}, "checkpoint",
                   "--use_fp16");
    expect_refused((npt_policy_request){.base_is_quantized = true, .use_bf16 = true},
                   "use one or the other", "--use_bf16");
    expect_refused((npt_policy_request){.use_fp16 = true, .use_bf16 = true}, "--use_fp16",
                   "--use_bf16");
    expect_refused((npt_policy_request){.use_fp16 = true, .mixed_precision = NPT_BF16},
                   "--use_fp16", "--mixed_precision bf16");
    expect_refused((npt_policy_request){.use_bf16 = true, .mixed_precision = NPT_F16}, "--use_bf16",
                   "--mixed_precision fp16");
}

/* All 2·2·2·2·3·4 requests: refused with a sentence, or a policy in which nothing is an integer
 * and what must be F32 is. */
static void every_request_has_an_answer(void **state)
{
    static const npt_dtype mixed[] = {NPT_DTYPE_NONE, NPT_F16, NPT_BF16};
    static const npt_dtype adapters[] = {NPT_DTYPE_NONE, NPT_F32, NPT_F16, NPT_BF16};
    int refused = 0;
    (void)state;
    for (int bits = 0; bits < 16 * 3 * 4; bits++) {
        npt_policy_request request = {.use_fp16 = bits & 1,
                                      .use_bf16 = bits & 2,
                                      .use_quantization = bits & 4,
                                      .base_is_quantized = bits & 8,
                                      .mixed_precision = mixed[bits / 16 % 3],
                                      .adapter_dtype = adapters[bits / 48]};
        npt_policy p;
        npt_status status = npt_policy_decide(&request, &p);
        if (status != NPT_OK) {
            assert_int_equal(status, NPT_E_USAGE);
            assert_true(strlen(npt_error_message()) > 20);
            refused++;
            continue;
        }
        for (int role = 0; role < NPT_ROLE_COUNT; role++) {
            npt_dtype dtype = p.dtype[role];
            bool nothing = dtype == NPT_DTYPE_NONE && role == NPT_ROLE_MASTER;
            bool packed = dtype == NPT_NF4 && role == NPT_ROLE_FROZEN;
            if (!nothing && !packed)
                assert_true(dtype == NPT_F32 || dtype == NPT_F16 || dtype == NPT_BF16);
        }
        bool half = p.dtype[NPT_ROLE_ADAPTER] != NPT_F32;
        assert_int_equal(p.dtype[NPT_ROLE_MASTER], half ? NPT_F32 : NPT_DTYPE_NONE);
        /* a loss scale is for gradients that pass through F16 products, and for nothing else */
        assert_int_equal(p.dynamic_loss_scale, p.dtype[NPT_ROLE_COMPUTE] == NPT_F16);
    }
    /* 3 × 4 choices of products and adapter for each base. A quantized base (3 of 4 pairs of
     * bits) refuses them all where a half is asked for (3 of 4), else the half adapters. A plain
     * one refuses them all where both halves are, and the other half's products where one is. */
    int quantized = 3 * (3 * 12 + 3 * 2), plain = 12 + 2 * 4;
    assert_int_equal(refused, quantized + plain);
}

/* ---- R7 ---- */

static void an_existing_base_is_inferred_from_what_is_known_first(void **state)
{
    static const struct {
        bool record;
        npt_dtype tensor, config;
        npt_rule rule;
    } rows[] = {
        {true, NPT_F16, NPT_BF16, NPT_R1},         {true, NPT_U8, NPT_F32, NPT_R1},
        {false, NPT_F16, NPT_BF16, NPT_R2},        {false, NPT_BF16, NPT_F32, NPT_R3},
        {false, NPT_F32, NPT_F16, NPT_R5},         {false, NPT_DTYPE_NONE, NPT_F16, NPT_R2},
        {false, NPT_DTYPE_NONE, NPT_BF16, NPT_R3}, {false, NPT_U8, NPT_BF16, NPT_R3},
        {false, NPT_I8, NPT_I8, NPT_R5},           {false, NPT_DTYPE_NONE, NPT_DTYPE_NONE, NPT_R5},
        {false, NPT_F8_E4M3, NPT_F32, NPT_R5},     {false, NPT_F64, NPT_F16, NPT_R2},
    };
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(rows); i++) {
        npt_policy p = decide(npt_policy_infer(rows[i].record, rows[i].tensor, rows[i].config));
        if (p.base_rule != rows[i].rule) fail_msg("row %zu: R%d", i, (int)p.base_rule);
        assert_false(p.quantize_on_load);
    }
}

/* ---- Words ---- */

static void a_policy_is_one_line(void **state)
{
    static const struct {
        npt_policy_request request;
        const char *line;
    } rows[] = {
        {{.use_fp16 = true},
         "base F16, act F16, adapter F16 + F32 master, loss F32, "
         "loss scale dynamic (R2: --use_fp16)"},
        {{.mixed_precision = NPT_BF16},
         "base F32, act F32, products BF16, adapter F32, loss F32, "
         "loss scale off (R4: --mixed_precision)"},
        {{.use_quantization = true},
         "base NF4, act F32, adapter F32, loss F32, loss scale off "
         "(R1: quantized base)"},
        {{.use_bf16 = true, .adapter_dtype = NPT_F32},
         "base BF16, act BF16, adapter F32, loss F32, loss scale off "
         "(R3: --use_bf16, R6: --adapter_dtype)"},
        {{0}, "base F32, act F32, adapter F32, loss F32, loss scale off (R5: no precision flag)"},
    };
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(rows); i++) {
        char line[256];
        npt_policy p = decide(rows[i].request);
        npt_policy_describe(&p, line, sizeof line);
        assert_string_equal(line, rows[i].line);
        char cut[16];
        npt_policy_describe(&p, cut, sizeof cut);
        assert_int_equal(strlen(cut), 15);
    }
}

static void every_rule_and_role_has_a_name(void **state)
{
    (void)state;
    for (int rule = NPT_R1; rule <= NPT_R7; rule++) {
        char start[16];
        snprintf(start, sizeof start, "R%d: ", rule);
        assert_int_equal(strncmp(npt_rule_text((npt_rule)rule), start, strlen(start)), 0);
    }
    for (int role = 0; role < NPT_ROLE_COUNT; role++)
        assert_true(strlen(npt_role_name((npt_role)role)) > 2);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("every row is as specified", every_row_is_as_specified),
        NPT_CASE("quantization switches mixed precision off and says so",
                 quantization_switches_mixed_precision_off),
        NPT_CASE("R6 changes the adapter and its master alone",
                 adapter_dtype_changes_the_adapter_alone),
        NPT_CASE("an adapter on a quantized base is F32", an_adapter_on_a_quantized_base_is_f32),
        NPT_CASE("nothing but a float is ever an adapter", nothing_but_a_float_is_ever_an_adapter),
        NPT_CASE("mixed precision is fp16 or bf16", mixed_precision_is_fp16_or_bf16),
        NPT_CASE("conflicts say what to drop", conflicts_say_what_to_drop),
        NPT_CASE("every request has an answer", every_request_has_an_answer),
        NPT_CASE("R7: what is known first decides, never an integer",
                 an_existing_base_is_inferred_from_what_is_known_first),
        NPT_CASE("a policy is one line", a_policy_is_one_line),
        NPT_CASE("every rule and role has a name", every_rule_and_role_has_a_name),
    };
    return npt_test_run("policy", cases, NPT_COUNT(cases));
}
