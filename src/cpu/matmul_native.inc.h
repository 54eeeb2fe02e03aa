/* SPDX-License-Identifier: BSD-2-Clause */
/* The native matmul's inner loops, written once and compiled per instruction set. The including
 * file defines FILL, LANES, MAX_ROWS, TILE_CASES, DOT_TOKENS, NF4_ROWS, SPREAD_TOKENS, NEAR
 * (k between asking for lanes and using them; 0: they stay in first-level cache); vf with
 * v_zero(), v_set1(x), v_load(p), v_store(p, v), v_fma(a, b, c), v_add(a, b),
 * v_transpose(v[LANES]), v_from_f16(p), v_from_bf16(p), v_to_f16(p, v), v_to_bf16(p, v); of
 * 2 × LANES BF16 at once v_even_bf16(p) and v_odd_bf16(p); and for NF4 vtable with
 * v_table(levels, absmax) and v_from_nf4(packed, table), vlevels with v_levels(levels) and
 * v_block(packed, &levels, absmax, v[64 / LANES]), which gives a block in the order of
 * npt_native_place(). No function here reads or writes past the elements it was given. */

#define INLINE static inline __attribute__((always_inline))

/* ---- Widening ------------------------------------------------------------------------------ */

/* dst[0 … count-1] where the rest of a vector must not be touched. */
static void widen_tail(const void *src, npt_dtype dtype, int64_t index, int64_t count, float *dst)
{
    float lane[LANES];
    uint16_t half[LANES] = {0};
    if (dtype == NPT_F32) {
        memcpy(dst, (const float *)src + index, (size_t)count * sizeof(float));
        return;
    }
    memcpy(half, (const uint16_t *)src + index, (size_t)count * sizeof(half[0]));
    v_store(lane, dtype == NPT_F16 ? v_from_f16(half) : v_from_bf16(half));
    memcpy(dst, lane, (size_t)count * sizeof(float));
}

/* Elements one by one, wherever blocks and bytes begin. */
static void widen_nf4_any(const npt_native_operand *src, int64_t index, int64_t count, float *dst)
{
    const uint8_t *packed = src->data;
    for (int64_t i = 0; i < count; i++, index++) {
        const unsigned byte = packed[index / 2];
        dst[i] = src->levels[index % 2 == 0 ? byte >> 4 : byte & 15u] * src->absmax[index / 64];
    }
}

/* Whole blocks in the order of npt_native_place(). */
static void widen_blocks(const npt_native_operand *src, int64_t index, int64_t count, float *dst)
{
    const uint8_t *packed = (const uint8_t *)src->data + index / 2;
    const float *absmax = src->absmax + index / 64;
    const vlevels levels = v_levels(src->levels);
    for (int64_t i = 0; i < count; i += 64) {
        vf v[64 / LANES];
        v_block(packed + i / 2, &levels, *absmax++, v);
        UNROLLED
        for (int j = 0; j < 64 / LANES; j++) v_store(dst + i + j * LANES, v[j]);
    }
}

/* A vector never straddles two blocks where the index is a multiple of its length. */
static void widen_nf4(const npt_native_operand *src, int64_t index, int64_t count, float *dst)
{
    const uint8_t *packed = src->data;
    int64_t i = 0;
    if (index % LANES != 0) {
        i = LANES - index % LANES;
        if (i > count) i = count;
        widen_nf4_any(src, index, i, dst);
    }
    while (count - i >= LANES) {
        const int64_t block = (index + i) / 64;
        int64_t end = (block + 1) * 64 - index;
        if (end > count) end = count;
        const vtable table = v_table(src->levels, src->absmax[block]);
        for (; i + LANES <= end; i += LANES)
            v_store(dst + i, v_from_nf4(packed + (index + i) / 2, table));
    }
    widen_nf4_any(src, index + i, count - i, dst + i);
}

static void widen(const npt_native_operand *src, int64_t index, int64_t count, float *dst)
{
    const int64_t whole = count - count % LANES;
    const float *floats = (const float *)src->data + index;
    const uint16_t *halves = (const uint16_t *)src->data + index;
    if (src->dtype == NPT_NF4) {
        widen_nf4(src, index, count, dst);
        return;
    }
    if (src->dtype == NPT_F32)
        for (int64_t i = 0; i < whole; i += LANES) v_store(dst + i, v_load(floats + i));
    else if (src->dtype == NPT_F16)
        for (int64_t i = 0; i < whole; i += LANES) v_store(dst + i, v_from_f16(halves + i));
    else
        for (int64_t i = 0; i < whole; i += LANES) v_store(dst + i, v_from_bf16(halves + i));
    if (whole < count) widen_tail(src->data, src->dtype, index + whole, count - whole, dst + whole);
}

