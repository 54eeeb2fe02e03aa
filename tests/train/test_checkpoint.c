/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/checkpoint.h"

#include <math.h>

#include "train/distill.h"
#include "unit/temp_dir.h"

/* Checkpoints of a small set of adapters that no model needs: what is saved comes back exactly, or
 * not at all. */

enum { LAYERS = 2, HIDDEN = 8, INTER = 12, RANK = 3 };

typedef struct rig {
    npt_arena *arena;
    npt_adapters adapters;
    npt_train_state state;
    json_t *adapter_config, *settings;
    npt_sites *sites;
    npt_checkpoint checkpoint;
} rig;

static npt_status fill_parameter(void *context, int layer, npt_parameter *p)
{
    int *salt = context;
    for (int64_t i = 0; i < p->rows * p->cols; i++) {
        const float x = (float)(1 + i + 100 * layer + 1000 * *salt) / 3;
        p->moment1[i] = x;
        p->moment2[i] = x * x;
        if ((void *)p->master != p->value) p->master[i] += 1e-7f * x; /* finer than the value */
    }
    ++*salt;
    return NPT_OK;
}

static void rig_init(rig *r, bool half, int rank, uint64_t seed)
{
    const npt_config config = {.hidden = HIDDEN, .inter = INTER, .layers = LAYERS};
    const npt_policy_request request = {.use_fp16 = half};
    const npt_adapters_options options = {.rank = rank, .strength = 0.1, .seed = seed};
    npt_policy policy;
    int salt = (int)seed;
    memset(r, 0, sizeof *r);
    assert_int_equal(npt_policy_decide(&request, &policy), NPT_OK);
    r->arena = npt_arena_create("test");
    assert_non_null(r->arena);
    assert_int_equal(npt_adapters_init(&r->adapters, &options, &config, &policy, r->arena, true),
                     NPT_OK);
    assert_int_equal(npt_adapters_visit(&r->adapters, fill_parameter, &salt), NPT_OK);
    assert_int_equal(npt_train_state_init(&r->state), NPT_OK);
    r->adapter_config = json_pack("{s:s}", "peft_type", "NPT");
    r->settings = json_pack("{s:s, s:i, s:f, s:i}", "model", "m", "adapter_rank", 3,
                            "learning_rate", 1e-4, "seed", 1);
    r->sites = npt_sites_for(&policy, &config, &r->adapters);
    assert_non_null(r->sites);
    npt_adapters_round(&r->adapters, r->sites);
    r->checkpoint =
        (npt_checkpoint){&r->adapters, &r->state, r->adapter_config, r->settings, r->sites};
}

static void rig_fini(rig *r)
{
    npt_train_state_fini(&r->state);
    npt_sites_destroy(r->sites);
    json_decref(r->adapter_config);
    json_decref(r->settings);
    npt_arena_destroy(r->arena);
}

/* Values that text would lose. */
static void set_state(npt_train_state *s, int64_t step)
{
    s->step = step;
    s->epoch = 3;
    s->position = (npt_dataset_position){.file = 1, .byte_offset = INT64_MAX, .line = 5, .row = 6};
    s->tokens = (int64_t)1 << 60;
    s->skipped_steps = 7;
    s->skipped_batches = 8;
    s->failures_in_a_row = 9;
    s->metrics_lines = 10;
    s->evaluated_step = step - 1;
    s->scaler.scale = 0x1p-3;
    s->scaler.good_steps = 1999;
    s->epoch_fraction = 1.0 / 3;
    s->best_metric = 0.1 + 0.2;
    s->best_step = 4;
    s->first_loss = nextafter(1, 2);
    s->last_loss = nextafter(1, 0);
    json_array_append_new(s->log_history, json_pack("{s:f, s:i}", "loss", 1.0 / 3, "step", 1));
}

/* Every number of every parameter in one list, so that two sets can be compared. */
typedef struct flat {
    float numbers[4096];
    size_t count;
} flat;

