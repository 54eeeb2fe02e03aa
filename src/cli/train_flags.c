/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cli/train_flags.h"

#include <math.h>
#include <string.h>

#include "cli/cli.h"

/* The flags of both recipes; they differ in defaults only, which the library sets. Columns of a
 * row: name, kind, target, lowest, highest, choices, name of the value, default in words, help. */

static const npt_flag_choice distill_choices[] = {{"end-to-end", NPT_DISTILL_END_TO_END},
                                                  {"layerwise", NPT_DISTILL_LAYERWISE},
                                                  {"mixed", NPT_DISTILL_MIXED},
                                                  {NULL, 0}};
static const npt_flag_choice optimizer_choices[] = {
    {"adamw", NPT_OPTIMIZER_ADAMW}, {"adam", NPT_OPTIMIZER_ADAM}, {NULL, 0}};
static const npt_flag_choice scheduler_choices[] = {
    {"linear", NPT_SCHEDULER_LINEAR},
    {"cosine", NPT_SCHEDULER_COSINE},
    {"constant", NPT_SCHEDULER_CONSTANT},
    {"constant_with_warmup", NPT_SCHEDULER_CONSTANT_WITH_WARMUP},
    {NULL, 0}};

#define AT(field) offsetof(npt_train_request, field)
#define END_OF_ROWS                                                                                \
    {                                                                                              \
        NULL, NPT_FLAG_BOOL, 0, 0, 0, NULL, NULL, NULL, NULL                                       \
    }

static const npt_flag output_flags[] = {
    {"output_dir", NPT_FLAG_TEXT, AT(options.output_dir), 0, 0, NULL, "DIR", "",
     "where checkpoints and metrics.jsonl go; required, but for --dry_run"},
    {"resume", NPT_FLAG_AUTO_TEXT, AT(options.resume), 0, 0, NULL, "[auto|PATH]", "a new run",
     "go on from the last checkpoint in --output_dir, or from this one"},
    {"log_steps", NPT_FLAG_INT64, AT(options.log_steps), 1, INFINITY, NULL, NULL, NULL,
     "steps between two lines of metrics"},
    {"save_steps", NPT_FLAG_INT64, AT(options.save_steps), 1, INFINITY, NULL, NULL, NULL,
     "steps between two checkpoints"},
    {"save_total_limit", NPT_FLAG_INT64, AT(options.save_total_limit), 0, INFINITY, NULL, NULL,
     NULL, "checkpoints that are kept, the oldest go first; 0: all"},
    {"eval_dataset", NPT_FLAG_TEXT, AT(options.eval_dataset), 0, 0, NULL, "PATH", "none",
     "rows to evaluate on while training; the best checkpoint is kept as checkpoint-best"},
    {"eval_steps", NPT_FLAG_INT64, AT(options.eval_steps), 0, INFINITY, NULL, NULL, NULL,
     "steps between two evaluations; 0: as --save_steps"},
    {"run_name", NPT_FLAG_TEXT, AT(options.run_name), 0, 0, NULL, "NAME", "none",
     "a name recorded with the metrics"},
    {"log_file", NPT_FLAG_TEXT, AT(options.log_file), 0, 0, NULL, "PATH", "none",
     "every line of the log is appended to this file"},
    {"use_tensorboard", NPT_FLAG_LATER_BOOL, 0, 0, 0, NULL, NULL, NULL,
     "TensorBoard event files are not written by this version; metrics.jsonl has every value"},
    {"probe_every", NPT_FLAG_INT64, AT(options.probe_every), 0, INFINITY, NULL, NULL, NULL,
     "steps between two rows of metrics that say how near sites are to the ends of their dtype; 0: "
     "none"},
    {"dry_run", NPT_FLAG_BOOL, AT(options.dry_run), 0, 0, NULL, NULL, NULL,
     "say what would be done; read no weight, write nothing"},
    END_OF_ROWS};

