/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/feed.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Turn n (0, 1, 2, …) brings the n-th group of a pass, modulo its length. Even turns lie at the low
 * end of the buffer, odd ones at its high end; where the buffer is smaller than two groups their
 * ends overlap in the middle:
 *
 *     [ even turn ............ ]
 *               [ ............ odd turn ]
 *
 * A turn is read from its own end towards the middle, and what overlaps only after the turn before
 * it was released. So every byte of the buffer is used, and none moves.
 *
 * A group is read as extents: runs of a file that begin and end at multiples of PAGE, so that they
 * can go around the page cache, and so that a tensor lies as it would in a mapping (same address
 * modulo PAGE). Invariant: released ≤ ready ≤ released + 2, and the reader touches only bytes of
 * turn `ready`. */

enum { PAGE = 4096 };
#define PIECE_BYTES ((uint64_t)8 << 20)  /* of one read; from 1 MiB up the rate is the same */
#define GAP_BYTES   ((uint64_t)64 << 10) /* two tensors that are nearer are one extent */

typedef struct source {
    const char *path; /* the tensors' own pointer */
    int fd;
    uint64_t bytes; /* of the file */
    bool direct;
} source;

/* One read. */
typedef struct piece {
    size_t source;
    uint64_t begin, bytes; /* in the file */
    uint64_t at;           /* in the group's room */
} piece;

typedef struct member {
    const npt_st_tensor *tensor;
    uint64_t at;
} member;

typedef struct group {
    member *members;
    size_t member_count;
    piece *pieces; /* by `at` */
    size_t piece_count;
    uint64_t bytes; /* of its room */
} group;

struct npt_feed {
    npt_st *st;
    group *groups;
    size_t group_count;
    size_t *order; /* of a pass */
    size_t length;
    source *sources;
    size_t source_count;
    unsigned char *buffer;
    uint64_t room;
    bool started, taken;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    /* under the mutex */
    bool quit;
    uint64_t rewinds;
    uint64_t ready, released; /* turns that are read, and that are given back */
    uint64_t next;            /* the turn that npt_feed_take() hands out */
    npt_status failure;
    char sentence[512];
    npt_feed_figures figures;
};

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static uint64_t page_down(uint64_t at)
{
    return at / PAGE * PAGE;
}

static uint64_t page_up(uint64_t at)
{
    return page_down(at + PAGE - 1);
}

/* ---- The layout of a group ---- */

npt_status npt_feed_create(npt_feed **result, npt_st *st, size_t groups)
{
    npt_feed *feed = npt_alloc(1, sizeof *feed);
    if (feed == NULL) return NPT_E_NOMEM;
    pthread_mutex_init(&feed->mutex, NULL);
    pthread_cond_init(&feed->changed, NULL);
    feed->st = st;
    feed->group_count = groups;
    feed->groups = npt_alloc(groups, sizeof *feed->groups);
    feed->order = npt_alloc(groups, sizeof *feed->order);
    if (feed->groups == NULL || feed->order == NULL) {
        npt_feed_destroy(feed);
        return NPT_E_NOMEM;
    }
    for (feed->length = 0; feed->length < groups; feed->length++)
        feed->order[feed->length] = feed->length;
    *result = feed;
    return NPT_OK;
}

npt_status npt_feed_set_order(npt_feed *feed, const size_t *order, size_t count)
{
    NPT_ASSERT(!feed->started && count > 0);
    size_t *own = npt_realloc(feed->order, count, sizeof *own);
    if (own == NULL) return NPT_E_NOMEM;
    memcpy(own, order, count * sizeof *own);
    feed->order = own;
    feed->length = count;
    return NPT_OK;
}

