/* SPDX-License-Identifier: BSD-2-Clause */
/* Where a run's memory goes, decided before a weight is read; and whether --memory_limit is kept.
 */
#ifndef NPT_TRAIN_BUDGET_H
#define NPT_TRAIN_BUDGET_H

#include "model/adapter.h"

struct npt_trainer;

/* Bytes, at most: rows as long as --max_length allows. */
typedef struct npt_budget {
    uint64_t limit;  /* 0: none was given */
    bool streamed;   /* the blocks are read again in every pass, through a buffer */
    uint64_t buffer; /* of the blocks streamed; else 0 */
    uint64_t mapped; /* weights used where the file maps them; 0 where streamed */
    uint64_t copies; /* of weights that cannot be used as they are in the file */
    uint64_t adapters, masters, moments, gradients;
    uint64_t boundaries; /* the teacher's states between two blocks, of every micro-batch */
    uint64_t activations;
    uint64_t scratch; /* packed panels, rows of kernels */
    uint64_t program; /* what is resident when the budget is made: code, tokenizer, headers */
    uint64_t reserve; /* rows of the embedding, files being written, rounding */
    uint64_t total;
    uint64_t pass; /* bytes read in a pass over the blocks; 0 where not streamed */
    /* totals of the other ways, for the sentence that refuses */
    uint64_t whole;       /* everything loaded */
    uint64_t least, most; /* streamed, with the smallest buffer and the largest that is of use */
} npt_budget;

/* After npt_trainer_open(). Where a limit is given: streams if it must. NPT_E_USAGE where the limit
 * cannot be kept, with what the run needs; the budget is filled then, too. */
npt_status npt_budget_make(npt_budget *budget, struct npt_trainer *trainer);
/* One line of log a category (a dry run); and how a limit is kept. */
void npt_budget_log_table(const npt_budget *budget, const npt_train_options *options);
void npt_budget_log(const npt_budget *budget);

/* The block that a streamed pass comes back to; as of npt_stream_options. */
int npt_budget_back_to(const struct npt_trainer *trainer);
/* Bytes of the step arena that one block takes, for `tokens` tokens; `through`: gradients flow
 * through it, else it is a layerwise run's. */
uint64_t npt_budget_block(const npt_policy *policy, const npt_config *config,
                          const npt_adapters *adapters, int64_t tokens, bool through);
/* Of a micro-batch of a run that is not streamed; mixed: what a step without teacher forcing
 * takes. */
uint64_t npt_budget_activations(const npt_policy *policy, const npt_config *config,
                                const npt_adapters *adapters, npt_distill distill, int64_t tokens);

#endif
