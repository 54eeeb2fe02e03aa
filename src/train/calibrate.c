/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/calibration.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

#include "base/log.h"
#include "train/meter.h"

/* The measuring half of a calibration. Products of one kind are measured each, and their seconds
 * added up as often as a step makes them: the kind goes to who needs least for all of them. What
 * counts is the shortest of several repetitions, which other work on the machine disturbs least.
 *
 * Idle workers of a library go on spinning for tens of milliseconds, on the cores that whoever
 * comes next needs. So backends take turns with all products at a time, and begin when the one
 * before has come to rest; and a library is charged with what it costs the next product, once a
 * product. That decides most: a thin product that takes a library half of 0.2 ms can cost the one
 * after it ten times as much. */

/* What another backend must save to displace the first of the built-in order. Two measurements of
 * one backend differ by some percent; a table that flickers would make runs differ for nothing. */
static const double noise = 0.1;
enum { POOL_BYTES = 256 << 20, TURNS = 2 };
static const struct timespec rest = {.tv_nsec = 100000000};

typedef struct measured {
    npt_matmul_desc desc;
    int64_t per_step;
    double seconds[NPT_MAX_BACKENDS]; /* by the backends of the candidate; 0: not yet */
} measured;

typedef struct candidate {
    npt_route_kind kind;
    const npt_matmul_backend *backends[NPT_MAX_BACKENDS];
    size_t backend_count;
    measured products[NPT_MAX_PRODUCTS];
    size_t product_count;
} candidate;

typedef struct candidates {
    candidate list[NPT_MAX_PRODUCTS];
    size_t count;
    int64_t pairs; /* of a product and a backend, to be measured */
} candidates;

static candidate *find_candidate(candidates *all, const npt_matmul_desc *desc)
{
    const npt_route_kind kind = npt_route_kind_of(desc);
    for (size_t i = 0; i < all->count; i++)
        if (npt_route_kind_same(&all->list[i].kind, &kind)) return &all->list[i];
    return NULL;
}

static bool all_willing(const npt_exec *exec, const candidate *c, const npt_matmul_desc *desc)
{
    char reason[128];
    for (size_t i = 0; i < c->backend_count; i++)
        if (c->backends[i]->refuse(desc, npt_exec_cpu(exec), reason) != NULL) return false;
    return true;
}

/* The kinds that somebody else than the reference accepts. Where it is one backend there is nothing
 * to choose, but its rate is wanted for predictions. Backends refuse by dtype, in one kind all
 * alike; those that one product of a kind finds are asked again for the next. Bias is left out:
 * every backend adds it in the same pass over C. */
static void list_candidates(const npt_exec *exec, const npt_products *products, candidates *all)
{
    for (size_t i = 0; i < products->count; i++) {
        npt_matmul_desc desc = products->list[i].desc;
        desc.bias = false;
        candidate *c = find_candidate(all, &desc);
        if (c == NULL) {
            c = &all->list[all->count];
            c->kind = npt_route_kind_of(&desc);
            c->backend_count = npt_meter_willing(exec, &desc, c->backends);
            if (c->backends[0] == &npt_matmul_reference) continue;
            all->count++;
        }
        if (!all_willing(exec, c, &desc)) continue;
        c->products[c->product_count++] =
            (measured){.desc = desc, .per_step = products->list[i].per_step};
        all->pairs += (int64_t)c->backend_count;
    }
}

/* ---- Measuring ---- */

static npt_status measure_product(npt_exec *exec, npt_meter *meter, const candidate *c, size_t i,
                                  double seconds, measured *product)
{
    const npt_meter_side side = {exec, c->backends[i], product->desc};
    npt_timing timing;
    NPT_TRY(npt_meter_turn(meter, &side, seconds, &timing));
    double *shortest = &product->seconds[i];
    if (*shortest == 0 || timing.min < *shortest) *shortest = timing.min;
    return NPT_OK;
}