static int by_place(const void *a, const void *b)
{
    const npt_st_tensor *x = ((const member *)a)->tensor, *y = ((const member *)b)->tensor;
    const int file = strcmp(x->file, y->file);
    if (file != 0) return file;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

static npt_status find_source(npt_feed *feed, const char *path, size_t *index)
{
    for (*index = 0; *index < feed->source_count; ++*index)
        if (feed->sources[*index].path == path) return NPT_OK;
    source *sources = npt_realloc(feed->sources, feed->source_count + 1, sizeof *sources);
    if (sources == NULL) return NPT_E_NOMEM;
    feed->sources = sources;
    feed->sources[feed->source_count++] = (source){.path = path, .fd = -1};
    return NPT_OK;
}

/* Cuts an extent into reads. */
static npt_status add_extent(group *g, size_t from, uint64_t begin, uint64_t end, uint64_t at)
{
    const size_t count = (size_t)((end - begin + PIECE_BYTES - 1) / PIECE_BYTES);
    piece *pieces = npt_realloc(g->pieces, g->piece_count + count + 1, sizeof *pieces);
    if (pieces == NULL) return NPT_E_NOMEM;
    g->pieces = pieces;
    for (; begin < end; begin += PIECE_BYTES, at += PIECE_BYTES) {
        const uint64_t bytes = end - begin < PIECE_BYTES ? end - begin : PIECE_BYTES;
        g->pieces[g->piece_count++] = (piece){from, begin, bytes, at};
    }
    return NPT_OK;
}

/* Extents and the members' places from the list of members. */
static npt_status lay_out(npt_feed *feed, group *g)
{
    qsort(g->members, g->member_count, sizeof *g->members, by_place);
    g->bytes = 0;
    g->piece_count = 0;
    for (size_t i = 0, last; i < g->member_count; i = last) {
        const npt_st_tensor *first = g->members[i].tensor;
        const uint64_t begin = page_down(first->begin);
        uint64_t end = begin;
        size_t from;
        for (last = i; last < g->member_count; last++) {
            const npt_st_tensor *t = g->members[last].tensor;
            if (t->file != first->file || (last > i && t->begin > end + GAP_BYTES)) break;
            g->members[last].at = g->bytes + t->begin - begin;
            if (t->begin + t->bytes > end) end = t->begin + t->bytes;
        }
        end = page_up(end);
        NPT_TRY(find_source(feed, first->file, &from));
        NPT_TRY(add_extent(g, from, begin, end, g->bytes));
        g->bytes += end - begin;
    }
    return NPT_OK;
}

npt_status npt_feed_add(npt_feed *feed, size_t index, const npt_st_tensor *tensor)
{
    group *g = &feed->groups[index];
    NPT_ASSERT(index < feed->group_count && !feed->started);
    member *members = npt_realloc(g->members, g->member_count + 1, sizeof *members);
    if (members == NULL) return NPT_E_NOMEM;
    g->members = members;
    g->members[g->member_count++] = (member){tensor, 0};
    return lay_out(feed, g); /* few members: cheap, and sizes can be asked for at any time */
}

size_t npt_feed_least_bytes(const npt_feed *feed)
{
    uint64_t most = PAGE;
    for (size_t i = 0; i < feed->group_count; i++)
        if (feed->groups[i].bytes > most) most = feed->groups[i].bytes;
    return (size_t)most;
}

size_t npt_feed_most_bytes(const npt_feed *feed)
{
    return 2 * npt_feed_least_bytes(feed);
}

uint64_t npt_feed_all_bytes(const npt_feed *feed)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < feed->group_count; i++) sum += feed->groups[i].bytes;
    return sum;
}

uint64_t npt_feed_pass_bytes(const npt_feed *feed)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < feed->length; i++) sum += feed->groups[feed->order[i]].bytes;
    return sum;
}

/* ---- The reader ---- */

static const group *group_of(const npt_feed *feed, uint64_t turn)
{
    return &feed->groups[feed->order[turn % feed->length]];
}

static unsigned char *room_of(const npt_feed *feed, uint64_t turn)
{
    return feed->buffer + (turn % 2 == 0 ? 0 : feed->room - group_of(feed, turn)->bytes);
}

/* Whether a piece of turn `ready` overlaps the turn before it, which is still in use. */
static bool must_wait(const npt_feed *feed, const piece *p)
{
    const uint64_t turn = feed->ready;
    if (turn == 0 || feed->released >= turn) return false;
    if (turn > feed->released + 1) return true; /* two are full already */
    const uint64_t before = group_of(feed, turn - 1)->bytes, own = group_of(feed, turn)->bytes;
    if (turn % 2 == 0) return p->at + p->bytes > feed->room - before;
    return feed->room - own + p->at < before;
}

