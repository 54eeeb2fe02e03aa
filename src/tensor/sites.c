/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "tensor/sites.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/memory.h"
#include "tensor/dtype.h"

/* The table of precision.md §3 as data: what arrives (a role), what leaves (a role), how many
 * roundings a token, in which blocks, and whether backward has the gradient of it, or replays it.
 * Invariant: a plan cell is NONE → NONE exactly where no such cast can happen. */

typedef enum site_width {
    WIDTH_HIDDEN,
    WIDTH_INTER,
    WIDTH_Q,
    WIDTH_KV,
    WIDTH_RANK,
    WIDTH_ROPE,
    WIDTH_BLOCK,
    WIDTH_ADAPTER,
    WIDTH_NONE
} site_width;

typedef enum site_place {
    IN_NEVER,
    IN_MODEL, /* once, outside the blocks */
    IN_EVERY,
    IN_STANDARD,
    IN_NPT,
    IN_ADD,
    IN_MULT,
    IN_QK_NORM
} site_place;

typedef struct site_row {
    const char *name;
    npt_role from, to;
    site_width width;
    int roundings; /* per element, forward */
    site_place place;
    int backward_roundings; /* of the gradient of what the site produced */
    site_place backward_place;
    bool recompute; /* backward replays it */
} site_row;

/* id and name; from and to; width, roundings and place forward; roundings and place backward;
 * whether backward replays it. */
