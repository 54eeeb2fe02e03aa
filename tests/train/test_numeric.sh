#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Values that are not finite: steps that a smaller loss scale mends, forward overflows that none
# mends, weights that are broken. Each is named by its site; a run that has to end is saved.
. "${NPT_SRCDIR:-.}/tests/train/lib.sh"
steps='--batch_size 1 --gradient_accumulation_steps 1 --log_steps 1 --warmup_steps 0
    --max_length 8 --backend native'

# bytes CHARACTER COUNT: e.g. 'F' four times is the float 12689.6.
bytes() { tr '\0' "$1" </dev/zero | head -c "$2"; }

# adapter PATH A B: a rank 1 additive adapter of layer 0 of the bundled model (hidden 128, MLP
# 288), of nothing but the bytes A and B.
adapter() {
    layer=model.layers.0.adapter
    f32='"dtype":"F32","shape"'
    header="{\"$layer.A_proj.weight\":{$f32:[1,128],\"data_offsets\":[0,512]}"
    header="$header,\"$layer.B_add.weight\":{$f32:[288,1],\"data_offsets\":[512,1664]}}"
    {
        # shellcheck disable=SC2059
        printf "\\$(printf '%03o' ${#header})\\0\\0\\0\\0\\0\\0\\0%s" "$header"
        bytes "$2" 512
        bytes "$3" 1152
    } >"$1"
}

# broken_model DIR TENSOR: the bundled model, with NaN for the first values of TENSOR.
broken_model() {
    mkdir "$1"
    cp "$NPT_DATADIR"/tiny-llama/* "$1"
    chmod u+w "$1"/*
    length=$(od -An -tu8 -N8 "$1/model.safetensors" | tr -d ' ')
    offset=$(head -c $((length + 8)) "$1/model.safetensors" | tr '{' '\n' |
        sed -n "/\"$2\"/{n;s/.*\"data_offsets\":\\[\\([0-9]*\\),.*/\\1/p;}")
    bytes '\377' 16 | dd of="$1/model.safetensors" bs=1 seek=$((length + 8 + offset)) \
        conv=notrunc 2>/dev/null
}

# shellcheck disable=SC2086
{
    # ---- gradients that overflow in F16 ----
    run pretrain $steps --learning_rate 1e-2 --max_steps 4 --adapter_rank 4 --use_fp16 \
        --initial_loss_scale 4294967296 --output_dir "$work/scaled"
    passes 'gradients that overflow at a large loss scale: the run goes on'
    says 'a skipped step names the site' err \
        'step 1 skipped: L0[0-4]\.[a-z_]+\.backward \(F16\) has [0-9]+ infinite values '
    says 'and, once, the command that shows more' err 'npt doctor probe with the flags of this run'
    says 'and the new scale' err '; loss scale 4\.29497e\+09 -> 2\.14748e\+09$'
    skipped=$(grep -c 'warning: step 1 skipped' "$work/err")
    is_true 'the metrics count the skipped steps' test "$skipped" -gt 0 -a \
        "$(number skipped_steps "$work/scaled/metrics.jsonl")" = "$skipped"
    is_true 'the scale is halved for each' awk -v n="$skipped" \
        -v s="$(number loss_scale "$work/scaled/metrics.jsonl")" \
        'BEGIN { exit !(s * 2 ^ n == 4294967296) }'
    says 'so does the summary' out "^steps +4, $skipped skipped\$"
    is_true 'the rate stands still meanwhile' \
        test "$(grep -c '"learning_rate":0.01,"g' "$work/scaled/metrics.jsonl")" = 1
    run evaluate --adapter "$work/scaled" --num_samples 2 --max_length 8 --use_fp16
    passes 'what was trained can be evaluated'

    # ---- a forward overflow in F16 ----
    # z = 12 times the sum of a, add = 12689 times that
    adapter "$work/large.safetensors" A F
    overflow="$steps --learning_rate 1e-3 --layers 0 --modulation additive --adapter_rank 1"
    run pretrain $overflow --max_steps 4 --use_fp16 --output_dir "$work/over" \
        --init_adapter "$work/large.safetensors"
    ends 'a forward overflow in F16 ends the run' 1
    says 'once the scale is below 1' err 'loss scale fell below 1'
    says 'naming the forward site, the dtype and the flag that helps' err \
        'not finite: L00\.add \(F16\) .*no loss scale mends a forward overflow, use --use_bf16'
    says 'and where the run is saved' err 'the run is saved as .*/checkpoint-0$'
    is_true 'which is there, whole' test -s "$work/over/checkpoint-0/MANIFEST"
    run pretrain $overflow --max_steps 2 --use_bf16 --output_dir "$work/bf16" \
        --init_adapter "$work/large.safetensors"
    passes 'with --use_bf16 it trains'

    # ---- silu(g) * up, the overflow that Llama is known for ----
    adapter "$work/gate.safetensors" A D
    run pretrain $overflow --modulation_scale 1 --max_steps 4 --use_fp16 --output_dir "$work/gate" \
        --init_adapter "$work/gate.safetensors"
    says 'an overflow of silu(gate) * up alone is found at mlp_act' err \
        'still not finite: L00\.mlp_act \(F16\)'

    # ---- NaN in a weight, no loss scale ----
    broken_model "$work/broken" model.layers.2.mlp.up_proj.weight
    for recipe in pretrain pretrain-safe; do
        run $recipe $steps --learning_rate 5e-5 --max_steps 40 --adapter_rank 2 \
            --model_name "$work/broken" --output_dir "$work/$recipe"
        ends "$recipe: ten batches in a row that are not finite end the run" 1
        skipped=$(grep -c 'warning: batch skipped at step 1' "$work/err")
        is_true 'after ten were skipped' test "$skipped" = 10
        says 'the first site that is not finite is named' err \
            "10 batches in a row were not finite; the last: the teacher's L02\\.up \\(F32\\)"
        is_true 'and the run is saved' test -s "$work/$recipe/checkpoint-0/MANIFEST"
    done
    run evaluate --model_name "$work/broken" --num_samples 1 --max_length 8 --json
    says 'an evaluation that is not finite prints null, not nan' out '"student_perplexity": null'

    # ---- NaN in an adapter ----
    adapter "$work/nan.safetensors" '\377' '?'
    run pretrain-safe $steps --learning_rate 5e-5 --layers 0 --modulation additive \
        --adapter_rank 1 --max_steps 40 --init_adapter "$work/nan.safetensors" \
        --output_dir "$work/nan"
    ends 'NaN in an adapter ends the run' 1
    says 'at the first site that the adapter reaches' err 'the last: L00\.z \(F32\)'
    run evaluate --adapter "$work/nan" --num_samples 1 --max_length 8
    passes 'and its checkpoint can still be read'

    # ---- a few bad batches ----
    # a token whose embedding is NaN, in the second and third row
    broken_model "$work/token" model.embed_tokens.weight
    printf '{"input_ids":[%s]}\n' '5,6,7' '5,0,7' '0,6' '6,7,8' '9,8,7' >"$work/rows.jsonl"
    run pretrain-safe $steps --learning_rate 5e-5 --adapter_rank 2 --num_epochs 3 \
        --model_name "$work/token" --dataset_name "$work/rows.jsonl" --output_dir "$work/few" \
        --max_steps 7
    passes 'a few bad batches are passed over'
    says 'named' err 'batch skipped at step 2: embed \(F32\)|batch skipped at step 2: .*embed'
    is_true 'and counted' test "$(number skipped_batches "$work/few/metrics.jsonl")" = 4
}
finish
