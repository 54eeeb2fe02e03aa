/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "bench/trial.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "train/describe.h"
#include "train/options.h"
#include "train/trainer.h"

/* Two processes and two pipes. The parent writes a byte, the child answers: for STEP with a reply,
 * for FINISH with JSON up to the end of the pipe. The parent has no threads when it forks. */

enum { STEP = 's', FINISH = 'f', WARM_UP_STEPS = 1, FAR_STEP = 1000003, POOL_BYTES = 256 << 20 };

typedef struct reply {
    int status;
    double seconds;
    char sentence[512];
} reply;

static bool write_all(int to, const void *data, size_t bytes)
{
    const char *at = data;
    while (bytes > 0) {
        const ssize_t done = write(to, at, bytes);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        at += done;
        bytes -= (size_t)done;
    }
    return true;
}

/* False at the end of the pipe, too. */
static bool read_all(int from, void *data, size_t bytes)
{
    char *at = data;
    while (bytes > 0) {
        const ssize_t done = read(from, at, bytes);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        at += done;
        bytes -= (size_t)done;
    }
    return true;
}

/* ---- In the child ---- */

typedef struct child {
    const npt_bench_trial *trial;
    npt_trainer trainer;
    npt_train_report report;
    npt_tally tally;
    double plan_s, open_s, load_s, first_step_s, last_step_s;
} child;

static void no_log(void *context, npt_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

static npt_status one_step(child *c, double *seconds)
{
    npt_step_result result;
    memset(&c->tally, 0, sizeof c->tally);
    npt_exec_tally(c->trainer.setup.exec, &c->tally);
    const double begun = npt_seconds_now();
    NPT_TRY(npt_trainer_step(&c->trainer, &result));
    *seconds = c->last_step_s = npt_seconds_now() - begun;
    if (result.skipped)
        return npt_fail(NPT_E_NUMERIC, "a step was skipped, values are not finite: it is no "
                                       "measure of others");
    return NPT_OK;
}

static npt_status time_plan(child *c)
{
    const npt_doctor_options doctor = {0};
    npt_verdict verdict;
    FILE *nowhere = fopen("/dev/null", "w");
    if (nowhere == NULL) return npt_fail(NPT_E_IO, "/dev/null: %s", strerror(errno));
    const double begun = npt_seconds_now();
    npt_status status = npt_doctor_plan(&c->trial->options, &doctor, nowhere, &verdict);
    c->plan_s = npt_seconds_now() - begun;
    fclose(nowhere);
    return status;
}

/* A run far from its beginning, where the regularizer is no longer measured apart. */
static npt_status open_run(child *c)
{
    npt_trainer *t = &c->trainer;
    double ignored;
    NPT_TRY(time_plan(c));
    *t = (npt_trainer){.options = c->trial->options, .report = &c->report};
    NPT_TRY(npt_train_options_check(&t->options));
    double begun = npt_seconds_now();
    NPT_TRY(npt_trainer_open(t));
    NPT_TRY(npt_trainer_open_data(t));
    c->open_s = npt_seconds_now() - begun;
    begun = npt_seconds_now();
    NPT_TRY(npt_trainer_load(t, false));
    c->load_s = npt_seconds_now() - begun;
    t->state.step = FAR_STEP;
    NPT_TRY(one_step(c, &c->first_step_s));
    for (int i = 0; i < WARM_UP_STEPS; i++) NPT_TRY(one_step(c, &ignored));
    return NPT_OK;
}

/* The products of the last step, each alone; adds its rate to its row and returns the sum. */
static npt_status measure_alone(child *c, json_t *products, double *sum)
{
    npt_meter meter;
    npt_status status = NPT_OK;
    *sum = 0;
    npt_meter_init(&meter, POOL_BYTES);
    for (size_t i = 0; i < c->tally.count && status == NPT_OK; i++) {
        const npt_tally_row *row = &c->tally.rows[i];
        npt_meter_side side = {c->trainer.setup.exec, row->backend, row->desc};
        npt_timing timing = {0};
        side.desc.bias = false;
        status = npt_meter_run(&meter, &side, 1, c->trial->alone_seconds, &timing);
        *sum += (double)row->count * timing.median;
        json_object_set_new(json_array_get(products, i), "alone_s", json_real(timing.median));
    }
    npt_meter_fini(&meter);
    return status;
}

static json_t *products_json(const npt_tally *tally)
{
    json_t *list = json_array();
    for (size_t i = 0; i < tally->count; i++) {
        const npt_tally_row *row = &tally->rows[i];
        const npt_matmul_desc *d = &row->desc;
        const npt_route_kind kind = npt_route_kind_of(d);
        json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:s, s:I, s:f}",
                                              "pass", npt_product_pass_name(kind.pass), "backend",
                                              row->backend->name, "m", (json_int_t)d->m, "n",
                                              (json_int_t)d->n, "k", (json_int_t)d->k, "a",
                                              npt_dtype_name(d->a), "w", npt_dtype_name(d->w), "c",
                                              npt_dtype_name(d->c), "count", (json_int_t)row->count,
                                              "seconds", row->seconds));
    }
    return list;
}

