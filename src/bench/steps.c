/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "bench/trial.h"
#include "files/files.h"
#include "train/trainer.h"

/* Whole training steps on random models of the asked shapes, in a temporary directory. All recipes
 * of a shape and mode are open at once and take turns, a step each. */

typedef struct recipe {
    npt_precision_options precision;
    npt_modulation modulation;
    npt_dtype file; /* of the model */
    int64_t batch_size, accumulate;
    double lambda;
} recipe;

/* The three recipes of method.md §6 as they are written there, then one row a step as the rival
 * script does it. */
static const recipe recipes[] = {
    {{.use_fp16 = true, .mixed_precision = NPT_F16}, NPT_MODULATION_BOTH, NPT_F16, 2, 4, 0.01},
    {{.use_quantization = true}, NPT_MODULATION_BOTH, NPT_BF16, 1, 8, 0.01},
    {{.use_quantization = true}, NPT_MODULATION_ADDITIVE, NPT_BF16, 1, 8, 0.01},
    {{0}, NPT_MODULATION_BOTH, NPT_F32, 1, 1, 0},
    {{.use_bf16 = true}, NPT_MODULATION_BOTH, NPT_BF16, 1, 1, 0},
    {{.use_fp16 = true}, NPT_MODULATION_BOTH, NPT_F16, 1, 1, 0},
    {{.use_quantization = true}, NPT_MODULATION_BOTH, NPT_BF16, 1, 1, 0},
};
const char *const npt_bench_step_recipes[] = {
    "recipe-fp16", "recipe-quantized", "recipe-safe", "fp32", "bf16", "fp16", "nf4", NULL};
const char *const npt_bench_modes[] = {"end-to-end", "layerwise", NULL};
enum {
    RECIPES = sizeof recipes / sizeof recipes[0],
    MODES = 2,
    STEPS_MAX = 200,
    START_ROUNDS = 3,
    ROWS = 8,
    VOCABULARY = 4096
};
_Static_assert(RECIPES + 1 == sizeof npt_bench_step_recipes / sizeof npt_bench_step_recipes[0],
               "every recipe has a name");

/* One line of the table. */
typedef struct entry {
    int recipe, mode;
    char *model;
    npt_bench_trial trial;
    double seconds[STEPS_MAX];
    int count;
    json_t *report;
} entry;

typedef struct steps {
    const npt_bench_request *request;
    json_t *root;
    char *directory, *rows;
    const npt_bench_shape *shape;
    entry entries[RECIPES];
    int count;
} steps;

/* ---- Models and rows ---- */

/* Rows of pseudo-random ids, all of the asked length. */
static npt_status write_rows(steps *s)
{
    s->rows = npt_path_join(s->directory, "rows.jsonl");
    FILE *file = s->rows != NULL ? fopen(s->rows, "w") : NULL;
    uint32_t state = 1;
    if (file == NULL) return npt_fail(NPT_E_IO, "%s: cannot be written", s->directory);
    for (int row = 0; row < ROWS; row++) {
        fputs("{\"input_ids\":[", file);
        for (int64_t i = 0; i < s->request->step_tokens; i++) {
            state = state * 1664525u + 1013904223u; /* Numerical Recipes */
            fprintf(file, "%s%u", i > 0 ? "," : "", (state >> 16) % VOCABULARY);
        }
        fputs("]}\n", file);
    }
    const bool bad = ferror(file) != 0;
    if (fclose(file) == 0 && !bad) return NPT_OK;
    return npt_fail(NPT_E_IO, "%s: cannot be written", s->rows);
}

static npt_status find_model(steps *s, npt_dtype dtype, char **path)
{
    const npt_bench_shape *shape = s->shape;
    npt_make_model_options o;
    *path = npt_format("%s/%" PRId64 "x%" PRId64 "x%" PRId64 "-%s", s->directory, shape->hidden,
                       shape->inter, shape->layers, npt_dtype_name(dtype));
    if (*path == NULL) return NPT_E_NOMEM;
    if (npt_path_exists(*path)) return NPT_OK;
    npt_make_model_options_init(&o);
    o.path = *path;
    o.hidden = shape->hidden;
    o.inter = shape->inter;
    o.layers = shape->layers;
    o.head_dim = shape->hidden >= 4096 ? 128 : shape->hidden >= 1024 ? 64 : 16;
    o.heads = shape->hidden / o.head_dim;
    o.kv_heads = o.heads % 4 == 0 ? o.heads / 4 : o.heads;
    o.vocab = VOCABULARY;
    o.dtype = dtype;
    o.tie_embeddings = true; /* phase 1 has no output layer */
    return npt_bench_make_model(&o);
}

