/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef NPT_TRAIN_OPTIONS_H
#define NPT_TRAIN_OPTIONS_H

#include "base/status.h"

/* Refuses what contradicts itself or is out of range (NPT_E_USAGE, naming the flag), applies the
 * caps of the recipe and fills what depends on other options. Opens nothing. */
npt_status npt_train_options_check(npt_train_options *options);

#endif