static json_t *bytes_json(const child *c)
{
    static const npt_memory_tag tags[] = {NPT_MEM_ADAPTERS, NPT_MEM_MASTERS, NPT_MEM_MOMENTS,
                                          NPT_MEM_GRADIENTS};
    const npt_trainer *t = &c->trainer;
    const npt_model *model = t->setup.model;
    json_t *bytes = json_object();
    size_t file = 0;
    for (size_t i = 0; i < npt_st_count(model->st); i++) file += npt_st_at(model->st, i)->bytes;
    json_object_set_new(bytes, "weights", json_integer((json_int_t)file));
    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++)
        json_object_set_new(bytes, npt_memory_tag_name(tags[i]),
                            json_integer((json_int_t)npt_arena_tag_bytes(t->arena, tags[i])));
    json_object_set_new(bytes, "activations",
                        json_integer((json_int_t)npt_arena_peak_bytes(t->distiller.step)));
    json_object_set_new(bytes, "scratch",
                        json_integer((json_int_t)npt_exec_scratch_bytes(t->setup.exec)));
    return bytes;
}

static size_t peak_bytes(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (size_t)usage.ru_maxrss * 1024 : 0;
}

static npt_status make_report(child *c, json_t **report)
{
    const npt_exec *exec = c->trainer.setup.exec;
    double matmul = 0, alone = 0;
    for (size_t i = 0; i < c->tally.count; i++) matmul += c->tally.rows[i].seconds;
    json_t *products = products_json(&c->tally);
    *report = json_pack("{s:i, s:I, s:o, s:{s:f, s:f, s:f, s:f}, s:f, s:f, s:I, s:o}", "threads",
                        npt_exec_threads(exec), "peak_bytes", (json_int_t)peak_bytes(), "bytes",
                        bytes_json(c), "start", "plan_s", c->plan_s, "open_s", c->open_s, "load_s",
                        c->load_s, "first_step_s", c->first_step_s, "matmul_s", matmul,
                        "matmul_share", matmul / c->last_step_s, "products_dropped",
                        (json_int_t)c->tally.dropped, "products", products);
    if (*report == NULL) return npt_fail(NPT_E_NOMEM, "out of memory while reporting");
    if (c->trial->alone_seconds > 0) {
        npt_exec_tally(c->trainer.setup.exec, NULL);
        NPT_TRY(measure_alone(c, products, &alone));
        json_object_set_new(*report, "matmul_alone_s", json_real(alone));
    }
    return NPT_OK;
}

static void send_report(child *c, int to)
{
    json_t *report = NULL;
    if (make_report(c, &report) != NPT_OK)
        report = json_pack("{s:s}", "error", npt_error_message());
    char *text = json_dumps(report, JSON_COMPACT);
    if (text != NULL) write_all(to, text, strlen(text));
}

static bool send_reply(int to, npt_status status, double seconds)
{
    reply r = {.status = (int)status, .seconds = seconds};
    if (status != NPT_OK) snprintf(r.sentence, sizeof r.sentence, "%s", npt_error_message());
    return write_all(to, &r, sizeof r);
}

static void run_child(const npt_bench_trial *trial, int from, int to)
{
    static child c;
    char command;
    c.trial = trial;
    npt_log_set(no_log, NULL);
    bool going = send_reply(to, open_run(&c), 0);
    while (going && read_all(from, &command, 1)) {
        double seconds = 0;
        if (command == STEP) {
            const npt_status status = one_step(&c, &seconds);
            going = send_reply(to, status, seconds);
        }
        if (command != FINISH) continue;
        send_report(&c, to);
        return;
    }
}

