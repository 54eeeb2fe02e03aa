#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The command line: what is accepted, what is refused, and with which words. That flags are
# accepted shows in what is complained about: the unknown flag that stands after them.
. "${NPT_SRCDIR:-.}/tests/cli/lib.sh"
nonsense='there is no flag --frobnicate'
a="--output_dir $work/never"

# accepted NAME FLAG...
accepted() {
    accepted_name=$1
    shift
    refused "$accepted_name" 2 "$nonsense" pretrain "$@" --frobnicate
}

refused 'an unknown flag brings the nearest name' 2 '--lerning_rate.*--learning_rate' \
    pretrain --lerning_rate 1e-4
refused 'neighbours that changed places are one slip' 2 '--bacth_size.*--batch_size' \
    pretrain --bacth_size 1
refused 'a name cut short brings the whole one' 2 '--model[^_].*--model_name' pretrain --model m
refused 'an unknown flag of another command' 2 '--jsn.*--json' evaluate --jsn
refused 'a hyphen in an unknown flag' 2 'nearest is --gradient_accumulation_steps' \
    pretrain --gradient-accumulation-step 3
refused 'an unknown command brings the nearest name' 2 'pretran.*pretrain' pretran
refused 'one hyphen does not make a flag' 2 'no flag -output_dir.*--output_dir' \
    pretrain -output_dir out
refused 'a word where none is expected' 2 '"more"' pretrain $a more
refused 'true after a flag that is on or off' 2 '--use_fp16=true' pretrain $a --use_fp16 true
refused 'a second directory for make-model' 2 '"two"' make-model one two
refused 'make-model without a directory' 2 'OUT' make-model --hidden 8
refused 'training without --output_dir' 2 '--output_dir' pretrain

refused 'a flag at the end without its value' 2 '--output_dir needs a value' pretrain --output_dir
refused 'a flag before another without its value' 2 '--model_name needs a value' \
    pretrain --model_name --dry_run
refused 'an empty value' 2 '--model_name' pretrain --model_name= $a
refused 'a number with letters after it' 2 '--learning_rate 5e-5x.*from 0 to 10' \
    pretrain $a --learning_rate 5e-5x
refused 'a real number where a whole one belongs' 2 '--batch_size 1\.5.*whole number' \
    pretrain $a --batch_size 1.5
refused 'a number beyond 64 bits' 2 '--max_steps 99999999999999999999' \
    pretrain $a --max_steps 99999999999999999999
refused 'a rate that is not a number' 2 '--learning_rate nan' pretrain $a --learning_rate nan
refused 'an infinite rate' 2 '--learning_rate inf' pretrain $a --learning_rate inf
refused 'a rate beyond doubles' 2 '--learning_rate 1e999' pretrain $a --learning_rate 1e999
refused 'a hexadecimal number' 2 '--weight_decay 0x1' pretrain $a --weight_decay 0x1
refused 'white space in a number' 2 '--batch_size  2' pretrain $a --batch_size ' 2'
refused 'a negative seed' 2 '--seed -1' pretrain $a --seed -1
refused 'rank 0' 2 '--adapter_rank 0.*from 1' pretrain $a --adapter_rank 0
refused 'batch size 0' 2 '--batch_size 0.*from 1' pretrain $a --batch-size 0
refused 'no accumulation' 2 '--gradient_accumulation_steps 0' \
    pretrain $a --gradient_accumulation_steps=0
refused 'a negative learning rate' 2 '--learning_rate -1' pretrain $a --learning_rate -1
refused 'a negative weight of the regularizer' 2 '--regularization_lambda -0.1' \
    pretrain $a --regularization_lambda -0.1
refused 'max_steps below -1' 2 '--max_steps -2' pretrain $a --max_steps -2
refused 'a probability above 1' 2 '--teacher_forcing 1.5.*0 to 1' pretrain $a --teacher_forcing 1.5
refused 'a loss scale of 0' 2 '--initial_loss_scale 0' pretrain $a --initial_loss_scale 0
refused 'an unknown loss' 2 '--loss cosine.*normalized, plain' pretrain $a --loss cosine
refused 'an unknown optimizer' 2 '--optimizer_type sgd.*adamw, adam' \
    pretrain $a --optimizer_type sgd
