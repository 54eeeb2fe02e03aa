/* SPDX-License-Identifier: BSD-2-Clause */
/* What the tokenizer's files share.
 *
 * Text goes through: added tokens on the raw text → normalizer steps → added tokens on the
 * normalized text → pre-tokenizer steps, which cut it into pieces → BPE on each piece → template.
 * A Sequence in the file is flattened, so each stage is a plain list of steps. */
#ifndef NPT_TEXT_TOKENIZER_IMPL_H
#define NPT_TEXT_TOKENIZER_IMPL_H

#include <jansson.h>

#include "base/status.h"
#include "text/tokenizer.h"

/* ---- Growing buffers, hash tables (tokenizer_table.c) ---------------------------------------- */

typedef struct npt_bytes {
    char *data;
    size_t count, capacity;
} npt_bytes;

/* `array` is the address of a pointer to items of `size` bytes: room for `need` of them. */
npt_status npt_grow(void *array, size_t *capacity, size_t need, size_t size);
npt_status npt_bytes_append(npt_bytes *bytes, const char *data, size_t length);
npt_status npt_bytes_set(npt_bytes *bytes, const char *data, size_t length);
void npt_bytes_fini(npt_bytes *bytes);

uint64_t npt_hash(const char *data, size_t length);

/* String → id. */
typedef struct npt_vocab_slot {
    uint64_t hash;
    size_t offset;
    uint32_t length;
    int32_t id; /* -1: empty */
} npt_vocab_slot;
typedef struct npt_vocab {
    npt_vocab_slot *slots;
    size_t capacity, count; /* capacity: 0 or a power of two */
    npt_bytes names;
} npt_vocab;
npt_status npt_vocab_put(npt_vocab *vocab, const char *name, size_t length, int32_t id);
int32_t npt_vocab_get(const npt_vocab *vocab, const char *name, size_t length); /* -1: absent */
void npt_vocab_fini(npt_vocab *vocab);

/* Pair of ids → rank and merged id. */
typedef struct npt_merge {
    uint64_t pair; /* left << 32 | right; UINT64_MAX: empty */
    uint32_t rank;
    int32_t id;
} npt_merge;
typedef struct npt_merges {
    npt_merge *slots;
    size_t capacity;
} npt_merges;
/* For up to `count` pairs, put with npt_merges_put(); a pair put twice keeps the later rank. */
npt_status npt_merges_init(npt_merges *merges, size_t count);
void npt_merges_put(npt_merges *merges, npt_merge merge);
const npt_merge *npt_merges_get(const npt_merges *merges, int32_t left, int32_t right);
void npt_merges_fini(npt_merges *merges);

/* ---- Patterns (tokenizer_regex.c) ------------------------------------------------------------ */

typedef struct npt_pattern npt_pattern;
/* `what`: the file, for messages. NPT_E_UNSUPPORTED for a construct whose meaning here would not
 * be the one it has in the tokenizer's home library. */
npt_status npt_pattern_regex(npt_pattern **pattern, const char *regex, const char *what);
npt_status npt_pattern_literal(npt_pattern **pattern, const char *text);
void npt_pattern_close(npt_pattern *pattern);

/* A stretch of text, [begin, end). `flag`: it matched; or (pieces) it starts the whole text. */
typedef struct npt_span {
    size_t begin, end;
    bool flag;
} npt_span;
typedef struct npt_spans {
    npt_span *data;
    size_t count, capacity;
} npt_spans;
npt_status npt_spans_push(npt_spans *spans, size_t begin, size_t end, bool flag);
void npt_spans_fini(npt_spans *spans);

/* Cuts text[begin, end) into matches (flag) and what lies between; nothing outside is seen.
 * Appends. NPT_E_DATA where the match limit is reached. */
npt_status npt_pattern_cut(npt_pattern *pattern, const char *text, size_t begin, size_t end,
                           npt_spans *cut);

/* ---- Steps (tokenizer_steps.c loads them) ------------------------------------------------------
 */

typedef enum npt_step_kind {
    NPT_STEP_NFC,
    NPT_STEP_PREPEND,
    NPT_STEP_REPLACE,
    NPT_STEP_SPLIT,
    NPT_STEP_BYTE_LEVEL,
    NPT_STEP_METASPACE,
    NPT_STEP_DIGITS,
    NPT_STEP_BYTE_FALLBACK,
    NPT_STEP_FUSE,
    NPT_STEP_STRIP
} npt_step_kind;

typedef enum npt_behavior {
    NPT_SPLIT_ISOLATED,
    NPT_SPLIT_REMOVED,
    NPT_SPLIT_MERGED_WITH_PREVIOUS,
    NPT_SPLIT_MERGED_WITH_NEXT,
    NPT_SPLIT_CONTIGUOUS
} npt_behavior;

typedef enum npt_prepend_scheme {
    NPT_PREPEND_ALWAYS,
    NPT_PREPEND_FIRST,
    NPT_PREPEND_NEVER
} npt_prepend_scheme;

