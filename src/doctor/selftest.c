/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/selftest.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files/files.h"
#include "train/trainer.h"

/* npt selftest: TAP, the temporary directory with the small models, and which backends take part.
 * Nothing is needed but the program: no data, no network, no directory that can be written to but
 * the one for temporary files. That is empty again when the call returns, however it ends. */

/* ---- TAP ---- */

void npt_tap_breach(npt_tap *t, const char *format, ...)
{
    va_list args;
    if (t->breaches < NPT_TAP_LINES) {
        va_start(args, format);
        vsnprintf(t->lines[t->breaches], sizeof t->lines[0], format, args);
        va_end(args);
    }
    t->breaches++;
}

npt_status npt_tap_expect_ok(npt_tap *t, const char *where, npt_status status)
{
    if (status != NPT_OK)
        npt_tap_breach(t, "%s: %s (%s)", where, npt_error_message(), npt_status_name(status));
    return status;
}

void npt_tap_end(npt_tap *t, const char *format, ...)
{
    va_list args;
    fprintf(t->out, "%s %d - ", t->breaches == 0 ? "ok" : "not ok", ++t->number);
    va_start(args, format);
    vfprintf(t->out, format, args);
    va_end(args);
    putc('\n', t->out);
    for (int i = 0; i < t->breaches && i < NPT_TAP_LINES; i++)
        fprintf(t->out, "# %s\n", t->lines[i]);
    if (t->breaches > NPT_TAP_LINES)
        fprintf(t->out, "# and %d more\n", t->breaches - NPT_TAP_LINES);
    t->failed += t->breaches > 0;
    t->breaches = 0;
    fflush(t->out);
}

void npt_tap_skip(npt_tap *t, const char *name, const char *reason)
{
    fprintf(t->out, "ok %d - %s # SKIP %s\n", ++t->number, name, reason);
}

/* ---- The models ---- */

static const npt_dtype model_dtypes[NPT_SELFTEST_MODELS] = {NPT_F32, NPT_F16, NPT_BF16};

static npt_status make_model(const char *directory, npt_dtype dtype, char **path)
{
    npt_make_model_options options;
    npt_make_model_options_init(&options);
    *path = npt_path_join(directory, npt_dtype_name(dtype));
    if (*path == NULL) return NPT_E_NOMEM;
    options.path = *path;
    options.hidden = 64;
    options.inter = 160;
    options.layers = 2;
    options.vocab = 64; /* too small for a tokenizer, and none is needed */
    options.dtype = dtype;
    return npt_make_model(&options);
}

static npt_status make_directory(char **path)
{
    const char *top = getenv("TMPDIR");
    *path = npt_format("%s/npt-selftest-XXXXXX", top == NULL || top[0] == '\0' ? "/tmp" : top);
    if (*path == NULL) return NPT_E_NOMEM;
    if (mkdtemp(*path) != NULL) return NPT_OK;
    npt_status status = npt_fail(NPT_E_IO,
                                 "cannot make a temporary directory '%s': %s; set TMPDIR to a "
                                 "directory that can be written to",
                                 *path, strerror(errno));
    npt_free(*path);
    *path = NULL;
    return status;
}

/* ---- The backends ---- */

/* Those there can be; one that is not compiled in is skipped, visibly. */
static const char *const known[] = {"reference", "native", "openblas", "onednn"};

typedef struct backend_list {
    const char *name[NPT_MAX_BACKENDS + 4];
    char skip[NPT_MAX_BACKENDS + 4][128]; /* reason; "" where it takes part */
    int count;
} backend_list;

/* Why a backend can do nothing at all here; "" where it can. */
static void tell_reason(const npt_matmul_backend *backend, const npt_cpu *cpu, char skip[128])
{
    skip[0] = '\0';
    for (size_t i = 0; i < sizeof model_dtypes / sizeof model_dtypes[0]; i++) {
        const npt_matmul_desc desc = {.m = 16,
                                      .n = 64,
                                      .k = 64,
                                      .trans_w = true,
                                      .a = model_dtypes[i],
                                      .w = model_dtypes[i],
                                      .c = NPT_F32};
        char text[128];
        const char *reason = backend->refuse(&desc, cpu, text);
        snprintf(skip, 128, "%s", reason != NULL ? reason : "");
        if (reason == NULL) return;
    }
}

