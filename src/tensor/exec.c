/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "tensor/exec.h"

#include "base/log.h"

#include <stdlib.h>
#include <time.h>

/* The context owns the pool, the chosen order of backends and two pieces of scratch: one for the
 * kernels, one for products. Both only grow. Routes that were measured change who comes first for
 * a kind of product, never what may be refused. Which backend does a product is remembered in a
 * table with one place a hash: rows of many lengths make more descriptors than are worth keeping,
 * and to decide again is cheap. */

typedef struct npt_choice {
    npt_matmul_desc desc;
    const npt_matmul_backend *backend;
    size_t worker_bytes, shared_bytes; /* multiples of ALIGNMENT */
} npt_choice;

typedef struct npt_block {
    void *heap;
    char *start; /* aligned */
    size_t bytes;
} npt_block;

enum { ALIGNMENT = 64, REASON_BYTES = 128, CHOICES = 1024 };

struct npt_exec {
    npt_cpu cpu;
    npt_threads *threads;
    npt_kernels kernels;
    npt_run run;
    const npt_matmul_backend *backends[NPT_MAX_BACKENDS];
    size_t backend_count;
    bool named;          /* the order was asked for */
    npt_routes *routes;  /* NULL: the order above, for all */
    npt_tally *tally;    /* NULL, or the caller's */
    npt_choice *choices; /* [CHOICES]; backend NULL: free */
    npt_matmul_precision precision;
    npt_matmul_counts counts;
    npt_block kernel_scratch, matmul_scratch;
};