/* ---- Packing ------------------------------------------------------------------------------- */

static void pack_rows(const npt_native_packing *packing, int64_t from, int64_t to)
{
    const npt_native_operand *src = packing->src;
    const int64_t depth = packing->depth, k0 = packing->k0, first = packing->first;
    const int64_t valid = npt_min64(packing->count, src->count - first);
    float *dst = packing->dst;
    (void)from, (void)to;
    for (int64_t r = valid; r < packing->count; r++)
        memset(dst + r * NPT_NATIVE_DEPTH, 0, (size_t)depth * sizeof(float));
    if (src->k_inside) {
        for (int64_t r = 0; r < valid; r++)
            widen(src, (first + r) * src->depth + k0, depth, dst + r * NPT_NATIVE_DEPTH);
        return;
    }
    float line[NPT_NATIVE_CHUNK];
    for (int64_t k = 0; k < depth; k++) {
        widen(src, (k0 + k) * src->count + first, valid, line);
        for (int64_t r = 0; r < valid; r++) dst[r * NPT_NATIVE_DEPTH + k] = line[r];
    }
}

/* One vector where it is stored. NF4: `index` is a multiple of LANES. */
INLINE vf load_vector(const npt_dtype dtype, const npt_native_operand *src, int64_t index)
{
    if (dtype == NPT_F32) return v_load((const float *)src->data + index);
    if (dtype == NPT_F16) return v_from_f16((const uint16_t *)src->data + index);
    if (dtype == NPT_BF16) return v_from_bf16((const uint16_t *)src->data + index);
    return v_from_nf4((const uint8_t *)src->data + index / 2,
                      v_table(src->levels, src->absmax[index / 64]));
}

/* LANES vectors × depth, turned so that lanes lie together; `width` is dst's stride. */
INLINE void pack_turned(const npt_dtype dtype, const npt_native_operand *src, int64_t first,
                        int64_t width, int64_t k0, int64_t depth, float *dst)
{
    float line[LANES][LANES] = {{0}};
    const int64_t valid = npt_min64(LANES, src->count - first);
    for (int64_t k = 0; k < depth; k += LANES) {
        const int64_t some = npt_min64(LANES, depth - k), index = first * src->depth + k0 + k;
        vf v[LANES];
        if (valid == LANES && some == LANES && dtype != NPT_NF4) {
            UNROLLED
            for (int r = 0; r < LANES; r++) v[r] = load_vector(dtype, src, index + r * src->depth);
        } else {
            for (int64_t r = 0; r < valid; r++) widen(src, index + r * src->depth, some, line[r]);
            for (int r = 0; r < LANES; r++) v[r] = v_load(line[r]);
        }
        v_transpose(v);
        for (int64_t i = 0; i < some; i++) v_store(dst + (k + i) * width, v[i]);
    }
}

/* `some` k of a panel: `vectors` of them from flat `index`, of which `valid` elements are there. */
INLINE void pack_panel(const npt_dtype dtype, const npt_native_operand *src, int64_t index,
                       int64_t valid, int vectors, int64_t some, float *dst)
{
    if (vectors == 2 && valid >= 2 * LANES) {
        for (int64_t k = 0; k < some; k++, index += src->count, dst += 2 * LANES) {
            v_store(dst, load_vector(dtype, src, index));
            v_store(dst + LANES, load_vector(dtype, src, index + LANES));
        }
        return;
    }
    for (int64_t k = 0; k < some; k++, index += src->count, dst += vectors * LANES) {
        float line[2 * LANES] = {0};
        if (valid > 0) widen(src, index, npt_min64(valid, vectors * LANES), line);
        memcpy(dst, line, (size_t)(vectors * LANES) * sizeof(float));
    }
}

/* A matrix whose k lies outside, a few k of all panels at a time: fewer would write to too many
 * places in turn, more read from too many. NF4: the row length and the first lane are multiples of
 * LANES. */