static npt_status flatten_parameter(void *context, int layer, npt_parameter *p)
{
    flat *f = context;
    (void)layer;
    for (int64_t i = 0; i < p->rows * p->cols; i++) {
        f->numbers[f->count++] = p->master[i];
        f->numbers[f->count++] = p->moment1[i];
        f->numbers[f->count++] = p->moment2[i];
    }
    return NPT_OK;
}

static flat flatten(rig *r)
{
    flat f = {.count = 0};
    assert_int_equal(npt_adapters_visit(&r->adapters, flatten_parameter, &f), NPT_OK);
    return f;
}

static void assert_same_adapters(rig *a, rig *b, bool equal)
{
    const flat x = flatten(a), y = flatten(b);
    assert_int_equal(x.count, y.count);
    if (equal)
        assert_memory_equal(x.numbers, y.numbers, x.count * sizeof *x.numbers);
    else
        assert_memory_not_equal(x.numbers, y.numbers, x.count * sizeof *x.numbers);
}

static void assert_same_values(rig *a, rig *b)
{
    for (int layer = 0; layer < LAYERS; layer++)
        for (int i = 0; i < a->adapters.adapter[layer].count; i++) {
            const npt_parameter *p = &a->adapters.adapter[layer].parameters[i];
            const npt_parameter *q = &b->adapters.adapter[layer].parameters[i];
            const size_t width = a->adapters.dtype == NPT_F32 ? 4 : 2;
            const size_t bytes = (size_t)(p->rows * p->cols) * width;
            assert_memory_equal(p->value, q->value, bytes);
        }
}

static void save_at(rig *r, const char *directory, const char *name, int64_t step)
{
    char *path = npt_path_join(directory, name);
    r->state.step = step;
    assert_int_equal(npt_checkpoint_save(&r->checkpoint, path), NPT_OK);
    npt_free(path);
}

/* ---- Saving and loading ---- */

static void come_back(bool half)
{
    char *directory = temp_dir(), *path = npt_path_join(directory, "checkpoint-5");
    rig a, b;
    rig_init(&a, half, RANK, 1);
    rig_init(&b, half, RANK, 2);
    set_state(&a.state, 5);
    assert_same_adapters(&a, &b, false);
    assert_int_equal(npt_checkpoint_save(&a.checkpoint, path), NPT_OK);
    assert_int_equal(npt_checkpoint_load(&b.checkpoint, path), NPT_OK);
    assert_same_adapters(&a, &b, true);
    assert_same_values(&a, &b);
    assert_true(json_equal(a.state.log_history, b.state.log_history));
    /* the rest of the state: plain numbers, but for what is not saved */
    npt_train_state x = a.state, y = b.state;
    assert_int_equal(x.step, y.step);
    assert_int_equal(x.epoch, y.epoch);
    assert_memory_equal(&x.position, &y.position, sizeof x.position);
    assert_int_equal(x.tokens, y.tokens);
    assert_int_equal(x.skipped_steps, y.skipped_steps);
    assert_int_equal(x.skipped_batches, y.skipped_batches);
    assert_int_equal(x.failures_in_a_row, y.failures_in_a_row);
    assert_int_equal(x.metrics_lines, y.metrics_lines);
    assert_int_equal(x.evaluated_step, y.evaluated_step);
    assert_int_equal(x.scaler.good_steps, y.scaler.good_steps);
    assert_int_equal(x.best_step, y.best_step);
    const double p[] = {x.scaler.scale, x.epoch_fraction, x.best_metric, x.first_loss, x.last_loss};
    const double q[] = {y.scaler.scale, y.epoch_fraction, y.best_metric, y.first_loss, y.last_loss};
    assert_memory_equal(p, q, sizeof p);
    rig_fini(&a);
    rig_fini(&b);
    npt_free(path);
    temp_dir_remove(directory);
}

static void f32_comes_back(void **state)
{
    (void)state;
    come_back(false);
}

static void f16_comes_back(void **state)
{
    (void)state;
    come_back(true);
}

