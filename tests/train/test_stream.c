/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/feed.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "train/budget.h"
#include "train/forecast.h"
#include "train/trainer.h"
#include "unit/temp_dir.h"

/* The feed brings every byte of every group in any buffer it accepts; what a run takes is what the
 * budget said; and a model larger than the limit is trained below it. */

enum { PAGE = 4096 };

/* ---- The feed ---- */

enum { GROUPS = 5, TENSORS = 3 };

typedef struct stored {
    char *directory, *path;
    npt_st *st;
    uint8_t *data[GROUPS][TENSORS];
    size_t bytes[GROUPS][TENSORS];
} stored;

static const npt_st_tensor *tensor_of(const stored *s, int group, int i)
{
    char name[32];
    snprintf(name, sizeof name, "%d.%d", group, i);
    const npt_st_tensor *tensor = npt_st_find(s->st, name);
    assert_non_null(tensor);
    return tensor;
}

/* Groups of odd sizes that are neither pages nor read in one piece. */
static void store(stored *s)
{
    static const size_t sizes[TENSORS] = {100, 3 * PAGE + 17, 9 * 1024 * 1024 + 1};
    npt_st_writer *writer;
    s->directory = temp_dir();
    s->path = npt_path_join(s->directory, "x.safetensors");
    assert_int_equal(npt_st_writer_create(&writer, s->path), NPT_OK);
    for (int g = 0; g < GROUPS; g++)
        for (int i = 0; i < TENSORS; i++) {
            char name[32];
            const size_t bytes = sizes[i] + (size_t)g * (i == 2 ? 70000 : 3);
            const int64_t shape = (int64_t)bytes;
            s->bytes[g][i] = bytes;
            s->data[g][i] = npt_alloc(bytes, 1);
            for (size_t k = 0; k < bytes; k++)
                s->data[g][i][k] = (uint8_t)(k * 31 + k / 4096 + (size_t)(g * TENSORS + i));
            snprintf(name, sizeof name, "%d.%d", g, i);
            assert_int_equal(
                npt_st_writer_add(writer, name, NPT_U8, 1, &shape, s->data[g][i], NULL, NULL),
                NPT_OK);
        }
    assert_int_equal(npt_st_writer_commit(writer), NPT_OK);
    npt_st_writer_destroy(writer);
    assert_int_equal(npt_st_open(&s->st, s->path, false), NPT_OK);
}

static void unstore(stored *s)
{
    npt_st_close(s->st);
    for (int g = 0; g < GROUPS; g++)
        for (int i = 0; i < TENSORS; i++) npt_free(s->data[g][i]);
    npt_free(s->path);
    temp_dir_remove(s->directory);
}

static npt_feed *feed_of(stored *s)
{
    npt_feed *feed;
    assert_int_equal(npt_feed_create(&feed, s->st, GROUPS), NPT_OK);
    for (int g = 0; g < GROUPS; g++)
        for (int i = 0; i < TENSORS; i++)
            assert_int_equal(npt_feed_add(feed, (size_t)g, tensor_of(s, g, i)), NPT_OK);
    return feed;
}

static void check_group(stored *s, npt_feed *feed, int group)
{
    if (npt_feed_take(feed, (size_t)group) != NPT_OK) fail_msg("%s", npt_error_message());
    for (int i = 0; i < TENSORS; i++) {
        const npt_st_tensor *tensor = tensor_of(s, group, i);
        assert_int_equal((uintptr_t)tensor->data % PAGE, tensor->begin % PAGE);
        assert_memory_equal(tensor->data, s->data[group][i], s->bytes[group][i]);
    }
    npt_feed_release(feed);
    const npt_st_tensor *tensor = tensor_of(s, group, 0);
    assert_memory_equal(tensor->data, s->data[group][0], s->bytes[group][0]); /* mapped again */
}

static void every_byte_arrives(void **state)
{
    (void)state;
    stored s;
    store(&s);
    for (int room = 0; room <= 4; room++) {
        npt_feed *feed = feed_of(&s);
        npt_arena *arena = npt_arena_create("test");
        const size_t least = npt_feed_least_bytes(feed), most = npt_feed_most_bytes(feed);
        assert_int_equal(npt_feed_start(feed, arena, least + (most - least) / 4 * (size_t)room),
                         NPT_OK);
        for (int turn = 0; turn < 3 * GROUPS; turn++) check_group(&s, feed, turn % GROUPS);
        assert_true(npt_feed_told(feed).bytes >= 3 * npt_feed_pass_bytes(feed));
        npt_feed_destroy(feed);
        npt_arena_destroy(arena);
    }
    unstore(&s);
}

