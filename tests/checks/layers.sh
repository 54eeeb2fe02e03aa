#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# check-layers: who may include whom. A folder of src/ includes itself and the folders listed here;
# vendor headers and OpenMP pragmas stay where the architecture puts them.
# Usage: layers.sh SRCDIR
set -u
cd "${1:?source directory}/src" || exit 1
export LC_ALL=C

awk '
BEGIN {
    may["base"] = "base"
    may["files"] = "files base"
    may["text"] = "text files base"
    may["tensor"] = "tensor base"
    may["cpu"] = "cpu tensor base"
    may["cuda"] = "cuda tensor base"
    may["model"] = "model base files tensor"
    may["train"] = "train model cpu cuda tensor text files base"
    may["doctor"] = "doctor train model cpu cuda tensor text files base"
    may["bench"] = "bench doctor train model cpu cuda tensor text files base"
    may["cli"] = "cli"
    vendor = "^(cblas|openblas_config|dnnl[a-z_]*|immintrin|x86intrin|[a-z]mmintrin|amxintrin|" \
             "cuda[a-z_]*|cublas[a-zA-Z_]*|omp)\\.h$"
    bad = 0
}
function complain(text) { printf "src/%s:%d: %s\n", FILENAME, FNR, text; bad = 1 }
FNR == 1 { split(FILENAME, part, "/"); here = part[1]; files++ }
!(here in may) && FNR == 1 { complain("folder " here " is not in the table of check-layers") }
/^[ \t]*#[ \t]*pragma[ \t]+omp/ && here != "cpu" && here != "cuda" && FILENAME != "base/threads.c" {
    complain("OpenMP belongs into cpu/, cuda/ and base/threads.c")
}
/^[ \t]*#[ \t]*include/ {
    name = $0
    sub(/^[^<"]*[<"]/, "", name)
    sub(/[>"].*$/, "", name)
    if ($0 !~ /"/) {
        if (name ~ vendor && here != "cpu" && here != "cuda" && FILENAME != "base/threads.c")
            complain("vendor header " name " belongs into cpu/ or cuda/")
        next
    }
    if (name == "config.h" || name == "npt.h") next
    if (split(name, to, "/") < 2) { complain("\"" name "\": write the folder, too"); next }
    if (index(" " may[here] " ", " " to[1] " ") == 0)
        complain(here " may not include " to[1] " (" name ")")
}
END {
    if (!bad) printf "check-layers: %d files keep to the layers\n", files
    exit bad
}' $(find . -mindepth 2 -name '*.[ch]' -o -mindepth 2 -name '*.inc' | sed 's|^\./||' | sort)