static size_t align(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* At least `bytes`; what was there is lost. */
static npt_status grow_block(npt_block *block, size_t bytes)
{
    if (bytes <= block->bytes) return NPT_OK;
    npt_free(block->heap);
    *block = (npt_block){0};
    const size_t to = bytes >= NPT_HUGE_PAGE ? NPT_HUGE_PAGE : ALIGNMENT;
    if (bytes > SIZE_MAX - to)
        return npt_fail(NPT_E_NOMEM, "Scratch of %zu bytes is more than an address holds", bytes);
    block->heap = npt_alloc(bytes + to, 1);
    if (block->heap == NULL) return NPT_E_NOMEM;
    block->start = (char *)block->heap + (to - (uintptr_t)block->heap % to);
    npt_memory_walk(block->start, bytes);
    block->bytes = bytes;
    return NPT_OK;
}

/* ---- Which backends -------------------------------------------------------------------------- */

static npt_status unknown_backend(const npt_matmul_backend *const *list, size_t count,
                                  const char *word, size_t length)
{
    char names[NPT_MAX_BACKENDS * 16] = "";
    for (size_t i = 0; i < count; i++) {
        const size_t used = strlen(names);
        snprintf(names + used, sizeof(names) - used, "%s%s", i > 0 ? ", " : "", list[i]->name);
    }
    return npt_fail(NPT_E_USAGE, "There is no matmul backend \"%.*s\" here; there are: %s",
                    (int)length, word, names);
}

static bool in_list(const npt_exec *exec, const npt_matmul_backend *backend)
{
    for (size_t i = 0; i < exec->backend_count; i++)
        if (exec->backends[i] == backend) return true;
    return false;
}

static npt_status name_backend(npt_exec *exec, const char *word, size_t length)
{
    const npt_matmul_backend *list[NPT_MAX_BACKENDS];
    const size_t count = npt_cpu_backends(&exec->cpu, list);
    for (size_t i = 0; i < count; i++)
        if (strlen(list[i]->name) == length && memcmp(list[i]->name, word, length) == 0) {
            if (list[i] != &npt_matmul_reference && !in_list(exec, list[i]))
                exec->backends[exec->backend_count++] = list[i];
            return NPT_OK;
        }
    return unknown_backend(list, count, word, length);
}

static npt_status name_backends(npt_exec *exec, const char *words)
{
    if (words == NULL || words[0] == '\0') words = getenv("NPT_BACKEND");
    if (words == NULL || words[0] == '\0') {
        exec->backend_count = npt_cpu_backends(&exec->cpu, exec->backends);
        return NPT_OK;
    }
    exec->named = true;
    for (const char *word = words;; word++) {
        const size_t length = strcspn(word, ",");
        NPT_TRY(name_backend(exec, word, length));
        word += length;
        if (*word == '\0') break;
    }
    exec->backends[exec->backend_count++] = &npt_matmul_reference;
    return NPT_OK;
}

/* ---- The choice for a descriptor ------------------------------------------------------------- */

static bool legal_desc(const npt_matmul_desc *desc)
{
    return desc->m > 0 && desc->n > 0 && desc->k > 0 && npt_dtype_is_float(desc->a) &&
           (npt_dtype_is_float(desc->w) || desc->w == NPT_NF4) && npt_dtype_is_float(desc->c) &&
           (!desc->accumulate || desc->c == NPT_F32);
}

static void describe(const npt_matmul_desc *desc, char *text, size_t bytes)
{
    snprintf(text, bytes, "%s[%lld,%lld]%s x %s[%lld,%lld]%s -> %s%s", npt_dtype_name(desc->a),
             (long long)desc->m, (long long)desc->k, desc->trans_a ? " stored turned" : "",
             npt_dtype_name(desc->w), (long long)desc->k, (long long)desc->n,
             desc->trans_w ? " stored turned" : "", npt_dtype_name(desc->c),
             desc->accumulate ? ", added" : "");
}

static const npt_matmul_backend *first_willing(const npt_exec *exec, const npt_matmul_desc *desc)
{
    char what[REASON_BYTES], reason[REASON_BYTES];
    describe(desc, what, sizeof(what));
    for (size_t i = 0; i < exec->backend_count; i++) {
        const char *why = exec->backends[i]->refuse(desc, &exec->cpu, reason);
        npt_log(NPT_LOG_VERBOSE, "matmul %s: %s%s%s", what, exec->backends[i]->name,
                why == NULL ? "" : " refused: ", why == NULL ? "" : why);
        if (why == NULL) {
            if (exec->backends[i]->route != NULL)
                npt_log(NPT_LOG_VERBOSE, "matmul %s: by %s", what,
                        exec->backends[i]->route(desc, &exec->cpu, exec->precision, reason));
            return exec->backends[i];
        }
    }
    return NULL;
}

/* The measured backend of this kind, where it is here and does not refuse; else NULL. */
static const npt_matmul_backend *measured(const npt_exec *exec, const npt_matmul_desc *desc)
{
    char reason[REASON_BYTES], what[REASON_BYTES];
    if (exec->routes == NULL) return NULL;
    const npt_route_kind kind = npt_route_kind_of(desc);
    const npt_route *route = npt_routes_find(exec->routes, &kind);
    for (size_t i = 0; route != NULL && i < exec->backend_count; i++) {
        const npt_matmul_backend *backend = exec->backends[i];
        if (strcmp(backend->name, route->backend) != 0) continue;
        if (backend->refuse(desc, &exec->cpu, reason) != NULL) return NULL;
        describe(desc, what, sizeof(what));
        npt_log(NPT_LOG_VERBOSE, "matmul %s: %s, as calibrated", what, backend->name);
        return backend;
    }
    return NULL;
}

static uint64_t hash_desc(const npt_matmul_desc *d)
{
    const uint64_t flags = (uint64_t)d->trans_a | (uint64_t)d->trans_w << 1 |
                           (uint64_t)d->accumulate << 2 | (uint64_t)d->bias << 3 |
                           (uint64_t)d->a << 8 | (uint64_t)d->w << 16 | (uint64_t)d->c << 24;
    const uint64_t words[] = {(uint64_t)d->m, (uint64_t)d->n, (uint64_t)d->k, flags};
    uint64_t hash = 0;
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        hash = (hash ^ words[i]) * 0x9e3779b97f4a7c15u; /* 2^64 / golden ratio: spreads the bits */
        hash ^= hash >> 32;
    }
    return hash;
}

/* Fills in what `backend` needs for it. */
static npt_choice make_choice(const npt_exec *exec, const npt_matmul_desc *desc,
                              const npt_matmul_backend *backend)
{
    npt_choice choice = {.desc = *desc, .backend = backend};
    if (backend->plan != NULL)
        backend->plan(desc, npt_exec_threads(exec), &choice.worker_bytes, &choice.shared_bytes);
    choice.worker_bytes = align(choice.worker_bytes);
    choice.shared_bytes = align(choice.shared_bytes);
    return choice;
}

