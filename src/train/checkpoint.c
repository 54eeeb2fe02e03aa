/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/checkpoint.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "files/files.h"
#include "files/json.h"

/* Numbers that must come back exactly are tensors (I64, F64, F32), not JSON text. The JSON files
 * repeat for people what the tensors say; only log_history and the settings are read back from
 * them. */

static const char state_file[] = "training_state.safetensors";
static const char adapter_file[] = "adapter_model.safetensors";

enum { COUNTERS = 13, REALS = 6 };

npt_status npt_train_state_init(npt_train_state *state)
{
    *state = (npt_train_state){.best_metric = (double)INFINITY, .best_step = -1};
    state->log_history = json_array();
    return state->log_history != NULL ? NPT_OK : npt_fail(NPT_E_NOMEM, "out of memory");
}

void npt_train_state_fini(npt_train_state *state)
{
    json_decref(state->log_history);
    state->log_history = NULL;
}

/* ---- State as numbers ---- */

static void pack(const npt_train_state *s, int64_t *counters, double *reals)
{
    const int64_t c[COUNTERS] = {s->step,
                                 s->epoch,
                                 s->position.file,
                                 s->position.byte_offset,
                                 s->position.line,
                                 s->position.row,
                                 s->tokens,
                                 s->skipped_steps,
                                 s->skipped_batches,
                                 s->failures_in_a_row,
                                 s->metrics_lines,
                                 s->scaler.good_steps,
                                 s->evaluated_step};
    const double r[REALS] = {s->scaler.scale,      s->epoch_fraction, s->best_metric,
                             (double)s->best_step, s->first_loss,     s->last_loss};
    memcpy(counters, c, sizeof c);
    memcpy(reals, r, sizeof r);
}

static void unpack(npt_train_state *s, const int64_t *c, const double *r)
{
    s->step = c[0];
    s->epoch = c[1];
    s->position =
        (npt_dataset_position){.file = c[2], .byte_offset = c[3], .line = c[4], .row = c[5]};
    s->tokens = c[6];
    s->skipped_steps = c[7];
    s->skipped_batches = c[8];
    s->failures_in_a_row = c[9];
    s->metrics_lines = c[10];
    s->scaler.good_steps = c[11];
    s->evaluated_step = c[12];
    s->scaler.scale = r[0];
    s->epoch_fraction = r[1];
    s->best_metric = r[2];
    s->best_step = (int64_t)r[3];
    s->first_loss = r[4];
    s->last_loss = r[5];
}

/* ---- training_state.safetensors ---- */

/* The tensors of one parameter: its moments, and its master where that is not the value itself. */
typedef struct piece {
    const char *suffix;
    float *data;
} piece;

static int pieces_of(const npt_parameter *p, piece *pieces)
{
    int count = 0;
    pieces[count++] = (piece){"moment1", p->moment1};
    pieces[count++] = (piece){"moment2", p->moment2};
    if ((void *)p->master != p->value) pieces[count++] = (piece){"master", p->master};
    return count;
}

static void piece_name(int layer, const npt_parameter *p, const piece *part, char *name,
                       size_t bytes)
{
    char parameter[128];
    snprintf(name, bytes, "%s.%s", npt_parameter_name(layer, p, parameter, sizeof parameter),
             part->suffix);
}

static npt_status declare_pieces(void *writer, int layer, npt_parameter *p)
{
    piece pieces[3];
    const int64_t shape[2] = {p->rows, p->cols};
    int count = pieces_of(p, pieces);
    for (int i = 0; i < count; i++) {
        char name[192];
        piece_name(layer, p, &pieces[i], name, sizeof name);
        NPT_TRY(npt_st_writer_add(writer, name, NPT_F32, 2, shape, pieces[i].data, NULL, NULL));
    }
    return NPT_OK;
}

static npt_status read_pieces(void *st, int layer, npt_parameter *p)
{
    piece pieces[3];
    const int64_t shape[2] = {p->rows, p->cols};
    int count = pieces_of(p, pieces);
    for (int i = 0; i < count; i++) {
        char name[192];
        const npt_st_tensor *tensor;
        piece_name(layer, p, &pieces[i], name, sizeof name);
        NPT_TRY(npt_st_require(st, name, NPT_F32, 2, shape, &tensor));
        memcpy(pieces[i].data, tensor->data, tensor->bytes);
    }
    return NPT_OK;
}