/* errno, or -1 where the file ended before what is needed of the piece. */
static int read_piece(source *from, const piece *p, unsigned char *dst)
{
    /* the last page of a file is not a whole one */
    const uint64_t needed = p->begin + p->bytes > from->bytes ? from->bytes - p->begin : p->bytes;
    for (uint64_t got = 0; got < needed;) {
        ssize_t n = pread(from->fd, dst + got, (size_t)(p->bytes - got), (off_t)(p->begin + got));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EINVAL && from->direct) { /* an unaligned rest, or no such reads */
            from->direct = false;
            if (fcntl(from->fd, F_SETFL, 0) != 0) return errno;
            continue;
        }
        if (n < 0) return errno;
        if (n == 0) return -1;
        got += (uint64_t)n;
    }
    if (!from->direct)
        (void)posix_fadvise(from->fd, (off_t)p->begin, (off_t)p->bytes, POSIX_FADV_DONTNEED);
    return 0;
}

static void fail(npt_feed *feed, const source *from, int error)
{
    feed->failure = NPT_E_IO;
    if (error == -1)
        snprintf(feed->sentence, sizeof feed->sentence,
                 "'%s' changed while it was in use: it became shorter; restore it and start again",
                 from->path);
    else
        snprintf(feed->sentence, sizeof feed->sentence, "%s: cannot read: %s", from->path,
                 strerror(error));
}

/* Turn `ready`, from its own end of the buffer; called and returns with the mutex held. False where
 * it did not come to its end: quit, rewound, or failed. */
static bool read_turn(npt_feed *feed)
{
    const uint64_t turn = feed->ready, rewinds = feed->rewinds;
    const group *g = group_of(feed, turn);
    unsigned char *room = room_of(feed, turn);
    for (size_t i = 0; i < g->piece_count; i++) {
        const piece *p = &g->pieces[turn % 2 == 0 ? i : g->piece_count - 1 - i];
        source *from = &feed->sources[p->source];
        while (!feed->quit && feed->rewinds == rewinds && must_wait(feed, p))
            pthread_cond_wait(&feed->changed, &feed->mutex);
        if (feed->quit || feed->rewinds != rewinds) return false;
        pthread_mutex_unlock(&feed->mutex);
        const double begun = seconds_now();
        const int error = read_piece(from, p, room + p->at);
        const double took = seconds_now() - begun;
        pthread_mutex_lock(&feed->mutex);
        feed->figures.bytes += p->bytes;
        feed->figures.reading += took;
        feed->figures.direct = feed->figures.direct && from->direct;
        pthread_cond_broadcast(&feed->changed);
        if (feed->rewinds != rewinds) return false;
        if (error != 0) {
            fail(feed, from, error);
            return false;
        }
    }
    feed->ready++;
    pthread_cond_broadcast(&feed->changed);
    return true;
}

static void *reader_main(void *argument)
{
    npt_feed *feed = argument;
    pthread_mutex_lock(&feed->mutex);
    while (!feed->quit) {
        if (feed->failure != NPT_OK) /* until somebody quits */
            pthread_cond_wait(&feed->changed, &feed->mutex);
        else
            (void)read_turn(feed);
    }
    pthread_mutex_unlock(&feed->mutex);
    return NULL;
}

/* ---- Starting and ending ---- */

/* Around the page cache where the file system can, else through it. */
static npt_status open_source(npt_feed *feed, const npt_st_tensor *tensor, source *from)
{
    npt_status status = npt_st_reopen(feed->st, tensor, O_DIRECT, &from->fd, &from->bytes);
    from->direct = status == NPT_OK;
    if (status == NPT_E_UNSUPPORTED)
        status = npt_st_reopen(feed->st, tensor, 0, &from->fd, &from->bytes);
    return status;
}

static npt_status open_sources(npt_feed *feed)
{
    for (size_t g = 0; g < feed->group_count; g++)
        for (size_t i = 0; i < feed->groups[g].member_count; i++) {
            size_t index;
            const npt_st_tensor *tensor = feed->groups[g].members[i].tensor;
            NPT_TRY(find_source(feed, tensor->file, &index));
            if (feed->sources[index].fd < 0)
                NPT_TRY(open_source(feed, tensor, &feed->sources[index]));
        }
    return NPT_OK;
}

