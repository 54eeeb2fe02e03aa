/* SPDX-License-Identifier: BSD-2-Clause */
/* Adapters: an interface with several kinds behind it, and the set of all adapters of a model.
 *
 * A kind turns the attention output a into a modulation of the gate, g → g' (method.md §1). The
 * block knows only this interface. Parameters of a kind are matrices with a name, a shape and a way
 * to be initialised; the optimizer and the files know only those. */
#ifndef NPT_MODEL_ADAPTER_H
#define NPT_MODEL_ADAPTER_H

#include "base/memory.h"
#include "files/safetensors.h"
#include "model/config.h"
#include "tensor/policy.h"
#include "tensor/sites.h"

enum { NPT_ADAPTER_MAX_PARAMETERS = 3 };

typedef struct npt_parameter {
    const char *name; /* "A_proj", "B_add", "B_mult" */
    int64_t rows, cols;
    void *value;   /* adapter dtype P */
    float *master; /* F32; the same memory as `value` where P is F32 */
    float *moment1, *moment2;
    float *grad; /* F32, summed over the accumulated batch, × loss scale */
} npt_parameter;

/* One layer's adapter. */
typedef struct npt_adapter {
    npt_parameter parameters[NPT_ADAPTER_MAX_PARAMETERS];
    int count; /* 0: this layer has none */
} npt_adapter;

typedef struct npt_adapter_kind npt_adapter_kind; /* model/block.h */

typedef struct npt_adapters {
    const npt_adapter_kind *kind;
    npt_modulation modulation;
    int rank, layers;
    float strength; /* modulation scale */
    npt_dtype dtype;
    npt_adapter *adapter; /* [layers] */
    bool *active;         /* [layers] */
    npt_arena *arena;     /* borrowed */
} npt_adapters;

typedef struct npt_adapters_options {
    int rank;
    npt_modulation modulation;
    double strength;
    const char *layers; /* selection as --layers takes it; NULL: all */
    uint64_t seed;
} npt_adapters_options;

/* Kind, rank, dtype, active layers and every parameter's name and shape, from the options and the
 * configuration alone; `arena` holds the lists, but no value. NPT_E_USAGE as below. */
npt_status npt_adapters_describe(npt_adapters *adapters, const npt_adapters_options *options,
                                 const npt_config *config, const npt_policy *policy,
                                 npt_arena *arena);
/* Makes room in `arena` (values, masters; moments and gradients where `trainable`) and sets the
 * masters to the initial values of method.md §1; npt_adapters_round() makes the values. NPT_E_USAGE
 * for a layer selection that does not fit the model. */
npt_status npt_adapters_init(npt_adapters *adapters, const npt_adapters_options *options,
                             const npt_config *config, const npt_policy *policy, npt_arena *arena,
                             bool trainable);
/* Parses "16-31", "0,2,5-7", "upper_half", "all" into flags. NPT_E_USAGE. */
npt_status npt_layers_parse(const char *selection, int layers, bool *active);

/* "model.layers.3.adapter.A_proj.weight" */
char *npt_parameter_name(int layer, const npt_parameter *parameter, char *name, size_t bytes);
int64_t npt_adapters_size(const npt_adapters *adapters); /* elements in all */
/* Calls `visit` for every parameter in the order of files: by layer, then as declared. Stops at a
 * failure. */
typedef npt_status npt_parameter_visitor(void *context, int layer, npt_parameter *parameter);
npt_status npt_adapters_visit(npt_adapters *adapters, npt_parameter_visitor *visit, void *context);

/* The adapters as used: masters rounded to their dtype, announced as NPT_SITE_UPDATE. */
void npt_adapters_round(npt_adapters *adapters, npt_sites *sites);

/* Masters from a safetensors file (any float dtype, exactly); npt_adapters_round() comes after.
 * NPT_E_FORMAT: a tensor is missing, or is of another rank or shape, or belongs to a layer without
 * adapter. */
npt_status npt_adapters_load(npt_adapters *adapters, const npt_st *st);
/* Declares every value to a writer. */
npt_status npt_adapters_declare(npt_adapters *adapters, npt_st_writer *writer);

#endif