static npt_status write_state(const npt_checkpoint *c, const char *path)
{
    npt_st_writer *writer;
    int64_t counters[COUNTERS];
    double reals[REALS];
    const int64_t counter_count = COUNTERS, real_count = REALS;
    pack(c->state, counters, reals);
    NPT_TRY(npt_st_writer_create(&writer, path));
    npt_status status = npt_st_writer_add(writer, "trainer.counters", NPT_I64, 1, &counter_count,
                                          counters, NULL, NULL);
    if (status == NPT_OK)
        status =
            npt_st_writer_add(writer, "trainer.reals", NPT_F64, 1, &real_count, reals, NULL, NULL);
    if (status == NPT_OK) status = npt_adapters_visit(c->adapters, declare_pieces, writer);
    if (status == NPT_OK) status = npt_st_writer_commit(writer);
    npt_st_writer_destroy(writer);
    return status;
}

static npt_status read_state(const npt_checkpoint *c, npt_st *st)
{
    const npt_st_tensor *counters, *reals;
    const int64_t counter_count = COUNTERS, real_count = REALS;
    NPT_TRY(npt_st_require(st, "trainer.counters", NPT_I64, 1, &counter_count, &counters));
    NPT_TRY(npt_st_require(st, "trainer.reals", NPT_F64, 1, &real_count, &reals));
    NPT_TRY(npt_adapters_visit(c->adapters, read_pieces, st));
    int64_t integers[COUNTERS];
    double numbers[REALS];
    memcpy(integers, counters->data, sizeof integers);
    memcpy(numbers, reals->data, sizeof numbers);
    unpack(c->state, integers, numbers);
    return NPT_OK;
}

static npt_status write_adapters(const npt_checkpoint *c, const char *path)
{
    npt_st_writer *writer;
    NPT_TRY(npt_st_writer_create(&writer, path));
    npt_status status = npt_adapters_declare(c->adapters, writer);
    if (status == NPT_OK) status = npt_st_writer_commit(writer);
    npt_st_writer_destroy(writer);
    return status;
}

/* ---- JSON beside it ---- */

static npt_status write_trainer_state(const npt_checkpoint *c, const char *path)
{
    const npt_train_state *s = c->state;
    json_t *best = isfinite(s->best_metric) ? json_real(s->best_metric) : json_null();
    json_t *best_path = s->best_step >= 0 ? json_string("checkpoint-best") : json_null();
    json_t *root = json_pack(
        "{s:o, s:o, s:f, s:I, s:I, s:b, s:b, s:O, s:O}", "best_metric", best,
        "best_model_checkpoint", best_path, "epoch", s->epoch_fraction, "global_step",
        (json_int_t)s->step, "max_steps", (json_int_t)s->total_steps, "is_local_process_zero", 1,
        "is_world_process_zero", 1, "log_history", s->log_history, "npt_settings", c->settings);
    if (root == NULL) return npt_fail(NPT_E_NOMEM, "out of memory");
    npt_status status = npt_json_save(path, root);
    json_decref(root);
    return status;
}

static npt_status write_all(const npt_checkpoint *c, const char *directory)
{
    static const char *const names[] = {"adapter_config.json", adapter_file, "trainer_state.json",
                                        state_file};
    npt_status status = NPT_OK;
    for (int i = 0; i < 4 && status == NPT_OK; i++) {
        char *path = npt_path_join(directory, names[i]);
        if (path == NULL) return NPT_E_NOMEM;
        if (i == 0) status = npt_json_save(path, c->adapter_config);
        if (i == 1) status = write_adapters(c, path);
        if (i == 2) status = write_trainer_state(c, path);
        if (i == 3) status = write_state(c, path);
        npt_free(path);
    }
    return status;
}

npt_status npt_checkpoint_save(const npt_checkpoint *checkpoint, const char *directory)
{
    char *temporary;
    NPT_TRY(npt_seal_begin(directory, &temporary));
    npt_status status = write_all(checkpoint, temporary);
    if (status == NPT_OK) status = npt_seal_commit(temporary, directory);
    if (status != NPT_OK) npt_seal_abandon(temporary);
    npt_free(temporary);
    return status;
}

/* ---- Reading back ---- */

/* Settings that give tensors their shape or meaning must agree; others may be changed knowingly. */
typedef struct fixed_setting {
    const char *key, *flag;
} fixed_setting;

static const fixed_setting fixed_settings[] = {
    {"model", "--model_name"},
    {"adapter_rank", "--adapter_rank"},
    {"modulation", "--modulation"},
    {"modulation_scale", "--modulation_scale"},
    {"layers", "--layers"},
    {"policy", "a precision flag (--use_fp16, --use_bf16, --use_quantization, --mixed_precision, "
               "--adapter_dtype)"},
    {"double_quantization", "--no_double_quantization"},
    {"optimizer_type", "--optimizer_type"},
    {"seed", "--seed"},
};

