/* SPDX-License-Identifier: BSD-2-Clause */
/* Routing by measurement: which backend was the faster one for each kind of product, measured once
 * and kept in a file of the user's cache.
 *
 * The file is one machine's: it names CPU, instruction sets, number of threads, npt's version and
 * the libraries, and is not looked at where one of them differs. Where there is no such file the
 * built-in order holds. A route changes who computes, never in which dtype. */
#ifndef NPT_TRAIN_CALIBRATION_H
#define NPT_TRAIN_CALIBRATION_H

#include "tensor/exec.h"
#include "train/products.h"

enum { NPT_CALIBRATION_MACHINE = 768, NPT_CALIBRATION_LABEL = 24 };

/* What a calibration holds for, in words. */
const char *npt_calibration_machine(const npt_exec *exec, char text[NPT_CALIBRATION_MACHINE]);
/* $XDG_CACHE_HOME/npt/ or ~/.cache/npt/, then a name that follows from `machine` (npt_free).
 * NPT_E_IO where neither is known. */
npt_status npt_calibration_path(const char *machine, char **path);

/* The text of a file called `what`. NPT_E_FORMAT: it is not one, or damaged; NPT_E_UNSUPPORTED:
 * made for something else than `machine`. */
npt_status npt_calibration_parse(const char *text, size_t bytes, const char *what,
                                 const char *machine, npt_routes *routes);
/* A file that is not there is NPT_OK and no route. */
npt_status npt_calibration_load(const char *path, const char *machine, npt_routes *routes);
/* Makes the directory, too; all or nothing. NPT_E_IO. */
npt_status npt_calibration_save(const char *path, const char *machine, const npt_routes *routes);

/* Takes the routes of this machine's file into use, unless the order of backends was asked for, or
 * `compute` or NPT_CALIBRATION=off forbids it. A file that is of no use is said in a note. */
npt_status npt_calibration_apply(npt_exec *exec, const npt_compute_options *compute);
/* Of the routes in use: 16 hexadecimal digits, or "none". */
const char *npt_calibration_label(const npt_exec *exec, char text[NPT_CALIBRATION_LABEL]);

/* What a product by a library costs the one after it. */
typedef struct npt_price {
    bool known;
    double seconds;
} npt_price;
/* Measures products by kinds, in about `seconds`, and puts a route for each kind into `routes`. The
 * first in the built-in order stays unless another is faster by more than noise. `prices`: by the
 * order of the context's backends; what is not known and is of use is measured. */
npt_status npt_calibration_measure(npt_exec *exec, const npt_products *products, double seconds,
                                   npt_price prices[NPT_MAX_BACKENDS], npt_routes *routes);
/* Seconds of these products at the rates of the routes in use; 0 where one of them is not known. */
double npt_calibration_predict(const npt_exec *exec, const npt_products *products);

#endif