INLINE void pack_straight(const npt_dtype dtype, const npt_native_packing *packing)
{
    enum { FEW = 8 };
    const npt_native_operand *src = packing->src;
    const int64_t width = packing->count, valid = npt_min64(width, src->count - packing->first);
    for (int64_t k = 0; k < packing->depth; k += FEW) {
        const int64_t some = npt_min64(FEW, packing->depth - k);
        const int64_t index = (packing->k0 + k) * src->count + packing->first;
        for (int64_t i = 0; i < width; i += 2 * LANES) {
            const int vectors = width - i > LANES ? 2 : 1;
            float *dst = (float *)packing->dst + i * NPT_NATIVE_LANE_STEP + k * vectors * LANES;
            pack_panel(dtype, src, index + i, valid - i, vectors, some, dst);
        }
    }
}

/* NF4 where a vector may begin anywhere: row by row through a buffer. */
static void pack_nf4_any(const npt_native_packing *packing)
{
    float line[NPT_NATIVE_CHUNK] = {0};
    const npt_native_operand *src = packing->src;
    const int64_t width = packing->count, valid = npt_min64(width, src->count - packing->first);
    const npt_native_operand buffer = {.data = line, .dtype = NPT_F32, .count = width, .depth = 1};
    for (int64_t k = 0; k < packing->depth; k++) {
        widen(src, (packing->k0 + k) * src->count + packing->first, valid, line);
        for (int64_t i = 0; i < width; i += 2 * LANES) {
            const int vectors = width - i > LANES ? 2 : 1;
            float *dst = (float *)packing->dst + i * NPT_NATIVE_LANE_STEP + k * vectors * LANES;
            pack_panel(NPT_F32, &buffer, i, width - i, vectors, 1, dst);
        }
    }
}

INLINE void pack_all_turned(const npt_dtype dtype, const npt_native_packing *packing)
{
    const int64_t width = packing->count;
    float *dst = packing->dst;
    for (int64_t i = 0; i < width; i += LANES) {
        const int64_t panel = i - i % (2 * LANES);
        const int64_t stride = width - panel > LANES ? 2 * LANES : LANES;
        pack_turned(dtype, packing->src, packing->first + i, stride, packing->k0, packing->depth,
                    dst + panel * NPT_NATIVE_LANE_STEP + (i - panel));
    }
}

INLINE void pack_dtype(const npt_dtype dtype, const npt_native_packing *packing)
{
    if (packing->src->k_inside)
        pack_all_turned(dtype, packing);
    else
        pack_straight(dtype, packing);
}

static void pack_lanes(const npt_native_packing *packing, int64_t from, int64_t to)
{
    const npt_native_operand *src = packing->src;
    (void)from, (void)to;
    if (src->dtype == NPT_F32)
        pack_dtype(NPT_F32, packing);
    else if (src->dtype == NPT_F16)
        pack_dtype(NPT_F16, packing);
    else if (src->dtype == NPT_BF16)
        pack_dtype(NPT_BF16, packing);
    else if (src->k_inside || src->count % LANES == 0)
        pack_dtype(NPT_NF4, packing);
    else
        pack_nf4_any(packing);
}

/* ---- The tile ------------------------------------------------------------------------------ */

/* Limited by the FMA units, two a cycle, as long as what is read comes from the first-level cache;
 * beside a busy neighbour of the core by the number of instructions: hence four k a round and one
 * line asked for at a time. AVX2 on Zen 3, one thread: the loop alone 91 to 94 GFLOP/s of 95,
 * whole products 75 to 82. */

/* Some k: every row's element times one or two vectors. */
INLINE NPT_ASAN_UNCHECKED void tile_steps(const int steps, const int rows, const int vectors,
                                          const float *row, const float *lane, vf sum[MAX_ROWS][2])
{
    UNROLLED
    for (int k = 0; k < steps; k++, lane += vectors * LANES) {
        vf right[2];
        UNROLLED
        for (int v = 0; v < vectors; v++) {
            right[v] = v_load(lane + v * LANES);
            /* where rows stay, lanes come from the second-level cache; a prefetch may point beyond
             * them */
            if (NEAR > 0) __builtin_prefetch(lane + (NEAR * vectors + v) * LANES, 0, 3);
        }
        UNROLLED
        for (int r = 0; r < rows; r++) {
            const vf left = v_set1(row[r * NPT_NATIVE_DEPTH + k]);
            UNROLLED
            for (int v = 0; v < vectors; v++) sum[r][v] = v_fma(left, right[v], sum[r][v]);
        }
    }
}