/* All products of one backend. */
static npt_status measure_backend(npt_exec *exec, npt_meter *meter,
                                  const npt_matmul_backend *backend, double seconds,
                                  candidates *all)
{
    for (size_t i = 0; i < all->count; i++) {
        candidate *c = &all->list[i];
        for (size_t b = 0; b < c->backend_count; b++)
            for (size_t p = 0; p < c->product_count && c->backends[b] == backend; p++)
                NPT_TRY(measure_product(exec, meter, c, b, seconds, &c->products[p]));
    }
    return NPT_OK;
}

static npt_status measure(npt_exec *exec, npt_meter *meter, double seconds, candidates *all)
{
    /* half of the time goes into what is not counted */
    const double each = 0.5 * seconds / fmax(1, (double)(TURNS * all->pairs));
    for (int turn = 0; turn < TURNS; turn++)
        for (size_t i = 0; i < npt_exec_backend_count(exec); i++) {
            const npt_matmul_backend *backend = npt_exec_backend(exec, i);
            NPT_TRY(measure_backend(exec, meter, backend, each, all));
            if (backend->library != NULL) (void)nanosleep(&rest, NULL);
        }
    return NPT_OK;
}

/* Of a step, by one backend. */
static double seconds_of(const candidate *c, size_t backend)
{
    double sum = 0;
    for (size_t p = 0; p < c->product_count; p++)
        sum += (double)c->products[p].per_step * c->products[p].seconds[backend];
    return sum;
}

/* Enough to displace the first. */
static bool saves(const candidate *c, size_t backend)
{
    return seconds_of(c, backend) < (1 - noise) * seconds_of(c, 0);
}

/* ---- What a library costs those that follow it ---- */

/* Two products of which the second is npt's own, and lasts. */
typedef struct couple {
    npt_meter_side sides[2];
    double seconds[2];
} couple;

/* The shortest product of a library, and the shortest other that takes 10 ms (else the longest);
 * false where there are no two that a meter has operands for. */
static bool find_couple(npt_exec *exec, const npt_matmul_backend *library, const candidates *all,
                        couple *found)
{
    static const double lasting = 0.01;
    *found = (couple){0};
    for (size_t i = 0; i < all->count; i++)
        for (size_t p = 0; p < all->list[i].product_count; p++) {
            const candidate *c = &all->list[i];
            const measured *m = &c->products[p];
            double *first = &found->seconds[0], *second = &found->seconds[1];
            for (size_t b = 0; b < c->backend_count; b++)
                if (c->backends[b] == library && (*first == 0 || m->seconds[b] < *first)) {
                    *first = m->seconds[b];
                    found->sides[0] = (npt_meter_side){exec, library, m->desc};
                }
            if (c->backends[0]->library != NULL) continue;
            if (*second < lasting ? m->seconds[0] > *second
                                  : m->seconds[0] >= lasting && m->seconds[0] < *second) {
                *second = m->seconds[0];
                found->sides[1] = (npt_meter_side){exec, c->backends[0], m->desc};
            }
        }
    const npt_matmul_desc *x = &found->sides[0].desc, *y = &found->sides[1].desc;
    return found->seconds[0] > 0 && found->seconds[1] > 0 && x->a == y->a &&
           (x->w == y->w || x->w == NPT_F32 || y->w == NPT_F32);
}

/* Whether a library would be chosen for anything if it cost nothing. */
static bool is_ahead(const npt_matmul_backend *library, const candidates *all)
{
    for (size_t i = 0; i < all->count; i++)
        for (size_t b = 1; b < all->list[i].backend_count; b++)
            if (all->list[i].backends[b] == library && saves(&all->list[i], b)) return true;
    return false;
}

