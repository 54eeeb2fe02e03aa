/* SPDX-License-Identifier: BSD-2-Clause */
/* Models by their Hub name, from the local Hugging Face cache. Nothing is downloaded. */
#ifndef NPT_FILES_HUB_H
#define NPT_FILES_HUB_H

#include "base/status.h"

/* The directory of a model, in a new string (npt_free): `name_or_dir` itself where that is a
 * directory; else, for "org/name" (or "name"), the snapshot that refs/main names in the cache: the
 * first that is set of $HF_HUB_CACHE, $HUGGINGFACE_HUB_CACHE, $HF_HOME/hub and
 * ${XDG_CACHE_HOME:-~/.cache}/huggingface/hub. NPT_E_IO where there is none, saying where it
 * looked; NPT_E_USAGE for what is neither a directory nor a name; NPT_E_FORMAT for a damaged
 * cache; NPT_E_NOMEM. */
npt_status npt_hub_resolve(const char *name_or_dir, char **directory);

#endif