static void a_pass_can_be_left(void **state)
{
    (void)state;
    stored s;
    store(&s);
    npt_feed *feed = feed_of(&s);
    npt_arena *arena = npt_arena_create("test");
    assert_int_equal(npt_feed_start(feed, arena, npt_feed_most_bytes(feed)), NPT_OK);
    for (int left = 0; left < GROUPS; left++) {
        for (int g = 0; g < left; g++) check_group(&s, feed, g);
        assert_int_equal(npt_feed_take(feed, (size_t)left), NPT_OK);
        npt_feed_rewind(feed); /* with a group in use */
        npt_feed_rewind(feed);
    }
    for (int g = 0; g < GROUPS; g++) check_group(&s, feed, g);
    npt_feed_destroy(feed);
    npt_arena_destroy(arena);
    unstore(&s);
}

static void a_cut_file_is_said(void **state)
{
    (void)state;
    stored s;
    store(&s);
    npt_feed *feed = feed_of(&s);
    npt_arena *arena = npt_arena_create("test");
    assert_int_equal(npt_feed_start(feed, arena, npt_feed_least_bytes(feed)), NPT_OK);
    check_group(&s, feed, 0);
    assert_int_equal(truncate(s.path, 12345), 0);
    npt_status status = NPT_OK;
    for (int turn = 1; turn < 2 * GROUPS && status == NPT_OK; turn++) {
        status = npt_feed_take(feed, (size_t)(turn % GROUPS));
        if (status == NPT_OK) { /* read before the cut; the mapping is gone: no look at it */
            npt_feed_rewind(feed);
            turn = -1;
        }
    }
    assert_int_equal(status, NPT_E_IO);
    assert_message_has("became shorter");
    npt_feed_destroy(feed);
    npt_arena_destroy(arena);
    unstore(&s);
}

static void another_file_is_not_read(void **state)
{
    (void)state;
    stored s;
    store(&s);
    npt_feed *feed = feed_of(&s);
    npt_arena *arena = npt_arena_create("test");
    assert_int_equal(unlink(s.path), 0);
    npt_free(temp_file(s.directory, "x.safetensors", "other", 5));
    assert_int_equal(npt_feed_start(feed, arena, npt_feed_least_bytes(feed)), NPT_E_IO);
    assert_message_has("another file took its place");
    npt_feed_destroy(feed);
    npt_arena_destroy(arena);
    unstore(&s);
}

/* ---- Blocks ---- */

typedef struct loaded {
    npt_model *model;
    npt_exec *exec;
    npt_policy policy;
    npt_sites *sites;
} loaded;

/* False where the model does not go with the policy. */
static bool open_loaded(loaded *l, const char *path, const npt_policy_request *request)
{
    npt_policy_request asked = *request;
    *l = (loaded){0};
    if (npt_model_open(&l->model, path) != NPT_OK) fail_msg("%s", npt_error_message());
    asked.base_is_quantized = l->model->config.quantized;
    if (npt_policy_decide(&asked, &l->policy) != NPT_OK) return false;
    assert_int_equal(npt_exec_create(&l->exec, "native", 2), NPT_OK);
    l->sites = npt_sites_for(&l->policy, &l->model->config, NULL);
    assert_non_null(l->sites);
    return true;
}

static void close_loaded(loaded *l)
{
    npt_sites_destroy(l->sites);
    npt_exec_destroy(l->exec);
    npt_model_close(l->model);
}

static void same_in(npt_in a, npt_in b, int64_t count)
{
    assert_int_equal(a.dtype, b.dtype);
    assert_int_equal(a.data == NULL, b.data == NULL);
    if (a.data != NULL)
        assert_memory_equal(a.data, b.data, (size_t)count * npt_dtype_bytes(a.dtype));
}

