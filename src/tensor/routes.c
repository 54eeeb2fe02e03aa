/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "tensor/routes.h"

#include <stdio.h>
#include <string.h>

/* Kinds are coarse on purpose: rows of text have many lengths, and a kind must be met again to be
 * of use. Within a kind the same backend is taken, so the choice never depends on the order in
 * which products appear. */

enum { THIN = 64, SMALL_ELEMENTS = 1 << 20, MEDIUM_ELEMENTS = 1 << 24 };

static const int64_t token_ends[NPT_TOKEN_BUCKETS] = {1, 8, 64, 256, INT64_MAX};
static const char *const token_names[NPT_TOKEN_BUCKETS] = {"1", "2-8", "9-64", "65-256", "257-"};
static const char *const pass_names[NPT_PASS_COUNT] = {"y", "dx", "dw"};
static const char *const size_names[NPT_SIZE_COUNT] = {"thin", "small", "medium", "large"};
static const char *const rate_names[NPT_RATES] = {
    [NPT_RATE_ATTENTION] = "attention",
    [NPT_RATE_ATTENTION_BACK] = "attention, backward",
    [NPT_RATE_GATE] = "gate",
    [NPT_RATE_GATE_TERMS] = "gate and terms",
    [NPT_RATE_GATE_BACK] = "gate, backward",
    [NPT_RATE_GATE_TERMS_BACK] = "gate and terms, backward",
    [NPT_RATE_ROWS] = "rows",
};

const char *npt_product_pass_name(npt_product_pass pass)
{
    return pass_names[pass];
}

const char *npt_token_bucket_name(int bucket)
{
    return token_names[bucket];
}

const char *npt_size_bucket_name(npt_size_bucket size)
{
    return size_names[size];
}

const char *npt_rate_name(npt_rate_kind kind)
{
    return rate_names[kind];
}

static npt_size_bucket size_of(int64_t rows, int64_t columns)
{
    if (rows <= THIN || columns <= THIN) return NPT_SIZE_THIN;
    if (rows <= SMALL_ELEMENTS / columns) return NPT_SIZE_SMALL;
    return rows <= MEDIUM_ELEMENTS / columns ? NPT_SIZE_MEDIUM : NPT_SIZE_LARGE;
}

npt_route_kind npt_route_kind_of(const npt_matmul_desc *desc)
{
    const int64_t tokens = desc->trans_a ? desc->k : desc->m;
    const int64_t rows = desc->trans_a ? desc->m : desc->k;
    npt_route_kind kind = {.a = desc->a, .w = desc->w, .c = desc->c};
    kind.pass = desc->trans_a ? NPT_PASS_DW : desc->trans_w ? NPT_PASS_Y : NPT_PASS_DX;
    while (tokens > token_ends[kind.tokens]) kind.tokens++;
    kind.size = size_of(rows, desc->n);
    return kind;
}

bool npt_route_kind_same(const npt_route_kind *x, const npt_route_kind *y)
{
    return x->a == y->a && x->w == y->w && x->c == y->c && x->pass == y->pass &&
           x->tokens == y->tokens && x->size == y->size;
}

const char *npt_route_kind_text(const npt_route_kind *kind, char text[NPT_ROUTE_TEXT])
{
    snprintf(text, NPT_ROUTE_TEXT, "%s x %s -> %s, %s, %s tokens, %s", npt_dtype_name(kind->a),
             npt_dtype_name(kind->w), npt_dtype_name(kind->c), pass_names[kind->pass],
             token_names[kind->tokens], size_names[kind->size]);
    return text;
}

const npt_route *npt_routes_find(const npt_routes *routes, const npt_route_kind *kind)
{
    for (size_t i = 0; i < routes->count; i++)
        if (npt_route_kind_same(&routes->list[i].kind, kind)) return &routes->list[i];
    return NULL;
}

bool npt_routes_put(npt_routes *routes, const npt_route *route)
{
    size_t i = 0;
    while (i < routes->count && !npt_route_kind_same(&routes->list[i].kind, &route->kind)) i++;
    if (i == NPT_MAX_ROUTES) return false;
    routes->list[i] = *route;
    if (i == routes->count) routes->count++;
    return true;
}

/* FNV-1a, 64 bits (Fowler, Noll, Vo). */
static uint64_t hash_text(uint64_t hash, const char *text)
{
    for (; *text != '\0'; text++) hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    return hash;
}

uint64_t npt_routes_digest(const npt_routes *routes)
{
    char text[NPT_ROUTE_TEXT];
    uint64_t digest = 0; /* a sum: the order is of no meaning */
    for (size_t i = 0; i < routes->count; i++) {
        const npt_route *route = &routes->list[i];
        uint64_t hash = 0xcbf29ce484222325u;
        hash = hash_text(hash, npt_route_kind_text(&route->kind, text));
        digest += hash_text(hash, route->backend);
    }
    return digest;
}

bool npt_matmul_desc_same(const npt_matmul_desc *x, const npt_matmul_desc *y)
{
    return x->m == y->m && x->n == y->n && x->k == y->k && x->trans_a == y->trans_a &&
           x->trans_w == y->trans_w && x->a == y->a && x->w == y->w && x->c == y->c &&
           x->accumulate == y->accumulate && x->bias == y->bias;
}

void npt_tally_add(npt_tally *tally, const npt_matmul_desc *desc, const npt_matmul_backend *backend,
                   double seconds)
{
    npt_tally_row *row = tally->rows, *end = row + tally->count;
    while (row < end && (row->backend != backend || !npt_matmul_desc_same(&row->desc, desc))) row++;
    if (row == end) {
        if (tally->count == NPT_TALLY_ROWS) {
            tally->dropped++;
            return;
        }
        *row = (npt_tally_row){.desc = *desc, .backend = backend};
        tally->count++;
    }
    row->count++;
    row->seconds += seconds;
}
