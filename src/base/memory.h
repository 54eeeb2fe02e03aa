/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory: counted heap blocks, and arenas with tags.
 *
 * Everything large lives in one of three arenas (architecture.md): model, run, step. An arena
 * hands out 64-byte aligned blocks from chunks and frees them all at once; the bytes per tag are
 * what --dry_run prints. Small objects come from npt_alloc(). Every size is checked for overflow,
 * and tests can make the n-th request fail. Threads: an arena belongs to one thread at a time. */
#ifndef NPT_BASE_MEMORY_H
#define NPT_BASE_MEMORY_H

#include "base/status.h"

/* Heap: `count` elements of `size` bytes, zeroed. NULL (with the error recorded) when the product
 * overflows or memory is short. Freed with npt_free(). */
void *npt_alloc(size_t count, size_t size);
void *npt_realloc(void *block, size_t count, size_t size); /* new bytes are not zeroed */
char *npt_strdup(const char *text);
char *npt_strndup(const char *text, size_t length);
/* printf into a new string; NULL on failure. */
char *npt_format(const char *format, ...) NPT_PRINTF(1, 2);
void npt_free(void *block);

/* Asks for huge pages where there is room for one: walking a matrix down its columns touches a page
 * a row. Memory of any kind, mapped files too; a hint, which a system may ignore. */
void npt_memory_walk(const void *start, size_t bytes);
enum { NPT_HUGE_PAGE = 2 << 20 };

/* Bytes this process may still take: what the kernel calls available, or less where a control group
 * allows less. 0: not known. */
uint64_t npt_memory_available(void);

/* Tests: the n-th request from now (1 = the next one) fails, once; 0 switches this off. */
void npt_alloc_fail_at(long n);
/* Tests: requests made so far in this process. */
long npt_alloc_count(void);

typedef enum npt_memory_tag {
    NPT_MEM_WEIGHTS,     /* copies of frozen weights (converted or quantized on load) */
    NPT_MEM_ADAPTERS,    /* adapters as used */
    NPT_MEM_MASTERS,     /* F32 masters */
    NPT_MEM_MOMENTS,     /* optimizer moments */
    NPT_MEM_GRADIENTS,   /* F32 adapter gradients */
    NPT_MEM_ACTIVATIONS, /* saved for backward, and passing */
    NPT_MEM_SCRATCH,     /* panels, temporary rows */
    NPT_MEM_OTHER,
    NPT_MEM_TAG_COUNT
} npt_memory_tag;

const char *npt_memory_tag_name(npt_memory_tag tag);

typedef struct npt_arena npt_arena;

/* Creates an empty arena; `name` must outlive it. NULL on failure. */
npt_arena *npt_arena_create(const char *name);
/* 64-byte aligned, not zeroed; NULL (error recorded) on overflow or lack of memory. */
void *npt_arena_alloc(npt_arena *arena, npt_memory_tag tag, size_t count, size_t size);
void *npt_arena_zalloc(npt_arena *arena, npt_memory_tag tag, size_t count, size_t size);
/* The next chunk is at least this large: what is known to come finds its room in one piece. Nothing
 * is taken yet. */
void npt_arena_expect(npt_arena *arena, size_t bytes);
/* Forgets every block; keeps the chunks for reuse. */
void npt_arena_reset(npt_arena *arena);
/* A point to come back to: blocks handed out after `mark` are forgotten by npt_arena_rewind(). */
typedef struct npt_arena_mark { size_t chunk, used; } npt_arena_mark;
npt_arena_mark npt_arena_get_mark(const npt_arena *arena);
void npt_arena_rewind(npt_arena *arena, npt_arena_mark mark);
/* Largest number of bytes ever handed out at once, in all and per tag. */
size_t npt_arena_peak_bytes(const npt_arena *arena);
size_t npt_arena_tag_bytes(const npt_arena *arena, npt_memory_tag tag);
void npt_arena_destroy(npt_arena *arena);

#endif