static void same_weight(const npt_weight *a, const npt_weight *b)
{
    const size_t count = (size_t)(a->rows * a->cols);
    assert_int_equal(a->dtype, b->dtype);
    assert_memory_equal(a->data, b->data,
                        a->dtype == NPT_NF4 ? count / 2 : count * npt_dtype_bytes(a->dtype));
    assert_int_equal(a->absmax == NULL, b->absmax == NULL);
    if (a->absmax != NULL) assert_memory_equal(a->absmax, b->absmax, count / 64 * sizeof(float));
    if (a->levels != NULL) assert_memory_equal(a->levels, b->levels, 16 * sizeof(float));
    assert_int_equal(a->bias == NULL, b->bias == NULL);
    if (a->bias != NULL) assert_memory_equal(a->bias, b->bias, (size_t)a->rows * sizeof(float));
}

static void same_block(const npt_model *a, const npt_model *b, int layer)
{
    const npt_block_weights *x = &a->blocks[layer], *y = &b->blocks[layer];
    const npt_weight *const of_a[] = {&x->q, &x->k, &x->v, &x->o, &x->gate, &x->up, &x->down},
                            *const of_b[] = {&y->q,    &y->k,  &y->v,   &y->o,
                                             &y->gate, &y->up, &y->down};
    for (size_t i = 0; i < NPT_COUNT(of_a); i++) same_weight(of_a[i], of_b[i]);
    same_in(x->norm_in, y->norm_in, a->config.hidden);
    same_in(x->norm_post, y->norm_post, a->config.hidden);
    same_in(x->q_norm, y->q_norm, a->config.head_dim);
    same_in(x->k_norm, y->k_norm, a->config.head_dim);
}

static void check_blocks(const char *path, const npt_policy_request *request)
{
    loaded whole, streamed;
    npt_stream_needs needs;
    const bool fits = open_loaded(&whole, path, request) && open_loaded(&streamed, path, request);
    const int layers = (int)whole.model->config.layers;
    if (fits) {
        npt_stream_options options = {.back_to = 0};
        assert_int_equal(npt_model_load(whole.model, whole.exec, &whole.policy, whole.sites),
                         NPT_OK);
        assert_int_equal(
            npt_model_stream_needs(streamed.model, &streamed.policy, options.back_to, &needs),
            NPT_OK);
        options.buffer = needs.least;
        assert_int_equal(npt_model_stream(streamed.model, streamed.exec, &streamed.policy,
                                          streamed.sites, &options),
                         NPT_OK);
        for (int turn = 0; turn < 2 * (2 * layers - 1); turn++) { /* up and down, twice */
            const int at = turn % (2 * layers - 1), layer = at < layers ? at : 2 * layers - 2 - at;
            if (npt_model_take_block(streamed.model, layer) != NPT_OK)
                fail_msg("%s", npt_error_message());
            same_block(whole.model, streamed.model, layer);
            npt_model_release_block(streamed.model);
        }
        assert_int_equal(whole.model->narrowed >= streamed.model->narrowed, true);
        assert_int_equal(whole.model->narrowing.flushed, streamed.model->narrowing.flushed);
        close_loaded(&streamed);
    }
    close_loaded(&whole);
}

static void blocks_are_as_loaded(void **state)
{
    static const char *const models[] = {"llama", "qwen2", "qwen3", "nf4", "nf4-double"};
    static const npt_policy_request requests[] = {{0},
                                                  {.use_fp16 = true},
                                                  {.use_bf16 = true},
                                                  {.mixed_precision = NPT_F16},
                                                  {.use_quantization = true}};
    const char *top = getenv("NPT_SRCDIR");
    (void)state;
    for (size_t m = 0; m < NPT_COUNT(models); m++)
        for (size_t r = 0; r < NPT_COUNT(requests); r++) {
            char *path =
                npt_format("%s/tests/golden/models/%s", top != NULL ? top : ".", models[m]);
            const bool quantized = strncmp(models[m], "nf4", 3) == 0;
            if (!quantized || (!requests[r].use_fp16 && !requests[r].use_bf16))
                check_blocks(path, &requests[r]);
            npt_free(path);
        }
}

/* ---- What a run takes ---- */

static char *make_model(const char *directory, int64_t hidden, int64_t inter, int64_t layers)
{
    npt_make_model_options o;
    char *path = npt_path_join(directory, "model");
    npt_make_model_options_init(&o);
    o.hidden = hidden;
    o.inter = inter;
    o.layers = layers;
    o.heads = hidden / 64;
    o.kv_heads = o.heads / 4;
    o.vocab = 300;
    o.dtype = NPT_BF16;
    o.path = path;
    if (npt_make_model(&o) != NPT_OK) fail_msg("%s", npt_error_message());
    return path;
}

