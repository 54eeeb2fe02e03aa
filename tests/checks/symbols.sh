#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# check-symbols: the shared library exports what tests/abi/npt.sym lists, no more and no less, and
# every global name of the static one begins with npt_.
# Usage: symbols.sh SRCDIR BUILDDIR [NM]
set -u
src=${1:?source directory} build=${2:?build directory} nm=${3:-nm}
shared=$build/.libs/libnpt.so static=$build/.libs/libnpt.a
export LC_ALL=C
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
bad=0

$nm -D --defined-only "$shared" | awk '{ print $NF }' | sort -u >"$work/exported" || exit 1
grep -v -e '^#' -e '^$' "$src/tests/abi/npt.sym" | sort -u >"$work/listed" || exit 1
comm -13 "$work/listed" "$work/exported" | sed 's/^/exported, but not in tests\/abi\/npt.sym: /' \
    >"$work/report"
comm -23 "$work/listed" "$work/exported" | sed 's/^/in tests\/abi\/npt.sym, but not exported: /' \
    >>"$work/report"
if [ -s "$work/report" ]; then
    cat "$work/report"
    bad=1
fi
if [ -f "$static" ]; then
    $nm -g --defined-only "$static" | awk 'NF == 3 && $3 !~ /^npt_/ { print $3 }' | sort -u \
        >"$work/foreign"
    if [ -s "$work/foreign" ]; then
        sed 's/^/global name without npt_ in libnpt.a: /' "$work/foreign"
        bad=1
    fi
fi
[ $bad = 0 ] && echo "check-symbols: $(wc -l <"$work/exported") names exported, all listed"
exit $bad
