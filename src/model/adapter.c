/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/adapter.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model/block.h"
#include "tensor/dtype.h"

/* The set of adapters of a model: which layers, which parameters, their memory and initial values.
 * Invariant: where the adapter dtype is F32 the master is the value; else the value is always the
 * rounding of the master (NPT_SITE_UPDATE). */

/* ---- Selection of layers ---- */

static npt_status bad_selection(const char *selection, int layers)
{
    return npt_fail(
        NPT_E_USAGE,
        "--layers %s: expected numbers and ranges from 0 to %d (\"0,2,5-7\"), upper_half or all",
        selection, layers - 1);
}

npt_status npt_layers_parse(const char *selection, int layers, bool *active)
{
    memset(active, 0, (size_t)layers * sizeof *active);
    if (selection == NULL || strcmp(selection, "all") == 0) selection = NULL;
    if (selection == NULL || strcmp(selection, "upper_half") == 0) {
        for (int i = selection == NULL ? 0 : layers / 2; i < layers; i++) active[i] = true;
        return NPT_OK;
    }
    const char *at = selection;
    do {
        char *end;
        errno = 0;
        if (*at < '0' || *at > '9') return bad_selection(selection, layers);
        long first = strtol(at, &end, 10), last = first;
        if (*end == '-') {
            at = end + 1;
            if (*at < '0' || *at > '9') return bad_selection(selection, layers);
            last = strtol(at, &end, 10);
        }
        if (errno != 0 || first > last || last >= layers || (*end != ',' && *end != '\0'))
            return bad_selection(selection, layers);
        for (long i = first; i <= last; i++) active[i] = true;
        at = end + 1;
        if (*end == '\0') return NPT_OK;
    } while (true);
}

/* ---- Memory and initial values ---- */

static npt_status allocate(npt_adapters *adapters, npt_parameter *p, bool trainable)
{
    npt_arena *arena = adapters->arena;
    size_t count = (size_t)(p->rows * p->cols);
    bool half = adapters->dtype != NPT_F32;
    p->value = npt_arena_alloc(arena, NPT_MEM_ADAPTERS, count, npt_dtype_bytes(adapters->dtype));
    p->master = half ? npt_arena_alloc(arena, NPT_MEM_MASTERS, count, sizeof(float)) : p->value;
    if (p->value == NULL || p->master == NULL) return NPT_E_NOMEM;
    if (!trainable) return NPT_OK;
    p->moment1 = npt_arena_zalloc(arena, NPT_MEM_MOMENTS, count, sizeof(float));
    p->moment2 = npt_arena_zalloc(arena, NPT_MEM_MOMENTS, count, sizeof(float));
    p->grad = npt_arena_zalloc(arena, NPT_MEM_GRADIENTS, count, sizeof(float));
    return p->moment1 && p->moment2 && p->grad ? NPT_OK : NPT_E_NOMEM;
}

static void set_initial(npt_parameter *p, double deviation, uint64_t seed, uint64_t stream)
{
    for (int64_t i = 0; i < p->rows * p->cols; i++)
        p->master[i] =
            deviation == 0 ? 0.0f : (float)(deviation * npt_rng_normal(seed, stream, (uint64_t)i));
}

npt_status npt_adapters_describe(npt_adapters *adapters, const npt_adapters_options *options,
                                 const npt_config *config, const npt_policy *policy,
                                 npt_arena *arena)
{
    memset(adapters, 0, sizeof *adapters);
    adapters->kind = npt_adapter_kind_for(options->modulation);
    adapters->modulation = options->modulation;
    adapters->rank = options->rank;
    adapters->layers = (int)config->layers;
    adapters->strength = (float)options->strength;
    adapters->dtype = policy->dtype[NPT_ROLE_ADAPTER];
    adapters->arena = arena;
    adapters->adapter =
        npt_arena_zalloc(arena, NPT_MEM_OTHER, (size_t)config->layers, sizeof *adapters->adapter);
    adapters->active =
        npt_arena_zalloc(arena, NPT_MEM_OTHER, (size_t)config->layers, sizeof *adapters->active);
    if (adapters->adapter == NULL || adapters->active == NULL) return NPT_E_NOMEM;
    NPT_TRY(npt_layers_parse(options->layers, adapters->layers, adapters->active));
    for (int layer = 0; layer < adapters->layers; layer++) {
        npt_adapter *adapter = &adapters->adapter[layer];
        double deviation[NPT_ADAPTER_MAX_PARAMETERS];
        if (adapters->active[layer])
            adapter->count =
                adapters->kind->describe(adapters, config, adapter->parameters, deviation);
    }
    return NPT_OK;
}

