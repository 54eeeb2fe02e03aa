/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/forecast.h"

#include "base/log.h"
#include "train/calibration.h"
#include "train/rates.h"
#include "train/trainer.h"

#include <inttypes.h>

void npt_forecast_make(npt_forecast *f, const npt_trainer *t)
{
    const npt_train_options *o = &t->options;
    const npt_products_run run = {.tokens = o->batch_size * o->data.max_length,
                                  .rank = t->adapters.rank,
                                  .active = t->adapters.active,
                                  .modulation = t->adapters.modulation,
                                  .distill = o->distill,
                                  .again = t->budget.streamed};
    const npt_beside beside = npt_beside_products(t->setup.model, &run, o->batch_size);
    const npt_routes *routes = npt_exec_routes(t->setup.exec);
    const double times = (double)o->gradient_accumulation_steps;
    *f = (npt_forecast){.micro_batches = o->gradient_accumulation_steps};
    npt_products_list(t->setup.model, &t->setup.policy, &run, &f->products);
    for (size_t i = 0; i < f->products.count; i++) {
        const npt_product *p = &f->products.list[i];
        f->products_flops += times * (double)p->per_step * npt_matmul_flops(&p->desc);
        f->operand_bytes += times * (double)p->per_step * npt_matmul_bytes(&p->desc);
    }
    f->attention_flops = times * npt_beside_attention_flops(&beside);
    const double products = npt_calibration_predict(t->setup.exec, &f->products);
    double attention, rest;
    if (!(products > 0) ||
        !npt_rates_predict(routes, t->setup.policy.dtype[NPT_ROLE_ACT], &beside, &attention, &rest))
        return;
    f->products_seconds = times * products;
    f->attention_seconds = times * attention;
    f->rest_seconds = times * rest;
}

static void log_time(const npt_forecast *f, const npt_trainer *t)
{
    if (f->products_seconds > 0)
        npt_log(
            NPT_LOG_NOTE,
            "time: about %.3g s a step by the calibration: products %.3g s, attention %.3g s, the "
            "gated units, norms and sums %.3g s",
            f->products_seconds + f->attention_seconds + f->rest_seconds, f->products_seconds,
            f->attention_seconds, f->rest_seconds);
    else if (npt_exec_backend_count(t->setup.exec) == 1)
        npt_log(NPT_LOG_NOTE, "time: not known: only the reference backend is in use, which is not "
                              "calibrated");
    else
        npt_log(NPT_LOG_NOTE,
                "time: not known, since no calibration with these products is in use; npt backends "
                "--calibrate --model_name %s --tokens %" PRId64 " --adapter_rank %d makes one "
                "(with the precision flags and --threads of this run)",
                t->options.model_name, t->options.batch_size * t->options.data.max_length,
                t->adapters.rank);
}

void npt_forecast_log(const npt_forecast *f, const npt_trainer *t)
{
    npt_log(NPT_LOG_NOTE,
            "work: %s%.4g GFLOP a step in products, %.4g in attention; the products read and write "
            "%.4g GB",
            t->options.distill == NPT_DISTILL_MIXED ? "at most " : "", f->products_flops * 1e-9,
            f->attention_flops * 1e-9, f->operand_bytes * 1e-9);
    log_time(f, t);
    for (size_t i = 0; i < f->products.count; i++) {
        const npt_product *p = &f->products.list[i];
        const npt_matmul_desc *d = &p->desc;
        char text[128];
        const npt_matmul_backend *backend = npt_exec_choose(t->setup.exec, d);
        const char *route = npt_exec_route(t->setup.exec, d, text);
        npt_log(NPT_LOG_NOTE,
                "product: %s, %s: %" PRId64 " x [%" PRId64 " x %" PRId64 " x %" PRId64
                "] %s x %s to %s by %s%s%s",
                p->name, p->pass, p->per_step * f->micro_batches, d->m, d->n, d->k,
                npt_dtype_name(d->a), npt_dtype_name(d->w), npt_dtype_name(d->c), backend->name,
                route[0] != '\0' ? ": " : "", route);
    }
}
