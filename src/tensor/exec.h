/* SPDX-License-Identifier: BSD-2-Clause */
/* The context of all computing: threads, the kernel table, the list of matmul backends, scratch.
 * No globals: two contexts with different backends can be compared in one process. */
#ifndef NPT_TENSOR_EXEC_H
#define NPT_TENSOR_EXEC_H

#include "base/memory.h"
#include "tensor/kernels.h"
#include "tensor/matmul.h"
#include "tensor/routes.h"

#define NPT_MAX_BACKENDS 8

typedef struct npt_exec npt_exec;

/* `backends`: NULL or "" = all, in the built-in order, else names separated by commas, in that
 * order ("native,reference"; `reference` is always last whether named or not). Unknown or not
 * compiled in: NPT_E_USAGE with the names there are. threads 0 = all allowed. NPT_BACKEND in the
 * environment counts where `backends` says nothing; NPT_CPU_MAX lowers the level. */
npt_status npt_exec_create(npt_exec **exec, const char *backends, int threads);
void npt_exec_destroy(npt_exec *exec);

const npt_kernels *npt_exec_kernels(const npt_exec *exec);
const npt_run *npt_exec_run(const npt_exec *exec);
const npt_cpu *npt_exec_cpu(const npt_exec *exec);
int npt_exec_threads(const npt_exec *exec);
size_t npt_exec_backend_count(const npt_exec *exec);
const npt_matmul_backend *npt_exec_backend(const npt_exec *exec, size_t index);

/* Whether the order of backends was asked for, by the caller or in NPT_BACKEND. */
bool npt_exec_named(const npt_exec *exec);
/* From now on a product goes to the backend that `routes` names for its kind, where that is among
 * the context's and does not refuse it; copied; NULL or none: the order of the list. NPT_E_NOMEM.
 */
npt_status npt_exec_use_routes(npt_exec *exec, const npt_routes *routes);
/* NULL where there are none. */
const npt_routes *npt_exec_routes(const npt_exec *exec);
/* Products are added to `tally` from now on; NULL: no more. */
void npt_exec_tally(npt_exec *exec, npt_tally *tally);
/* How F32 activations are multiplied; NPT_MATMUL_AUTO at first. */
void npt_exec_set_precision(npt_exec *exec, npt_matmul_precision precision);
npt_matmul_precision npt_exec_precision(const npt_exec *exec);

/* Makes room for kernels on sequences up to `longest` tokens. NPT_E_NOMEM. */
npt_status npt_exec_reserve(npt_exec *exec, int64_t longest, int64_t head_dim, int64_t width);

/* The backend a product goes to; desc must be legal. Remembered per shape for a while;
 * NPT_VERBOSE=1 prints each choice that is made, with the reasons of those that refused. */
const npt_matmul_backend *npt_exec_choose(npt_exec *exec, const npt_matmul_desc *desc);
/* By what arithmetic that backend does it; "" where there is one way only. `text`: 128 bytes. */
const char *npt_exec_route(npt_exec *exec, const npt_matmul_desc *desc, char *text);
/* Panels of products in bf16 pieces so far, and how many of them FMA made again. */
npt_matmul_counts npt_exec_counts(const npt_exec *exec);
/* Chooses and runs. Scratch grows at the first call of a shape. */
npt_status npt_matmul(npt_exec *exec, const npt_matmul_desc *desc, const npt_matmul_args *args);
/* Twice the same product, of args that differ in a and c alone: as two calls, but what is done to W
 * may be done once. */
npt_status npt_matmul_two(npt_exec *exec, const npt_matmul_desc *desc,
                          const npt_matmul_args args[2]);
/* The same by this backend, which must not refuse it: for measurements. Never tallied. */
npt_status npt_matmul_by(npt_exec *exec, const npt_matmul_backend *backend,
                         const npt_matmul_desc *desc, const npt_matmul_args *args);
/* Makes the scratch of a product now. NPT_E_NOMEM. */
npt_status npt_exec_reserve_matmul(npt_exec *exec, const npt_matmul_desc *desc);
/* Bytes of scratch held. */
size_t npt_exec_scratch_bytes(const npt_exec *exec);

/* Provided by cpu/: the compiled-in backends in built-in order for this CPU, reference last;
 * returns how many; and the kernel table for this CPU. */
size_t npt_cpu_backends(const npt_cpu *cpu, const npt_matmul_backend *list[NPT_MAX_BACKENDS]);
void npt_cpu_kernels(const npt_cpu *cpu, npt_kernels *kernels);

#endif
