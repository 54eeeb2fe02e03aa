#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# check-style: the house rules that a machine can see.
# Usage: style.sh SRCDIR
set -u
cd "${1:?source directory}" || exit 1
export LC_ALL=C.UTF-8
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

if git rev-parse --show-toplevel >/dev/null 2>&1 && [ -e .git ]; then
    git ls-files
else
    find . -type f | sed 's|^\./||'
fi | sort >"$work/all"
grep -E '\.(c|h|inc|cu|sh|py|mk|am|ac|m4|md|in)$|^(bootstrap|quickstart|\.ci/run)$' "$work/all" |
    grep -v -E '^(build|aclocal\.m4|m4/(libtool|lt))|(Makefile|config\.h)\.in$' >"$work/text"
grep -E '\.(c|h|inc|cu)$' "$work/text" >"$work/code"
grep -E '\.(c|h|inc|cu|sh|mk)$|^(bootstrap|quickstart|\.ci/run)$' "$work/text" >"$work/narrow"

# report TEXT: each line of standard input is a breach
report() { sed "s|\$| : $1|" >>"$work/report"; }
in_files() { list=$1; shift; xargs -d '\n' "$@" <"$list"; }
: >"$work/report"

grep -v -E '\.(md|in)$' "$work/text" | while IFS= read -r file; do
    head -n 2 "$file" | grep -q 'SPDX-License-Identifier: BSD-2-Clause' || echo "$file"
done | report "no SPDX line at the top"
grep '\.c$' "$work/code" | while IFS= read -r file; do
    first=$(grep -m 1 '^#include' "$file")
    [ -z "$first" ] || [ "$first" = '#include "config.h"' ] || echo "$file: $first"
done | report "config.h is not the first include"
in_files "$work/narrow" grep -nE '^.{101,}' /dev/null | cut -c 1-60 | report "over 100 columns"
in_files "$work/narrow" grep -nE '[[:blank:]]+$' /dev/null | report "blanks at the end"
in_files "$work/code" grep -nP '\t' /dev/null | report "a tab"
# Brackets keep this file from finding itself.
in_files "$work/text" grep -nwE '[T]ODO|[F]IXME|[X]XX|[H]ACK' /dev/null | report "unfinished"
in_files "$work/text" grep -nE '(^|[^[:alnum:]_.$)}*])/([h]ome|[w]ork|[r]oot|[U]sers)/' /dev/null |
    report "an absolute path"
in_files "$work/text" grep -nE -e '-[m]arch=native|-[f]fast-math' /dev/null |
    grep -E '\.(mk|am):|quickstart|\.ci/run' | report "a flag we never use"

if [ -s "$work/report" ]; then
    cat "$work/report"
    exit 1
fi
echo "check-style: $(wc -l <"$work/text") files keep to the style"
