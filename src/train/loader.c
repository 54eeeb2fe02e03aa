/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/loader.h"

#include <string.h>

#include "base/memory.h"

/* A step never crosses an epoch: the last, shorter accumulated batch of an epoch is a step. All
 * rows of a step are held at once, because the loss is divided by the tokens of the whole
 * accumulated batch. */

npt_status npt_loader_init(npt_loader *loader, npt_dataset *dataset, int64_t batch_size,
                           int64_t accumulate)
{
    *loader = (npt_loader){.dataset = dataset, .batch_size = batch_size, .accumulate = accumulate};
    loader->row = npt_alloc((size_t)(batch_size * accumulate), sizeof *loader->row);
    loader->offsets = npt_alloc((size_t)batch_size + 1, sizeof *loader->offsets);
    if (loader->row != NULL && loader->offsets != NULL) return NPT_OK;
    npt_loader_fini(loader);
    return NPT_E_NOMEM;
}

void npt_loader_fini(npt_loader *loader)
{
    for (int64_t i = 0; loader->row != NULL && i < loader->batch_size * loader->accumulate; i++)
        npt_ids_fini(&loader->row[i]);
    npt_free(loader->row);
    npt_free(loader->offsets);
    npt_free(loader->ids);
    npt_free(loader->positions);
    npt_dataset_close(loader->dataset);
    *loader = (npt_loader){0};
}

static npt_status read_rows(npt_loader *loader)
{
    bool end = false;
    loader->rows = loader->tokens = 0;
    loader->position = npt_dataset_tell(loader->dataset);
    while (loader->rows < loader->batch_size * loader->accumulate) {
        npt_ids *row = &loader->row[loader->rows];
        NPT_TRY(npt_dataset_next(loader->dataset, row, &end));
        if (end) break;
        loader->tokens += (int64_t)row->count;
        loader->rows++;
    }
    return NPT_OK;
}

static npt_status no_row(const npt_loader *loader)
{
    return npt_fail(NPT_E_DATA, "%s: the dataset has no usable row",
                    npt_dataset_path(loader->dataset));
}

npt_status npt_loader_fill(npt_loader *loader, bool repeat)
{
    NPT_TRY(read_rows(loader));
    if (loader->rows > 0) return NPT_OK;
    if (loader->position.row == 0) return no_row(loader);
    if (!repeat) return NPT_OK;
    loader->epoch++;
    NPT_TRY(npt_dataset_rewind(loader->dataset));
    NPT_TRY(read_rows(loader));
    return loader->rows > 0 ? NPT_OK : no_row(loader);
}

int64_t npt_loader_batches(const npt_loader *loader)
{
    return (loader->rows + loader->batch_size - 1) / loader->batch_size;
}

static npt_status reserve(npt_loader *loader, int64_t tokens)
{
    if (tokens <= loader->capacity) return NPT_OK;
    int32_t *ids = npt_realloc(loader->ids, (size_t)tokens, sizeof *ids);
    if (ids == NULL) return NPT_E_NOMEM;
    loader->ids = ids;
    int32_t *positions = npt_realloc(loader->positions, (size_t)tokens, sizeof *positions);
    if (positions == NULL) return NPT_E_NOMEM;
    loader->positions = positions;
    loader->capacity = tokens;
    return NPT_OK;
}

npt_status npt_loader_batch(npt_loader *loader, int64_t index, npt_batch *batch)
{
    int64_t first = index * loader->batch_size, last = first + loader->batch_size, tokens = 0;
    if (last > loader->rows) last = loader->rows;
    *batch = (npt_batch){.sequences = last - first};
    for (int64_t i = first; i < last; i++) tokens += (int64_t)loader->row[i].count;
    NPT_TRY(reserve(loader, tokens));
    for (int64_t i = first; i < last; i++) {
        const npt_ids *row = &loader->row[i];
        loader->offsets[i - first] = batch->tokens;
        memcpy(loader->ids + batch->tokens, row->data, row->count * sizeof *row->data);
        for (size_t t = 0; t < row->count; t++)
            loader->positions[batch->tokens + (int64_t)t] = (int32_t)t;
        batch->tokens += (int64_t)row->count;
        if ((int64_t)row->count > batch->longest) batch->longest = (int64_t)row->count;
    }
    loader->offsets[last - first] = batch->tokens;
    batch->offsets = loader->offsets;
    batch->ids = loader->ids;
    batch->positions = loader->positions;
    return NPT_OK;
}

npt_status npt_loader_seek(npt_loader *loader, int64_t epoch, npt_dataset_position position)
{
    loader->epoch = epoch;
    return npt_dataset_seek(loader->dataset, position);
}