typedef struct npt_step {
    npt_step_kind kind;
    npt_pattern *pattern; /* Replace, Split, ByteLevel with use_regex */
    char *content;        /* Prepend, Replace, Metaspace, Strip */
    size_t content_length;
    npt_behavior behavior;     /* Split, Digits */
    bool invert;               /* Split */
    bool prefix_space;         /* ByteLevel */
    npt_prepend_scheme scheme; /* Metaspace */
    bool split;                /* Metaspace */
    int64_t start, stop;       /* Strip */
} npt_step;
typedef struct npt_steps {
    npt_step *data;
    size_t count, capacity;
} npt_steps;
/* `stage`: "normalizer", "pre_tokenizer" or "decoder": the key in `root`; null gives no steps. */
npt_status npt_steps_load(npt_steps *steps, const json_t *root, const char *stage,
                          const char *what);
void npt_steps_fini(npt_steps *steps);

/* ---- Added tokens (tokenizer_added.c) ----------------------------------------------------------
 */

typedef struct npt_added_token {
    int32_t id;
    bool single_word, lstrip, rstrip;
} npt_added_token;
typedef struct npt_trie_node {
    uint32_t child, sibling; /* 0: none */
    int32_t token;           /* index into the tokens, or -1 */
    unsigned char byte;
} npt_trie_node;
/* Finds the leftmost, then longest, of a set of strings. */
typedef struct npt_added_set {
    npt_added_token *tokens;
    size_t count, capacity;
    npt_trie_node *nodes;
    size_t node_count, node_capacity;
    uint32_t first[256]; /* node of a first byte; 0: none starts so */
} npt_added_set;
npt_status npt_added_set_put(npt_added_set *set, const char *text, size_t length,
                             npt_added_token token);
/* Stretches of a text that are added tokens (id ≥ 0) or are not (-1), in order. */
typedef struct npt_segment {
    size_t begin, end;
    int32_t id;
} npt_segment;
typedef struct npt_segments {
    npt_segment *data;
    size_t count, capacity;
} npt_segments;
/* Emptied first. */
npt_status npt_added_set_find(const npt_added_set *set, const char *text, size_t length,
                              npt_segments *segments);
void npt_added_set_fini(npt_added_set *set);

/* ---- The tokenizer ------------------------------------------------------------------------------
 */

enum { NPT_TOKEN_LIMIT = 1 << 24 }; /* ids are below this; the largest known vocabularies: 2^18 */

typedef struct npt_token_name {
    size_t offset; /* in names */
    uint32_t length;
    bool used, special;
} npt_token_name;

typedef struct npt_template_piece {
    bool text; /* the encoded text goes here; else `ids` */
    npt_ids ids;
} npt_template_piece;

/* Words already encoded: direct-mapped, so it never grows and never needs tidying. */
enum { NPT_CACHE_SLOTS = 1 << 15, NPT_CACHE_BYTES = 44, NPT_CACHE_IDS = 14 };
typedef struct npt_cache_slot {
    uint64_t hash;
    uint8_t length, count; /* length 0: empty */
    char word[NPT_CACHE_BYTES];
    int32_t ids[NPT_CACHE_IDS];
} npt_cache_slot;

typedef struct npt_symbol {
    int32_t id; /* -1: merged away */
    uint32_t prev, next;
} npt_symbol;

struct npt_tokenizer {
    npt_vocab vocab;
    npt_merges merges;
    int32_t *merged; /* rank → id */
    int32_t unk;     /* -1: none */
    bool byte_fallback, fuse_unk, ignore_merges;
    bool space_starts; /* no merge goes across the start of a run of U+2581 */
    int32_t char_ids[0x200]; /* ids of the characters below U+0200; -1: not in the vocabulary */
    int32_t byte_ids[256];   /* <0x00> … <0xFF>, -1 where absent */

    npt_token_name *tokens; /* by id */
    int32_t size;
    npt_bytes names;

    npt_steps normalizer, pre_tokenizer, decoder;
    bool has_decoder;
    npt_added_set raw_added, normalized_added;
    npt_template_piece *template_pieces;
    size_t template_count;

    /* Scratch, kept between calls. */
    npt_segments raw_segments, segments;
    npt_bytes normal, normal_other, piece_text, piece_other;
    npt_spans pieces, pieces_other, cut;
    npt_symbol *symbols;
    size_t symbol_count, symbol_capacity;
    uint64_t *heap;
    size_t heap_count, heap_capacity;
    npt_cache_slot *cache;
};

/* tokenizer_bpe.c: "model"; one piece. */
npt_status npt_bpe_load(npt_tokenizer *tokenizer, const json_t *root, const char *what);
npt_status npt_bpe_encode(npt_tokenizer *tokenizer, const char *word, size_t length, npt_ids *ids);

/* tokenizer_split.c. Normalized text lies in tokenizer->normal; pieces are tokenizer->pieces, into
 * tokenizer->piece_text. `first`: the text starts where the whole text starts. */
npt_status npt_normalize(npt_tokenizer *tokenizer, const char *text, size_t length);
npt_status npt_pre_tokenize(npt_tokenizer *tokenizer, const char *text, size_t length, bool first);

/* tokenizer_split.c: the 256 characters that stand for bytes in byte-level vocabularies. */
uint32_t npt_byte_level_char(unsigned char byte);
int npt_byte_level_byte(uint32_t character); /* -1: none of them */

#endif
