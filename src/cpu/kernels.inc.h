/* SPDX-License-Identifier: BSD-2-Clause */
/* The kernels, one text for every level. kernels_<level>.c defines
 *     NPT_VECTOR_FLOATS   floats in a register: 4, 8, 16
 *     NPT_KERNELS_LEVEL   the level's name
 *     NPT_KERNELS_FILL    the filler, the only symbol that the object exports
 * and includes this. A function that is not static here would be shared between objects compiled
 * for different CPUs; `make check-isa-leak` looks for such. */
#include "cpu/lanes.inc.h"

#include "cpu/elementwise.inc.h"
#include "cpu/gate.inc.h"
#include "cpu/rows.inc.h"
#include "cpu/totals.inc.h"
#include "cpu/attention.inc.h"

void NPT_KERNELS_FILL(npt_kernels *kernels)
{
    *kernels = (npt_kernels){
        .name = NPT_KERNELS_LEVEL,
        .scratch_bytes = scratch_bytes,
        .embed = embed,
        .cast = cast,
        .add = add,
        .norm = norm,
        .norm_backward = norm_backward,
        .rope = rope,
        .attention = attention,
        .attention_backward = attention_backward,
        .turn = turn,
        .lowrank = lowrank,
        .gate = gate,
        .gate_backward = gate_backward,
        .distance = distance,
        .distance_backward = distance_backward,
        .sum_squares = sum_squares,
        .survey = survey,
        .adam = adam,
        .compare = compare,
    };
}