INLINE NPT_ASAN_UNCHECKED void tile_of(const int rows, const int vectors,
                                       const npt_native_tile *tile)
{
    enum { STEPS = NPT_NATIVE_TILE_STEPS };
    const int width = vectors * LANES;
    npt_native_aside *const aside = tile->aside;
    const int64_t left = aside != NULL ? aside->line_end - aside->line : 0;
    const int64_t quota = left == 0 ? 0 : npt_min64(aside->tile_lines, left);
    const int64_t every = left == 0 ? 0 : aside->tile_every;
    const float *const row = tile->row, *const lane = tile->lane;
    int64_t k = 0;
    vf sum[MAX_ROWS][2];
    UNROLLED
    for (int r = 0; r < rows; r++) {
        UNROLLED
        for (int v = 0; v < vectors; v++)
            sum[r][v] = tile->add ? v_load(tile->sums + r * width + v * LANES) : v_zero();
    }
    NOT_UNROLLED
    for (int64_t l = 0; l < quota; l++) {
        __builtin_prefetch(*aside->line++, 0, 2);
        for (const int64_t end = k + every; k < end; k += STEPS)
            tile_steps(STEPS, rows, vectors, row + k, lane + k * width, sum);
    }
    NOT_UNROLLED
    for (; k + STEPS <= tile->depth; k += STEPS)
        tile_steps(STEPS, rows, vectors, row + k, lane + k * width, sum);
    NOT_UNROLLED
    for (; k < tile->depth; k++) tile_steps(1, rows, vectors, row + k, lane + k * width, sum);
    UNROLLED
    for (int r = 0; r < rows; r++) {
        UNROLLED
        for (int v = 0; v < vectors; v++) v_store(tile->sums + r * width + v * LANES, sum[r][v]);
    }
}

#define TILE_CASE(count)                                                                           \
    case count:                                                                                    \
        if (work->vectors == 2)                                                                    \
            tile_of(count, 2, work);                                                               \
        else                                                                                       \
            tile_of(count, 1, work);                                                               \
        break;

NPT_ASAN_UNCHECKED static void tile_by_rows(const npt_native_tile *work)
{
    switch (work->rows) {
        TILE_CASES
    }
}

static void tile(const npt_native_tile *work)
{
    const size_t depth = (size_t)work->depth, width = (size_t)work->vectors * LANES;
    for (int r = 0; r < work->rows; r++)
        npt_asan_check((const float *)work->row + r * NPT_NATIVE_DEPTH, depth * sizeof(float));
    npt_asan_check(work->lane, depth * width * sizeof(float));
    npt_asan_check(work->sums, (size_t)work->rows * width * sizeof(float));
    tile_by_rows(work);
}

/* ---- Storing ------------------------------------------------------------------------------- */

INLINE size_t element_bytes(const npt_native_store *piece)
{
    return piece->dtype == NPT_F32 ? sizeof(float) : sizeof(uint16_t);
}

/* LANES neighbours of one row of C; the one rounding. */
INLINE void store_whole(const npt_native_store *piece, vf value, void *c, int64_t column)
{
    if (piece->bias != NULL) value = v_add(value, v_load(piece->bias + column));
    if (piece->accumulate) value = v_add(value, v_load(c));
    if (piece->dtype == NPT_F32)
        v_store(c, value);
    else if (piece->dtype == NPT_F16)
        v_to_f16(c, value);
    else
        v_to_bf16(c, value);
}

/* Up to LANES: the same in buffers. */
INLINE void store_some(const npt_native_store *piece, vf value, void *c, int64_t column,
                       int64_t count)
{
    float lane[LANES] = {0}, bias[LANES] = {0};
    npt_native_store there = *piece;
    if (count >= LANES) {
        store_whole(piece, value, c, column);
        return;
    }
    if (count <= 0) return;
    const size_t size = (size_t)count * element_bytes(piece);
    if (piece->bias != NULL) {
        memcpy(bias, piece->bias + column, (size_t)count * sizeof(float));
        there.bias = bias;
    }
    if (piece->accumulate) memcpy(lane, c, size);
    store_whole(&there, value, lane, 0);
    memcpy(c, lane, size);
}

static void *element(const npt_native_store *piece, int64_t row, int64_t column)
{
    return (char *)piece->c + (size_t)(row * piece->stride + column) * element_bytes(piece);
}

