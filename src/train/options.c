/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "train/options.h"

/* Defaults are the reference's (method.md §2, §6); the two recipes are one implementation with two
 * sets. */

static const double safe_rate_cap = 5e-5;

void npt_train_options_init(npt_train_options *options, npt_recipe recipe)
{
    bool safe = recipe == NPT_RECIPE_PRETRAIN_SAFE;
    *options = (npt_train_options){
        .recipe = recipe,
        .data = {.max_length = 2048},
        .adapter_rank = 16,
        .modulation_scale = 0.1,
        .teacher_forcing = 0.5,
        .loss = safe ? NPT_LOSS_NORMALIZED : NPT_LOSS_PLAIN,
        .regularization_lambda = 0.01,
        .batch_size = 1,
        .gradient_accumulation_steps = 8,
        .num_epochs = 1,
        .max_steps = -1,
        .learning_rate = safe ? safe_rate_cap : 1e-4,
        .weight_decay = 0.01,
        .max_grad_norm = safe ? 0.5 : 1.0,
        .warmup_steps = 100,
        .initial_loss_scale = 65536,
        .log_steps = 10,
        .save_steps = 500,
    };
}

void npt_evaluate_options_init(npt_evaluate_options *options)
{
    *options = (npt_evaluate_options){
        .data = {.max_length = 2048}, .adapter_rank = 16, .modulation_scale = 0.1, .batch_size = 4};
}

typedef struct range {
    const char *flag;
    double value, low, high;
} range;

npt_status npt_train_options_check(npt_train_options *o)
{
    const range ranges[] = {
        {"adapter_rank", o->adapter_rank, 1, 65536},
        {"modulation_scale", o->modulation_scale, 0, 1e6},
        {"teacher_forcing", o->teacher_forcing, 0, 1},
        {"regularization_lambda", o->regularization_lambda, 0, 1e12},
        {"batch_size", (double)o->batch_size, 1, 1 << 20},
        {"gradient_accumulation_steps", (double)o->gradient_accumulation_steps, 1, 1 << 20},
        {"num_epochs", (double)o->num_epochs, 1, 1e9},
        {"max_steps", (double)o->max_steps, -1, 1e15},
        {"max_length", (double)o->data.max_length, 1, 1 << 30},
        {"num_samples", (double)o->data.num_samples, 0, 1e15},
        {"learning_rate", o->learning_rate, 0, 10},
        {"weight_decay", o->weight_decay, 0, 10},
        {"max_grad_norm", o->max_grad_norm, 0, 1e12},
        {"warmup_steps", (double)o->warmup_steps, 0, 1e15},
        {"initial_loss_scale", o->initial_loss_scale, 1, 0x1p100},
        {"log_steps", (double)o->log_steps, 1, 1e15},
        {"save_steps", (double)o->save_steps, 1, 1e15},
        {"save_total_limit", (double)o->save_total_limit, 0, 1e15},
        {"eval_steps", (double)o->eval_steps, 0, 1e15},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (!(ranges[i].value >= ranges[i].low && ranges[i].value <= ranges[i].high)) /* NaN, too */
            return npt_fail(NPT_E_USAGE, "--%s %g is out of range; it must be from %g to %g",
                            ranges[i].flag, ranges[i].value, ranges[i].low, ranges[i].high);
    if (o->output_dir == NULL && !o->dry_run)
        return npt_fail(NPT_E_USAGE,
                        "--output_dir is missing; say where checkpoints and metrics go");
    if (o->max_steps == 0)
        return npt_fail(NPT_E_USAGE, "--max_steps 0 trains nothing; use -1 to go by --num_epochs");
    if (o->resume != NULL && o->init_adapter != NULL)
        return npt_fail(NPT_E_USAGE, "--resume and --init_adapter exclude each other: a resumed "
                                     "run has its adapters already");
    if (o->recipe == NPT_RECIPE_PRETRAIN_SAFE && o->learning_rate > safe_rate_cap) {
        npt_log(
            NPT_LOG_WARNING,
            "--learning_rate %g is capped at %g by pretrain-safe; npt pretrain takes it as it is",
            o->learning_rate, safe_rate_cap);
        o->learning_rate = safe_rate_cap;
    }
    if (o->eval_steps == 0) o->eval_steps = o->save_steps;
    return NPT_OK;
}