static void list_backend(backend_list *list, const char *name, const char *skip)
{
    for (int i = 0; i < list->count; i++)
        if (strcmp(list->name[i], name) == 0) return;
    list->name[list->count] = name;
    snprintf(list->skip[list->count++], sizeof list->skip[0], "%s", skip);
}

/* The named ones; all known ones where none is named. The reference comes first. */
static npt_status list_backends(const npt_compute_options *compute, backend_list *list)
{
    npt_exec *exec;
    const char *variable = getenv("NPT_BACKEND");
    const bool named = (compute->backend != NULL && compute->backend[0] != '\0') ||
                       (variable != NULL && variable[0] != '\0');
    NPT_TRY(npt_exec_create(&exec, compute->backend, 1));
    *list = (backend_list){.name = {"reference"}, .count = 1};
    for (size_t i = 0; i < npt_exec_backend_count(exec); i++) {
        const npt_matmul_backend *backend = npt_exec_backend(exec, i);
        char skip[128];
        tell_reason(backend, npt_exec_cpu(exec), skip);
        list_backend(list, backend->name, skip);
    }
    npt_exec_destroy(exec);
    for (size_t i = 0; !named && i < sizeof known / sizeof known[0]; i++)
        list_backend(list, known[i], "not compiled in");
    return NPT_OK;
}

/* ---- The whole ---- */

static npt_status run_backends(npt_selftest_context *c, const backend_list *list)
{
    char name[64];
    for (int i = 0; i < list->count; i++) {
        if (npt_stop_requested() != 0)
            return npt_fail(NPT_E_INTERRUPTED, "stopped before backend %s", list->name[i]);
        snprintf(name, sizeof name, "backend %s", list->name[i]);
        if (list->skip[i][0] != '\0')
            npt_tap_skip(c->t, name, list->skip[i]);
        else
            npt_selftest_backend(c, list->name[i]);
    }
    return NPT_OK;
}

static void print_plan(FILE *out, const backend_list *list)
{
    int count = npt_selftest_value_cases() + 1;
    for (int i = 0; i < list->count; i++)
        count += list->skip[i][0] != '\0' ? 1 : npt_selftest_backend_cases();
    fprintf(out, "TAP version 13\n1..%d\n# npt %s\n", count, npt_version());
}

/* With the models in place. */
static npt_status run_all(npt_selftest_context *c, const backend_list *list)
{
    npt_status status = npt_selftest_prepare(c);
    if (status == NPT_OK) {
        print_plan(c->t->out, list);
        status = npt_selftest_values(c->t);
    }
    if (status == NPT_OK) npt_selftest_quantization(c);
    if (status == NPT_OK) status = run_backends(c, list);
    npt_selftest_context_fini(c);
    return status;
}

static npt_status run_in(const char *directory, const backend_list *list,
                         const npt_compute_options *compute, npt_tap *t)
{
    char *paths[NPT_SELFTEST_MODELS] = {NULL};
    npt_selftest_context context = {.t = t,
                                    .threads = compute->threads > 1 ? compute->threads : 2,
                                    .precision = compute->matmul_precision};
    npt_status status = npt_fault_from_environment(&context.fault);
    for (int i = 0; i < NPT_SELFTEST_MODELS && status == NPT_OK; i++) {
        status = make_model(directory, model_dtypes[i], &paths[i]);
        context.model[model_dtypes[i]] = paths[i];
    }
    if (status == NPT_OK) status = run_all(&context, list);
    for (int i = 0; i < NPT_SELFTEST_MODELS; i++) npt_free(paths[i]);
    return status;
}

npt_status npt_selftest(const npt_compute_options *compute, FILE *out, int *failed)
{
    backend_list list;
    npt_tap t = {.out = out};
    char *directory;
    NPT_TRY(list_backends(compute, &list));
    NPT_TRY(make_directory(&directory));
    npt_status status = run_in(directory, &list, compute, &t);
    npt_status removed = npt_remove_tree(directory);
    npt_free(directory);
    if (status == NPT_OK) status = removed;
    if (status == NPT_OK && (fflush(out) != 0 || ferror(out)))
        status = npt_fail(NPT_E_IO, "cannot write the output: the stream reports an error");
    if (status == NPT_OK) *failed = t.failed;
    return status;
}