static void store(const npt_native_store *piece)
{
    for (int64_t r = 0; r < piece->rows; r++)
        for (int64_t i = 0; i < piece->lanes; i += LANES)
            store_some(piece, v_load(piece->sums + r * piece->width + i), element(piece, r, i), i,
                       piece->lanes - i);
}

static void store_transposed(const npt_native_store *piece)
{
    for (int64_t i = 0; i < piece->lanes; i += LANES)
        for (int64_t r = 0; r < piece->rows; r += LANES) {
            const int64_t valid = npt_min64(LANES, piece->rows - r);
            vf v[LANES];
            for (int64_t j = 0; j < LANES; j++)
                v[j] = j < valid ? v_load(piece->sums + (r + j) * piece->width + i) : v_zero();
            v_transpose(v);
            for (int64_t j = 0; j < LANES && i + j < piece->lanes; j++)
                store_some(piece, v[j], element(piece, i + j, r), r, valid);
        }
}

/* ---- Few tokens ---------------------------------------------------------------------------- */

INLINE void dot_of(const int tokens, int64_t depth, const float *w, int64_t w_stride,
                   const float *x, int64_t x_stride, float *partial)
{
    vf sum[NPT_NATIVE_DOT_ROWS][DOT_TOKENS];
    UNROLLED
    for (int r = 0; r < NPT_NATIVE_DOT_ROWS; r++) {
        UNROLLED
        for (int t = 0; t < tokens; t++)
            sum[r][t] = v_load(partial + (r * NPT_NATIVE_DOT_TOKENS + t) * LANES);
    }
    for (int64_t k = 0; k < depth; k += LANES) {
        vf left[NPT_NATIVE_DOT_ROWS];
        UNROLLED
        for (int r = 0; r < NPT_NATIVE_DOT_ROWS; r++) left[r] = v_load(w + r * w_stride + k);
        UNROLLED
        for (int t = 0; t < tokens; t++) {
            const vf right = v_load(x + t * x_stride + k);
            UNROLLED
            for (int r = 0; r < NPT_NATIVE_DOT_ROWS; r++)
                sum[r][t] = v_fma(left[r], right, sum[r][t]);
        }
    }
    UNROLLED
    for (int r = 0; r < NPT_NATIVE_DOT_ROWS; r++) {
        UNROLLED
        for (int t = 0; t < tokens; t++)
            v_store(partial + (r * NPT_NATIVE_DOT_TOKENS + t) * LANES, sum[r][t]);
    }
}

static void dot(int tokens, int64_t depth, const float *w, int64_t w_stride, const float *x,
                int64_t x_stride, float *partial)
{
    for (; tokens >= DOT_TOKENS; tokens -= DOT_TOKENS) {
        dot_of(DOT_TOKENS, depth, w, w_stride, x, x_stride, partial);
        x += DOT_TOKENS * x_stride;
        partial += DOT_TOKENS * LANES;
    }
    for (; tokens > 0; tokens--) {
        dot_of(1, depth, w, w_stride, x, x_stride, partial);
        x += x_stride;
        partial += LANES;
    }
}

/* 64 elements of W where they are stored, in the order of npt_native_place(). */
INLINE void load_block(const npt_dtype dtype, const npt_native_operand *w, const vlevels *levels,
                       int64_t index, vf v[64 / LANES])
{
    const uint16_t *const halves = (const uint16_t *)w->data + index;
    if (dtype == NPT_NF4) {
        v_block((const uint8_t *)w->data + index / 2, levels, w->absmax[index / 64], v);
        return;
    }
    UNROLLED
    for (int i = 0, j = 0; i < 64; i += LANES, j++) {
        if (dtype == NPT_F32)
            v[j] = v_load((const float *)w->data + index + i);
        else if (dtype == NPT_F16)
            v[j] = v_from_f16(halves + i);
        else
            v[j] = j % 2 == 0 ? v_even_bf16(halves + i) : v_odd_bf16(halves + i - LANES);
    }
}

/* One token: nothing is widened into memory first, W goes from where it is stored into the sums.
 * Rows side by side keep more of the memory busy; where arithmetic limits, as with NF4 on AVX2, one
 * row at a time with two sums is faster: a thread of Zen 3, GFLOP/s, 20 for 14. */