static void saving_is_repeatable(void **state)
{
    (void)state;
    char *directory = temp_dir(), *text[2];
    size_t bytes[2];
    rig r;
    rig_init(&r, true, RANK, 1);
    set_state(&r.state, 5);
    for (int i = 0; i < 2; i++) {
        save_at(&r, directory, "checkpoint-5", 5); /* the second replaces the first */
        char *path = npt_path_join(directory, "checkpoint-5/MANIFEST");
        assert_int_equal(npt_read_file(path, 65536, &text[i], &bytes[i]), NPT_OK);
        npt_free(path);
    }
    assert_string_equal(text[0], text[1]);
    assert_non_null(strstr(text[0], "  training_state.safetensors\n"));
    assert_int_equal(temp_dir_count(directory), 1);
    npt_free(text[0]);
    npt_free(text[1]);
    rig_fini(&r);
    temp_dir_remove(directory);
}

static void saving_survives_every_failed_allocation(void **state)
{
    (void)state;
    char *directory = temp_dir(), *path = npt_path_join(directory, "checkpoint-5");
    rig old, new;
    rig_init(&old, true, RANK, 1);
    rig_init(&new, true, RANK, 2);
    set_state(&old.state, 5);
    set_state(&new.state, 5);
    assert_int_equal(npt_checkpoint_save(&old.checkpoint, path), NPT_OK);
    npt_status status = NPT_E_NOMEM;
    long n = 0;
    while (status != NPT_OK && n < 10000) {
        npt_alloc_fail_at(++n);
        status = npt_checkpoint_save(&new.checkpoint, path);
        npt_alloc_fail_at(0);
        if (status != NPT_OK) assert_int_equal(status, NPT_E_NOMEM);
        assert_int_equal(npt_manifest_check(path), NPT_OK);
    }
    assert_true(n > 20);
    rig loaded;
    rig_init(&loaded, true, RANK, 3);
    assert_int_equal(npt_checkpoint_load(&loaded.checkpoint, path), NPT_OK);
    assert_same_adapters(&loaded, &new, true);
    rig_fini(&loaded);
    rig_fini(&old);
    rig_fini(&new);
    npt_free(path);
    temp_dir_remove(directory);
}

static void loading_survives_every_failed_allocation(void **state)
{
    (void)state;
    char *directory = temp_dir(), *path = npt_path_join(directory, "checkpoint-5");
    rig a, b;
    rig_init(&a, true, RANK, 1);
    rig_init(&b, true, RANK, 2);
    set_state(&a.state, 5);
    assert_int_equal(npt_checkpoint_save(&a.checkpoint, path), NPT_OK);
    npt_status status = NPT_E_NOMEM;
    long n = 0;
    while (status != NPT_OK && n < 10000) {
        npt_alloc_fail_at(++n);
        status = npt_checkpoint_load(&b.checkpoint, path);
        npt_alloc_fail_at(0);
        if (status != NPT_OK) assert_int_equal(status, NPT_E_NOMEM);
    }
    assert_true(n > 10);
    assert_same_adapters(&a, &b, true);
    rig_fini(&a);
    rig_fini(&b);
    npt_free(path);
    temp_dir_remove(directory);
}

/* ---- Refusing ---- */

static void other_settings_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *key, *flag;
    } fixed[] = {{"adapter_rank", "--adapter_rank"}, {"model", "--model_name"}, {"seed", "--seed"}};
    char *directory = temp_dir(), *path = npt_path_join(directory, "checkpoint-5");
    rig a, b, c;
    rig_init(&a, false, RANK, 1);
    rig_init(&c, false, RANK, 2);
    set_state(&a.state, 5);
    assert_int_equal(npt_checkpoint_save(&a.checkpoint, path), NPT_OK);
    for (size_t i = 0; i < NPT_COUNT(fixed); i++) {
        rig_init(&b, false, RANK, 2);
        json_object_set_new(b.settings, fixed[i].key, json_integer(99));
        assert_int_equal(npt_checkpoint_load(&b.checkpoint, path), NPT_E_USAGE);
        assert_message_has(fixed[i].flag);
        assert_message_has("checkpoint-5");
        assert_same_adapters(&b, &c, true);
        assert_int_equal(b.state.step, 0);
        rig_fini(&b);
    }
    rig_init(&b, false, RANK, 2);
    json_object_set_new(b.settings, "learning_rate", json_real(1e-3)); /* a warning */
    assert_int_equal(npt_checkpoint_load(&b.checkpoint, path), NPT_OK);
    rig_fini(&b);
    rig_fini(&a);
    rig_fini(&c);
    npt_free(path);
    temp_dir_remove(directory);
}

