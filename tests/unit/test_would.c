/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/would.h"

#include <jansson.h>

#include "npt_test.h"

/* What is said of other programs: word for word what was seen there (tests/golden/would.json), and
 * said where it belongs. */

enum { ROOM = 64 };

/* ---- The facts ---- */

static json_t *load_cases(json_t **file)
{
    char *path = npt_test_path("tests/golden/would.json");
    *file = path != NULL ? json_load_file(path, JSON_REJECT_DUPLICATES, NULL) : NULL;
    free(path);
    json_t *cases = json_object_get(*file, "cases");
    assert_true(json_is_object(cases));
    return cases;
}

static void expect_field(const npt_would *row, const json_t *entry, const char *field,
                         const char *ours)
{
    const char *theirs = json_string_value(json_object_get(entry, field));
    if (theirs == NULL || strcmp(theirs, ours) != 0)
        fail_msg("%s, %s: we say '%s', seen was '%s'", row->id, field, ours,
                 theirs == NULL ? "(nothing)" : theirs);
}

static void rows_say_what_was_seen(void **state)
{
    (void)state;
    json_t *file, *cases = load_cases(&file);
    size_t rows = 0;
    for (const npt_would *row; (row = npt_would_at(rows)) != NULL; rows++) {
        const json_t *entry = json_object_get(cases, row->id);
        if (entry == NULL) fail_msg("%s was never seen", row->id);
        expect_field(row, entry, "where", row->where);
        expect_field(row, entry, "exception", row->exception);
        expect_field(row, entry, "text", row->text);
        expect_field(row, entry, "seen", row->seen);
    }
    assert_true(rows > 0 && rows <= ROOM);
    json_decref(file);
}

static void every_case_is_used_once(void **state)
{
    (void)state;
    json_t *file, *cases = load_cases(&file), *entry;
    const char *id;
    json_object_foreach(cases, id, entry)
    {
        int uses = 0;
        const npt_would *row;
        for (size_t i = 0; (row = npt_would_at(i)) != NULL; i++) uses += strcmp(row->id, id) == 0;
        int wanted = json_is_true(json_object_get(entry, "context")) ? 0 : 1;
        if (uses != wanted) fail_msg("%s has %d rows, not %d", id, uses, wanted);
    }
    json_decref(file);
}

/* What raises an error fails; a warning is one; a severity that only numbers have raises nothing.
 */
static void severity_agrees_with_what_was_raised(void **state)
{
    (void)state;
    const npt_would *row;
    for (size_t i = 0; (row = npt_would_at(i)) != NULL; i++) {
        size_t length = strlen(row->exception);
        bool error = length > 5 && strcmp(row->exception + length - 5, "Error") == 0;
        if (error != (row->severity_there == NPT_VERDICT_WOULD_FAIL))
            fail_msg("%s: '%s' with severity %d", row->id, row->exception, row->severity_there);
        bool through = strncmp(row->text, "goes through", 12) == 0;
        if (row->severity_there == NPT_VERDICT_FINE && !through)
            fail_msg("%s is fine, but '%s'", row->id, row->text);
        assert_true(row->instead[0] != '\0' && row->site <= NPT_SITE_COUNT);
    }
}

/* ---- Where they belong ---- */

typedef struct listing {
    const npt_would *rows[ROOM];
    size_t count;
} listing;

static listing list(npt_policy_request request, const npt_train_options *options)
{
    npt_policy policy;
    listing found;
    npt_train_options asked = *options;
    asked.precision.mixed_precision = request.mixed_precision;
    if (npt_policy_decide(&request, &policy) != NPT_OK) fail_msg("%s", npt_error_message());
    found.count = npt_would_list(&policy, &asked, found.rows, ROOM);
    assert_true(found.count <= ROOM);
    return found;
}

static npt_train_options defaults(void)
{
    npt_train_options options;
    npt_train_options_init(&options, NPT_RECIPE_PRETRAIN_SAFE);
    return options;
}

static bool has(const listing *found, const char *id)
{
    for (size_t i = 0; i < found->count; i++)
        if (strcmp(found->rows[i]->id, id) == 0) return true;
    return false;
}