/* `count` rows of `length` ids. */
static char *make_rows(const char *directory, int count, int length)
{
    char *path = npt_path_join(directory, "rows.jsonl");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int row = 0; row < count; row++) {
        fputs("{\"input_ids\": [", file);
        for (int i = 0; i < length; i++)
            fprintf(file, "%s%d", i > 0 ? ", " : "", (row * 37 + i * 11) % 300);
        fputs("]}\n", file);
    }
    assert_int_equal(fclose(file), 0);
    return path;
}

static npt_train_options options_for(const char *model, const char *rows, const char *output)
{
    npt_train_options o;
    npt_train_options_init(&o, NPT_RECIPE_PRETRAIN);
    o.model_name = model;
    o.output_dir = output;
    o.data.dataset_name = rows;
    o.data.max_length = 64;
    o.distill = NPT_DISTILL_LAYERWISE;
    o.adapter_rank = 4;
    o.batch_size = 2;
    o.gradient_accumulation_steps = 2;
    o.max_steps = 2;
    o.warmup_steps = 0;
    o.regularization_lambda = 0;
    o.compute.backend = "native";
    o.compute.threads = 2;
    return o;
}

static const npt_precision_options precisions[] = {{.use_bf16 = true},
                                                   {.use_fp16 = true},
                                                   {0},
                                                   {.mixed_precision = NPT_BF16},
                                                   {.use_quantization = true}};

/* A step by itself, and one that is watched, for which layer by layer a little more is kept. */
static npt_status step_twice(npt_trainer *t)
{
    npt_step_result r;
    NPT_TRY(npt_trainer_step(t, &r));
    const double alone = (double)npt_arena_peak_bytes(t->distiller.step);
    assert_true(1.2 * alone + (1 << 18) > (double)t->budget.activations);
    t->options.probe_every = 1;
    return npt_trainer_step(t, &r);
}

/* Exact to a twentieth: what the formula says, and what the arenas handed out. */
static void check_peaks(const npt_trainer *t)
{
    const size_t activations = npt_arena_peak_bytes(t->distiller.step),
                 boundaries = npt_arena_peak_bytes(t->distiller.boundaries);
    if (activations > t->budget.activations ||
        1.05 * (double)activations + (1 << 18) < (double)t->budget.activations)
        fail_msg("activations: %zu bytes, the budget said %zu", activations,
                 (size_t)t->budget.activations);
    assert_true(boundaries <= t->budget.boundaries &&
                (double)t->budget.boundaries < 1.05 * (double)boundaries);
}

/* Query by query; all 12 layers of 256 have adapters, and a pass back computes blocks once more. */
static void check_attention(npt_trainer *t, int64_t window)
{
    const bool back = t->options.distill != NPT_DISTILL_LAYERWISE;
    const double products = back ? 2 * (23 + 12) + 5 * 11 : 2 * 12;
    double pairs = 0;
    npt_forecast f;
    for (int64_t query = 0; query < 64; query++)
        for (int64_t key = 0; key <= query; key++) pairs += window == 0 || query - key < window;
    t->setup.model->config.window = window;
    npt_forecast_make(&f, t);
    t->setup.model->config.window = 0;
    assert_true(f.attention_flops == 2 * 2 * products * 2 * 256 * pairs); /* 2 rows, 2 batches */
}

/* Rows are as long as they may be, so the forecast is what two steps multiply. */
static void check_forecast(npt_trainer *t, const npt_tally *tally)
{
    npt_forecast f;
    npt_forecast_make(&f, t);
    check_attention(t, 0);
    check_attention(t, 20);
    assert_int_equal(tally->dropped, 0);
    assert_int_equal(tally->count, f.products.count);
    for (size_t i = 0; i < tally->count; i++) {
        const npt_tally_row *row = &tally->rows[i];
        size_t p = 0;
        while (p < f.products.count && !npt_matmul_desc_same(&row->desc, &f.products.list[p].desc))
            p++;
        assert_true(p < f.products.count);
        if (row->count != 2 * f.micro_batches * f.products.list[p].per_step)
            fail_msg("%s, %s: %d listed, %d made by two steps", f.products.list[p].name,
                     f.products.list[p].pass, (int)(f.micro_batches * f.products.list[p].per_step),
                     (int)row->count);
    }
}