static void torn_ones_are_refused(void **state)
{
    (void)state;
    static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors",
                                        "trainer_state.json", "training_state.safetensors",
                                        "MANIFEST"};
    char *directory = temp_dir(), *path = npt_path_join(directory, "checkpoint-5");
    rig a, b, c;
    rig_init(&a, true, RANK, 1);
    rig_init(&b, true, RANK, 2);
    rig_init(&c, true, RANK, 2);
    for (size_t i = 0; i < NPT_COUNT(files); i++) {
        save_at(&a, directory, "checkpoint-5", 5);
        char *file = npt_path_join(path, files[i]);
        assert_int_equal(remove(file), 0);
        npt_free(file);
        assert_int_equal(npt_checkpoint_load(&b.checkpoint, path), NPT_E_FORMAT);
        assert_same_adapters(&b, &c, true);
    }
    rig_fini(&a);
    rig_fini(&b);
    rig_fini(&c);
    npt_free(path);
    temp_dir_remove(directory);
}

/* Settings that lie: the shapes are looked at, too. */
static void another_rank_is_refused(void **state)
{
    (void)state;
    char *directory = temp_dir(), *path = npt_path_join(directory, "checkpoint-5");
    rig a, b;
    rig_init(&a, false, RANK, 1);
    rig_init(&b, false, RANK + 1, 1);
    assert_int_equal(npt_checkpoint_save(&a.checkpoint, path), NPT_OK);
    assert_int_equal(npt_checkpoint_load(&b.checkpoint, path), NPT_E_FORMAT);
    assert_message_has("A_proj");
    rig_fini(&a);
    rig_fini(&b);
    npt_free(path);
    temp_dir_remove(directory);
}

/* ---- Directories ---- */

static void assert_found(const char *directory, const char *name)
{
    char *path;
    assert_int_equal(npt_checkpoint_find(directory, &path), NPT_OK);
    if (name == NULL) {
        assert_null(path);
        return;
    }
    assert_non_null(path);
    assert_string_equal(strrchr(path, '/') + 1, name);
    npt_free(path);
}

static void tear(const char *directory, const char *name)
{
    char *path = npt_format("%s/%s/MANIFEST", directory, name);
    assert_int_equal(remove(path), 0);
    npt_free(path);
}

static bool is_there(const char *directory, const char *name)
{
    char *path = npt_path_join(directory, name);
    const bool there = npt_path_exists(path);
    npt_free(path);
    return there;
}

static void newest_complete_is_found(void **state)
{
    (void)state;
    char *directory = temp_dir();
    rig r;
    rig_init(&r, false, RANK, 1);
    assert_found(directory, NULL);
    assert_false(npt_checkpoint_has_run(directory));
    save_at(&r, directory, "checkpoint-9", 9);
    save_at(&r, directory, "checkpoint-10", 10);
    save_at(&r, directory, "checkpoint-best", 10);
    save_at(&r, directory, "checkpoint-12x", 12); /* a name of someone else */
    assert_true(npt_checkpoint_has_run(directory));
    assert_found(directory, "checkpoint-10");
    save_at(&r, directory, "checkpoint-final", 11);
    assert_found(directory, "checkpoint-final");
    save_at(&r, directory, "checkpoint-20", 20); /* the run went on after its end */
    assert_found(directory, "checkpoint-20");
    tear(directory, "checkpoint-20");
    assert_found(directory, "checkpoint-final");
    tear(directory, "checkpoint-final");
    assert_found(directory, "checkpoint-10");
    tear(directory, "checkpoint-10");
    assert_found(directory, "checkpoint-9");
    tear(directory, "checkpoint-9");
    assert_found(directory, NULL);
    assert_found("/nonexistent/directory", NULL);
    rig_fini(&r);
    temp_dir_remove(directory);
}