static const npt_choice *find_choice(npt_exec *exec, const npt_matmul_desc *desc)
{
    npt_choice *choice = &exec->choices[hash_desc(desc) % CHOICES];
    if (choice->backend != NULL && npt_matmul_desc_same(&choice->desc, desc)) return choice;
    NPT_ASSERT(legal_desc(desc));
    const npt_matmul_backend *backend = measured(exec, desc);
    if (backend == NULL) backend = first_willing(exec, desc);
    NPT_ASSERT(backend != NULL);
    *choice = make_choice(exec, desc, backend);
    return choice;
}

/* ---- The context ----------------------------------------------------------------------------- */

npt_status npt_exec_create(npt_exec **result, const char *backends, int threads)
{
    npt_status status = NPT_OK;
    npt_exec *exec = npt_alloc(1, sizeof(*exec));
    if (exec == NULL) return NPT_E_NOMEM;
    NPT_TRY_GOTO(status, failed, npt_cpu_detect(&exec->cpu));
    NPT_TRY_GOTO(status, failed, name_backends(exec, backends));
    exec->choices = npt_alloc(CHOICES, sizeof(*exec->choices));
    exec->threads = npt_threads_create(threads);
    if (exec->threads == NULL || exec->choices == NULL) {
        status = NPT_E_NOMEM;
        goto failed;
    }
    npt_kernels_fill_reference(&exec->kernels);
    npt_cpu_kernels(&exec->cpu, &exec->kernels);
    exec->run.threads = exec->threads;
    *result = exec;
    return NPT_OK;
failed:
    npt_exec_destroy(exec);
    return status;
}

void npt_exec_destroy(npt_exec *exec)
{
    if (exec == NULL) return;
    const npt_matmul_counts *counts = &exec->counts;
    if (counts->panels > 0)
        npt_log(counts->by_fma > 0 ? NPT_LOG_NOTE : NPT_LOG_VERBOSE,
                "matmul: of %lld panels in bf16 pieces %lld were made again by FMA, where pieces "
                "would not have been F32",
                (long long)counts->panels, (long long)counts->by_fma);
    npt_free(exec->matmul_scratch.heap);
    npt_free(exec->kernel_scratch.heap);
    npt_free(exec->choices);
    npt_free(exec->routes);
    if (exec->threads != NULL) npt_threads_destroy(exec->threads);
    npt_free(exec);
}

const npt_kernels *npt_exec_kernels(const npt_exec *exec)
{
    return &exec->kernels;
}

const npt_run *npt_exec_run(const npt_exec *exec)
{
    return &exec->run;
}

const npt_cpu *npt_exec_cpu(const npt_exec *exec)
{
    return &exec->cpu;
}

int npt_exec_threads(const npt_exec *exec)
{
    return npt_threads_count(exec->threads);
}

size_t npt_exec_backend_count(const npt_exec *exec)
{
    return exec->backend_count;
}

const npt_matmul_backend *npt_exec_backend(const npt_exec *exec, size_t index)
{
    NPT_ASSERT(index < exec->backend_count);
    return exec->backends[index];
}

bool npt_exec_named(const npt_exec *exec)
{
    return exec->named;
}

npt_status npt_exec_use_routes(npt_exec *exec, const npt_routes *routes)
{
    npt_routes *copy = NULL;
    if (routes != NULL && routes->count > 0) {
        copy = npt_alloc(1, sizeof(*copy));
        if (copy == NULL) return NPT_E_NOMEM;
        *copy = *routes;
    }
    npt_free(exec->routes);
    exec->routes = copy;
    memset(exec->choices, 0, CHOICES * sizeof(*exec->choices));
    return NPT_OK;
}

const npt_routes *npt_exec_routes(const npt_exec *exec)
{
    return exec->routes;
}

void npt_exec_tally(npt_exec *exec, npt_tally *tally)
{
    exec->tally = tally;
}

