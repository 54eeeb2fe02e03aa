/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/flow.h"

/* The table has a row for every site and direction that is observed. An entry says how far above
 * the reader its source is; the first block reads the embedding where the others read the residual
 * stream of the block before. */

typedef struct source {
    npt_site_id site;
    npt_direction direction;
    int above; /* layers above the reader: -1 is the block before */
    bool ends; /* marks an entry that is used; the rest of an array is zero */
} source;

#define FROM(site, direction, above)                                                               \
    {                                                                                              \
        NPT_SITE_##site, NPT_##direction, above, true                                              \
    }
#define HERE(site) FROM(site, FORWARD, 0)
#define BACK(site) FROM(site, BACKWARD, 0)
/* what a block reads */
#define INPUT FROM(RESIDUAL, FORWARD, -1), FROM(EMBED, FORWARD, 0)

typedef struct flow {
    source from[NPT_FLOW_MAX];
} flow;

static const flow flows[NPT_SITE_COUNT][NPT_DIRECTION_COUNT] = {
    [NPT_SITE_NORM_IN] = {{{INPUT}}, {{BACK(Q), BACK(K), BACK(V), BACK(NORM_POST)}}},
    [NPT_SITE_Q] = {{{HERE(NORM_IN)}}, {{BACK(Q_NORM), BACK(ROPE)}}},
    [NPT_SITE_K] = {{{HERE(NORM_IN)}}, {{BACK(K_NORM), BACK(ROPE)}}},
    [NPT_SITE_V] = {{{HERE(NORM_IN)}}, {{BACK(ATTN)}}},
    [NPT_SITE_Q_NORM] = {{{HERE(Q)}}, {{BACK(ROPE)}}},
    [NPT_SITE_K_NORM] = {{{HERE(K)}}, {{BACK(ROPE)}}},
    [NPT_SITE_ROPE] = {{{HERE(Q), HERE(K), HERE(Q_NORM), HERE(K_NORM)}}, {{BACK(ATTN)}}},
    [NPT_SITE_ATTN] = {{{HERE(ROPE), HERE(V)}}, {{BACK(ATTN_OUT), BACK(NORM_POST)}}},
    [NPT_SITE_ATTN_OUT] = {{{HERE(ATTN)}}, {{BACK(ADAPTER_IN)}}},
    [NPT_SITE_RESIDUAL_ATTN] = {{{HERE(ATTN_OUT), INPUT}}},
    [NPT_SITE_ADAPTER_IN] = {{{HERE(ATTN_OUT)}}, {{BACK(Z)}}},
    [NPT_SITE_Z] = {{{HERE(ADAPTER_IN)}}, {{BACK(ADD), BACK(U)}}},
    [NPT_SITE_ADD] = {{{HERE(Z)}}, {{BACK(GATE_MOD), FROM(ADD, RECOMPUTE, 0)}}, {{HERE(Z)}}},
    [NPT_SITE_U] = {{{HERE(Z)}}, {{BACK(GATE_MOD), FROM(U, RECOMPUTE, 0)}}, {{HERE(Z)}}},
    [NPT_SITE_NORM_POST] = {{{HERE(RESIDUAL_ATTN), INPUT}},
                            {{BACK(GATE), BACK(UP), BACK(RESIDUAL)}}},
    [NPT_SITE_GATE] = {{{HERE(NORM_POST)}}, {{BACK(GATE_MOD), BACK(MLP_ACT)}}},
    [NPT_SITE_UP] = {{{HERE(NORM_POST)}}, {{BACK(MLP_ACT)}}},
    [NPT_SITE_GATE_MOD] = {{{HERE(GATE), HERE(ADD), HERE(U)}},
                           {{BACK(MLP_ACT), FROM(GATE_MOD, RECOMPUTE, 0)}},
                           {{HERE(GATE), FROM(ADD, RECOMPUTE, 0), FROM(U, RECOMPUTE, 0)}}},
    [NPT_SITE_MLP_ACT] = {{{HERE(GATE_MOD), HERE(GATE), HERE(UP)}}, {{BACK(RESIDUAL)}}},
    [NPT_SITE_DOWN] = {{{HERE(MLP_ACT)}}},
    [NPT_SITE_RESIDUAL] = {{{HERE(DOWN), HERE(RESIDUAL_ATTN), INPUT}},
                           {{HERE(RESIDUAL), FROM(NORM_IN, BACKWARD, 1),
                             FROM(RESIDUAL, BACKWARD, 1)}}},
    [NPT_SITE_OPERAND] = {{{HERE(NORM_IN), HERE(ATTN), HERE(NORM_POST), HERE(MLP_ACT)}},
                          {{BACK(RESIDUAL), BACK(GATE), BACK(UP), BACK(ATTN_OUT), BACK(V),
                            BACK(Q)}}},
    [NPT_SITE_ADAPTER_OPERAND] = {{{HERE(ADAPTER_IN), HERE(Z)}}, {{BACK(ADD), BACK(U), BACK(Z)}}},
};

/* Attention is computed once where teacher and student read the same: then it is the teacher's. */
static bool may_be_shared(npt_site_id site)
{
    return site <= NPT_SITE_ATTN_OUT || site == NPT_SITE_RESIDUAL || site == NPT_SITE_OPERAND;
}

int npt_flow_sources(npt_site_id site, int layer, npt_direction direction,
                     npt_flow_source sources[NPT_FLOW_MAX])
{
    const source *from = flows[site][direction].from;
    int count = 0;
    for (int i = 0; i < NPT_FLOW_MAX && from[i].ends; i++) {
        const bool embed = from[i].site == NPT_SITE_EMBED;
        const int at = embed ? -1 : layer + from[i].above;
        if (embed ? layer > 0 : at < 0) continue;
        sources[count++] =
            (npt_flow_source){from[i].site, at, from[i].direction, may_be_shared(from[i].site)};
    }
    return count;
}