refused 'an unknown schedule' 2 '--scheduler_type poly.*linear, cosine' \
    pretrain $a --scheduler_type poly
refused 'an unknown mixed precision' 2 '--mixed_precision fp8.*no, fp16, bf16' \
    pretrain $a --mixed_precision fp8
refused 'an adapter dtype of integers' 2 '--adapter_dtype int8' pretrain $a --adapter_dtype int8
refused 'a flag that is neither true nor false' 2 '--use_fp16=maybe' pretrain $a --use_fp16=maybe
refused 'a flag given twice with two values' 2 '--batch_size is given twice, as 2 and as 3' \
    pretrain $a --batch_size 2 --batch-size=3
refused 'two datasets' 2 '--dataset_name is given twice' \
    pretrain $a --dataset_name a --dataset_name b
refused 'a flag and its opposite' 2 '--use_fp16 is given twice' pretrain $a --use_fp16 --no_use_fp16
refused 'safe mode with another modulation' 2 '--safe_mode.*--modulation both' \
    pretrain $a --safe_mode --modulation both
refused 'embeddings that are not shared' 2 '--share_embeddings' pretrain $a --no_share_embeddings

for flag in '--use_tensorboard' '--shuffle' '--pack'; do
    name=${flag%%=*}
    refused "$name is still to come and says so" 2 "^npt pretrain: $name: .*this version" \
        pretrain $a "$flag"
done

accepted 'underscores and hyphens, with a blank or a sign' --batch-size=4 --num_epochs 2 \
    --learning-rate 5e-5 --weight_decay=0
accepted 'the same value twice' --batch_size 4 --batch-size=4
accepted 'flags that are on or off, in every form' --streaming --dry_run=false --strict-data=true \
    --no_use_fp16 --no-use_bf16 --no_shuffle --use_tensorboard=false --double_quantization
accepted 'names of choices with hyphens or underscores' --distill end_to_end \
    --scheduler_type constant-with-warmup --adapter_dtype BF16
accepted 'numbers below zero' --max_steps -1
accepted 'the largest seed' --seed 18446744073709551615
accepted 'safe mode with the modulation it means' --safe_mode --modulation additive
accepted 'the fp16 recipe' --model_name M --adapter_rank 16 --use_fp16 --mixed_precision fp16 \
    --batch_size 2 --gradient_accumulation_steps 4 --learning_rate 5e-5 \
    --output_dir ./outputs/npt-fp16
accepted 'the 4-bit recipe' --model_name M --adapter_rank 16 --use_quantization --batch_size 1 \
    --gradient_accumulation_steps 8 --learning_rate 5e-5 --output_dir ./outputs/npt-quantized
accepted 'the safe recipe' --model_name M --adapter_rank 16 --use_quantization --safe_mode \
    --batch_size 1 --gradient_accumulation_steps 8 --learning_rate 5e-5 \
    --output_dir ./outputs/npt-safe
accepted 'every other flag' --share_embeddings --dataset_name d --dataset_split train --streaming \
    --num_samples 3 --max_length 64 --regularization_lambda 0 --num_epochs 1 --max_steps 5 \
    --warmup_steps 0 --max_grad_norm 0.5 --optimizer_type adam --scheduler_type cosine \
    --log_steps 1 --save_steps 5 --log_file l --run_name r --use_bf16 --modulation multiplicative \
    --modulation_scale 0.2 --distill mixed --teacher_forcing 0.5 --loss plain --layers 0,2 \
    --seed 1 --backend native,reference --threads 2 --resume auto \
    --init_adapter i --save_total_limit 2 \
    --eval_dataset e --eval_steps 5 --dry_run --no_double_quantization --strict_data \
    --initial_loss_scale 1024
finish
