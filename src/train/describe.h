/* SPDX-License-Identifier: BSD-2-Clause */
/* What a run says of itself: on the log, in adapter_config.json, in metrics.jsonl, and as the
 * settings that a resumed run is compared with. JSON objects are new references; NULL where memory
 * is short. */
#ifndef NPT_TRAIN_DESCRIBE_H
#define NPT_TRAIN_DESCRIBE_H

#include <jansson.h>

#include "train/distill.h"
#include "train/setup.h"

/* A string in JSON; bytes that are not UTF-8 become '?'. */
json_t *npt_describe_text(const char *text);
json_t *npt_describe_adapter(const npt_train_options *options, const npt_setup *setup,
                             const npt_adapters *adapters);
json_t *npt_describe_settings(const npt_train_options *options, const npt_setup *setup,
                              const npt_adapters *adapters);
/* The first object of metrics.jsonl. */
json_t *npt_describe_run(const npt_train_options *options, const npt_setup *setup,
                         const npt_distiller *distiller, json_t *settings, int64_t total_steps);
/* Policy, adapters, digest: a line each. */
void npt_describe_log(const npt_setup *setup, const npt_adapters *adapters,
                      const npt_distiller *distiller);

#endif
