/* SPDX-License-Identifier: BSD-2-Clause */
/* Results: rows of activations that a block makes, each announced at its cast site, and who may
 * look at them. */
#ifndef NPT_MODEL_MAT_H
#define NPT_MODEL_MAT_H

#include "model/batch.h"
#include "model/model.h"
#include "tensor/fault.h"

/* Rows of activations, [rows, cols], contiguous. */
typedef struct npt_mat {
    void *data;
    npt_dtype dtype;
    int64_t rows, cols;
} npt_mat;

typedef struct npt_env npt_env;

/* A result that was just written at a site, in the order in which a run makes them. */
typedef struct npt_observation {
    npt_site_id site;
    int layer;
    npt_direction direction;
    bool student; /* else the teacher's; attention that both share counts as the teacher's */
    npt_mat result;
    npt_mat source; /* of a plain cast: what was cast; else data NULL */
} npt_observation;

/* Somebody who looks at results; the struct is the first member of the observer's own. */
typedef struct npt_observer npt_observer;
struct npt_observer {
    npt_status (*see)(npt_observer *observer, const npt_env *env, const npt_observation *seen);
};

/* What a block computes with. `sites` is the teacher's plan or the student's. */
struct npt_env {
    npt_exec *exec;
    const npt_model *model;
    const npt_policy *policy;
    npt_sites *sites;
    bool student;
    bool strict;      /* an unplanned cast ends the run */
    npt_arena *arena; /* step */
    const npt_batch *batch;
    const float *cos, *sin; /* [longest, head_dim / 2], rounded at rope_table */
    npt_observer *observer; /* NULL: nobody looks */
    const npt_fault *fault; /* NULL, or what damages this step */
};

/* Room in the step arena that no site gives a dtype: sums in F32. */
npt_status npt_mat_allocate(const npt_env *env, npt_dtype dtype, int64_t rows, int64_t cols,
                            npt_mat *mat);
/* Announces a result at a site and makes room for it; `from` is what arrives there. */
npt_status npt_mat_produce(const npt_env *env, npt_site_id site, int layer, npt_direction direction,
                           npt_dtype from, int64_t rows, int64_t cols, npt_mat *mat);
/* Announces a rounding of F32 at a site whose result is written over `mat`, or like it and nowhere:
 * its dtype must be the planned one. */
npt_status npt_mat_announce(const npt_env *env, npt_site_id site, int layer,
                            npt_direction direction, npt_mat mat);
/* Ends every result: an injected fault damages it, an observer looks at it. */
npt_status npt_mat_finish(const npt_env *env, npt_site_id site, int layer, npt_direction direction,
                          npt_mat mat);
/* The same for a plain cast of `source`. */
npt_status npt_mat_finish_cast(const npt_env *env, npt_site_id site, int layer,
                               npt_direction direction, npt_mat source, npt_mat mat);
/* `mat` as a matmul operand: itself, or (R4) its cast at `site`. */
npt_status npt_mat_operand(const npt_env *env, npt_site_id site, int layer, npt_direction direction,
                           npt_mat mat, npt_mat *operand);
/* Whether every result must be written out, to be looked at or damaged. */
static inline bool npt_env_is_watched(const npt_env *env)
{
    return env->observer != NULL || env->fault != NULL;
}
static inline npt_in npt_mat_in(npt_mat mat)
{
    return (npt_in){mat.data, mat.dtype};
}
static inline npt_out npt_mat_out(npt_mat mat)
{
    return (npt_out){mat.data, mat.dtype};
}

#endif