void npt_exec_set_precision(npt_exec *exec, npt_matmul_precision precision)
{
    exec->precision = precision;
    exec->run.fma = precision == NPT_MATMUL_FMA;
}

npt_matmul_precision npt_exec_precision(const npt_exec *exec)
{
    return exec->precision;
}

npt_status npt_exec_reserve(npt_exec *exec, int64_t longest, int64_t head_dim, int64_t width)
{
    const size_t stride = align(exec->kernels.scratch_bytes(longest, head_dim, width));
    if (stride <= exec->run.scratch_stride) return NPT_OK;
    exec->run.scratch = NULL;
    exec->run.scratch_stride = 0;
    NPT_TRY(grow_block(&exec->kernel_scratch, stride * (size_t)npt_exec_threads(exec)));
    exec->run.scratch = exec->kernel_scratch.start;
    exec->run.scratch_stride = stride;
    return NPT_OK;
}

const npt_matmul_backend *npt_exec_choose(npt_exec *exec, const npt_matmul_desc *desc)
{
    return find_choice(exec, desc)->backend;
}

static npt_status reserve_for(npt_exec *exec, const npt_choice *choice)
{
    const size_t workers = (size_t)npt_exec_threads(exec);
    return grow_block(&exec->matmul_scratch, choice->shared_bytes + workers * choice->worker_bytes);
}

npt_status npt_exec_reserve_matmul(npt_exec *exec, const npt_matmul_desc *desc)
{
    return reserve_for(exec, find_choice(exec, desc));
}

const char *npt_exec_route(npt_exec *exec, const npt_matmul_desc *desc, char *text)
{
    const npt_matmul_backend *backend = find_choice(exec, desc)->backend;
    if (backend->route == NULL) return "";
    return backend->route(desc, &exec->cpu, exec->precision, text);
}

npt_matmul_counts npt_exec_counts(const npt_exec *exec)
{
    return exec->counts;
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Of `count` sets of args, one or two. */
static npt_status run_choice(npt_exec *exec, const npt_choice *choice, const npt_matmul_args *args,
                             int count)
{
    NPT_TRY(reserve_for(exec, choice));
    char *start = exec->matmul_scratch.start; /* NULL until a product needs some */
    const npt_matmul_scratch scratch = {
        .precision = exec->precision,
        .counts = &exec->counts,
        .threads = exec->threads,
        .cpu = &exec->cpu,
        .worker = start != NULL ? start + choice->shared_bytes : NULL,
        .worker_stride = choice->worker_bytes,
        .shared = start,
    };
    if (count == 2 && choice->backend->run_two != NULL)
        return choice->backend->run_two(&choice->desc, args, &scratch);
    for (int i = 0; i < count; i++)
        NPT_TRY(choice->backend->run(&choice->desc, &args[i], &scratch));
    return NPT_OK;
}

static npt_status multiply(npt_exec *exec, const npt_matmul_desc *desc, const npt_matmul_args *args,
                           int count)
{
    const npt_choice *choice = find_choice(exec, desc);
    if (exec->tally == NULL) return run_choice(exec, choice, args, count);
    const double begun = seconds_now();
    NPT_TRY(run_choice(exec, choice, args, count));
    const double seconds = (seconds_now() - begun) / count;
    for (int i = 0; i < count; i++) npt_tally_add(exec->tally, desc, choice->backend, seconds);
    return NPT_OK;
}

npt_status npt_matmul(npt_exec *exec, const npt_matmul_desc *desc, const npt_matmul_args *args)
{
    return multiply(exec, desc, args, 1);
}

npt_status npt_matmul_two(npt_exec *exec, const npt_matmul_desc *desc,
                          const npt_matmul_args args[2])
{
    return multiply(exec, desc, args, 2);
}

npt_status npt_matmul_by(npt_exec *exec, const npt_matmul_backend *backend,
                         const npt_matmul_desc *desc, const npt_matmul_args *args)
{
    const npt_choice choice = make_choice(exec, desc, backend);
    return run_choice(exec, &choice, args, 1);
}

size_t npt_exec_scratch_bytes(const npt_exec *exec)
{
    return exec->kernel_scratch.bytes + exec->matmul_scratch.bytes;
}