static void oldest_go_first(void **state)
{
    (void)state;
    static const char *const names[] = {"checkpoint-8",  "checkpoint-9",    "checkpoint-10",
                                        "checkpoint-11", "checkpoint-best", "checkpoint-final"};
    char *directory = temp_dir();
    rig r;
    rig_init(&r, false, RANK, 1);
    for (size_t i = 0; i < NPT_COUNT(names); i++) save_at(&r, directory, names[i], 8 + (int64_t)i);
    assert_int_equal(npt_checkpoint_rotate(directory, 0), NPT_OK);
    assert_int_equal(temp_dir_count(directory), 6);
    assert_int_equal(npt_checkpoint_rotate(directory, 2), NPT_OK);
    for (size_t i = 0; i < NPT_COUNT(names); i++)
        assert_int_equal(is_there(directory, names[i]), i >= 2);
    assert_int_equal(npt_checkpoint_rotate(directory, 9), NPT_OK);
    assert_int_equal(temp_dir_count(directory), 4);
    rig_fini(&r);
    temp_dir_remove(directory);
}

static void what_is_left_over_is_swept_up(void **state)
{
    (void)state;
    char *directory = temp_dir();
    rig r;
    rig_init(&r, false, RANK, 1);
    save_at(&r, directory, "checkpoint-5", 5);
    save_at(&r, directory, "checkpoint-5.tmp-1", 5);  /* was being replaced */
    save_at(&r, directory, "checkpoint-6.tmp-1", 6);  /* complete but for its name */
    save_at(&r, directory, "checkpoint-7.tmp-22", 7); /* half-written */
    tear(directory, "checkpoint-7.tmp-22");
    save_at(&r, directory, "checkpoint-best.old-3", 4); /* between two renames */
    assert_found(directory, "checkpoint-5");
    assert_int_equal(npt_checkpoint_sweep(directory), NPT_OK);
    assert_int_equal(temp_dir_count(directory), 3);
    assert_found(directory, "checkpoint-6");
    assert_true(is_there(directory, "checkpoint-best"));
    assert_int_equal(npt_checkpoint_sweep("/nonexistent/directory"), NPT_OK);
    rig_fini(&r);
    temp_dir_remove(directory);
}

static void quiet(void *context, npt_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("what was saved comes back bit for bit: F32", f32_comes_back),
        NPT_CASE("what was saved comes back bit for bit: F16 and its masters", f16_comes_back),
        NPT_CASE("the same state saved twice is the same bytes", saving_is_repeatable),
        NPT_CASE("memory that is short while saving leaves the old one or the new",
                 saving_survives_every_failed_allocation),
        NPT_CASE("memory that is short while loading is said, and the next try loads",
                 loading_survives_every_failed_allocation),
        NPT_CASE("settings that must agree are refused by flag, before anything is read",
                 other_settings_are_refused),
        NPT_CASE("a checkpoint without one of its files is refused, and nothing is read",
                 torn_ones_are_refused),
        NPT_CASE("tensors of another rank are refused", another_rank_is_refused),
        NPT_CASE("the newest complete checkpoint is found, by number", newest_complete_is_found),
        NPT_CASE("rotation removes the oldest by number, never the best or the final one",
                 oldest_go_first),
        NPT_CASE("what a killed run left is swept up, what was complete is kept",
                 what_is_left_over_is_swept_up),
    };
    npt_log_set(quiet, NULL);
    return npt_test_run("checkpoint", cases, NPT_COUNT(cases));
}
