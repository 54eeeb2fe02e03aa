/* SPDX-License-Identifier: BSD-2-Clause */
/* From tensors in files to what a model computes with. Private to model/. */
#ifndef NPT_MODEL_LOAD_H
#define NPT_MODEL_LOAD_H

#include "model/model.h"
#include "model/tensors.h"

typedef struct npt_weight_loader {
    npt_model *model;
    npt_exec *exec;
    const npt_policy *policy;
    npt_sites *sites;
    npt_arena *arena; /* of copies */
    bool detached;    /* nothing stays where the file has it */
    bool own;         /* what the tensors point to is memory that may be written, no mapping */
    bool counted;     /* what conversions lose is known already */
} npt_weight_loader;

/* One that loads for good, into the model's arena. */
npt_weight_loader npt_weight_loader_for(npt_model *model, npt_exec *exec, const npt_policy *policy,
                                        npt_sites *sites);
/* A wanted tensor that is no linear. */
npt_status npt_load_plain(npt_weight_loader *loader, const npt_wanted *wanted, npt_in *in);
/* All of model->blocks[layer]. */
npt_status npt_load_block(npt_weight_loader *loader, int layer);
/* Room for the blocks, and the frequencies of RoPE: what every model has, loaded or streamed. */
npt_status npt_model_make_room(npt_model *model);
/* Stops reading; nothing where the model is not streamed. */
void npt_model_end_stream(npt_model *model);

#endif
