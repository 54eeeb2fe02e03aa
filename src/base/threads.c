/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "base/threads.h"

#include "base/memory.h"

#ifdef _OPENMP
#include <omp.h>
#else
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#endif

/* Tasks are taken from a counter, so that a slow worker takes fewer of them. The workers are
 * threads of ours that look for work for some 50 µs after a run, then sleep. They are not bound to
 * CPUs: alone that gained nothing that could be measured, beside one busy process it cost a fifth.
 * Where npt was configured --with-openmp they are OpenMP's, which oneDNN shares; that is not the
 * default, because GNU's idle workers spin for milliseconds, and on a machine with other work a
 * run then takes many times as long. Invariant: between two calls of npt_threads_run() no worker
 * touches anything of the caller's. */

#ifdef _OPENMP

struct npt_threads {
    int count;
};

npt_threads *npt_threads_create(int count)
{
    npt_threads *threads = npt_alloc(1, sizeof(*threads));
    if (threads == NULL) return NULL;
    threads->count = count > 0 ? count : omp_get_max_threads();
    return threads;
}

int npt_threads_count(const npt_threads *threads)
{
    return threads->count;
}

void npt_threads_run(npt_threads *threads, npt_task *task, void *context, int64_t tasks)
{
    if (threads->count == 1 || tasks <= 1) {
        for (int64_t i = 0; i < tasks; i++) task(context, i, 0);
        return;
    }
#pragma omp parallel for num_threads(threads->count) schedule(dynamic, 1)
    for (int64_t i = 0; i < tasks; i++) task(context, i, omp_get_thread_num());
}

void npt_threads_destroy(npt_threads *threads)
{
    npt_free(threads);
}

#else

/* Pauses of an x86 core: 15 to 60 ns each. */
enum { PATIENCE = 1000 };

typedef struct npt_worker {
    npt_threads *pool;
    pthread_t thread;
    int number; /* 1 … count-1; the caller is worker 0 */
} npt_worker;

struct npt_threads {
    int count, started;
    npt_worker *workers;
    pthread_mutex_t mutex;
    pthread_cond_t wake, done;
    int patience; /* looks at `round` or `busy` before sleeping */
    /* changed under the mutex, looked at without it */
    _Atomic uint64_t round; /* grows by one with every run, and to quit */
    _Atomic int busy;       /* workers that have not finished this round */
    /* under the mutex */
    bool quit;
    npt_task *task;
    void *context;
    int64_t tasks;
    /* free for all */
    _Atomic int64_t next;
};

static void take_tasks(npt_threads *pool, npt_task *task, void *context, int64_t tasks, int worker)
{
    int64_t i;
    while ((i = atomic_fetch_add(&pool->next, 1)) < tasks) task(context, i, worker);
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void *worker_main(void *argument)
{
    npt_worker *worker = argument;
    npt_threads *pool = worker->pool;
    uint64_t seen = 0;
    for (;;) {
        for (int i = 0; i < pool->patience && atomic_load(&pool->round) == seen; i++) relax();
        pthread_mutex_lock(&pool->mutex);
        while (atomic_load(&pool->round) == seen) pthread_cond_wait(&pool->wake, &pool->mutex);
        seen = atomic_load(&pool->round);
        npt_task *task = pool->task;
        void *context = pool->context;
        int64_t tasks = pool->tasks;
        bool quit = pool->quit;
        pthread_mutex_unlock(&pool->mutex);
        if (quit) return NULL;
        take_tasks(pool, task, context, tasks, worker->number);
        if (atomic_fetch_sub(&pool->busy, 1) > 1) continue;
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_signal(&pool->done);
        pthread_mutex_unlock(&pool->mutex);
    }
}

/* The CPUs this process may run on. */
static int cpus_allowed(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
    int count = CPU_COUNT(&set);
    return count > 0 ? count : 1;
}

npt_threads *npt_threads_create(int count)
{
    npt_threads *pool = npt_alloc(1, sizeof(*pool));
    if (pool == NULL) return NULL;
    const int cpus = cpus_allowed();
    pool->count = count > 0 ? count : cpus;
    pool->patience = pool->count <= cpus ? PATIENCE : 0;
    pool->workers = npt_alloc((size_t)pool->count, sizeof(*pool->workers));
    if (pool->workers == NULL) {
        npt_free(pool);
        return NULL;
    }
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    for (int i = 1; i < pool->count; i++) {
        npt_worker *worker = &pool->workers[i];
        *worker = (npt_worker){.pool = pool, .number = i};
        if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0) {
            npt_fail(NPT_E_NOMEM, "The system refused thread %d of %d; ask for fewer", i + 1,
                     pool->count);
            npt_threads_destroy(pool);
            return NULL;
        }
        pool->started++;
    }
    return pool;
}

int npt_threads_count(const npt_threads *pool)
{
    return pool->count;
}

void npt_threads_run(npt_threads *pool, npt_task *task, void *context, int64_t tasks)
{
    if (pool->count == 1 || tasks <= 1) {
        for (int64_t i = 0; i < tasks; i++) task(context, i, 0);
        return;
    }
    pthread_mutex_lock(&pool->mutex);
    pool->task = task;
    pool->context = context;
    pool->tasks = tasks;
    atomic_store(&pool->busy, pool->started);
    atomic_store(&pool->next, 0);
    atomic_fetch_add(&pool->round, 1);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    take_tasks(pool, task, context, tasks, 0);
    for (int i = 0; i < pool->patience && atomic_load(&pool->busy) > 0; i++) relax();
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load(&pool->busy) > 0) pthread_cond_wait(&pool->done, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

void npt_threads_destroy(npt_threads *pool)
{
    if (pool == NULL) return;
    pthread_mutex_lock(&pool->mutex);
    pool->quit = true;
    atomic_fetch_add(&pool->round, 1);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 1; i <= pool->started; i++) pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    npt_free(pool->workers);
    npt_free(pool);
}

#endif
