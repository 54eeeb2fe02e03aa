/* SPDX-License-Identifier: BSD-2-Clause */
/* Kinds of matrix products, which backend was measured to be the faster one for a kind, and what
 * products a stretch of work really made. Measuring is for others; this is the table they fill. */
#ifndef NPT_TENSOR_ROUTES_H
#define NPT_TENSOR_ROUTES_H

#include "tensor/matmul.h"

/* Seen from a frozen linear: y = x·Wᵀ, dx = dy·W, dw = dyᵀ·x. */
typedef enum npt_product_pass {
    NPT_PASS_Y,
    NPT_PASS_DX,
    NPT_PASS_DW,
    NPT_PASS_COUNT
} npt_product_pass;

/* Buckets of tokens, by their upper ends: 1, 8, 64, 256, any. */
enum { NPT_TOKEN_BUCKETS = 5 };

/* The matrix of weights (or, in dw, of their gradient): at most 64 rows or columns, as adapters
 * have; else by elements: up to 2^20, up to 2^24, more. */
typedef enum npt_size_bucket {
    NPT_SIZE_THIN,
    NPT_SIZE_SMALL,
    NPT_SIZE_MEDIUM,
    NPT_SIZE_LARGE,
    NPT_SIZE_COUNT
} npt_size_bucket;

typedef struct npt_route_kind {
    npt_dtype a, w, c;
    npt_product_pass pass;
    int tokens; /* bucket */
    npt_size_bucket size;
} npt_route_kind;

npt_route_kind npt_route_kind_of(const npt_matmul_desc *desc);
bool npt_route_kind_same(const npt_route_kind *x, const npt_route_kind *y);

/* "y", "dx", "dw"; "1", "2-8", "9-64", "65-256", "257-"; "thin", "small", "medium", "large". */
const char *npt_product_pass_name(npt_product_pass pass);
const char *npt_token_bucket_name(int bucket);
const char *npt_size_bucket_name(npt_size_bucket size);
/* The whole kind: "F32 x BF16 -> F32, dx, 257- tokens, large". */
enum { NPT_ROUTE_TEXT = 96 };
const char *npt_route_kind_text(const npt_route_kind *kind, char text[NPT_ROUTE_TEXT]);

enum { NPT_MAX_ROUTES = 256, NPT_ROUTE_NAME = 16 };

typedef struct npt_route {
    npt_route_kind kind;
    char backend[NPT_ROUTE_NAME];
    char before[NPT_ROUTE_NAME];  /* the first in the built-in order that accepts the kind */
    double gflops, gflops_before; /* of the two, as measured; 0: not known */
} npt_route;

/* What lies between the products, by what is counted of it. */
typedef enum npt_rate_kind {
    NPT_RATE_ATTENTION, /* FLOP */
    NPT_RATE_ATTENTION_BACK,
    NPT_RATE_GATE,       /* values of the gated unit */
    NPT_RATE_GATE_TERMS, /* with a modulation */
    NPT_RATE_GATE_BACK,
    NPT_RATE_GATE_TERMS_BACK,
    NPT_RATE_ROWS, /* values of a norm, a sum, a rotation */
    NPT_RATES
} npt_rate_kind;
/* "attention", "attention, backward", … */
const char *npt_rate_name(npt_rate_kind kind);

typedef struct npt_routes {
    npt_route list[NPT_MAX_ROUTES];
    size_t count;
    double rates[NPT_BF16 + 1][NPT_RATES]; /* by dtype of activations, a second; 0: not known */
} npt_routes;

/* NULL where nothing is known of that kind. */
const npt_route *npt_routes_find(const npt_routes *routes, const npt_route_kind *kind);
/* Replaces the route of the same kind, or adds one; false where the table is full. */
bool npt_routes_put(npt_routes *routes, const npt_route *route);
/* Of kinds and backends, whatever their order; the figures do not count. 0: no route. */
uint64_t npt_routes_digest(const npt_routes *routes);

/* ---- What was multiplied ---- */

enum { NPT_TALLY_ROWS = 96 };

typedef struct npt_tally_row {
    npt_matmul_desc desc;
    const npt_matmul_backend *backend;
    int64_t count;
    double seconds; /* spent in the backend, all together */
} npt_tally_row;

/* Products by descriptor and backend, in the order of their first appearance. */
typedef struct npt_tally {
    npt_tally_row rows[NPT_TALLY_ROWS];
    size_t count;
    int64_t dropped; /* products that found the table full */
} npt_tally;

void npt_tally_add(npt_tally *tally, const npt_matmul_desc *desc, const npt_matmul_backend *backend,
                   double seconds);

bool npt_matmul_desc_same(const npt_matmul_desc *x, const npt_matmul_desc *y);

#endif