static void activations_are_what_the_budget_says(void **state)
{
    (void)state;
    char *directory = temp_dir(), *model = make_model(directory, 256, 1024, 12),
         *rows = make_rows(directory, 8, 64);
    for (size_t i = 0; i < 2 * NPT_COUNT(precisions); i++) {
        npt_trainer t = {.options = options_for(model, rows, NULL)};
        npt_train_report report = {0};
        t.report = &report;
        t.options.dry_run = true;
        t.options.precision = precisions[i % NPT_COUNT(precisions)];
        t.options.distill =
            i < NPT_COUNT(precisions) ? NPT_DISTILL_LAYERWISE : NPT_DISTILL_END_TO_END;
        assert_int_equal(npt_trainer_open(&t), NPT_OK);
        t.options.memory_limit = 1;
        assert_int_equal(npt_budget_make(&t.budget, &t), NPT_E_USAGE);
        /* what is resident may grow or shrink between two calls: the limit follows */
        npt_status status = NPT_E_USAGE;
        for (int call = 0; call < 64 && !(status == NPT_OK && t.budget.streamed); call++) {
            t.options.memory_limit = t.budget.least + (1 << 18);
            status = npt_budget_make(&t.budget, &t);
        }
        assert_int_equal(status, NPT_OK);
        if (!t.budget.streamed || t.budget.total > t.options.memory_limit)
            fail_msg("case %zu: %s, %llu bytes of %llu", i,
                     t.budget.streamed ? "streamed" : "not streamed",
                     (unsigned long long)t.budget.total,
                     (unsigned long long)t.options.memory_limit);
        assert_int_equal(npt_trainer_open_data(&t), NPT_OK);
        npt_tally *tally = calloc(1, sizeof *tally);
        assert_non_null(tally);
        npt_exec_tally(t.setup.exec, tally);
        if (npt_trainer_load(&t, false) != NPT_OK || step_twice(&t) != NPT_OK)
            fail_msg("%s", npt_error_message());
        npt_exec_tally(t.setup.exec, NULL);
        check_forecast(&t, tally);
        free(tally);
        check_peaks(&t);
        if (npt_exec_scratch_bytes(t.setup.exec) > t.budget.scratch)
            fail_msg("case %zu: scratch of %zu bytes, the budget said %zu", i,
                     npt_exec_scratch_bytes(t.setup.exec), (size_t)t.budget.scratch);
        npt_trainer_close(&t);
    }
    npt_free(rows);
    npt_free(model);
    temp_dir_remove(directory);
}

/* Without a limit everything that backward reads is kept at once: all layers, some of them, one. */
static void activations_are_counted_where_nothing_is_streamed(void **state)
{
    static const char *const layers[] = {"all", "2-4", "5"};
    (void)state;
    char *directory = temp_dir(), *model = make_model(directory, 256, 1024, 6),
         *rows = make_rows(directory, 8, 64);
    for (size_t i = 0; i < NPT_COUNT(precisions) * 2 * NPT_COUNT(layers); i++) {
        npt_trainer t = {.options = options_for(model, rows, NULL)};
        npt_train_report report = {0};
        t.report = &report;
        t.options.dry_run = true;
        t.options.precision = precisions[i % NPT_COUNT(precisions)];
        t.options.distill =
            i / NPT_COUNT(precisions) % 2 == 0 ? NPT_DISTILL_LAYERWISE : NPT_DISTILL_END_TO_END;
        t.options.layers = layers[i / (2 * NPT_COUNT(precisions))];
        if (npt_trainer_open(&t) != NPT_OK || npt_budget_make(&t.budget, &t) != NPT_OK ||
            npt_trainer_open_data(&t) != NPT_OK || npt_trainer_load(&t, false) != NPT_OK ||
            step_twice(&t) != NPT_OK)
            fail_msg("case %zu: %s", i, npt_error_message());
        const double kept = (double)npt_arena_peak_bytes(t.distiller.step),
                     said = (double)t.budget.activations;
        if (t.budget.streamed || kept > said || 1.05 * kept + (1 << 18) < said)
            fail_msg("case %zu, layers %s: %.0f bytes, the budget said %.0f", i, t.options.layers,
                     kept, said);
        npt_trainer_close(&t);
    }
    npt_free(rows);
    npt_free(model);
    temp_dir_remove(directory);
}