/* ---- In the parent ---- */

static npt_status system_failed(const char *what)
{
    return npt_fail(NPT_E_IO, "cannot %s for a measurement: %s", what, strerror(errno));
}

static npt_status receive_reply(npt_bench_trial *t, double *seconds)
{
    reply r;
    if (!read_all(t->from, &r, sizeof r))
        return npt_fail(NPT_E_INTERNAL, "the process that measures ended too early (signal or "
                                        "lack of memory)");
    r.sentence[sizeof r.sentence - 1] = '\0';
    if (r.status != NPT_OK) return npt_fail((npt_status)r.status, "%s", r.sentence);
    *seconds = r.seconds;
    return NPT_OK;
}

static npt_status command(npt_bench_trial *t, char word)
{
    if (write_all(t->to, &word, 1)) return NPT_OK;
    return npt_fail(NPT_E_INTERNAL, "the process that measures is gone");
}

/* What the child closes is what keeps the parent's pipes open. */
static npt_status begin_process(npt_bench_trial *t, int down[2], int up[2])
{
    fflush(NULL);
    t->process = fork();
    if (t->process < 0) {
        t->process = 0;
        return system_failed("begin a process");
    }
    if (t->process == 0) {
        close(down[1]);
        close(up[0]);
        run_child(t, down[0], up[1]);
        _exit(0);
    }
    close(down[0]);
    close(up[1]);
    t->to = down[1];
    t->from = up[0];
    return NPT_OK;
}

npt_status npt_bench_trial_start(npt_bench_trial *t)
{
    int down[2], up[2];
    double ignored;
    t->process = 0;
    if (pipe(down) != 0) return system_failed("make a pipe");
    if (pipe(up) != 0) {
        close(down[0]);
        close(down[1]);
        return system_failed("make a pipe");
    }
    npt_status status = begin_process(t, down, up);
    if (status != NPT_OK) {
        for (int i = 0; i < 2; i++) {
            close(down[i]);
            close(up[i]);
        }
        return status;
    }
    return receive_reply(t, &ignored);
}

npt_status npt_bench_trial_step(npt_bench_trial *t, double *seconds)
{
    NPT_TRY(command(t, STEP));
    return receive_reply(t, seconds);
}

static npt_status read_report(int from, json_t **report)
{
    json_error_t error;
    FILE *file = fdopen(dup(from), "r");
    *report = file != NULL ? json_loadf(file, 0, &error) : NULL;
    if (file != NULL) fclose(file);
    const char *sentence = json_string_value(json_object_get(*report, "error"));
    if (*report != NULL && sentence == NULL) return NPT_OK;
    npt_status status =
        npt_fail(NPT_E_INTERNAL, "%s",
                 sentence != NULL ? sentence : "the process that measures gave no report");
    json_decref(*report);
    *report = NULL;
    return status;
}

npt_status npt_bench_trial_finish(npt_bench_trial *t, json_t **report)
{
    NPT_TRY(command(t, FINISH));
    NPT_TRY(read_report(t->from, report));
    npt_bench_trial_abandon(t);
    return NPT_OK;
}

void npt_bench_trial_abandon(npt_bench_trial *t)
{
    if (t->process <= 0) return;
    close(t->to);
    close(t->from);
    kill(t->process, SIGKILL);
    while (waitpid(t->process, NULL, 0) < 0 && errno == EINTR) continue;
    t->process = 0;
}

npt_status npt_bench_make_model(const npt_make_model_options *options)
{
    int status = 0;
    fflush(NULL);
    const pid_t process = fork();
    if (process < 0) return system_failed("begin a process");
    if (process == 0) {
        npt_log_set(no_log, NULL);
        _exit(npt_make_model(options) == NPT_OK ? 0 : 1);
    }
    while (waitpid(process, &status, 0) < 0 && errno == EINTR) continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return NPT_OK;
    return npt_fail(NPT_E_IO,
                    "%s: the model to be measured cannot be written; is there room in "
                    "$TMPDIR?",
                    options->path);
}
