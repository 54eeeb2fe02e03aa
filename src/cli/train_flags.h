/* SPDX-License-Identifier: BSD-2-Clause */
/* What the flags of npt pretrain and npt pretrain-safe write into. */
#ifndef NPT_CLI_TRAIN_FLAGS_H
#define NPT_CLI_TRAIN_FLAGS_H

#include "cli/flags.h"

typedef struct npt_train_request {
    npt_train_options options;
    bool safe_mode;        /* another name for additive modulation */
    bool share_embeddings; /* always so */
} npt_train_request;

/* Sets what --help shows as defaults, and the groups that write into `request`. */
void npt_train_request_init(npt_train_request *request, npt_recipe recipe, npt_flag_set *set);
/* Reads argv and settles the flags that are names for others. -1: go on; else the exit code. */
int npt_train_request_parse(npt_train_request *request, npt_flag_set *set, int argc, char **argv);

#endif