static npt_status compare_setting(const char *key, const json_t *then, const json_t *now,
                                  const char *directory)
{
    const fixed_setting *fixed = NULL;
    for (size_t i = 0; i < sizeof fixed_settings / sizeof fixed_settings[0]; i++)
        if (strcmp(fixed_settings[i].key, key) == 0) fixed = &fixed_settings[i];
    char *was = json_dumps(then, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
    char *is = json_dumps(now, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
    npt_status status = NPT_OK;
    if (was == NULL || is == NULL)
        status = npt_fail(NPT_E_NOMEM, "out of memory");
    else if (fixed != NULL)
        status = npt_fail(NPT_E_USAGE,
                          "%s is another one: %s was made with %s, this run has %s; resume with "
                          "that of the first run",
                          fixed->flag, directory, was, is);
    else if (strcmp(key, "calibration") == 0)
        npt_log(NPT_LOG_WARNING,
                "matmuls may take other routes now, and differ in their last bits: the calibration "
                "was %s when %s was made and is %s now (--no_calibration: the built-in order)",
                was, directory, is);
    else
        npt_log(NPT_LOG_WARNING,
                "--%s was %s when %s was made and is %s now; the run goes on with the new value",
                key, was, directory, is);
    free(was);
    free(is);
    return status;
}

static npt_status compare_settings(const json_t *then, const json_t *now, const char *directory)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)now, key, value)
    {
        const json_t *old = json_object_get(then, key);
        if (old != NULL && !json_equal(old, value))
            NPT_TRY(compare_setting(key, old, value, directory));
    }
    return NPT_OK;
}

static npt_status read_trainer_state(const npt_checkpoint *c, const char *directory)
{
    json_t *root = NULL;
    char *path = npt_path_join(directory, "trainer_state.json");
    if (path == NULL) return NPT_E_NOMEM;
    npt_status status = npt_json_load(path, 0, &root);
    npt_free(path);
    if (status != NPT_OK) return status;
    status = compare_settings(json_object_get(root, "npt_settings"), c->settings, directory);
    json_t *history = json_object_get(root, "log_history");
    if (status == NPT_OK && json_is_array(history)) {
        json_decref(c->state->log_history);
        c->state->log_history = json_incref(history);
    }
    json_decref(root);
    return status;
}

npt_status npt_checkpoint_load(const npt_checkpoint *checkpoint, const char *directory)
{
    npt_st *st = NULL;
    char *values = npt_path_join(directory, adapter_file),
         *state = npt_path_join(directory, state_file);
    npt_status status = values != NULL && state != NULL ? NPT_OK : NPT_E_NOMEM;
    if (status == NPT_OK) status = npt_manifest_check(directory);
    if (status == NPT_OK) status = read_trainer_state(checkpoint, directory);
    if (status == NPT_OK) status = npt_st_open(&st, values, false);
    if (status == NPT_OK) status = npt_adapters_load(checkpoint->adapters, st);
    npt_st_close(st);
    st = NULL;
    /* after the values: a master is more exact than the value it was rounded to */
    if (status == NPT_OK) status = npt_st_open(&st, state, false);
    if (status == NPT_OK) status = read_state(checkpoint, st);
    if (status == NPT_OK) npt_adapters_round(checkpoint->adapters, checkpoint->sites);
    npt_st_close(st);
    npt_free(values);
    npt_free(state);
    return status;
}

/* ---- Directories ---- */

typedef struct found {
    char name[256];
    int64_t step; /* of checkpoint-final: what its trainer_state.json says; unreadable: the newest,
                     so that it is named */
} found;

static int64_t step_of_final(const char *output_dir, const char *name)
{
    int64_t step = INT64_MAX;
    json_t *root = NULL;
    char *path = npt_format("%s/%s/trainer_state.json", output_dir, name);
    if (path != NULL && npt_json_load(path, 0, &root) == NPT_OK)
        (void)npt_json_int(root, "global_step", path, INT64_MAX, 0, INT64_MAX, &step);
    json_decref(root);
    npt_free(path);
    return step;
}

static int newest_first(const void *a, const void *b)
{
    const found *x = a, *y = b;
    return x->step < y->step ? 1 : x->step > y->step ? -1 : strcmp(x->name, y->name);
}

