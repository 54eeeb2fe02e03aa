/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "golden/golden_case.h"

#include <math.h>

#include "train/trainer.h"
#include "unit/temp_dir.h"

/* What the probe says of a site, against the same made here from every value of it, in F64: the
 * results of the run and of a run in F32 are collected by an observer of this test. */

static char *directory, *rows;

static void say_nothing(void *context, npt_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

/* ---- All values of a run ---- */

enum { MAX_RESULTS = 512 };

typedef struct values {
    npt_observer observer;
    size_t count;
    struct {
        char label[80];
        int64_t n;
        float *x;
    } of[MAX_RESULTS];
} values;

static npt_status see(npt_observer *observer, const npt_env *env, const npt_observation *seen)
{
    values *v = (values *)observer;
    char label[64];
    const int64_t n = seen->result.rows * seen->result.cols;
    (void)env;
    assert_true(v->count < MAX_RESULTS);
    npt_site_label(seen->site, seen->layer, seen->direction, label, sizeof label);
    snprintf(v->of[v->count].label, 80, "%s%s", seen->student ? "" : "teacher ", label);
    v->of[v->count].n = n;
    v->of[v->count].x = npt_alloc((size_t)n, sizeof(float));
    for (int64_t i = 0; i < n; i++)
        v->of[v->count].x[i] = npt_load(seen->result.data, seen->result.dtype, (size_t)i);
    v->count++;
    return NPT_OK;
}

static void forget(values *v)
{
    for (size_t i = 0; i < v->count; i++) npt_free(v->of[i].x);
    v->count = 0;
}

/* ---- Runs ---- */

typedef struct setting {
    golden_case c;
    char *model, *init;
    npt_train_options options;
} setting;

static void open_setting(setting *s, npt_precision_options precision)
{
    golden_open(&s->c, "llama");
    FILE *file = fopen(rows, "w");
    const json_t *all = json_object_get(s->c.json, "rows");
    for (size_t i = 0; i < json_array_size(all); i++) {
        char *ids = json_dumps(json_array_get(all, i), JSON_COMPACT);
        fprintf(file, "{\"input_ids\":%s}\n", ids);
        free(ids);
    }
    assert_int_equal(fclose(file), 0);
    s->model = npt_test_path(golden_word(s->c.json, "model"));
    s->init = npt_path_join(s->c.directory, "init.safetensors");
    npt_train_options_init(&s->options, NPT_RECIPE_PRETRAIN);
    s->options.model_name = s->model;
    s->options.data.dataset_name = rows;
    s->options.init_adapter = s->init;
    s->options.adapter_rank = (int)golden_real(s->c.json, "rank");
    s->options.batch_size = 8;
    s->options.gradient_accumulation_steps = 1;
    s->options.dry_run = true; /* no output directory */
    s->options.precision = precision;
    s->options.compute = (npt_compute_options){.backend = "native", .threads = 1};
}

static void close_setting(setting *s)
{
    npt_free(s->init);
    free(s->model);
    golden_close(&s->c);
}

static void collect(const setting *s, npt_precision_options precision, double scale, values *v)
{
    npt_train_report report = {0};
    npt_distill_sums sums = {0};
    npt_trainer t = {.options = s->options, .report = &report};
    t.options.precision = precision;
    assert_int_equal(npt_trainer_open(&t), NPT_OK);
    assert_int_equal(npt_trainer_open_data(&t), NPT_OK);
    assert_int_equal(npt_trainer_load(&t, false), NPT_OK);
    assert_int_equal(npt_loader_fill(&t.loader, true), NPT_OK);
    t.state.scaler.scale = scale;
    *v = (values){.observer = {see}};
    t.distiller.observer = &v->observer;
    const npt_term_weights weights = {1, t.options.regularization_lambda};
    assert_int_equal(npt_trainer_micro_batch(&t, &t.distiller, 0, weights, &sums), NPT_OK);
    npt_trainer_close(&t);
}

static json_t *probe(const setting *s)
{
    const npt_doctor_options doctor = {.json = true};
    npt_verdict verdict;
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    assert_int_equal(npt_doctor_probe(&s->options, &doctor, out, &verdict), NPT_OK);
    fclose(out);
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    free(text);
    return json;
}

/* ---- Comparison ---- */

static void expect_near(double got, double wanted, const char *label, const char *what)
{
    if (!(fabs(got - wanted) <= 1e-6 * fabs(wanted)))
        fail_msg("%s: %s is %.9g, not %.9g", label, what, got, wanted);
}

static void check_row(const json_t *row, const values *run, const values *shadow, size_t i)
{
    const char *label = golden_word(row, "site");
    const float *x = run->of[i].x, *s = shadow->of[i].x;
    double low = INFINITY, high = -INFINITY, squares = 0, difference = 0, whole = 0;
    int64_t zeros = 0, alive = 0, tiny = 0;
    for (int64_t k = 0; k < run->of[i].n; k++) {
        const double value = (double)x[k], truth = (double)s[k];
        low = fmin(low, value);
        high = fmax(high, value);
        squares += value * value;
        difference += (value - truth) * (value - truth);
        whole += truth * truth;
        alive += truth != 0;
        zeros += truth != 0 && value == 0;
        tiny += value != 0 && fabs(value) < 0x1p-14;
    }
    const double rms = sqrt(squares / (double)run->of[i].n), top = fmax(high, -low);
    assert_true(strncmp(label, run->of[i].label, strlen(run->of[i].label)) == 0);
    assert_int_equal(json_integer_value(json_object_get(row, "elements")), run->of[i].n);
    assert_int_equal(json_integer_value(json_object_get(row, "subnormal")), tiny);
    assert_int_equal(json_integer_value(json_object_get(row, "nonfinite")), 0);
    expect_near(golden_real(row, "min"), low, label, "min");
    expect_near(golden_real(row, "max"), high, label, "max");
    expect_near(golden_real(row, "rms"), rms, label, "rms");
    expect_near(golden_real(row, "headroom_bits"), log2(65504 / top), label, "headroom");
    expect_near(golden_real(row, "footroom_bits"), log2(rms * 0x1p14), label, "footroom");
    expect_near(golden_real(row, "flushed"), alive > 0 ? (double)zeros / (double)alive : 0, label,
                "flushed");
    if (difference == 0)
        assert_true(golden_real(row, "error") == 0);
    else
        expect_near(golden_real(row, "error"), sqrt(difference / whole), label, "error");
}

static void every_figure_is_that_of_the_values(void **state)
{
    const npt_precision_options fp16 = {.use_fp16 = true}, f32 = {0};
    static values run, shadow;
    setting s;
    (void)state;
    open_setting(&s, fp16);
    json_t *json = probe(&s);
    collect(&s, fp16, 65536, &run);
    collect(&s, f32, 65536, &shadow);
    assert_int_equal(run.count, shadow.count);
    /* the model's file is BF16: the first row is about its weights */
    const json_t *sites = json_object_get(json, "sites");
    assert_int_equal(json_array_size(sites), run.count + 1);
    assert_string_equal(golden_word(json_array_get(sites, 0), "site"), "weight");
    for (size_t i = 0; i < run.count; i++)
        check_row(json_array_get(sites, i + 1), &run, &shadow, i);
    /* at the settled scale the largest gradient still fits, at twice that it does not */
    double largest = 0;
    for (size_t i = 0; i < shadow.count; i++)
        for (int64_t k = 0; strstr(shadow.of[i].label, ".backward") && k < shadow.of[i].n; k++)
            largest = fmax(largest, fabs((double)shadow.of[i].x[k]));
    const double factor = golden_real(json, "settles_at") / 65536;
    assert_true(largest * factor <= 65504 && 2 * largest * factor > 65504);
    forget(&run);
    forget(&shadow);
    json_decref(json);
    close_setting(&s);
}

/* AdamW's first step is the learning rate times the sign of the gradient, less the decay: which of
 * them survive is arithmetic on the initial weights. */
static void lost_updates_are_counted(void **state)
{
    const npt_precision_options precisions[] = {{.use_fp16 = true}, {.use_bf16 = true}};
    const npt_dtype dtypes[] = {NPT_F16, NPT_BF16};
    (void)state;
    for (int p = 0; p < 2; p++) {
        setting s;
        open_setting(&s, precisions[p]);
        s.options.learning_rate = 2e-5;
        s.options.weight_decay = 0;
        json_t *json = probe(&s);
        const json_t *first = json_array_get(json_object_get(json, "updates"), 0);
        npt_st *st;
        int64_t lost = 0, all = 0;
        assert_int_equal(npt_st_open(&st, s.init, false), NPT_OK);
        for (size_t i = 0; i < npt_st_count(st); i++) {
            const npt_st_tensor *t = npt_st_at(st, i);
            if (strstr(t->name, "A_proj") == NULL) continue;
            for (int64_t k = 0; k < t->shape[0] * t->shape[1]; k++) {
                uint32_t bits;
                npt_store(&bits, dtypes[p], 0, npt_load(t->data, t->dtype, (size_t)k));
                const float w = npt_load(&bits, dtypes[p], 0);
                /* the sign is not known here: weights that neither direction moves, and half of
                 * those that one does */
                npt_store(&bits, dtypes[p], 0, w + 2e-5f);
                lost += npt_load(&bits, dtypes[p], 0) == w;
                npt_store(&bits, dtypes[p], 0, w - 2e-5f);
                lost += npt_load(&bits, dtypes[p], 0) == w;
                all += 2;
            }
        }
        const double wanted = (double)lost / (double)all;
        const double got = golden_real(first, "lost_without_master");
        print_message("%s: %.3f of the steps are lost without a master, %.3f expected\n",
                      npt_dtype_name(dtypes[p]), got, wanted);
        assert_true(fabs(got - wanted) < 0.05);
        assert_true(golden_real(first, "lost_with_master") == 0);
        npt_st_close(st);
        json_decref(json);
        close_setting(&s);
    }
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("every figure of the probe is that of all values of the site",
                 every_figure_is_that_of_the_values),
        NPT_CASE("updates that are lost without a master are counted", lost_updates_are_counted),
    };
    npt_log_set(say_nothing, NULL);
    directory = temp_dir();
    rows = npt_path_join(directory, "rows.jsonl");
    const int code = npt_test_run("probe", cases, NPT_COUNT(cases));
    npt_free(rows);
    temp_dir_remove(directory);
    return code;
}