/* `ids`: all of them and no other, in this order; separated by blanks. */
static void expect_exactly(npt_policy_request request, const npt_train_options *options,
                           const char *ids)
{
    listing found = list(request, options);
    char text[4096] = "";
    for (size_t i = 0; i < found.count; i++) {
        if (i > 0) strcat(text, " ");
        strcat(text, found.rows[i]->id);
    }
    assert_string_equal(text, ids);
}

#define QUANTIZED_IDS                                                                              \
    "bnb.first_parameter bnb.adapter.uint8 bnb.normal.uint8 peft.4bit.default peft.4bit.nocast "   \
    "peft.4bit.prepare hf.4bit.f32_adapter bnb.input_decides bnb.dequant bnb.dense "               \
    "peft.4bit.merge"

static void each_rule_has_its_facts(void **state)
{
    (void)state;
    const npt_train_options options = defaults();
    expect_exactly((npt_policy_request){.use_quantization = true}, &options, QUANTIZED_IDS);
    expect_exactly((npt_policy_request){.base_is_quantized = true}, &options, QUANTIZED_IDS);
    expect_exactly(
        (npt_policy_request){.use_fp16 = true}, &options,
        "eager.linear.f16-f32 eager.promoted.f16-f32 peft.f16.default peft.f16.nocast "
        "eager.f16.mlp_act eager.f16.regularizer eager.accumulate.f16 scaler.unscale.f16 "
        "scaler.clip.f16 scaler.unscale_twice peft.scaler.default peft.scaler.nocast "
        "adamw.f16.zero adamw.f16.small adamw.f16.fused adamw.f16.warmup peft.f16.reload");
    expect_exactly((npt_policy_request){.use_bf16 = true}, &options,
                   "eager.linear.bf16-f32 eager.promoted.bf16-f32 peft.bf16.default "
                   "peft.bf16.nocast eager.accumulate.bf16 scaler.bf16 adamw.bf16.unmoved "
                   "adamw.bf16.stall adamw.bf16.decay peft.bf16.reload");
    expect_exactly((npt_policy_request){.mixed_precision = NPT_F16}, &options,
                   "autocast.f16 autocast.f16.mlp_act autocast.f16.regularizer "
                   "scaler.unscale_twice");
    expect_exactly((npt_policy_request){.mixed_precision = NPT_BF16}, &options, "autocast.bf16");
    expect_exactly((npt_policy_request){0}, &options, "");
}

static void an_adapter_dtype_brings_its_own(void **state)
{
    (void)state;
    const npt_train_options options = defaults();
    const struct {
        npt_policy_request request;
        const char *with, *without;
    } cases[] = {
        {{.use_fp16 = true, .adapter_dtype = NPT_F32}, "eager.linear.f16-f32", "adamw.f16.zero"},
        {{.use_fp16 = true, .adapter_dtype = NPT_F32}, "peft.scaler.default", "scaler.unscale.f16"},
        {{.use_fp16 = true, .adapter_dtype = NPT_BF16},
         "eager.linear.f16-bf16",
         "eager.linear.f16-f32"},
        {{.use_fp16 = true, .adapter_dtype = NPT_BF16}, "scaler.bf16", "scaler.unscale.f16"},
        {{.use_bf16 = true, .adapter_dtype = NPT_F16}, "eager.promoted.bf16-f16", "scaler.bf16"},
        {{.use_bf16 = true, .adapter_dtype = NPT_F16}, "adamw.f16.zero", "scaler.unscale.f16"},
        {{.use_bf16 = true, .adapter_dtype = NPT_F32}, "eager.linear.bf16-f32", "adamw.bf16.stall"},
        {{.mixed_precision = NPT_F16, .adapter_dtype = NPT_F16},
         "scaler.unscale.f16",
         "eager.linear.f32-f16"},
        {{.mixed_precision = NPT_BF16, .adapter_dtype = NPT_BF16},
         "adamw.bf16.stall",
         "eager.linear.f32-bf16"},
        {{.adapter_dtype = NPT_F16}, "eager.linear.f32-f16", "scaler.unscale.f16"},
        {{.adapter_dtype = NPT_BF16}, "eager.linear.f32-bf16", "eager.promoted.bf16-f32"},
        {{.use_quantization = true, .adapter_dtype = NPT_F32},
         "bnb.adapter.uint8",
         "eager.linear.f16-f32"},
    };
    for (size_t i = 0; i < NPT_COUNT(cases); i++) {
        listing found = list(cases[i].request, &options);
        if (!has(&found, cases[i].with)) fail_msg("case %zu lacks %s", i, cases[i].with);
        if (has(&found, cases[i].without)) fail_msg("case %zu has %s", i, cases[i].without);
    }
    expect_exactly((npt_policy_request){.adapter_dtype = NPT_F32}, &options, "");
}

