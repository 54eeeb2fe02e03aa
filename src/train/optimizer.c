/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/optimizer.h"

#include <math.h>
#include <string.h>

/* PyTorch's clip_grad_norm_ divides by norm + 1e-6; so do we, so that clipped runs compare. */
static const double clip_epsilon = 1e-6;

typedef struct norm_context {
    npt_exec *exec;
    double sum;
    npt_gradient_fault *fault;
} norm_context;

static npt_status add_norm(void *context, int layer, npt_parameter *p)
{
    norm_context *norm = context;
    npt_in grad = {p->grad, NPT_F32};
    double sum = npt_exec_kernels(norm->exec)
                     ->sum_squares(npt_exec_run(norm->exec), p->rows * p->cols, grad);
    if (!isfinite(sum) && !norm->fault->found)
        *norm->fault = (npt_gradient_fault){true, layer, p->name};
    norm->sum += sum;
    return NPT_OK;
}

double npt_gradients_norm(npt_adapters *adapters, npt_exec *exec, double loss_scale,
                          npt_gradient_fault *fault)
{
    norm_context norm = {exec, 0, fault};
    *fault = (npt_gradient_fault){0};
    (void)npt_adapters_visit(adapters, add_norm, &norm);
    return fault->found ? (double)NAN : sqrt(norm.sum) * (1 / loss_scale);
}

static npt_status clear(void *context, int layer, npt_parameter *p)
{
    (void)context;
    (void)layer;
    memset(p->grad, 0, (size_t)(p->rows * p->cols) * sizeof *p->grad);
    return NPT_OK;
}

void npt_gradients_clear(npt_adapters *adapters)
{
    (void)npt_adapters_visit(adapters, clear, NULL);
}

typedef struct step_context {
    npt_adapters *adapters;
    npt_exec *exec;
    npt_sites *sites;
    npt_adam_args adam;
    bool no_master;
} step_context;

static npt_status step_parameter(void *context, int layer, npt_parameter *p)
{
    step_context *step = context;
    const int64_t n = p->rows * p->cols;
    npt_adam_args args = step->adam;
    args.n = n;
    args.weight = p->master;
    args.moment1 = p->moment1;
    args.moment2 = p->moment2;
    args.grad = p->grad;
    if (step->no_master)
        npt_exec_kernels(step->exec)
            ->cast(npt_exec_run(step->exec), n, (npt_in){p->value, step->adapters->dtype},
                   (npt_out){p->master, NPT_F32}, NULL);
    npt_exec_kernels(step->exec)->adam(npt_exec_run(step->exec), &args);
    npt_dtype to = npt_site(step->sites, NPT_SITE_UPDATE, layer, NPT_FORWARD, NPT_F32, n);
    NPT_ASSERT(to == step->adapters->dtype);
    if (to != NPT_F32)
        npt_exec_kernels(step->exec)
            ->cast(npt_exec_run(step->exec), n, (npt_in){p->master, NPT_F32},
                   (npt_out){p->value, to}, NULL);
    return NPT_OK;
}

void npt_optimizer_step(npt_adapters *adapters, npt_exec *exec, npt_sites *sites,
                        const npt_optimizer_settings *settings, int64_t step, double learning_rate,
                        double loss_scale, double norm)
{
    double clip = settings->max_grad_norm > 0 ? settings->max_grad_norm / (norm + clip_epsilon) : 1;
    step_context context = {adapters,
                            exec,
                            sites,
                            {.step = step,
                             .decoupled = settings->kind == NPT_OPTIMIZER_ADAMW,
                             .learning_rate = learning_rate,
                             .beta1 = 0.9,
                             .beta2 = 0.999,
                             .epsilon = 1e-8,
                             .weight_decay = settings->weight_decay,
                             .grad_factor = (1 / loss_scale) * (clip < 1 ? clip : 1)},
                            settings->no_master};
    (void)npt_adapters_visit(adapters, step_parameter, &context);
}