static npt_status prepare_entry(steps *s, entry *e)
{
    const recipe *r = &recipes[e->recipe];
    npt_train_options *o = &e->trial.options;
    NPT_TRY(find_model(s, r->file, &e->model));
    npt_train_options_init(o, NPT_RECIPE_PRETRAIN_SAFE);
    o->model_name = e->model;
    o->output_dir = s->directory; /* nothing is written there */
    o->precision = r->precision;
    o->compute = s->request->options->compute;
    o->data.dataset_name = s->rows;
    o->data.max_length = s->request->step_tokens;
    o->modulation = r->modulation;
    o->distill = e->mode == 0 ? NPT_DISTILL_END_TO_END : NPT_DISTILL_LAYERWISE;
    o->regularization_lambda = r->lambda;
    o->batch_size = r->batch_size;
    o->gradient_accumulation_steps = r->accumulate;
    o->max_steps = (int64_t)1 << 30;
    o->initial_loss_scale = 1024; /* no step is lost to the search for it */
    e->trial.alone_seconds = 0;
    return NPT_OK;
}

/* ---- Rows of the tables ---- */

static int64_t tokens_of(const steps *s, const entry *e)
{
    return recipes[e->recipe].batch_size * recipes[e->recipe].accumulate * s->request->step_tokens;
}

static json_t *head_json(const steps *s, const entry *e)
{
    char shape[2 * NPT_BENCH_NAME];
    snprintf(shape, sizeof shape, "%" PRId64 "x%" PRId64 "x%" PRId64, s->shape->hidden,
             s->shape->inter, s->shape->layers);
    return json_pack("{s:s, s:s, s:s, s:I, s:I}", "recipe", npt_bench_step_recipes[e->recipe],
                     "distill", npt_bench_modes[e->mode], "shape", shape, "row_tokens",
                     (json_int_t)s->request->step_tokens, "rows_per_step",
                     (json_int_t)(recipes[e->recipe].batch_size * recipes[e->recipe].accumulate));
}

static void copy_key(json_t *to, const json_t *from, const char *key)
{
    json_t *value = json_object_get(from, key);
    if (value != NULL) json_object_set(to, key, value);
}

static void add_step_row(steps *s, entry *e)
{
    static const char *const keys[] = {"threads",         "peak_bytes",     "matmul_s",
                                       "matmul_share",    "matmul_alone_s", "products",
                                       "products_dropped"};
    const npt_timing timing = npt_timing_of(e->seconds, e->count);
    json_t *row = head_json(s, e);
    const double alone = json_number_value(json_object_get(e->report, "matmul_alone_s"));
    json_object_set_new(row, "seconds", npt_bench_timing(&timing, 0, 1));
    json_object_set_new(row, "tokens_per_second",
                        npt_bench_timing(&timing, (double)tokens_of(s, e), 1));
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) copy_key(row, e->report, keys[i]);
    if (alone > 0) json_object_set_new(row, "step_over_matmul", json_real(timing.median / alone));
    json_array_append_new(json_object_get(s->root, "step"), row);
}

static void add_memory_row(steps *s, entry *e)
{
    json_t *row = head_json(s, e);
    copy_key(row, e->report, "peak_bytes");
    copy_key(row, e->report, "bytes");
    json_array_append_new(json_object_get(s->root, "memory"), row);
}

/* ---- Turns ---- */

static npt_status check_stop(void)
{
    if (npt_stop_requested() == 0) return NPT_OK;
    return npt_fail(NPT_E_INTERRUPTED, "stopped by a signal");
}

static npt_status start_all(steps *s)
{
    for (int i = 0; i < s->count; i++) {
        entry *e = &s->entries[i];
        NPT_TRY(check_stop());
        if ((s->request->topics & NPT_BENCH_STEP) != 0)
            e->trial.alone_seconds = s->request->seconds / 8;
        NPT_TRY(npt_bench_trial_start(&e->trial));
    }
    return NPT_OK;
}

/* At least three rounds, at most what five times the budget allows for each. */
static npt_status take_turns(steps *s)
{
    const double budget = 5 * s->request->seconds * s->count, begun = npt_seconds_now();
    for (int round = 0; round < STEPS_MAX; round++) {
        if (round >= 3 && npt_seconds_now() - begun > budget) break;
        for (int i = 0; i < s->count; i++) {
            entry *e = &s->entries[i];
            NPT_TRY(check_stop());
            NPT_TRY(npt_bench_trial_step(&e->trial, &e->seconds[e->count]));
            e->count++;
        }
    }
    return NPT_OK;
}

