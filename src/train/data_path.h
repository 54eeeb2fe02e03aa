/* SPDX-License-Identifier: BSD-2-Clause */
/* From the choices of a user to the path that npt_dataset_open() takes. */
#ifndef NPT_TRAIN_DATA_PATH_H
#define NPT_TRAIN_DATA_PATH_H

#include "base/status.h"

/* dataset_name, or the bundled file `bundled` where it is NULL; of a directory with dataset_split,
 * a pattern for the files whose names begin with the split. In a new string (npt_free). NPT_E_USAGE
 * for a split of what is no directory, NPT_E_IO where the bundled file is not to be found. */
npt_status npt_data_options_path(const npt_data_options *data, const char *bundled, char **path);

#endif