#define ROW(id, name, from, to, width, n, place, back, back_place, again)                          \
    [NPT_SITE_##id] = {name, NPT_ROLE_##from, NPT_ROLE_##to, WIDTH_##width, n, IN_##place,         \
                       back, IN_##back_place, again}
/* clang-format off */
static const site_row table[NPT_SITE_COUNT] = {
    ROW(WEIGHT,          "weight",          FROZEN,  COMPUTE, NONE,      1, MODEL,   0, NEVER,   0),
    ROW(EMBED,           "embed",           PLAIN,   ACT,     HIDDEN,    1, MODEL,   0, NEVER,   0),
    ROW(NORM_IN,         "norm_in",         ACCUM,   ACT,     HIDDEN,    2, EVERY,   2, EVERY,   0),
    ROW(Q,               "q",               ACCUM,   ACT,     Q,         1, EVERY,   1, EVERY,   0),
    ROW(K,               "k",               ACCUM,   ACT,     KV,        1, EVERY,   1, EVERY,   0),
    ROW(V,               "v",               ACCUM,   ACT,     KV,        1, EVERY,   1, EVERY,   0),
    ROW(Q_NORM,          "q_norm",          ACCUM,   ACT,     Q,         2, QK_NORM, 1, QK_NORM, 0),
    ROW(K_NORM,          "k_norm",          ACCUM,   ACT,     KV,        2, QK_NORM, 1, QK_NORM, 0),
    ROW(ROPE_TABLE,      "rope_table",      ACCUM,   ACT,     NONE,      1, MODEL,   0, NEVER,   0),
    ROW(ROPE,            "rope",            ACCUM,   ACT,     ROPE,      1, EVERY,   1, EVERY,   0),
    ROW(ATTN,            "attn",            ACCUM,   ACT,     Q,         1, EVERY,   1, EVERY,   0),
    ROW(ATTN_OUT,        "attn_out",        ACCUM,   ACT,     HIDDEN,    1, EVERY,   1, NPT,     0),
    ROW(RESIDUAL_ATTN,   "residual_attn",   ACCUM,   ACT,     HIDDEN,    1, STANDARD, 0, NEVER,  0),
    ROW(ADAPTER_IN,      "adapter_in",      ACT,     ADAPTER, HIDDEN,    1, NPT,     1, NPT,     0),
    ROW(Z,               "z",               ACCUM,   ADAPTER, RANK,      1, NPT,     1, NPT,     0),
    ROW(ADD,             "add",             ACCUM,   ADAPTER, INTER,     1, ADD,     1, ADD,     1),
    ROW(U,               "u",               ACCUM,   ADAPTER, INTER,     1, MULT,    1, MULT,    1),
    ROW(MULT,            "mult",            ACCUM,   ADAPTER, INTER,     1, MULT,    0, NEVER,   1),
    ROW(NORM_POST,       "norm_post",       ACCUM,   ACT,     HIDDEN,    2, EVERY,   2, EVERY,   0),
    ROW(GATE,            "gate",            ACCUM,   ACT,     INTER,     1, EVERY,   1, EVERY,   0),
    ROW(UP,              "up",              ACCUM,   ACT,     INTER,     1, EVERY,   1, EVERY,   0),
    ROW(GATE_MOD,        "gate_mod",        ACCUM,   ACT,     INTER,     1, NPT,     1, NPT,     1),
    ROW(MLP_ACT,         "mlp_act",         ACCUM,   ACT,     INTER,     1, EVERY,   1, EVERY,   0),
    ROW(DOWN,            "down",            ACCUM,   ACT,     HIDDEN,    1, EVERY,   0, NEVER,   0),
    ROW(RESIDUAL,        "residual",        ACCUM,   ACT,     HIDDEN,    1, EVERY,   1, EVERY,   0),
    ROW(NORM_FINAL,      "norm_final",      ACCUM,   ACT,     HIDDEN,    2, MODEL,   0, NEVER,   0),
    ROW(LOGITS,          "logits",          ACCUM,   LOSS,    NONE,      1, MODEL,   0, NEVER,   0),
    ROW(OPERAND,         "operand",         ACT,     COMPUTE, BLOCK,     1, EVERY,   1, EVERY,   0),
    ROW(ADAPTER_OPERAND, "adapter_operand", ADAPTER, COMPUTE, ADAPTER,   1, NPT,     1, NPT,     0),
    ROW(UPDATE,          "update",          MASTER,  ADAPTER, NONE,      1, NPT,     0, NEVER,   0),
};
/* clang-format on */
#undef ROW

/* Sites whose result meets elementwise arithmetic next; that of all others enters a matmul or
 * leaves one. */
static const bool elementwise[NPT_SITE_COUNT] = {
    [NPT_SITE_EMBED] = true,         [NPT_SITE_Q_NORM] = true,   [NPT_SITE_K_NORM] = true,
    [NPT_SITE_ROPE_TABLE] = true,    [NPT_SITE_ROPE] = true,     [NPT_SITE_MULT] = true,
    [NPT_SITE_RESIDUAL_ATTN] = true, [NPT_SITE_RESIDUAL] = true, [NPT_SITE_GATE_MOD] = true,
    [NPT_SITE_UPDATE] = true,
};

typedef struct site_cell {
    npt_site_plan plan;
    uint64_t executed;
    npt_dtype disturbed; /* NONE, or what arrives whatever is said */
} site_cell;

struct npt_sites {
    npt_policy policy;
    int layers;
    site_cell *cells; /* [layers + 1][NPT_SITE_COUNT][NPT_DIRECTION_COUNT]; layer -1 comes first */
    bool breached;
    npt_site_id breach_id;
    int breach_layer;
    npt_direction breach_direction;
    npt_dtype breach_from;
};

static size_t cell_count(const npt_sites *sites)
{
    return (size_t)(sites->layers + 1) * NPT_SITE_COUNT * NPT_DIRECTION_COUNT;
}

static site_cell *cell_at(const npt_sites *sites, npt_site_id id, int layer,
                          npt_direction direction)
{
    NPT_ASSERT(layer >= -1 && layer < sites->layers && id < NPT_SITE_COUNT);
    return &sites->cells[((size_t)(layer + 1) * NPT_SITE_COUNT + id) * NPT_DIRECTION_COUNT +
                         direction];
}

static bool is_placed(site_place place, const npt_site_block *block)
{
    switch (place) {
    case IN_NEVER: return false;
    case IN_MODEL: return block == NULL;
    case IN_EVERY: return block != NULL;
    case IN_STANDARD: return block != NULL && !block->npt;
    case IN_NPT: return block != NULL && block->npt;
    case IN_ADD: return block != NULL && block->npt && block->additive;
    case IN_MULT: return block != NULL && block->npt && block->multiplicative;
    case IN_QK_NORM: return block != NULL && block->qk_norm;
    }
    return false;
}

/* Activations that enter matmuls, per token: forward n, attn, m, act; backward the gradients dh,
 * dgate, dup, da, dq, dk, dv. */
static int64_t operand_width(const npt_site_block *b, npt_direction direction)
{
    if (direction == NPT_FORWARD) return 2 * b->hidden + b->q_width + b->inter;
    return 2 * b->hidden + 2 * b->inter + b->q_width + 2 * b->kv_width;
}

/* The same of an adapter: forward a and z; backward dz, z, a and the dadd, du. */
static int64_t adapter_operand_width(const npt_site_block *b, npt_direction direction)
{
    int64_t terms = (b->additive ? 1 : 0) + (b->multiplicative ? 1 : 0);
    if (direction == NPT_FORWARD) return b->hidden + b->rank;
    return b->hidden + 2 * b->rank + terms * b->inter;
}

static int64_t width_of(const site_row *row, const npt_site_block *block, int64_t hidden,
                        npt_direction direction)
{
    switch (row->width) {
    case WIDTH_HIDDEN: return hidden;
    case WIDTH_INTER: return block->inter;
    case WIDTH_Q: return block->q_width;
    case WIDTH_KV: return block->kv_width;
    case WIDTH_RANK: return block->rank;
    case WIDTH_ROPE: return block->q_width + block->kv_width;
    case WIDTH_BLOCK: return operand_width(block, direction);
    case WIDTH_ADAPTER: return adapter_operand_width(block, direction);
    case WIDTH_NONE: return 0;
    }
    return 0;
}

/* A role that is NONE (no master) stands for the adapter itself. */
static npt_dtype dtype_of(const npt_policy *policy, npt_role role)
{
    npt_dtype dtype = policy->dtype[role];
    return dtype == NPT_DTYPE_NONE ? policy->dtype[NPT_ROLE_ADAPTER] : dtype;
}

/* Operands are cast only where products have a dtype of their own (R4). */
static bool is_needed(const npt_policy *policy, npt_site_id id)
{
    if (id == NPT_SITE_OPERAND || id == NPT_SITE_ADAPTER_OPERAND)
        return policy->dtype[NPT_ROLE_COMPUTE] != policy->dtype[NPT_ROLE_ACT];
    return true;
}

static void plan_layer(npt_sites *sites, int layer, const npt_site_block *block, int64_t hidden)
{
    for (int i = 0; i < NPT_SITE_COUNT; i++) {
        const npt_site_id id = (npt_site_id)i;
        const site_row *row = &table[id];
        if (!is_needed(&sites->policy, id)) continue;
        npt_dtype from = dtype_of(&sites->policy, row->from),
                  to = dtype_of(&sites->policy, row->to);
        if (is_placed(row->place, block)) {
            npt_site_plan plan = {from, to,
                                  row->roundings * width_of(row, block, hidden, NPT_FORWARD)};
            cell_at(sites, id, layer, NPT_FORWARD)->plan = plan;
            if (row->recompute) cell_at(sites, id, layer, NPT_RECOMPUTE)->plan = plan;
        }
        if (is_placed(row->backward_place, block)) {
            /* a gradient leaves an F32 accumulator; an operand arrives in its own dtype */
            bool operand = id == NPT_SITE_OPERAND || id == NPT_SITE_ADAPTER_OPERAND;
            npt_site_plan plan = {operand ? from : NPT_F32, to,
                                  row->backward_roundings *
                                      width_of(row, block, hidden, NPT_BACKWARD)};
            cell_at(sites, id, layer, NPT_BACKWARD)->plan = plan;
        }
    }
}

npt_sites *npt_sites_create(const npt_policy *policy, int layers, const npt_site_block *blocks)
{
    npt_sites *sites = npt_alloc(1, sizeof *sites);
    if (sites == NULL) return NULL;
    sites->policy = *policy;
    sites->layers = layers;
    sites->cells = npt_alloc(cell_count(sites), sizeof *sites->cells);
    if (sites->cells == NULL) {
        npt_free(sites);
        return NULL;
    }
    plan_layer(sites, -1, NULL, layers > 0 ? blocks[0].hidden : 0);
    for (int layer = 0; layer < layers; layer++)
        plan_layer(sites, layer, &blocks[layer], blocks[layer].hidden);
    return sites;
}

void npt_sites_destroy(npt_sites *sites)
{
    if (sites == NULL) return;
    npt_free(sites->cells);
    npt_free(sites);
}

/* Weights and the embedding table arrive in whatever float dtype the file has: widening is exact,
 * and the file's own dtype may stay (precision.md §2). What they must become is still the plan's.
 */
static bool is_expected(npt_site_id id, npt_dtype planned, npt_dtype from)
{
    bool any_float = id == NPT_SITE_WEIGHT || id == NPT_SITE_EMBED;
    return from == planned || (any_float && npt_dtype_is_float(from));
}

npt_dtype npt_site(npt_sites *sites, npt_site_id id, int layer, npt_direction direction,
                   npt_dtype from, int64_t elements)
{
    site_cell *cell = cell_at(sites, id, layer, direction);
    if (cell->disturbed != NPT_DTYPE_NONE) from = cell->disturbed;
    if (cell->plan.to != NPT_DTYPE_NONE && is_expected(id, cell->plan.from, from)) {
        cell->executed += (uint64_t)elements;
        return cell->plan.to;
    }
    if (!sites->breached) {
        sites->breached = true;
        sites->breach_id = id;
        sites->breach_layer = layer;
        sites->breach_direction = direction;
        sites->breach_from = from;
    }
    return cell->plan.to != NPT_DTYPE_NONE ? cell->plan.to : from;
}

npt_site_plan npt_sites_planned(const npt_sites *sites, npt_site_id id, int layer,
                                npt_direction direction)
{
    return cell_at(sites, id, layer, direction)->plan;
}

uint64_t npt_sites_executed(const npt_sites *sites, npt_site_id id, int layer,
                            npt_direction direction)
{
    return cell_at(sites, id, layer, direction)->executed;
}

void npt_sites_reset_counts(npt_sites *sites)
{
    for (size_t i = 0; i < cell_count(sites); i++) sites->cells[i].executed = 0;
    sites->breached = false;
}

void npt_sites_disturb(npt_sites *sites, npt_site_id id, int layer, npt_direction direction,
                       npt_dtype from)
{
    cell_at(sites, id, layer, direction)->disturbed = from;
}

/* As PyTorch spells a dtype: in C++ sentences about matrices, and as a scalar type. */
static const char *cpp_name(npt_dtype dtype)
{
    switch (dtype) {
    case NPT_F32: return "float";
    case NPT_F16: return "c10::Half";
    case NPT_BF16: return "c10::BFloat16";
    case NPT_F64: return "double";
    case NPT_I8: return "signed char";
    case NPT_I64: return "long";
    case NPT_U8:
    case NPT_NF4: return "unsigned char"; /* packed */
    default: return npt_dtype_name(dtype);
    }
}

static const char *scalar_name(npt_dtype dtype)
{
    switch (dtype) {
    case NPT_F32: return "Float";
    case NPT_F16: return "Half";
    case NPT_BF16: return "BFloat16";
    case NPT_F64: return "Double";
    case NPT_I8: return "Char";
    case NPT_I64: return "Long";
    case NPT_U8:
    case NPT_NF4: return "Byte";
    default: return npt_dtype_name(dtype);
    }
}

/* What eager PyTorch says where such a value meets an operand of the planned dtype. */
static void pytorch_sentence(npt_site_id id, npt_dtype from, npt_dtype planned, char *text,
                             size_t bytes)
{
    if (id == NPT_SITE_UPDATE && from == NPT_F16)
        snprintf(text, bytes, "Attempting to unscale FP16 gradients.");
    else if (!elementwise[id])
        snprintf(text, bytes, "expected mat1 and mat2 to have the same dtype, but got: %s != %s",
                 cpp_name(from), cpp_name(planned));
    else
        snprintf(text, bytes, "expected scalar type %s but found %s", scalar_name(planned),
                 scalar_name(from));
}

npt_status npt_sites_check(const npt_sites *sites)
{
    if (!sites->breached) return NPT_OK;
    char label[64], sentence[160];
    const npt_dtype from = sites->breach_from;
    npt_site_plan plan =
        npt_sites_planned(sites, sites->breach_id, sites->breach_layer, sites->breach_direction);
    npt_site_label(sites->breach_id, sites->breach_layer, sites->breach_direction, label,
                   sizeof label);
    if (plan.to == NPT_DTYPE_NONE)
        return npt_fail(NPT_E_INTERNAL,
                        "unplanned cast at %s: %s arrived where the plan (%s) has no cast; please "
                        "report this",
                        label, npt_dtype_name(from), npt_rule_text(sites->policy.base_rule));
    pytorch_sentence(sites->breach_id, from, plan.from, sentence, sizeof sentence);
    return npt_fail(NPT_E_INTERNAL,
                    "%s; unplanned cast at %s: %s arrived, the plan (%s) has %s → %s; please "
                    "report this",
                    sentence, label, npt_dtype_name(from), npt_rule_text(sites->policy.base_rule),
                    npt_dtype_name(plan.from), npt_dtype_name(plan.to));
}

/* FNV-1a, 64 bits, of one word. */
static void hash_word(uint64_t *hash, uint64_t word)
{
    for (int shift = 0; shift < 64; shift += 8) {
        *hash ^= (word >> shift) & 0xffu;
        *hash *= 0x100000001b3u;
    }
}

static const uint64_t hash_of_nothing = 0xcbf29ce484222325u;

uint64_t npt_sites_digest(const npt_sites *sites)
{
    uint64_t hash = hash_of_nothing;
    for (size_t i = 0; i < cell_count(sites); i++) {
        const npt_site_plan *plan = &sites->cells[i].plan;
        hash_word(&hash, plan->from);
        hash_word(&hash, plan->to);
        hash_word(&hash, (uint64_t)plan->per_token);
    }
    return hash;
}

uint64_t npt_sites_executed_digest(const npt_sites *sites)
{
    uint64_t hash = hash_of_nothing;
    for (size_t i = 0; i < cell_count(sites); i++) hash_word(&hash, sites->cells[i].executed);
    return hash;
}

int npt_sites_count(const npt_sites *sites)
{
    int count = 0;
    for (size_t i = 0; i < cell_count(sites); i++)
        count += sites->cells[i].plan.to != NPT_DTYPE_NONE;
    return count;
}

const char *npt_site_name(npt_site_id id)
{
    return table[id].name;
}

char *npt_site_label(npt_site_id id, int layer, npt_direction direction, char *text, size_t bytes)
{
    static const char *const suffix[NPT_DIRECTION_COUNT] = {"", ".backward", ".recompute"};
    if (layer < 0)
        snprintf(text, bytes, "%s%s", table[id].name, suffix[direction]);
    else
        snprintf(text, bytes, "L%02d.%s%s", layer, table[id].name, suffix[direction]);
    return text;
}
