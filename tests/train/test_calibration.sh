#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Routing by measurement from end to end: measured, printed, recorded, and said where a run goes on
# under other routes.
. "${NPT_SRCDIR:-.}/tests/train/lib.sh"
XDG_CACHE_HOME=$work/cache
export XDG_CACHE_HOME
NPT_CALIBRATION=on

flags='--num_samples 4 --max_length 8 --adapter_rank 4 --log_steps 1 --batch_size 2
    --gradient_accumulation_steps 1 --warmup_steps 1 --threads 1'
digest() { sed -n 's/.*"calibration":"\([^"]*\)".*/\1/p' "$1/metrics.jsonl"; }

# shellcheck disable=SC2086
run pretrain $flags --max_steps 2 --output_dir "$work/plain"
passes 'a run without a calibration'
is_true 'it records that there was none' [ "$(digest "$work/plain")" = none ]

# shellcheck disable=SC2086
run pretrain $flags --max_steps 2 --dry_run
says 'a dry run says how much work a step is' err 'work: [0-9.]+ GFLOP a step in products'
says 'product by product' err 'product: down, dx: [0-9]+ x \[16 x '
says 'and how the time can be known' err \
    'time: not known.*(npt backends --calibrate|reference backend)'

run backends --calibrate --seconds 0.02 --threads 1 --model_name "$NPT_DATADIR/tiny-llama" \
    --tokens 16
passes 'a calibration'
says 'it says where it is kept' err "calibrated [0-9]* kinds .* $work/cache/npt/calibration-"
cp "$work/err" "$work/first"
file=$(ls "$work/cache/npt/"calibration-*.json)
is_true 'it is one file' [ -f "$file" ]
if ! grep -q '"backend"' "$file"; then
    skip 'routes' 'this build has one backend for everything'
    finish
fi
# shellcheck disable=SC2086
run pretrain $flags --max_steps 2 --dry_run
says 'a dry run says how long a step takes' err \
    'time: about [0-9.e-]+ s a step by the calibration: products'

# Whatever was measured: all to the reference, so that routes do differ.
sed 's/"backend": "[a-z0-9_]*"/"backend": "reference"/' "$file" >"$file.new"
mv "$file.new" "$file"

run backends --threads 1 --model_name "$NPT_DATADIR/tiny-llama" --tokens 16
says 'npt backends prints the routes' out '^F32 x .* reference'
says 'and who was passed over' out 'slower by calibration'
run backends --threads 1 --no_calibration
says '--no_calibration: none is in use' out 'no calibration is in use'
run backends --threads 1 --backend reference
says '--backend: none is in use' out 'no calibration is in use'
run backends --threads 2
says 'another number of threads is another machine' out 'no calibration is in use'
refused '--calibrate with --backend' 2 'compares all backends' backends --calibrate \
    --backend native

# shellcheck disable=SC2086
{
    run pretrain $flags --max_steps 2 --output_dir "$work/routed"
    passes 'a run with a calibration'
    is_true 'it records its digest' [ "$(digest "$work/routed")" != none ]
    says 'and its routes' routed/metrics.jsonl '"routes":\{"[^}]*":"reference"'
    run pretrain $flags --max_steps 4 --output_dir "$work/routed" --resume auto
    passes 'it goes on under the same calibration'
    says_not 'and there is nothing to say' err 'other routes'
    run pretrain $flags --max_steps 6 --output_dir "$work/routed" --resume auto --no_calibration
    passes 'it goes on under none'
    says 'which is said' err 'warning: matmuls may take other routes.*was "[0-9a-f]{16}".*"none"'
    cp -r "$work/plain" "$work/longer"
    run pretrain $flags --max_steps 4 --output_dir "$work/longer" --resume auto
    says 'as is the other way round' err 'other routes.*was "none"'

    echo '{' >"$file"
    run pretrain $flags --max_steps 2 --output_dir "$work/damaged"
    passes 'a run with a damaged calibration'
    says 'it says so' err 'the calibration is ignored'
}
same 'and is, bit for bit, one without' "$work/plain" "$work/damaged"

: >"$work/wall"
XDG_CACHE_HOME=$work/wall
refused 'a cache that cannot be written' 1 'wall' backends --calibrate --seconds 0.02 --threads 1 \
    --model_name "$NPT_DATADIR/tiny-llama" --tokens 16
finish
