/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <stdint.h>
#include <stdlib.h>

#include "train/calibration.h"

/* Any bytes are refused with a sentence, or are routes with sane kinds and names. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static npt_routes routes;
    char text[NPT_ROUTE_TEXT];
    routes.count = 0;
    if (npt_calibration_parse((const char *)data, size, "input", "this machine", &routes) !=
        NPT_OK) {
        if (routes.count != 0 || npt_error_message()[0] == '\0') abort();
        return 0;
    }
    if (routes.count > NPT_MAX_ROUTES) abort();
    for (size_t i = 0; i < routes.count; i++) {
        const npt_route *route = &routes.list[i];
        if (npt_route_kind_text(&route->kind, text)[0] == '\0') abort();
        if (npt_routes_find(&routes, &route->kind) != route || route->backend[0] == '\0') abort();
    }
    return 0;
}