static void options_decide_too(void **state)
{
    (void)state;
    const npt_policy_request half = {.use_fp16 = true}, brain = {.use_bf16 = true},
                             mixed = {.use_fp16 = true, .mixed_precision = NPT_F16};
    npt_train_options options = defaults();
    options.max_grad_norm = 0;
    listing found = list(half, &options);
    assert_true(has(&found, "scaler.step.f16") && !has(&found, "scaler.unscale.f16"));
    assert_false(has(&found, "scaler.clip.f16") || has(&found, "scaler.unscale_twice"));
    assert_false(has(&found, "autocast.f16.adapter_f32"));
    found = list(mixed, &options);
    assert_true(has(&found, "autocast.f16.adapter_f32") && has(&found, "eager.linear.f16-f32"));

    options = defaults();
    options.optimizer = NPT_OPTIMIZER_ADAM;
    options.gradient_accumulation_steps = 1;
    options.regularization_lambda = 0;
    found = list(half, &options);
    assert_true(has(&found, "adam.f16.zero") && !has(&found, "adamw.f16.zero"));
    assert_false(has(&found, "eager.accumulate.f16") || has(&found, "scaler.unscale_twice"));
    assert_false(has(&found, "eager.f16.regularizer"));
    found = list(brain, &options);
    assert_true(has(&found, "adam.bf16.stall") && !has(&found, "adamw.bf16.decay"));

    options = defaults();
    options.learning_rate = 1e-2;
    found = list(brain, &options);
    assert_false(has(&found, "adamw.bf16.unmoved"));
    found = list(half, &options);
    assert_false(has(&found, "adamw.f16.warmup"));
    options.learning_rate = 5e-5;
    options.scheduler = NPT_SCHEDULER_CONSTANT; /* has no warm-up */
    found = list(half, &options);
    assert_false(has(&found, "adamw.f16.warmup"));
    options.weight_decay = 0;
    found = list(brain, &options);
    assert_false(has(&found, "adamw.bf16.decay"));
}

static void more_rows_than_room_are_counted_not_written(void **state)
{
    (void)state;
    const npt_train_options options = defaults();
    const npt_policy_request request = {.use_fp16 = true};
    npt_policy policy;
    const npt_would *rows[3] = {NULL, NULL, NULL};
    assert_int_equal(npt_policy_decide(&request, &policy), NPT_OK);
    size_t all = npt_would_list(&policy, &options, NULL, 0);
    assert_true(all > 3);
    assert_int_equal(npt_would_list(&policy, &options, rows, 2), all);
    assert_non_null(rows[1]);
    assert_null(rows[2]);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("rows say what was seen, word for word", rows_say_what_was_seen),
        NPT_CASE("every case that is not context has one row", every_case_is_used_once),
        NPT_CASE("severity agrees with what was raised", severity_agrees_with_what_was_raised),
        NPT_CASE("each rule has its facts, in the order of a run", each_rule_has_its_facts),
        NPT_CASE("an adapter dtype brings its own facts", an_adapter_dtype_brings_its_own),
        NPT_CASE("clipping, optimizer, rate and the others decide, too", options_decide_too),
        NPT_CASE("rows beyond the room are counted, not written",
                 more_rows_than_room_are_counted_not_written),
    };
    return npt_test_run("would", cases, NPT_COUNT(cases));
}
