#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# check-isa-leak: an object compiled for a special instruction set defines one global symbol, its
# filler. Any other (a weak inline function from a header, say) could be picked by the linker for
# code that runs everywhere, and crash on a CPU without those instructions.
# Usage: isa-leak.sh BUILDDIR [NM]
set -u
build=${1:?build directory} nm=${2:-nm}
export LC_ALL=C
set -- "$build"/.libs/libnpt*avx*.a "$build"/.libs/libnpt*amx*.a
found=0 bad=0
for archive do
    [ -f "$archive" ] || continue
    found=$((found + 1))
    $nm -g --defined-only "$archive" | awk -v archive="${archive##*/}" '
        function finish() {
            if (object == "") return
            if (count != 1) {
                printf "%s: %s defines %d global symbols:%s\n", archive, object, count, names
                bad = 1
            } else if (names !~ /^ npt_/) {
                printf "%s: %s: the filler%s has no npt_ prefix\n", archive, object, names
                bad = 1
            }
        }
        /:$/ { finish(); object = substr($0, 1, length($0) - 1); count = 0; names = ""; next }
        NF == 3 { count++; names = names " " $3 }
        END { finish(); exit bad }' || bad=1
done
[ $bad = 0 ] && echo "check-isa-leak: $found libraries for special instruction sets, no leak"
exit $bad
