#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Help pages: complete, with defaults, narrow enough, the same in both spellings; and every flag
# they list is one that the program takes.
. "${NPT_SRCDIR:-.}/tests/cli/lib.sh"
commands='pretrain pretrain-safe evaluate backends tokenize detokenize make-model doctor selftest
    version'

run
if [ "$code" = 2 ] && grep -q '^usage: npt' "$work/err"; then
    ok 'without a command: the overview on standard error, exit code 2'
else
    not_ok 'without a command: the overview on standard error, exit code 2' "exit code $code"
fi

for form in 'help' '--help' '-h' 'help help'; do
    # shellcheck disable=SC2086
    run $form
    missing=
    for command in $commands help; do
        grep -q "^  $command " "$work/out" || missing="$missing $command"
    done
    if [ "$code" = 0 ] && [ -z "$missing" ]; then
        ok "npt $form lists every command"
    else
        not_ok "npt $form lists every command" "exit code $code, missing:$missing"
    fi
done

for command in $commands; do
    run help "$command"
    cp "$work/out" "$work/page"
    run "$command" --help
    if [ "$code" = 0 ] && [ ! -s "$work/err" ] && cmp -s "$work/out" "$work/page" &&
        grep -q "^usage: npt $command" "$work/page"; then
        ok "npt help $command and npt $command --help are one page"
    else
        not_ok "npt help $command and npt $command --help are one page" "exit code $code"
    fi
    wide=$(awk 'length > 100' "$work/page")
    if [ -z "$wide" ]; then
        ok "the page of $command fits 100 columns"
    else
        not_ok "the page of $command fits 100 columns" "$wide"
    fi
    # A flag that takes a value asks for one, or complains about the word it gets.
    strangers=
    for flag in $(sed -n 's/^  \(--[a-z0-9_]*\).*/\1/p' "$work/page"); do
        [ "$flag" = --help ] && continue
        run "$command" "$flag" --frobnicate
        if [ "$code" != 2 ] || grep -q "no flag $flag" "$work/err"; then
            strangers="$strangers $flag"
        fi
    done
    if [ -z "$strangers" ]; then
        ok "every flag on the page of $command is taken"
    else
        not_ok "every flag on the page of $command is taken" "not taken:$strangers"
    fi
done

# Every flag of the interface, with a default (or "required").
for command in pretrain pretrain-safe; do
    run "$command" --help
    # one line a flag
    awk '/^  --/ { if (line) print line; line = $0; next }
         /^   / { line = line " " $0; next }
         { if (line) print line; line = "" }
         END { if (line) print line }' "$work/out" | tr -s ' ' >"$work/flags"
    missing=
    for flag in model_name adapter_rank use_quantization use_fp16 share_embeddings safe_mode \
        dataset_name dataset_split streaming num_samples max_length batch_size \
        gradient_accumulation_steps learning_rate weight_decay regularization_lambda num_epochs \
        max_steps warmup_steps max_grad_norm optimizer_type scheduler_type output_dir log_steps \
        save_steps log_file use_tensorboard run_name mixed_precision use_bf16 adapter_dtype \
        modulation modulation_scale distill loss layers seed backend threads resume init_adapter \
        save_total_limit eval_dataset eval_steps dry_run memory_limit no_double_quantization \
        strict_data teacher_forcing initial_loss_scale shuffle pack; do
        grep -Eq "^ --$flag .*(\(default [^)]+\)|required)" "$work/flags" ||
            missing="$missing $flag"
    done
    if [ -z "$missing" ]; then
        ok "the page of $command has every flag with its default"
    else
        not_ok "the page of $command has every flag with its default" "missing:$missing"
    fi
done

# has_default COMMAND FLAG DEFAULT: as the method fixes them.
has_default() {
    run "$1" --help
    if tr -s ' \n' '  ' <"$work/out" | grep -Eq -e "--$2 [^(]*\(default $3\)"; then
        ok "$1 --$2 is $3 by default"
    else
        not_ok "$1 --$2 is $3 by default" 'another, or none'
    fi
}
has_default pretrain learning_rate '(1e-04|0.0001)'
has_default pretrain max_grad_norm 1
has_default pretrain loss plain
has_default pretrain-safe learning_rate 5e-05
has_default pretrain-safe max_grad_norm 0.5
has_default pretrain-safe loss normalized
has_default pretrain adapter_rank 16
has_default pretrain max_length 2048
has_default pretrain batch_size 1
has_default pretrain gradient_accumulation_steps 8
has_default pretrain weight_decay 0.01
has_default pretrain regularization_lambda 0.01
has_default pretrain num_epochs 1
has_default pretrain max_steps -1
has_default pretrain warmup_steps 100
has_default pretrain log_steps 10
has_default pretrain save_steps 500
has_default pretrain mixed_precision no
has_default pretrain optimizer_type adamw
has_default pretrain scheduler_type linear
has_default pretrain initial_loss_scale 65536

refused 'help about an unknown command' 2 'evaluat.*evaluate' help evaluat
refused 'help about two commands' 2 'tokenize' help pretrain tokenize
run --version
if [ "$code" = 0 ] && grep -Eq '^npt [0-9]+\.[0-9]+\.[0-9]+$' "$work/out"; then
    ok 'npt --version prints name and version'
else
    not_ok 'npt --version prints name and version' "exit code $code"
fi

if [ -w /dev/full ]; then
    "$npt" version >/dev/full 2>"$work/err"
    code=$?
    if [ "$code" = 1 ] && grep -q 'standard output' "$work/err"; then
        ok 'a full disk under standard output is a failure with a sentence'
    else
        not_ok 'a full disk under standard output is a failure with a sentence' "exit code $code"
    fi
else
    skip 'a full disk under standard output is a failure with a sentence' 'no /dev/full'
fi
"$npt" version >&- 2>"$work/err"
code=$?
if [ "$code" = 1 ] && grep -q 'standard output' "$work/err"; then
    ok 'a closed standard output is a failure with a sentence'
else
    not_ok 'a closed standard output is a failure with a sentence' "exit code $code"
fi
finish
