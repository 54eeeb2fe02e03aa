/* SPDX-License-Identifier: BSD-2-Clause */
/* A feed: groups of tensors (a model's blocks) that are read from their files ahead of their use,
 * by a thread of its own, into a buffer that is smaller than the model.
 *
 * Reads go around the page cache (O_DIRECT; where a file system has none, what was read is dropped
 * from the cache behind the reader), so that memory is the buffer's size and no more. Groups come
 * in a fixed order, over and over; one is in use at a time and the next is read meanwhile, as far
 * as the buffer has room: it may hold anything from one group to two. Threads: the functions below
 * belong to one thread. */
#ifndef NPT_FILES_FEED_H
#define NPT_FILES_FEED_H

#include "base/memory.h"
#include "files/safetensors.h"

typedef struct npt_feed npt_feed;

/* An empty feed over `st`, which outlives it. */
npt_status npt_feed_create(npt_feed **feed, npt_st *st, size_t groups);
/* Adds a tensor to a group, before npt_feed_start(). */
npt_status npt_feed_add(npt_feed *feed, size_t group, const npt_st_tensor *tensor);
/* The order of a pass; without it 0, 1, 2, … groups-1. */
npt_status npt_feed_set_order(npt_feed *feed, const size_t *order, size_t count);
/* Buffer of the largest group, and (what the buffer can use at most) of two of them. */
size_t npt_feed_least_bytes(const npt_feed *feed);
size_t npt_feed_most_bytes(const npt_feed *feed);
/* Of all groups; and read in a pass. */
uint64_t npt_feed_all_bytes(const npt_feed *feed);
uint64_t npt_feed_pass_bytes(const npt_feed *feed);
/* Opens the files, takes a buffer of `bytes` (least … most) from `arena`, and begins to read the
 * first. NPT_E_IO, NPT_E_NOMEM. */
npt_status npt_feed_start(npt_feed *feed, npt_arena *arena, size_t bytes);

/* Waits until the next group is there, which must be this one, and points its tensors to it.
 * NPT_E_IO where it could not be read, with the file and the reason. */
npt_status npt_feed_take(npt_feed *feed, size_t group);
/* Ends the use of the group taken. */
void npt_feed_release(npt_feed *feed);
/* Where a pass was left in the middle: the next group is its first again. */
void npt_feed_rewind(npt_feed *feed);

typedef struct npt_feed_figures {
    uint64_t bytes;         /* read */
    double reading, waited; /* seconds the reader read, and that npt_feed_take() waited */
    bool direct;            /* around the page cache */
} npt_feed_figures;
npt_feed_figures npt_feed_told(npt_feed *feed);

void npt_feed_destroy(npt_feed *feed); /* the tensors are in the mapping again */

#endif
