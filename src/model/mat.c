/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/mat.h"

#include <math.h>

/* Every result of a block passes through here twice: npt_mat_produce() before it is computed, where
 * its site gives it a dtype, and npt_mat_finish() after, where tests damage it and observers see
 * it. */

npt_status npt_mat_allocate(const npt_env *env, npt_dtype dtype, int64_t rows, int64_t cols,
                            npt_mat *mat)
{
    void *data = npt_arena_alloc(env->arena, NPT_MEM_ACTIVATIONS, (size_t)(rows * cols),
                                 npt_dtype_bytes(dtype));
    if (data == NULL) return NPT_E_NOMEM;
    *mat = (npt_mat){data, dtype, rows, cols};
    return NPT_OK;
}

npt_status npt_mat_produce(const npt_env *env, npt_site_id site, int layer, npt_direction direction,
                           npt_dtype from, int64_t rows, int64_t cols, npt_mat *mat)
{
    int64_t roundings = 1;
    if (direction == NPT_FORWARD &&
        (site == NPT_SITE_NORM_IN || site == NPT_SITE_NORM_POST || site == NPT_SITE_Q_NORM ||
         site == NPT_SITE_K_NORM || site == NPT_SITE_NORM_FINAL))
        roundings = 2; /* scaled, then × weight */
    npt_dtype to = npt_site(env->sites, site, layer, direction, from, roundings * rows * cols);
    if (env->strict) NPT_TRY(npt_sites_check(env->sites));
    return npt_mat_allocate(env, to, rows, cols, mat);
}

npt_status npt_mat_announce(const npt_env *env, npt_site_id site, int layer,
                            npt_direction direction, npt_mat mat)
{
    npt_dtype to = npt_site(env->sites, site, layer, direction, NPT_F32, mat.rows * mat.cols);
    NPT_ASSERT(to == mat.dtype);
    return env->strict ? npt_sites_check(env->sites) : NPT_OK;
}

/* ---- Finished results ---- */

static int exponent_of(float magnitude)
{
    int exponent;
    frexpf(magnitude, &exponent);
    return exponent;
}

/* Every value × 2^shift, rounded to the dtype again. */
static void scale_result(npt_mat mat, int shift)
{
    for (int64_t i = 0; i < mat.rows * mat.cols; i++)
        npt_store(mat.data, mat.dtype, (size_t)i,
                  ldexpf(npt_load(mat.data, mat.dtype, (size_t)i), shift));
}

static void damage(const npt_env *env, npt_fault_kind kind, npt_mat mat)
{
    npt_survey survey;
    const int past_largest = mat.dtype == NPT_F16 ? 18 : 130, below_smallest = 300;
    npt_exec_kernels(env->exec)->survey(npt_exec_run(env->exec), mat.rows * mat.cols,
                                        npt_mat_in(mat), 0, &survey);
    float top = survey.max > -survey.min ? survey.max : -survey.min;
    const size_t middle = (size_t)(mat.rows * mat.cols / 2);
    if (kind == NPT_FAULT_OVERFLOW) scale_result(mat, past_largest - exponent_of(top));
    if (kind == NPT_FAULT_OVERFLOW && top == 0) npt_store(mat.data, mat.dtype, middle, INFINITY);
    if (kind == NPT_FAULT_UNDERFLOW) scale_result(mat, -below_smallest);
    if (kind == NPT_FAULT_NAN) npt_store(mat.data, mat.dtype, middle, NAN);
}

static bool is_hit(const npt_env *env, const npt_observation *o)
{
    const npt_fault *f = env->fault;
    return f != NULL && f->site == o->site && f->layer == o->layer &&
           f->direction == o->direction && (!f->teacher || !o->student);
}

static npt_status finish(const npt_env *env, const npt_observation *o)
{
    if (is_hit(env, o)) damage(env, env->fault->kind, o->result);
    return env->observer != NULL ? env->observer->see(env->observer, env, o) : NPT_OK;
}

npt_status npt_mat_finish(const npt_env *env, npt_site_id site, int layer, npt_direction direction,
                          npt_mat mat)
{
    const npt_observation seen = {site, layer, direction, env->student, mat, {0}};
    return finish(env, &seen);
}

npt_status npt_mat_finish_cast(const npt_env *env, npt_site_id site, int layer,
                               npt_direction direction, npt_mat source, npt_mat mat)
{
    const npt_observation seen = {site, layer, direction, env->student, mat, source};
    return finish(env, &seen);
}

/* ---- Operands ---- */

npt_status npt_mat_operand(const npt_env *env, npt_site_id site, int layer, npt_direction direction,
                           npt_mat mat, npt_mat *operand)
{
    const npt_dtype *dtype = env->policy->dtype;
    *operand = mat;
    if (dtype[NPT_ROLE_COMPUTE] == dtype[NPT_ROLE_ACT]) return NPT_OK;
    NPT_TRY(npt_mat_produce(env, site, layer, direction, mat.dtype, mat.rows, mat.cols, operand));
    npt_exec_kernels(env->exec)->cast(npt_exec_run(env->exec), mat.rows * mat.cols, npt_mat_in(mat),
                                      npt_mat_out(*operand), NULL);
    return npt_mat_finish_cast(env, site, layer, direction, mat, *operand);
}