INLINE void dot_one_of(const npt_dtype dtype, const int rows, const int sums,
                       const npt_native_operand *w, int64_t index, int64_t depth, const float *x,
                       float *partial)
{
    enum { AHEAD = 1024 }; /* bytes; four rows keep the memory busy without asking */
    const vlevels levels = dtype == NPT_NF4 ? v_levels(w->levels) : (vlevels){0};
    vf sum[NPT_NATIVE_DOT_ROWS][2];
    UNROLLED
    for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = v_zero();
    for (int64_t k = 0; k < depth; k += 64) {
        UNROLLED
        for (int r = 0; r < rows; r++) {
            vf left[64 / LANES];
            const int64_t at = index + r * depth + k;
            if (dtype == NPT_NF4 && rows == 1)
                __builtin_prefetch((const char *)w->data + at / 2 + AHEAD, 0, 3);
            load_block(dtype, w, &levels, at, left);
            UNROLLED
            for (int j = 0; j < 64 / LANES; j++)
                sum[r][j % sums] = v_fma(left[j], v_load(x + k + j * LANES), sum[r][j % sums]);
        }
    }
    UNROLLED
    for (int r = 0; r < rows; r++) {
        if (sums == 2) sum[r][0] = v_add(sum[r][0], sum[r][1]);
        v_store(partial + r * NPT_NATIVE_DOT_TOKENS * LANES, sum[r][0]);
    }
}

INLINE void dot_one_dtype(const npt_dtype dtype, const npt_native_operand *w, int64_t index,
                          int64_t rows, int64_t depth, const float *x, float *partial)
{
    enum { STEP = NPT_NATIVE_DOT_TOKENS * LANES };
    const int some = dtype == NPT_NF4 ? NF4_ROWS : NPT_NATIVE_DOT_ROWS, sums = some == 1 ? 2 : 1;
    int64_t r = 0;
    for (; r + some <= rows; r += some)
        dot_one_of(dtype, some, sums, w, index + r * depth, depth, x, partial + r * STEP);
    for (; r < rows; r++)
        dot_one_of(dtype, 1, sums, w, index + r * depth, depth, x, partial + r * STEP);
}

static void dot_one(const npt_native_operand *w, int64_t index, int64_t rows, int64_t depth,
                    const float *x, float *partial)
{
    if (w->dtype == NPT_F32)
        dot_one_dtype(NPT_F32, w, index, rows, depth, x, partial);
    else if (w->dtype == NPT_F16)
        dot_one_dtype(NPT_F16, w, index, rows, depth, x, partial);
    else if (w->dtype == NPT_BF16)
        dot_one_dtype(NPT_BF16, w, index, rows, depth, x, partial);
    else
        dot_one_dtype(NPT_NF4, w, index, rows, depth, x, partial);
}

/* Sums of some tokens at one or two vectors of columns; meanwhile a line of as many rows from
 * `ahead` on is asked for, if that is not NULL. */
INLINE void spread_at(const int tokens, const int vectors, const npt_native_spread *work,
                      int64_t column, int64_t token, const char *ahead)
{
    const float *w = work->w + column, *x = work->x + token;
    float *const sums = work->sums + token * work->sums_stride + column;
    vf sum[SPREAD_TOKENS][2];
    UNROLLED
    for (int t = 0; t < tokens; t++) {
        UNROLLED
        for (int v = 0; v < vectors; v++)
            sum[t][v] = v_load(sums + t * work->sums_stride + v * LANES);
    }
    NOT_UNROLLED
    for (int64_t r = 0; r < work->rows; r++, w += work->w_stride, x += work->x_stride) {
        vf right[2];
        UNROLLED
        for (int v = 0; v < vectors; v++) right[v] = v_load(w + v * LANES);
        if (ahead != NULL) {
            __builtin_prefetch(ahead, 0, 2);
            ahead += work->ahead_stride;
        }
        UNROLLED
        for (int t = 0; t < tokens; t++) {
            const vf left = v_set1(x[t]);
            UNROLLED
            for (int v = 0; v < vectors; v++) sum[t][v] = v_fma(left, right[v], sum[t][v]);
        }
    }
    UNROLLED
    for (int t = 0; t < tokens; t++) {
        UNROLLED
        for (int v = 0; v < vectors; v++)
            v_store(sums + t * work->sums_stride + v * LANES, sum[t][v]);
    }
}