/* Signals are for the caller's threads. */
static int start_reader(npt_feed *feed)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&feed->thread, NULL, reader_main, feed);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

npt_status npt_feed_start(npt_feed *feed, npt_arena *arena, size_t bytes)
{
    NPT_ASSERT(!feed->started && bytes >= npt_feed_least_bytes(feed));
    NPT_TRY(open_sources(feed));
    unsigned char *block = npt_arena_alloc(arena, NPT_MEM_WEIGHTS, bytes + 2 * PAGE, 1);
    if (block == NULL) return NPT_E_NOMEM;
    feed->buffer = block + (PAGE - (uintptr_t)block % PAGE) % PAGE;
    feed->room = page_up(bytes);
    feed->figures.direct = true;
    if (start_reader(feed) != 0)
        return npt_fail(NPT_E_NOMEM, "The system refused a thread that reads the weights");
    feed->started = true;
    return NPT_OK;
}

void npt_feed_destroy(npt_feed *feed)
{
    if (feed == NULL) return;
    if (feed->started) {
        pthread_mutex_lock(&feed->mutex);
        feed->quit = true;
        pthread_cond_broadcast(&feed->changed);
        pthread_mutex_unlock(&feed->mutex);
        pthread_join(feed->thread, NULL);
        if (feed->taken) npt_feed_release(feed);
    }
    for (size_t i = 0; feed->groups != NULL && i < feed->group_count; i++) {
        npt_free(feed->groups[i].members);
        npt_free(feed->groups[i].pieces);
    }
    for (size_t i = 0; i < feed->source_count; i++)
        if (feed->sources[i].fd >= 0) close(feed->sources[i].fd);
    pthread_mutex_destroy(&feed->mutex);
    pthread_cond_destroy(&feed->changed);
    npt_free(feed->sources);
    npt_free(feed->groups);
    npt_free(feed->order);
    npt_free(feed);
}

/* ---- Use ---- */

npt_status npt_feed_take(npt_feed *feed, size_t index)
{
    NPT_ASSERT(feed->started && !feed->taken && feed->order[feed->next % feed->length] == index);
    const double begun = seconds_now();
    pthread_mutex_lock(&feed->mutex);
    while (feed->ready <= feed->next && feed->failure == NPT_OK)
        pthread_cond_wait(&feed->changed, &feed->mutex);
    const bool there = feed->ready > feed->next;
    feed->figures.waited += seconds_now() - begun;
    pthread_mutex_unlock(&feed->mutex);
    if (!there) return npt_fail(feed->failure, "%s", feed->sentence);
    const group *g = group_of(feed, feed->next);
    const unsigned char *room = room_of(feed, feed->next);
    for (size_t i = 0; i < g->member_count; i++)
        npt_st_place(feed->st, g->members[i].tensor, room + g->members[i].at);
    feed->taken = true;
    return NPT_OK;
}

void npt_feed_release(npt_feed *feed)
{
    NPT_ASSERT(feed->taken);
    const group *g = group_of(feed, feed->next);
    for (size_t i = 0; i < g->member_count; i++) npt_st_place(feed->st, g->members[i].tensor, NULL);
    feed->taken = false;
    pthread_mutex_lock(&feed->mutex);
    feed->next++;
    feed->released = feed->next;
    pthread_cond_broadcast(&feed->changed);
    pthread_mutex_unlock(&feed->mutex);
}

void npt_feed_rewind(npt_feed *feed)
{
    if (feed->taken) npt_feed_release(feed);
    pthread_mutex_lock(&feed->mutex);
    if (feed->next % feed->length != 0) {
        feed->rewinds++; /* what the reader is at ends before it begins anew */
        feed->ready = feed->released = feed->next = 0;
        pthread_cond_broadcast(&feed->changed);
    }
    pthread_mutex_unlock(&feed->mutex);
}

npt_feed_figures npt_feed_told(npt_feed *feed)
{
    pthread_mutex_lock(&feed->mutex);
    npt_feed_figures figures = feed->figures;
    pthread_mutex_unlock(&feed->mutex);
    return figures;
}
