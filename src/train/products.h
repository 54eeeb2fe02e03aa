/* SPDX-License-Identifier: BSD-2-Clause */
/* The matrix products of a training step, as descriptors, without running one. */
#ifndef NPT_TRAIN_PRODUCTS_H
#define NPT_TRAIN_PRODUCTS_H

#include "model/model.h"
#include "npt.h"

enum { NPT_MAX_PRODUCTS = 40, NPT_PRODUCT_NAME = 48 };

/* Products of one descriptor. */
typedef struct npt_product {
    char name[NPT_PRODUCT_NAME]; /* "k, v" */
    const char *pass; /* "y": forward; "dx": gradient of the input; "dw": of the adapter */
    npt_matmul_desc desc;
    int64_t per_step;
} npt_product;

typedef struct npt_products {
    npt_product list[NPT_MAX_PRODUCTS];
    size_t count;
} npt_products;

/* What decides which products a step makes. */
typedef struct npt_products_run {
    int64_t tokens; /* of a micro-batch */
    int64_t rank;
    const bool *active; /* [layers]: with an adapter; NULL: all */
    npt_modulation modulation;
    npt_distill distill; /* mixed: listed as end to end, which is the most it can be */
    bool again;          /* blocks that gradients flow through are computed once more (streamed) */
} npt_products_run;

/* How often a micro-batch goes through parts of a block, over all layers. */
typedef struct npt_passes {
    int64_t attention, mlp; /* forward, of teacher and student; where both read the same, once */
    int64_t down_back;      /* down alone, backward */
    int64_t back;           /* the others, where gradients flow on to what is below */
    int64_t adapters;       /* forward */
    int64_t adapters_back, adapters_input; /* backward; and on to what they read */
} npt_passes;

npt_passes npt_products_passes(const npt_config *config, const npt_products_run *run);

/* One micro-batch: the teacher forward, NPT blocks forward and backward. The dtypes are those that
 * block.c and adapter_lowrank.c ask npt_matmul() for; tests compare descriptors and counts with
 * what a run multiplies. */
void npt_products_list(const npt_model *model, const npt_policy *policy,
                       const npt_products_run *run, npt_products *products);

#endif