INLINE void spread_columns(const int vectors, const npt_native_spread *work, int64_t column)
{
    const char *ahead = work->ahead == NULL ? NULL : work->ahead + column * work->ahead_bits / 8;
    int64_t t = 0;
    for (; t + SPREAD_TOKENS <= work->tokens; t += SPREAD_TOKENS, ahead = NULL)
        spread_at(SPREAD_TOKENS, vectors, work, column, t, ahead);
    for (; t + 4 <= work->tokens; t += 4, ahead = NULL)
        spread_at(4, vectors, work, column, t, ahead);
    for (; t + 2 <= work->tokens; t += 2, ahead = NULL)
        spread_at(2, vectors, work, column, t, ahead);
    if (t < work->tokens) spread_at(1, vectors, work, column, t, ahead);
}

static void spread(const npt_native_spread *work)
{
    int64_t i = 0;
    for (; i + 2 * LANES <= work->width; i += 2 * LANES) spread_columns(2, work, i);
    if (i < work->width) spread_columns(1, work, i);
}

/* One token: W goes from where it is stored to the sums, which stay in first-level cache; the rows
 * after the next ones are asked for meanwhile. Limited by memory, but for NF4; Zen 3, two threads,
 * GFLOP/s beside widening first: F32 as before, BF16 and F16 11 to 18, NF4 13 to 28. */
INLINE void spread_one_of(const npt_dtype dtype, const int rows, const npt_native_operand *w,
                          int64_t index, int64_t stride, int64_t width, const float *x, float *sums)
{
    const int bits = npt_dtype_bits(dtype);
    const vlevels levels = dtype == NPT_NF4 ? v_levels(w->levels) : (vlevels){0};
    const char *const data = w->data;
    for (int64_t i = 0; i < width; i += 64, sums += 64) {
        vf sum[64 / LANES];
        UNROLLED
        for (int j = 0; j < 64 / LANES; j++) sum[j] = v_load(sums + j * LANES);
        UNROLLED
        for (int r = 0; r < rows; r++) {
            const int64_t at = index + r * stride + i;
            const vf left = v_set1(x[r * NPT_NATIVE_SPREAD_TOKENS]);
            vf right[64 / LANES];
            UNROLLED
            for (int byte = 0; byte < 8 * bits; byte += 64)
                __builtin_prefetch(data + (at + 2 * rows * stride) * bits / 8 + byte, 0, 2);
            load_block(dtype, w, &levels, at, right);
            UNROLLED
            for (int j = 0; j < 64 / LANES; j++) sum[j] = v_fma(left, right[j], sum[j]);
        }
        UNROLLED
        for (int j = 0; j < 64 / LANES; j++) v_store(sums + j * LANES, sum[j]);
    }
}

INLINE void spread_one_dtype(const npt_dtype dtype, const npt_native_operand *w, int64_t index,
                             int64_t rows, int64_t stride, int64_t width, const float *x,
                             float *sums)
{
    enum { SOME = NPT_NATIVE_DOT_ROWS };
    int64_t r = 0;
    for (; r + SOME <= rows; r += SOME, x += SOME * NPT_NATIVE_SPREAD_TOKENS)
        spread_one_of(dtype, SOME, w, index + r * stride, stride, width, x, sums);
    for (; r < rows; r++, x += NPT_NATIVE_SPREAD_TOKENS)
        spread_one_of(dtype, 1, w, index + r * stride, stride, width, x, sums);
}

static void spread_one(const npt_native_operand *w, int64_t index, int64_t rows, int64_t width,
                       const float *x, float *sums)
{
    const int64_t stride = w->count;
    if (w->dtype == NPT_F32)
        spread_one_dtype(NPT_F32, w, index, rows, stride, width, x, sums);
    else if (w->dtype == NPT_F16)
        spread_one_dtype(NPT_F16, w, index, rows, stride, width, x, sums);
    else if (w->dtype == NPT_BF16)
        spread_one_dtype(NPT_BF16, w, index, rows, stride, width, x, sums);
    else
        spread_one_dtype(NPT_NF4, w, index, rows, stride, width, x, sums);
}

static float sum_lanes(const float *partial)
{
    float part[LANES];
    memcpy(part, partial, sizeof(part));
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
}

void FILL(npt_native_ops *ops)
{
    ops->widen = widen;
    ops->pack_rows = pack_rows;
    ops->pack_lanes = pack_lanes;
    ops->tile = tile;
    ops->store = store;
    ops->store_transposed = store_transposed;
    ops->widen_blocks = widen_blocks;
    ops->dot = dot;
    ops->dot_one = dot_one;
    ops->spread = spread;
    ops->spread_one = spread_one;
    ops->sum_lanes = sum_lanes;
}