/* One step of a streamed run, from headers to update. */
static npt_status stream_a_step(const npt_train_options *o)
{
    npt_train_report report = {0};
    npt_trainer t = {.options = *o, .report = &report};
    npt_step_result r;
    npt_status status = npt_trainer_open(&t);
    if (status == NPT_OK) status = npt_budget_make(&t.budget, &t);
    if (status == NPT_E_USAGE) status = NPT_OK; /* the limit is a byte: the smallest buffer */
    if (status == NPT_OK) status = npt_trainer_open_data(&t);
    if (status == NPT_OK) status = npt_trainer_load(&t, false);
    if (status == NPT_OK) status = npt_trainer_step(&t, &r);
    npt_trainer_close(&t);
    return status;
}

static void memory_may_be_short(void **state)
{
    (void)state;
    char *directory = temp_dir(), *model = make_model(directory, 256, 128, 3),
         *rows = make_rows(directory, 8, 8);
    npt_train_options o = options_for(model, rows, NULL);
    o.dry_run = true;
    o.distill = NPT_DISTILL_END_TO_END;
    o.memory_limit = 1;
    o.data.max_length = 8;
    long n = 1;
    npt_status status = NPT_E_NOMEM;
    for (; status == NPT_E_NOMEM && n < 5000; n++) {
        npt_alloc_fail_at(n);
        status = stream_a_step(&o);
    }
    npt_alloc_fail_at(0);
    if (status != NPT_OK) fail_msg("request %ld: %s", n - 1, npt_error_message());
    assert_true(n > 100);
    npt_free(rows);
    npt_free(model);
    temp_dir_remove(directory);
}

/* ---- A model that is larger than the limit ---- */

/* AddressSanitizer's own memory is none of the run's. */
#if defined(__SANITIZE_ADDRESS__)
#define LIMIT_BYTES ((uint64_t)0)
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LIMIT_BYTES ((uint64_t)0)
#endif
#endif
#ifndef LIMIT_BYTES
#define LIMIT_BYTES ((uint64_t)150000000)
#endif

static bool is_on_a_disk(const char *path)
{
    enum { TMPFS = 0x01021994 };
    struct statfs info;
    return statfs(path, &info) == 0 && info.f_type != TMPFS;
}

static size_t cached_bytes(const char *path, size_t *all)
{
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    *all = (size_t)lseek(fd, 0, SEEK_END);
    const size_t pages = (*all + PAGE - 1) / PAGE;
    unsigned char *resident = npt_alloc(pages, 1);
    void *map = mmap(NULL, *all, PROT_READ, MAP_SHARED, fd, 0);
    size_t count = 0;
    assert_true(map != MAP_FAILED && mincore(map, *all, resident) == 0);
    for (size_t i = 0; i < pages; i++) count += resident[i] & 1;
    munmap(map, *all);
    close(fd);
    npt_free(resident);
    return count * PAGE;
}

static void drop_from_cache(const char *path)
{
    int fd = open(path, O_RDONLY);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    close(fd);
}

static int train_below_limit(char **paths)
{
    npt_train_report report;
    npt_train_options o = options_for(paths[0], paths[1], paths[2]);
    o.precision.use_bf16 = true;
    o.memory_limit = LIMIT_BYTES;
    if (npt_pretrain(&o, &report) == NPT_OK) return 0;
    fprintf(stderr, "%s\n", npt_error_message());
    return 1;
}

/* Peak resident bytes of this program with those arguments, without the memory of this process. */
static uint64_t peak_of(char **arguments)
{
    char name[] = "test_stream", *all[8] = {name};
    struct rusage usage;
    int status;
    for (int i = 0; arguments[i] != NULL; i++) all[i + 1] = arguments[i];
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        execv("/proc/self/exe", all);
        _exit(127);
    }
    assert_int_equal(wait4(pid, &status, 0, &usage), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return (uint64_t)usage.ru_maxrss * 1024;
}