/* checkpoint-<step>, and with `final` checkpoint-final, newest first; the caller frees. */
static npt_status list(const char *output_dir, bool final, found **checkpoints, size_t *count)
{
    size_t capacity = 0;
    *checkpoints = NULL;
    *count = 0;
    DIR *directory = opendir(output_dir);
    if (directory == NULL) return NPT_OK; /* nothing was written yet */
    npt_status status = NPT_OK;
    for (struct dirent *entry; status == NPT_OK && (entry = readdir(directory)) != NULL;) {
        char *end = NULL;
        if (strncmp(entry->d_name, "checkpoint-", 11) != 0 ||
            strlen(entry->d_name) >= sizeof((found *)0)->name)
            continue;
        int64_t step = strtoll(entry->d_name + 11, &end, 10);
        if (end == entry->d_name + 11 || *end != '\0') {
            if (!final || strcmp(entry->d_name, "checkpoint-final") != 0) continue;
            step = step_of_final(output_dir, entry->d_name);
        }
        if (*count == capacity) {
            capacity = capacity == 0 ? 16 : 2 * capacity;
            found *more = npt_realloc(*checkpoints, capacity, sizeof *more);
            if (more == NULL) status = NPT_E_NOMEM;
            if (more != NULL) *checkpoints = more;
        }
        if (status != NPT_OK) break;
        found *next = &(*checkpoints)[(*count)++];
        snprintf(next->name, sizeof next->name, "%s", entry->d_name);
        next->step = step;
    }
    closedir(directory);
    if (status == NPT_OK && *count > 1)
        qsort(*checkpoints, *count, sizeof **checkpoints, newest_first);
    return status;
}

npt_status npt_checkpoint_find(const char *output_dir, char **path)
{
    found *checkpoints;
    size_t count;
    npt_status status = list(output_dir, true, &checkpoints, &count);
    *path = NULL;
    for (size_t i = 0; status == NPT_OK && i < count && *path == NULL; i++) {
        char *candidate = npt_path_join(output_dir, checkpoints[i].name);
        if (candidate == NULL) {
            status = NPT_E_NOMEM;
        } else if (npt_manifest_check(candidate) == NPT_OK) {
            *path = candidate;
        } else {
            npt_log(NPT_LOG_WARNING, "%s is incomplete and passed over: %s", candidate,
                    npt_error_message());
            npt_free(candidate);
        }
    }
    npt_free(checkpoints);
    return status;
}

bool npt_checkpoint_has_run(const char *output_dir)
{
    found *checkpoints;
    size_t count = 0;
    char *metrics = npt_path_join(output_dir, "metrics.jsonl");
    bool there = metrics != NULL && npt_path_exists(metrics);
    if (list(output_dir, true, &checkpoints, &count) == NPT_OK) there = there || count > 0;
    npt_free(checkpoints);
    npt_free(metrics);
    return there;
}

npt_status npt_checkpoint_rotate(const char *output_dir, int64_t keep)
{
    found *checkpoints;
    size_t count;
    if (keep == 0) return NPT_OK;
    npt_status status = list(output_dir, false, &checkpoints, &count);
    for (size_t i = (size_t)keep; status == NPT_OK && i < count; i++) {
        char *old = npt_path_join(output_dir, checkpoints[i].name);
        status = old != NULL ? npt_remove_tree(old) : NPT_E_NOMEM;
        npt_free(old);
    }
    npt_free(checkpoints);
    return status;
}

/* "checkpoint-7.tmp-123" → where the part before ".tmp-" ends; NULL for another name. */
static const char *end_of_base(const char *name)
{
    const char *end = strstr(name, ".tmp-");
    if (strncmp(name, "checkpoint-", 11) != 0) return NULL;
    return end != NULL ? end : strstr(name, ".old-");
}

static npt_status sweep_one(const char *output_dir, const char *name, const char *end)
{
    char *left = npt_path_join(output_dir, name);
    char *base = npt_format("%s/%.*s", output_dir, (int)(end - name), name);
    npt_status status = left != NULL && base != NULL ? npt_seal_recover(base) : NPT_E_NOMEM;
    if (status == NPT_OK) status = npt_remove_tree(left);
    npt_free(left);
    npt_free(base);
    return status;
}

npt_status npt_checkpoint_sweep(const char *output_dir)
{
    npt_status status = NPT_OK;
    DIR *directory = opendir(output_dir);
    if (directory == NULL) return NPT_OK;
    for (struct dirent *entry; status == NPT_OK && (entry = readdir(directory)) != NULL;) {
        const char *end = end_of_base(entry->d_name);
        if (end != NULL) status = sweep_one(output_dir, entry->d_name, end);
    }
    closedir(directory);
    return status;
}
