/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "base/memory.h"
#include "base/threads.h"

#include <stdatomic.h>

#include "../npt_test.h"

/* The pool, whichever of the two was built. */

enum { TASKS = 1000, MOST_WORKERS = 4 };

typedef struct tally {
    atomic_int times[TASKS];
    atomic_int inside[MOST_WORKERS]; /* tasks that worker is in, at most 1 */
    atomic_int wrong;
    int count;
} tally;

static void count_task(void *context, int64_t index, int worker)
{
    tally *t = context;
    if (worker < 0 || worker >= t->count || index < 0 || index >= TASKS) {
        atomic_fetch_add(&t->wrong, 1);
        return;
    }
    if (atomic_fetch_add(&t->inside[worker], 1) != 0) atomic_fetch_add(&t->wrong, 1);
    atomic_fetch_add(&t->times[index], 1);
    atomic_fetch_sub(&t->inside[worker], 1);
}

static void every_task_runs_exactly_once(void **state)
{
    (void)state;
    static const int64_t counts[] = {0, 1, 2, 3, 5, 64, TASKS};
    for (int workers = 1; workers <= MOST_WORKERS; workers++) {
        npt_threads *threads = npt_threads_create(workers);
        assert_non_null(threads);
        assert_int_equal(npt_threads_count(threads), workers);
        for (size_t c = 0; c < NPT_COUNT(counts); c++) {
            static tally t;
            memset(&t, 0, sizeof(t));
            t.count = workers;
            npt_threads_run(threads, count_task, &t, counts[c]);
            assert_int_equal(atomic_load(&t.wrong), 0);
            for (int i = 0; i < TASKS; i++)
                assert_int_equal(atomic_load(&t.times[i]), i < counts[c] ? 1 : 0);
        }
        npt_threads_destroy(threads);
    }
}

static void square_task(void *context, int64_t index, int worker)
{
    (void)worker;
    ((int64_t *)context)[index] += index * index;
}

static void many_short_runs_leave_nothing_behind(void **state)
{
    (void)state;
    enum { RUNS = 2000, WIDTH = 7 };
    npt_threads *threads = npt_threads_create(3);
    int64_t sums[WIDTH] = {0};
    for (int run = 0; run < RUNS; run++) npt_threads_run(threads, square_task, sums, WIDTH);
    for (int64_t i = 0; i < WIDTH; i++) assert_int_equal(sums[i], RUNS * i * i);
    npt_threads_destroy(threads);
}

static void zero_means_what_the_process_may_use(void **state)
{
    (void)state;
    npt_threads *threads = npt_threads_create(0);
    assert_non_null(threads);
    assert_true(npt_threads_count(threads) >= 1);
    npt_threads_destroy(threads);
}

static void two_pools_live_side_by_side(void **state)
{
    (void)state;
    npt_threads *one = npt_threads_create(2), *two = npt_threads_create(4);
    int64_t a[20] = {0}, b[20] = {0};
    npt_threads_run(one, square_task, a, 20);
    npt_threads_run(two, square_task, b, 20);
    npt_threads_run(one, square_task, a, 20);
    for (int64_t i = 0; i < 20; i++) {
        assert_int_equal(a[i], 2 * i * i);
        assert_int_equal(b[i], i * i);
    }
    npt_threads_destroy(two);
    npt_threads_destroy(one);
}

static void lack_of_memory_is_reported(void **state)
{
    (void)state;
    long before = npt_alloc_count();
    npt_threads_destroy(npt_threads_create(2));
    long requests = npt_alloc_count() - before;
    for (long n = 1; n <= requests; n++) {
        npt_alloc_fail_at(n);
        assert_null(npt_threads_create(2));
    }
    npt_alloc_fail_at(0);
    npt_threads_destroy(NULL);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("every task runs exactly once, with 1 to 4 workers", every_task_runs_exactly_once),
        NPT_CASE("many short runs leave nothing behind", many_short_runs_leave_nothing_behind),
        NPT_CASE("0 workers means what the process may use", zero_means_what_the_process_may_use),
        NPT_CASE("two pools live side by side", two_pools_live_side_by_side),
        NPT_CASE("lack of memory is reported", lack_of_memory_is_reported),
    };
    return npt_test_run("threads", cases, NPT_COUNT(cases));
}
