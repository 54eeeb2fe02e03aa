/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "base/asan.h"
#include "base/memory.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* Every request of the library, heap or arena, passes request(), which lets a test fail any one of
 * them and refuses sizes that overflow.
 *
 * An arena is a list of chunks that never move. Blocks are cut from the current chunk; a block
 * that does not fit goes to the next chunk that can hold it. What an arena handed out is listed
 * beside it, one entry a block, so that a rewind can take the bytes back tag by tag. A reset of an
 * arena that needed several chunks gives them back and remembers how much they held: the next
 * round then gets by with one chunk, and lengths that vary from step to step do not pile up.
 * Invariant: chunks behind the current one are empty. */

enum { ALIGNMENT = 64, PAGE = 4096 };
#define CHUNK_BYTES ((size_t)1 << 20)
#define HUGE_PAGE   ((size_t)NPT_HUGE_PAGE)

/* Under AddressSanitizer whatever is not handed out is poisoned, with a gap after each block, so
 * that a write past a block is seen although the chunk goes on. */
#ifdef NPT_HAVE_ASAN
enum { GAP = ALIGNMENT };
#else
enum { GAP = 0 };
#endif

typedef struct npt_chunk {
    unsigned char *data;
    size_t size, used;
} npt_chunk;

typedef struct npt_block {
    size_t chunk, start, bytes;
    npt_memory_tag tag;
} npt_block;

struct npt_arena {
    const char *name;
    npt_chunk *chunks;
    size_t chunk_count, current;
    npt_block *blocks;
    size_t block_count, block_room;
    size_t wanted; /* size of the next chunk at least */
    size_t live, peak;
    size_t tag_live[NPT_MEM_TAG_COUNT], tag_peak[NPT_MEM_TAG_COUNT];
};

static const char *const tag_names[NPT_MEM_TAG_COUNT] = {
    [NPT_MEM_WEIGHTS] = "weights",     [NPT_MEM_ADAPTERS] = "adapters",
    [NPT_MEM_MASTERS] = "masters",     [NPT_MEM_MOMENTS] = "moments",
    [NPT_MEM_GRADIENTS] = "gradients", [NPT_MEM_ACTIVATIONS] = "activations",
    [NPT_MEM_SCRATCH] = "scratch",     [NPT_MEM_OTHER] = "other",
};

static atomic_long requests;   /* made so far */
static atomic_long fail_after; /* requests until the one that fails; 0 = none does */

static void out_of_memory(size_t bytes)
{
    npt_fail(NPT_E_NOMEM,
             "Out of memory: %zu bytes could not be had; free memory or make the job smaller",
             bytes);
}

/* Counts a request for `count` × `size` bytes (1 at least, since malloc(0) may say NULL). */
static bool request(size_t count, size_t size, size_t *bytes)
{
    size_t product;
    atomic_fetch_add_explicit(&requests, 1, memory_order_relaxed);
    if (__builtin_mul_overflow(count, size, &product) || product > PTRDIFF_MAX) {
        npt_fail(NPT_E_NOMEM, "A request for %zu × %zu bytes does not fit this machine", count,
                 size);
        return false;
    }
    if (atomic_load_explicit(&fail_after, memory_order_relaxed) > 0 &&
        atomic_fetch_sub(&fail_after, 1) == 1) {
        out_of_memory(product);
        return false;
    }
    *bytes = product > 0 ? product : 1;
    return true;
}

void *npt_alloc(size_t count, size_t size)
{
    size_t bytes;
    if (!request(count, size, &bytes)) return NULL;
    void *block = calloc(1, bytes);
    if (block == NULL) out_of_memory(bytes);
    return block;
}

void *npt_realloc(void *block, size_t count, size_t size)
{
    size_t bytes;
    if (!request(count, size, &bytes)) return NULL;
    void *moved = realloc(block, bytes);
    if (moved == NULL) out_of_memory(bytes);
    return moved;
}

char *npt_strdup(const char *text)
{
    return npt_strndup(text, strlen(text));
}

char *npt_strndup(const char *text, size_t length)
{
    length = strnlen(text, length);
    char *copy = npt_alloc(length + 1, 1);
    if (copy != NULL) memcpy(copy, text, length);
    return copy;
}

