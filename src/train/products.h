/* SPDX-License-Identifier: BSD-2-Clause */
/* The matrix products of a training step, as descriptors, without running one. */
#ifndef NPT_TRAIN_PRODUCTS_H
#define NPT_TRAIN_PRODUCTS_H

#include "model/model.h"

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

/* One micro-batch of `tokens` tokens of a run as it is by default: the teacher forward, then NPT
 * blocks with both terms at `rank` in all layers, forward and backward end to end. The dtypes are
 * those that block.c and adapter_lowrank.c ask npt_matmul() for; a test compares the two. */
void npt_products_list(const npt_model *model, const npt_policy *policy, int64_t tokens,
                       int64_t rank, npt_products *products);

#endif