static npt_status find_price(npt_exec *exec, npt_meter *meter, const npt_matmul_backend *library,
                             const candidates *all, npt_price *price)
{
    static const double longest = 0.5, repetitions = 30;
    couple two;
    npt_pair_timing t;
    if (!find_couple(exec, library, all, &two)) return NPT_OK;
    const double seconds = repetitions * (two.seconds[0] + two.seconds[1]);
    NPT_TRY(npt_meter_pair(meter, two.sides, fmin(seconds, longest), &t));
    price->known = true;
    price->seconds = fmax(0, t.both.median - t.first.median - t.second.median);
    npt_log(NPT_LOG_VERBOSE, "calibrated: a product by %s costs the next one %.2g ms",
            library->name, 1e3 * price->seconds);
    return NPT_OK;
}

/* Adds to every product of a library what the product after it takes longer. */
static npt_status charge(npt_exec *exec, npt_meter *meter, const npt_matmul_backend *library,
                         candidates *all, npt_price *price)
{
    if (!is_ahead(library, all)) return NPT_OK;
    if (!price->known) NPT_TRY(find_price(exec, meter, library, all, price));
    for (size_t i = 0; i < all->count; i++) {
        candidate *c = &all->list[i];
        for (size_t b = 0; b < c->backend_count; b++)
            for (size_t p = 0; p < c->product_count && c->backends[b] == library; p++)
                c->products[p].seconds[b] += price->seconds;
    }
    return NPT_OK;
}

/* ---- Choosing ---- */

static npt_status choose(const candidate *c, npt_routes *routes)
{
    const double first = seconds_of(c, 0);
    double flops = 0;
    size_t best = 0;
    char text[NPT_ROUTE_TEXT];
    for (size_t p = 0; p < c->product_count; p++)
        flops += (double)c->products[p].per_step * npt_matmul_flops(&c->products[p].desc);
    for (size_t i = 1; i < c->backend_count; i++)
        if (saves(c, i) && seconds_of(c, i) < seconds_of(c, best)) best = i;
    npt_route route = {.kind = c->kind,
                       .gflops = flops / seconds_of(c, best) * 1e-9,
                       .gflops_before = flops / first * 1e-9};
    snprintf(route.backend, sizeof route.backend, "%s", c->backends[best]->name);
    snprintf(route.before, sizeof route.before, "%s", c->backends[0]->name);
    npt_log(NPT_LOG_VERBOSE, "calibrated: %s: %s", npt_route_kind_text(&c->kind, text),
            route.backend);
    if (npt_routes_put(routes, &route)) return NPT_OK;
    return npt_fail(NPT_E_UNSUPPORTED, "the calibration holds %d kinds already; remove its file",
                    NPT_MAX_ROUTES);
}

npt_status npt_calibration_measure(npt_exec *exec, const npt_products *products, double seconds,
                                   npt_price prices[NPT_MAX_BACKENDS], npt_routes *routes)
{
    npt_meter meter;
    candidates *all = npt_alloc(1, sizeof *all);
    if (all == NULL) return NPT_E_NOMEM;
    list_candidates(exec, products, all);
    npt_meter_init(&meter, POOL_BYTES);
    npt_status status = measure(exec, &meter, seconds, all);
    for (size_t i = 0; i < npt_exec_backend_count(exec) && status == NPT_OK; i++)
        if (npt_exec_backend(exec, i)->library != NULL)
            status = charge(exec, &meter, npt_exec_backend(exec, i), all, &prices[i]);
    for (size_t i = 0; i < all->count && status == NPT_OK; i++)
        if (all->list[i].product_count > 0) status = choose(&all->list[i], routes);
    npt_meter_fini(&meter);
    npt_free(all);
    return status;
}

double npt_calibration_predict(const npt_exec *exec, const npt_products *products)
{
    const npt_routes *routes = npt_exec_routes(exec);
    double seconds = 0;
    for (size_t i = 0; i < products->count; i++) {
        const npt_product *p = &products->list[i];
        const npt_route_kind kind = npt_route_kind_of(&p->desc);
        const npt_route *route = routes != NULL ? npt_routes_find(routes, &kind) : NULL;
        if (route == NULL || !(route->gflops > 0)) return 0;
        seconds += 1e-9 * (double)p->per_step * npt_matmul_flops(&p->desc) / route->gflops;
    }
    return seconds;
}