static npt_status run_steps(steps *s)
{
    NPT_TRY(start_all(s));
    if ((s->request->topics & NPT_BENCH_STEP) != 0) NPT_TRY(take_turns(s));
    for (int i = 0; i < s->count; i++) {
        entry *e = &s->entries[i];
        NPT_TRY(npt_bench_trial_finish(&e->trial, &e->report));
        if ((s->request->topics & NPT_BENCH_STEP) != 0) add_step_row(s, e);
        if ((s->request->topics & NPT_BENCH_MEMORY) != 0) add_memory_row(s, e);
    }
    return NPT_OK;
}

/* A process from nothing to its first step, several times. */
static const char *const start_keys[] = {"plan_s", "open_s", "load_s", "first_step_s"};
enum { START_KEYS = sizeof start_keys / sizeof start_keys[0] };

static npt_status run_start(steps *s)
{
    double seconds[RECIPES][START_KEYS][START_ROUNDS];
    for (int round = 0; round < START_ROUNDS; round++)
        for (int i = 0; i < s->count; i++) {
            npt_bench_trial *trial = &s->entries[i].trial;
            json_t *report;
            trial->alone_seconds = 0;
            NPT_TRY(check_stop());
            NPT_TRY(npt_bench_trial_start(trial));
            NPT_TRY(npt_bench_trial_finish(trial, &report));
            for (int k = 0; k < START_KEYS; k++)
                seconds[i][k][round] = json_number_value(
                    json_object_get(json_object_get(report, "start"), start_keys[k]));
            json_decref(report);
        }
    for (int i = 0; i < s->count; i++) {
        json_t *row = head_json(s, &s->entries[i]);
        for (int k = 0; k < START_KEYS; k++) {
            const npt_timing timing = npt_timing_of(seconds[i][k], START_ROUNDS);
            json_object_set_new(row, start_keys[k], npt_bench_timing(&timing, 0, 1));
        }
        json_array_append_new(json_object_get(s->root, "start"), row);
    }
    return NPT_OK;
}

/* ---- All ---- */

static void clear_entries(steps *s)
{
    for (int i = 0; i < s->count; i++) {
        npt_bench_trial_abandon(&s->entries[i].trial);
        npt_free(s->entries[i].model);
        json_decref(s->entries[i].report);
    }
    s->count = 0;
}

static npt_status run_mode(steps *s, int mode)
{
    memset(s->entries, 0, sizeof s->entries);
    npt_log(NPT_LOG_NOTE, "bench: steps %s, %" PRId64 "x%" PRId64 ", %" PRId64 " layers",
            npt_bench_modes[mode], s->shape->hidden, s->shape->inter, s->shape->layers);
    for (int i = 0; i < RECIPES; i++) {
        if ((s->request->step_recipes & 1u << i) == 0) continue;
        entry *e = &s->entries[s->count++];
        e->recipe = i;
        e->mode = mode;
        NPT_TRY(prepare_entry(s, e));
    }
    if ((s->request->topics & NPT_BENCH_START) != 0) NPT_TRY(run_start(s));
    if ((s->request->topics & (NPT_BENCH_STEP | NPT_BENCH_MEMORY)) == 0) return NPT_OK;
    return run_steps(s);
}

static npt_status run_all(steps *s)
{
    const npt_bench_request *request = s->request;
    NPT_TRY(write_rows(s));
    for (int i = 0; i < request->step_shape_count; i++)
        for (int mode = 0; mode < MODES; mode++) {
            if ((request->modes & 1u << mode) == 0) continue;
            s->shape = &request->step_shapes[i];
            npt_status status = run_mode(s, mode);
            clear_entries(s);
            NPT_TRY(status);
        }
    return NPT_OK;
}

static npt_status make_directory(steps *s)
{
    const char *top = getenv("TMPDIR");
    s->directory = npt_format("%s/npt-bench-XXXXXX", top == NULL || *top == '\0' ? "/tmp" : top);
    if (s->directory == NULL) return NPT_E_NOMEM;
    if (mkdtemp(s->directory) != NULL) return NPT_OK;
    return npt_fail(NPT_E_IO, "%s: no temporary directory can be made there (TMPDIR)",
                    s->directory);
}

npt_status npt_bench_steps(const npt_bench_request *request, json_t *root)
{
    steps *s = npt_alloc(1, sizeof *s);
    if (s == NULL) return NPT_E_NOMEM;
    s->request = request;
    s->root = root;
    if ((request->topics & NPT_BENCH_STEP) != 0) json_object_set_new(root, "step", json_array());
    if ((request->topics & NPT_BENCH_START) != 0) json_object_set_new(root, "start", json_array());
    if ((request->topics & NPT_BENCH_MEMORY) != 0)
        json_object_set_new(root, "memory", json_array());
    npt_status status = make_directory(s);
    if (status == NPT_OK) {
        status = run_all(s);
        (void)npt_remove_tree(s->directory);
    }
    npt_free(s->rows);
    npt_free(s->directory);
    npt_free(s);
    return status;
}