char *npt_format(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0) {
        npt_fail(NPT_E_INTERNAL, "A text could not be formatted with \"%s\"", format);
        return NULL;
    }
    char *text = npt_alloc((size_t)length + 1, 1);
    if (text == NULL) return NULL;
    va_start(args, format);
    vsnprintf(text, (size_t)length + 1, format, args);
    va_end(args);
    return text;
}

void npt_free(void *block)
{
    free(block);
}

void npt_alloc_fail_at(long n)
{
    atomic_store(&fail_after, n > 0 ? n : 0);
}

long npt_alloc_count(void)
{
    return atomic_load(&requests);
}

const char *npt_memory_tag_name(npt_memory_tag tag)
{
    return (unsigned)tag < NPT_MEM_TAG_COUNT ? tag_names[tag] : "unknown";
}

npt_arena *npt_arena_create(const char *name)
{
    npt_arena *arena = npt_alloc(1, sizeof(*arena));
    if (arena != NULL) arena->name = name;
    return arena;
}

void npt_memory_walk(const void *start, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    const uintptr_t first = ((uintptr_t)start + PAGE - 1) / PAGE * PAGE,
                    end = ((uintptr_t)start + bytes) / PAGE * PAGE;
    if (end > first && end - first >= HUGE_PAGE)
        (void)madvise((void *)first, end - first, MADV_HUGEPAGE);
#else
    (void)start, (void)bytes;
#endif
}

/* Large chunks are aligned to huge pages. */
static npt_status chunk_init(npt_chunk *chunk, size_t bytes)
{
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : ALIGNMENT;
    size_t size = (bytes + align - 1) / align * align;
    chunk->data = aligned_alloc(align, size);
    if (chunk->data == NULL) {
        out_of_memory(size);
        return NPT_E_NOMEM;
    }
    npt_memory_walk(chunk->data, size);
    chunk->size = size;
    chunk->used = 0;
    NPT_ASAN_HIDE(chunk->data, size);
    return NPT_OK;
}

static void chunks_free(npt_arena *arena)
{
    for (size_t i = 0; i < arena->chunk_count; i++) {
        NPT_ASAN_SHOW(arena->chunks[i].data, arena->chunks[i].size);
        free(arena->chunks[i].data);
    }
    arena->chunk_count = arena->current = 0;
}

/* Makes the current chunk one with `room` bytes left. */
static npt_status find_room(npt_arena *arena, size_t room)
{
    for (size_t i = arena->current; i < arena->chunk_count; i++)
        if (arena->chunks[i].size - arena->chunks[i].used >= room) {
            arena->current = i;
            return NPT_OK;
        }
    size_t bytes = room > CHUNK_BYTES ? room : CHUNK_BYTES;
    if (bytes < arena->wanted) bytes = arena->wanted;
    npt_chunk *chunks = realloc(arena->chunks, (arena->chunk_count + 1) * sizeof(*chunks));
    if (chunks == NULL) {
        out_of_memory(bytes);
        return NPT_E_NOMEM;
    }
    arena->chunks = chunks;
    NPT_TRY(chunk_init(&chunks[arena->chunk_count], bytes));
    arena->wanted = 0;
    arena->current = arena->chunk_count++;
    return NPT_OK;
}

static npt_status blocks_grow(npt_arena *arena)
{
    if (arena->block_count < arena->block_room) return NPT_OK;
    size_t room = arena->block_room > 0 ? 2 * arena->block_room : 64;
    npt_block *blocks = realloc(arena->blocks, room * sizeof(*blocks));
    if (blocks == NULL) {
        out_of_memory(room * sizeof(*blocks));
        return NPT_E_NOMEM;
    }
    arena->blocks = blocks;
    arena->block_room = room;
    return NPT_OK;
}

static void count_block(npt_arena *arena, npt_memory_tag tag, size_t bytes)
{
    arena->live += bytes;
    arena->tag_live[tag] += bytes;
    if (arena->live > arena->peak) arena->peak = arena->live;
    if (arena->tag_live[tag] > arena->tag_peak[tag]) arena->tag_peak[tag] = arena->tag_live[tag];
}