static const npt_flag adapter_flags[] = {
    {"model_name", NPT_FLAG_TEXT, AT(options.model_name), 0, 0, NULL, "DIR|NAME",
     "the bundled model", "model directory, or a Hub name that is in the local cache"},
    {"adapter_rank", NPT_FLAG_INT, AT(options.adapter_rank), 1, 65536, NULL, NULL, NULL,
     "rank of the adapters"},
    {"layers", NPT_FLAG_TEXT, AT(options.layers), 0, 0, NULL, "LIST", "all",
     "blocks that get an adapter: 16-31, 0,2,5-7, upper_half or all"},
    {"modulation", NPT_FLAG_CHOICE, AT(options.modulation), 0, 0, npt_modulation_choices, NULL,
     NULL, "how the attention output modulates the gate"},
    {"safe_mode", NPT_FLAG_BOOL, AT(safe_mode), 0, 0, NULL, NULL, NULL,
     "the same as --modulation additive"},
    {"modulation_scale", NPT_FLAG_REAL, AT(options.modulation_scale), 0, INFINITY, NULL, NULL, NULL,
     "factor of the additive term"},
    {"init_adapter", NPT_FLAG_TEXT, AT(options.init_adapter), 0, 0, NULL, "PATH", "random",
     "start from this adapter: a checkpoint directory or a .safetensors file"},
    {"share_embeddings", NPT_FLAG_BOOL, AT(share_embeddings), 0, 0, NULL, NULL, NULL,
     "teacher and student share every frozen weight; always so, the flag is accepted"},
    {"seed", NPT_FLAG_UINT64, AT(options.seed), 0, INFINITY, NULL, NULL, NULL,
     "of the initial adapters and of every draw"},
    END_OF_ROWS};

static const npt_flag data_flags[] = {
    {"streaming", NPT_FLAG_BOOL, AT(options.streaming), 0, 0, NULL, NULL, NULL,
     "do not count the rows first; without --max_steps the run has 10000 steps then"},
    {"shuffle", NPT_FLAG_LATER_BOOL, 0, 0, 0, NULL, NULL, NULL,
     "rows are read in file order by this version; shuffle the file"},
    {"pack", NPT_FLAG_LATER_BOOL, 0, 0, 0, NULL, NULL, NULL,
     "a row is a sequence in this version; join short rows in the file"},
    END_OF_ROWS};

static const npt_flag objective_flags[] = {
    {"distill", NPT_FLAG_CHOICE, AT(options.distill), 0, 0, distill_choices, NULL, NULL,
     "what a block of the student reads: the student's own states, the teacher's, or either by a "
     "draw"},
    {"teacher_forcing", NPT_FLAG_REAL, AT(options.teacher_forcing), 0, 1, NULL, NULL, NULL,
     "with --distill mixed: probability that a block reads the teacher's states"},
    {"loss", NPT_FLAG_CHOICE, AT(options.loss), 0, 0, npt_loss_choices, NULL, NULL,
     "distance between the states of teacher and student: of unit vectors, or as they are"},
    {"regularization_lambda", NPT_FLAG_REAL, AT(options.regularization_lambda), 0, INFINITY, NULL,
     NULL, NULL, "weight of the regularizer; 0.01 outweighs a normalized loss, 0 learns best"},
    END_OF_ROWS};

static const npt_flag optimizer_flags[] = {
    {"batch_size", NPT_FLAG_INT64, AT(options.batch_size), 1, 1048576, NULL, NULL, NULL,
     "rows a micro-batch"},
    {"gradient_accumulation_steps", NPT_FLAG_INT64, AT(options.gradient_accumulation_steps), 1,
     1048576, NULL, NULL, NULL, "micro-batches an optimizer step"},
    {"num_epochs", NPT_FLAG_INT64, AT(options.num_epochs), 1, 1000000, NULL, NULL, NULL,
     "times the data are read"},
    {"max_steps", NPT_FLAG_INT64, AT(options.max_steps), -1, INFINITY, NULL, NULL, NULL,
     "optimizer steps of the run; -1: as --num_epochs says"},
    {"learning_rate", NPT_FLAG_REAL, AT(options.learning_rate), 0, 10, NULL, NULL, NULL,
     "the highest rate of the schedule"},
    {"weight_decay", NPT_FLAG_REAL, AT(options.weight_decay), 0, 10, NULL, NULL, NULL,
     "decay of the adapter weights"},
    {"max_grad_norm", NPT_FLAG_REAL, AT(options.max_grad_norm), 0, INFINITY, NULL, NULL, NULL,
     "gradients are clipped to this norm; 0: not clipped"},
    {"optimizer_type", NPT_FLAG_CHOICE, AT(options.optimizer), 0, 0, optimizer_choices, NULL, NULL,
     "optimizer"},
    {"scheduler_type", NPT_FLAG_CHOICE, AT(options.scheduler), 0, 0, scheduler_choices, NULL, NULL,
     "course of the learning rate"},
    {"warmup_steps", NPT_FLAG_INT64, AT(options.warmup_steps), 0, INFINITY, NULL, NULL, NULL,
     "first steps, in which the rate rises from 0"},
    {"initial_loss_scale", NPT_FLAG_REAL, AT(options.initial_loss_scale), 1, 4294967296.0, NULL,
     NULL, NULL, "where the dynamic loss scale of fp16 starts"},
    END_OF_ROWS};