npt_status npt_adapters_init(npt_adapters *adapters, const npt_adapters_options *options,
                             const npt_config *config, const npt_policy *policy, npt_arena *arena,
                             bool trainable)
{
    NPT_TRY(npt_adapters_describe(adapters, options, config, policy, arena));
    for (int layer = 0; layer < adapters->layers; layer++) {
        if (!adapters->active[layer]) continue;
        npt_adapter *adapter = &adapters->adapter[layer];
        double deviation[NPT_ADAPTER_MAX_PARAMETERS];
        adapter->count = adapters->kind->describe(adapters, config, adapter->parameters, deviation);
        for (int i = 0; i < adapter->count; i++) {
            NPT_TRY(allocate(adapters, &adapter->parameters[i], trainable));
            set_initial(&adapter->parameters[i], deviation[i], options->seed,
                        (uint64_t)(NPT_RNG_ADAPTER + 16 * layer + i));
        }
    }
    return NPT_OK;
}

/* ---- Rounding ---- */

typedef struct round_context {
    const npt_adapters *adapters;
    npt_sites *sites;
} round_context;

static npt_status round_parameter(void *context, int layer, npt_parameter *p)
{
    const round_context *round = context;
    const int64_t n = p->rows * p->cols;
    if (p->value == NULL) return NPT_OK; /* described, not made */
    npt_dtype to = npt_site(round->sites, NPT_SITE_UPDATE, layer, NPT_FORWARD, NPT_F32, n);
    NPT_ASSERT(to == round->adapters->dtype);
    for (int64_t i = 0; to != NPT_F32 && i < n; i++)
        npt_store(p->value, to, (size_t)i, p->master[i]);
    return NPT_OK;
}

void npt_adapters_round(npt_adapters *adapters, npt_sites *sites)
{
    round_context round = {adapters, sites};
    (void)npt_adapters_visit(adapters, round_parameter, &round);
}

/* ---- Files ---- */

char *npt_parameter_name(int layer, const npt_parameter *parameter, char *name, size_t bytes)
{
    snprintf(name, bytes, "model.layers.%d.adapter.%s.weight", layer, parameter->name);
    return name;
}

npt_status npt_adapters_visit(npt_adapters *adapters, npt_parameter_visitor *visit, void *context)
{
    for (int layer = 0; layer < adapters->layers; layer++)
        for (int i = 0; i < adapters->adapter[layer].count; i++)
            NPT_TRY(visit(context, layer, &adapters->adapter[layer].parameters[i]));
    return NPT_OK;
}

int64_t npt_adapters_size(const npt_adapters *adapters)
{
    int64_t size = 0;
    for (int layer = 0; layer < adapters->layers; layer++)
        for (int i = 0; i < adapters->adapter[layer].count; i++) {
            const npt_parameter *p = &adapters->adapter[layer].parameters[i];
            size += p->rows * p->cols;
        }
    return size;
}

typedef struct load_context {
    const npt_st *st;
    size_t found;
} load_context;

static npt_status load_parameter(void *context, int layer, npt_parameter *p)
{
    load_context *load = context;
    char name[128];
    const npt_st_tensor *tensor;
    const int64_t shape[2] = {p->rows, p->cols};
    NPT_TRY(npt_st_require(load->st, npt_parameter_name(layer, p, name, sizeof name),
                           NPT_DTYPE_NONE, 2, shape, &tensor));
    for (int64_t i = 0; i < p->rows * p->cols; i++)
        p->master[i] = npt_load(tensor->data, tensor->dtype, (size_t)i);
    load->found++;
    return NPT_OK;
}

npt_status npt_adapters_load(npt_adapters *adapters, const npt_st *st)
{
    load_context load = {st, 0};
    NPT_TRY(npt_adapters_visit(adapters, load_parameter, &load));
    for (size_t i = 0; i < npt_st_count(st) && load.found < npt_st_count(st); i++) {
        const npt_st_tensor *tensor = npt_st_at(st, i);
        char name[128];
        int layer;
        bool known = sscanf(tensor->name, "model.layers.%d.", &layer) == 1 && layer >= 0 &&
                     layer < adapters->layers;
        bool used = false;
        for (int k = 0; known && k < adapters->adapter[layer].count && !used; k++)
            used = strcmp(npt_parameter_name(layer, &adapters->adapter[layer].parameters[k], name,
                                             sizeof name),
                          tensor->name) == 0;
        if (!used)
            return npt_fail(NPT_E_FORMAT,
                            "%s: %s has no place in this run; check --layers and --modulation",
                            tensor->file, tensor->name);
    }
    return NPT_OK;
}

typedef struct declare_context {
    npt_adapters *adapters;
    npt_st_writer *writer;
} declare_context;

static npt_status declare_parameter(void *context, int layer, npt_parameter *p)
{
    declare_context *declare = context;
    char name[128];
    const int64_t shape[2] = {p->rows, p->cols};
    return npt_st_writer_add(declare->writer, npt_parameter_name(layer, p, name, sizeof name),
                             declare->adapters->dtype, 2, shape, p->value, NULL, NULL);
}

npt_status npt_adapters_declare(npt_adapters *adapters, npt_st_writer *writer)
{
    declare_context declare = {adapters, writer};
    return npt_adapters_visit(adapters, declare_parameter, &declare);
}