static void a_larger_model_stays_below_the_limit(void **state)
{
    (void)state;
    size_t all;
    if (LIMIT_BYTES == 0) return;
    char *directory = temp_dir(), *model = make_model(directory, 1024, 4096, 12),
         *rows = make_rows(directory, 8, 64), *file = npt_path_join(model, "model.safetensors"),
         *output = npt_path_join(directory, "run"), *arguments[] = {model, rows, output, NULL};
    drop_from_cache(file);
    const uint64_t peak = peak_of(arguments);
    const size_t cached = cached_bytes(file, &all);
    print_message("# model %zu MB, limit %d MB, peak %d MB, of the file cached %zu MB\n",
                  all / 1000000, (int)(LIMIT_BYTES / 1000000), (int)(peak / 1000000),
                  cached / 1000000);
    assert_true(all > 2 * LIMIT_BYTES);
    if (peak > LIMIT_BYTES) fail_msg("%llu bytes resident", (unsigned long long)peak);
    if (is_on_a_disk(file)) assert_true(cached < 8000000);
    npt_free(output);
    npt_free(file);
    npt_free(rows);
    npt_free(model);
    temp_dir_remove(directory);
}

/* ---- A run without a limit ---- */

/* Prints the budget's total, then trains. */
static int train_by_the_table(char **paths)
{
    npt_train_options o = options_for(paths[0], paths[1], NULL);
    npt_train_report report = {0};
    npt_trainer t = {.report = &report};
    o.precision = precisions[atoi(paths[3])];
    o.dry_run = true;
    t.options = o;
    npt_status status = npt_trainer_open(&t);
    if (status == NPT_OK) status = npt_budget_make(&t.budget, &t);
    FILE *file = fopen(paths[4], "w");
    if (status == NPT_OK && file != NULL) fprintf(file, "%llu", (unsigned long long)t.budget.total);
    if (file != NULL) fclose(file);
    npt_trainer_close(&t);
    o.dry_run = false;
    o.output_dir = paths[2];
    if (status == NPT_OK) status = npt_pretrain(&o, &report);
    if (status != NPT_OK) fprintf(stderr, "%s\n", npt_error_message());
    return status == NPT_OK ? 0 : 1;
}

static void without_a_limit_the_table_holds(void **state)
{
    (void)state;
    if (LIMIT_BYTES == 0) return;
    char *directory = temp_dir(), *model = make_model(directory, 1024, 4096, 6),
         *rows = make_rows(directory, 8, 64), *table = npt_path_join(directory, "total");
    for (size_t i = 0; i < NPT_COUNT(precisions); i++) {
        char *output = npt_format("%s/run-%zu", directory, i), which[2] = {(char)('0' + i), '\0'},
             *arguments[] = {model, rows, output, which, table, NULL}, *text;
        size_t bytes;
        const uint64_t peak = peak_of(arguments);
        assert_int_equal(npt_read_file(table, 100, &text, &bytes), NPT_OK);
        const double total = strtod(text, NULL);
        print_message("# case %zu: at most %.1f MB, peak %.1f MB\n", i, total / 1e6,
                      (double)peak / 1e6);
        if ((double)peak > 1.02 * total || (double)peak < 0.9 * total) fail_msg("case %zu", i);
        npt_free(text);
        npt_free(output);
    }
    npt_free(table);
    npt_free(rows);
    npt_free(model);
    temp_dir_remove(directory);
}

int main(int argc, char **argv)
{
    if (argc == 4) return train_below_limit(argv + 1);
    if (argc == 6) return train_by_the_table(argv + 1);
    const npt_case cases[] = {
        NPT_CASE("every byte arrives, in a buffer of any size", every_byte_arrives),
        NPT_CASE("a pass can be left in the middle", a_pass_can_be_left),
        NPT_CASE("a file that is cut while it is read is said", a_cut_file_is_said),
        NPT_CASE("a file that took the place of another is not read", another_file_is_not_read),
        NPT_CASE("a streamed block is the block as it is loaded, of every model in every precision",
                 blocks_are_as_loaded),
        NPT_CASE("activations are what the budget says, to a twentieth",
                 activations_are_what_the_budget_says),
        NPT_CASE("activations are counted where nothing is streamed",
                 activations_are_counted_where_nothing_is_streamed),
        NPT_CASE("any request for memory may fail", memory_may_be_short),
        NPT_CASE("a model larger than the limit is trained below it",
                 a_larger_model_stays_below_the_limit),
        NPT_CASE("without a limit the table holds", without_a_limit_the_table_holds),
    };
    return npt_test_run("stream", cases, NPT_COUNT(cases));
}