void *npt_arena_alloc(npt_arena *arena, npt_memory_tag tag, size_t count, size_t size)
{
    size_t bytes;
    NPT_ASSERT((unsigned)tag < NPT_MEM_TAG_COUNT);
    if (!request(count, size, &bytes)) return NULL;
    if (bytes > PTRDIFF_MAX - 2 * HUGE_PAGE) { /* rounding up must not overflow either */
        out_of_memory(bytes);
        return NULL;
    }
    size_t room = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + GAP;
    if (blocks_grow(arena) != NPT_OK || find_room(arena, room) != NPT_OK) {
        npt_fail_in(NPT_E_NOMEM, "%s memory", arena->name);
        return NULL;
    }
    npt_chunk *chunk = &arena->chunks[arena->current];
    arena->blocks[arena->block_count++] = (npt_block){arena->current, chunk->used, bytes, tag};
    unsigned char *data = chunk->data + chunk->used;
    chunk->used += room;
    count_block(arena, tag, bytes);
    NPT_ASAN_SHOW(data, bytes);
    return data;
}

void *npt_arena_zalloc(npt_arena *arena, npt_memory_tag tag, size_t count, size_t size)
{
    void *block = npt_arena_alloc(arena, tag, count, size);
    if (block != NULL) memset(block, 0, count * size);
    return block;
}

void npt_arena_expect(npt_arena *arena, size_t bytes)
{
    arena->wanted = bytes;
}

void npt_arena_reset(npt_arena *arena)
{
    size_t held = 0;
    npt_arena_rewind(arena, (npt_arena_mark){0, 0});
    for (size_t i = 0; i < arena->chunk_count; i++) held += arena->chunks[i].size;
    if (arena->chunk_count > 1) {
        chunks_free(arena);
        arena->wanted = held;
    }
}

npt_arena_mark npt_arena_get_mark(const npt_arena *arena)
{
    size_t used = arena->chunk_count > 0 ? arena->chunks[arena->current].used : 0;
    return (npt_arena_mark){arena->current, used};
}

void npt_arena_rewind(npt_arena *arena, npt_arena_mark mark)
{
    while (arena->block_count > 0) {
        const npt_block *last = &arena->blocks[arena->block_count - 1];
        if (last->chunk < mark.chunk || (last->chunk == mark.chunk && last->start < mark.used))
            break;
        npt_chunk *chunk = &arena->chunks[last->chunk];
        NPT_ASAN_HIDE(chunk->data + last->start, last->bytes);
        chunk->used = last->start;
        arena->live -= last->bytes;
        arena->tag_live[last->tag] -= last->bytes;
        arena->block_count--;
    }
    arena->current = mark.chunk;
}

size_t npt_arena_peak_bytes(const npt_arena *arena)
{
    return arena->peak;
}

size_t npt_arena_tag_bytes(const npt_arena *arena, npt_memory_tag tag)
{
    return (unsigned)tag < NPT_MEM_TAG_COUNT ? arena->tag_peak[tag] : 0;
}

void npt_arena_destroy(npt_arena *arena)
{
    if (arena == NULL) return;
    chunks_free(arena);
    free(arena->chunks);
    free(arena->blocks);
    free(arena);
}

/* ---- What there is ---- */

/* The first number after `key` in a file of the kernel; false where there is none. */
static bool read_number(const char *path, const char *key, uint64_t *number)
{
    char line[256];
    bool found = false;
    FILE *file = fopen(path, "re");
    if (file == NULL) return false;
    while (!found && fgets(line, sizeof line, file) != NULL) {
        const size_t length = strlen(key);
        char *end;
        if (strncmp(line, key, length) != 0) continue;
        *number = strtoull(line + length, &end, 10);
        found = end != line + length;
    }
    fclose(file);
    return found;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t npt_memory_available(void)
{
    static const char group[] = "/sys/fs/cgroup/memory.max",
                      used[] = "/sys/fs/cgroup/memory.current";
    uint64_t available = UINT64_MAX, number, taken;
    struct rlimit limit;
    if (read_number("/proc/meminfo", "MemAvailable:", &number)) available = number * 1024;
    if (read_number(group, "", &number) && read_number(used, "", &taken))
        available = smaller(available, number > taken ? number - taken : 1);
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        read_number("/proc/self/statm", "", &number)) {
        taken = number * (uint64_t)sysconf(_SC_PAGESIZE);
        available = smaller(available, limit.rlim_cur > taken ? limit.rlim_cur - taken : 1);
    }
    return available == UINT64_MAX ? 0 : available;
}
