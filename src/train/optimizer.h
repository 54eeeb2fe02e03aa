/* SPDX-License-Identifier: BSD-2-Clause */
/* AdamW and Adam over all adapters: F32 on the masters, then one rounding to the adapter dtype. */
#ifndef NPT_TRAIN_OPTIMIZER_H
#define NPT_TRAIN_OPTIMIZER_H

#include "model/adapter.h"
#include "tensor/exec.h"

typedef struct npt_optimizer_settings {
    npt_optimizer kind;
    double weight_decay;
    double max_grad_norm; /* 0: no clipping */
    bool no_master;       /* on purpose (npt_fault): updates are made on the rounded adapter */
} npt_optimizer_settings;

/* Where a gradient was not finite. */
typedef struct npt_gradient_fault {
    bool found;
    int layer;
    const char *parameter;
} npt_gradient_fault;

/* Norm of the unscaled gradient (× 1/loss_scale, taken in F64), over all adapters; with a finite
 * check per tensor: the first that is not finite is named in `fault` and the norm is NaN. */
double npt_gradients_norm(npt_adapters *adapters, npt_exec *exec, double loss_scale,
                          npt_gradient_fault *fault);
void npt_gradients_clear(npt_adapters *adapters);
/* Step number `step` (1 is the first): unscale, clip by `norm`, update masters, round to the
 * adapters. */
void npt_optimizer_step(npt_adapters *adapters, npt_exec *exec, npt_sites *sites,
                        const npt_optimizer_settings *settings, int64_t step, double learning_rate,
                        double loss_scale, double norm);

#endif