static const npt_flag compute_flags[] = {
    {"memory_limit", NPT_FLAG_BYTES, AT(options.memory_limit), 0, 0, NULL, "SIZE", "none",
     "resident memory to stay below (1.2GB, 900MiB): with --distill layerwise the weights are then "
     "read from the disk block by block; --dry_run prints what a run needs"},
    END_OF_ROWS};

static const char purpose[] =
    "Trains NPT adapters on a frozen Llama-family model so that the model without its attention "
    "residuals does what the model with them does (phase 1, equivalence pre-training). \"Step\" "
    "means optimizer step everywhere.";
static const char purpose_safe[] =
    "npt pretrain with cautious defaults: normalized loss, stronger clipping, a learning rate "
    "capped at 5e-5; a non-finite batch is skipped, named and counted, and ten in a row end the "
    "run with a saved checkpoint. \"Step\" means optimizer step everywhere.";

static const char closing[] =
    "Ctrl-C or SIGTERM saves a checkpoint and stops (exit 130 or 143); a second one leaves at once."
    "\nA run that learns, on the bundled model:\n"
    "  npt pretrain --loss normalized --regularization_lambda 0 --learning_rate 1e-2 \\\n"
    "    --max_steps 300 --warmup_steps 10 --output_dir outputs/first";

void npt_train_request_init(npt_train_request *request, npt_recipe recipe, npt_flag_set *set)
{
    npt_train_options *options = &request->options;
    const bool safe = recipe == NPT_RECIPE_PRETRAIN_SAFE;
    memset(request, 0, sizeof(*request));
    npt_train_options_init(options, recipe);
    request->share_embeddings = true;
    *set = (npt_flag_set){
        .command = safe ? "pretrain-safe" : "pretrain",
        .synopsis = "--output_dir DIR [FLAG...]",
        .purpose = safe ? purpose_safe : purpose,
        .closing = closing,
        .groups = {{"Model and adapter", adapter_flags, request},
                   {"Output", output_flags, request},
                   {"Data", npt_data_flags, &options->data},
                   {"Data", data_flags, request},
                   {"Precision", npt_precision_flags, &options->precision},
                   {"Objective", objective_flags, request},
                   {"Optimization", optimizer_flags, request},
                   {"Computation", npt_compute_flags, &options->compute},
                   {"Computation", compute_flags, request}},
    };
}

int npt_train_request_parse(npt_train_request *request, npt_flag_set *set, int argc, char **argv)
{
    const int code = npt_flags_parse(set, argc, argv);
    if (code >= 0) return code;
    if (!request->share_embeddings)
        return npt_cli_refuse(set->command, "--share_embeddings cannot be off: teacher and "
                                            "student always share every frozen weight");
    if (!request->safe_mode) return code;
    const char *modulation = npt_flags_given(set, "modulation");
    if (modulation != NULL && request->options.modulation != NPT_MODULATION_ADDITIVE)
        return npt_cli_refuse(set->command,
                              "--safe_mode means --modulation additive and does not "
                              "go with --modulation %s; drop one of them",
                              modulation);
    request->options.modulation = NPT_MODULATION_ADDITIVE;
    return code;
}
