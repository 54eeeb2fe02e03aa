/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/calibration.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "train/meter.h"

/* The measuring half of a calibration. Products of one kind are measured each, and their seconds
 * added up as often as a step makes them: the kind goes to who needs least for all of them. What
 * counts is the shortest of several repetitions, which other work on the machine disturbs least. A
 * library is charged, too, with what it costs the product that follows: its idle workers spin. */

/* What another backend must save to displace the first of the built-in order. Two measurements of
 * one backend differ by some percent; a table that flickers would make runs differ for nothing. */
static const double noise = 0.05;
enum { POOL_BYTES = 256 << 20 };

typedef struct candidate {
    npt_route_kind kind;
    const npt_matmul_backend *backends[NPT_MAX_BACKENDS];
    double seconds[NPT_MAX_BACKENDS]; /* of a step */
    size_t backend_count;
    double flops; /* of a step */
} candidate;

typedef struct candidates {
    candidate list[NPT_MAX_PRODUCTS];
    size_t count;
    int64_t pairs; /* of a product and a backend, to be measured */
} candidates;

/* Bias is left out: every backend adds it in the same pass over C. */
static npt_matmul_desc measured_desc(const npt_product *product)
{
    npt_matmul_desc desc = product->desc;
    desc.bias = false;
    return desc;
}

static candidate *find_candidate(candidates *all, const npt_matmul_desc *desc)
{
    const npt_route_kind kind = npt_route_kind_of(desc);
    for (size_t i = 0; i < all->count; i++)
        if (npt_route_kind_same(&all->list[i].kind, &kind)) return &all->list[i];
    return NULL;
}

/* The kinds that somebody else than the reference accepts. Where it is one backend there is nothing
 * to choose, but its rate is wanted for predictions. Backends refuse by dtype, in one kind all
 * alike; those that one product of a kind finds are asked again for the next. */
static void list_candidates(const npt_exec *exec, const npt_products *products, candidates *all)
{
    for (size_t i = 0; i < products->count; i++) {
        const npt_matmul_desc desc = measured_desc(&products->list[i]);
        candidate *c = find_candidate(all, &desc);
        if (c == NULL) {
            c = &all->list[all->count];
            *c = (candidate){.kind = npt_route_kind_of(&desc)};
            c->backend_count = npt_meter_willing(exec, &desc, c->backends);
            if (c->backends[0] == &npt_matmul_reference) continue;
            all->count++;
        }
        all->pairs += (int64_t)c->backend_count;
    }
}

static bool all_willing(const npt_exec *exec, const candidate *c, const npt_matmul_desc *desc)
{
    char reason[128];
    for (size_t i = 0; i < c->backend_count; i++)
        if (c->backends[i]->refuse(desc, npt_exec_cpu(exec), reason) != NULL) return false;
    return true;
}

/* Seconds that the first side loses where it follows side `i`. */
static npt_status measure_penalty(npt_meter *meter, const npt_meter_side *sides, size_t i,
                                  const npt_timing *timings, double *penalty)
{
    npt_timing both;
    *penalty = 0;
    if (i == 0 || sides[i].backend->library == NULL) return NPT_OK;
    NPT_TRY(
        npt_meter_pair(meter, &sides[i], &sides[0], 2 * (timings[i].min + timings[0].min), &both));
    *penalty = fmax(0, both.min - timings[i].min - timings[0].min);
    return NPT_OK;
}

static npt_status measure_product(npt_exec *exec, npt_meter *meter, const npt_product *product,
                                  double seconds, candidates *all)
{
    const npt_matmul_desc desc = measured_desc(product);
    candidate *c = find_candidate(all, &desc);
    npt_meter_side sides[NPT_MAX_BACKENDS];
    npt_timing timings[NPT_MAX_BACKENDS];
    if (c == NULL || !all_willing(exec, c, &desc)) return NPT_OK;
    for (size_t i = 0; i < c->backend_count; i++)
        sides[i] = (npt_meter_side){exec, c->backends[i], desc};
    NPT_TRY(npt_meter_run(meter, sides, c->backend_count, seconds, timings));
    for (size_t i = 0; i < c->backend_count; i++) {
        double penalty = 0;
        NPT_TRY(measure_penalty(meter, sides, i, timings, &penalty));
        c->seconds[i] += (double)product->per_step * (timings[i].min + penalty);
    }
    c->flops += (double)product->per_step * npt_matmul_flops(&desc);
    return NPT_OK;
}

static npt_status choose(const candidate *c, npt_routes *routes)
{
    size_t best = 0;
    char text[NPT_ROUTE_TEXT];
    for (size_t i = 1; i < c->backend_count; i++)
        if (c->seconds[i] < c->seconds[best] && c->seconds[i] < (1 - noise) * c->seconds[0])
            best = i;
    npt_route route = {.kind = c->kind,
                       .gflops = c->flops / c->seconds[best] * 1e-9,
                       .gflops_before = c->flops / c->seconds[0] * 1e-9};
    snprintf(route.backend, sizeof route.backend, "%s", c->backends[best]->name);
    snprintf(route.before, sizeof route.before, "%s", c->backends[0]->name);
    npt_log(NPT_LOG_VERBOSE, "calibrated: %s: %s", npt_route_kind_text(&c->kind, text),
            route.backend);
    if (npt_routes_put(routes, &route)) return NPT_OK;
    return npt_fail(NPT_E_UNSUPPORTED, "the calibration holds %d kinds already; remove its file",
                    NPT_MAX_ROUTES);
}

npt_status npt_calibration_measure(npt_exec *exec, const npt_products *products, double seconds,
                                   npt_routes *routes)
{
    npt_meter meter;
    npt_status status = NPT_OK;
    candidates *all = npt_alloc(1, sizeof *all);
    if (all == NULL) return NPT_E_NOMEM;
    list_candidates(exec, products, all);
    /* half of the time goes into what is not counted */
    const double each = 0.5 * seconds / fmax(1, (double)all->pairs);
    npt_meter_init(&meter, POOL_BYTES);
    for (size_t i = 0; i < products->count && status == NPT_OK; i++)
        status = measure_product(exec, &meter, &products->list[i], each, all);
    for (size_t i = 0; i < all->count && status == NPT_OK; i++)
        if (all->list[i].flops > 0) status = choose(&all->list[i], routes);
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
