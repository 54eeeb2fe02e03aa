#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# make fuzz: builds the library and every tests/fuzz/fuzz_*.c with libFuzzer, ASan and UBSan in
# BUILDDIR/fuzz and runs each for FUZZ_SECONDS, starting from its committed corpus. New inputs and
# crashes stay in BUILDDIR/fuzz.
# Usage: fuzz.sh SRCDIR BUILDDIR [NAME…]
set -eu
src=$(cd "${1:?source directory}" && pwd) build=$(cd "${2:?build directory}" && pwd)
shift 2
seconds=${FUZZ_SECONDS:-20}
clang=${FUZZ_CC:-clang}
checks=address,undefined
command -v "$clang" >/dev/null || { echo "make fuzz needs clang (Debian: clang)" >&2; exit 1; }

mkdir -p "$build/fuzz"
cd "$build/fuzz"
if [ ! -f Makefile ]; then
    "$src/configure" --quiet --disable-shared --without-cmocka --without-openmp CC="$clang" \
        CFLAGS="-O1 -g -fsanitize=fuzzer-no-link,$checks -fno-sanitize-recover=undefined" >/dev/null
fi
make -s libnptcore.la

if [ $# = 0 ]; then
    for file in "$src"/tests/fuzz/fuzz_*.c; do
        [ -f "$file" ] || { echo "no tests/fuzz/fuzz_*.c" >&2; exit 1; }
        file=${file##*/fuzz_}
        set -- "$@" "${file%.c}"
    done
fi
failed=
for name do
    ./libtool --quiet --tag=CC --mode=link "$clang" -g -O1 "-fsanitize=fuzzer,$checks" \
        -fno-sanitize-recover=undefined -I. -I"$src/src" "$src/tests/fuzz/fuzz_$name.c" \
        libnptcore.la -o "fuzz_$name"
    mkdir -p "new/$name"
    seeds=$src/tests/fuzz/corpus/$name words=$src/tests/fuzz/$name.dict
    echo "fuzz_$name: $seconds s"
    if ! ./"fuzz_$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -verbosity=0 \
        -print_final_stats=1 -artifact_prefix="crash_${name}_" \
        $([ ! -f "$words" ] || echo "-dict=$words") "new/$name" \
        $([ ! -d "$seeds" ] || echo "$seeds") >"fuzz_$name.log" 2>&1; then
        failed="$failed $name"
        tail -n 30 "fuzz_$name.log"
    else
        grep 'number_of_executed_units' "fuzz_$name.log" || true
    fi
done
[ -z "$failed" ] || { echo "failed:$failed (inputs in $build/fuzz)" >&2; exit 1; }
