/* SPDX-License-Identifier: BSD-2-Clause */
/* Flags of the command line as tables: one row a flag, one table a group.
 *
 * A command fills its options with their defaults, lists the groups of rows that write into them
 * and calls npt_flags_parse(). Defaults in --help are read back from the options themselves, so
 * they cannot differ from what a run uses. In names, '_' and '-' are the same. */
#ifndef NPT_CLI_FLAGS_H
#define NPT_CLI_FLAGS_H

#include "npt.h"

typedef enum npt_flag_kind {
    NPT_FLAG_BOOL,       /* bool; --flag, --flag=true|false, --no_flag */
    NPT_FLAG_INT,        /* int */
    NPT_FLAG_INT64,      /* int64_t */
    NPT_FLAG_UINT64,     /* uint64_t; the range is not looked at */
    NPT_FLAG_REAL,       /* double */
    NPT_FLAG_TEXT,       /* const char *, borrowed from argv */
    NPT_FLAG_AUTO_TEXT,  /* the same; without a value: "auto" */
    NPT_FLAG_CHOICE,     /* an enum, by one of the names in `choices` */
    NPT_FLAG_BYTES,      /* uint64_t; "1.2GB", "900MiB", "4000000" */
    NPT_FLAG_LATER_BOOL  /* a feature still to come: refused with `help` where asked for */
} npt_flag_kind;

/* Ends with a NULL name. The first name of a value is the one that is shown. */
typedef struct npt_flag_choice {
    const char *name;
    int value;
} npt_flag_choice;

typedef struct npt_flag {
    const char *name; /* with '_' */
    npt_flag_kind kind;
    size_t offset;    /* of the target, from the group's `target` */
    double low, high; /* inclusive; INFINITY: no bound */
    const npt_flag_choice *choices;
    const char *value_name;   /* "PATH"; NULL: by kind */
    const char *default_text; /* NULL: read from the target */
    const char *help;         /* a sentence without its full stop */
} npt_flag;

typedef struct npt_flag_group {
    const char *title;
    const npt_flag *rows; /* ends with a NULL name */
    void *target;
} npt_flag_group;

enum { NPT_FLAGS_MAX = 96, NPT_FLAG_GROUPS_MAX = 12, NPT_POSITIONALS_MAX = 1000 };

/* What a command accepts, and after parsing what it was given. Zero-initialise the rest. */
typedef struct npt_flag_set {
    const char *command;                        /* "pretrain" */
    const char *synopsis;                       /* what follows "npt pretrain " in the usage line */
    const char *purpose;                        /* a paragraph */
    const char *closing;                        /* printed after the flags; may be NULL */
    npt_flag_group groups[NPT_FLAG_GROUPS_MAX]; /* ends with a NULL title */
    int positionals_wanted;

    const char *positionals[NPT_POSITIONALS_MAX];
    int positional_count;
    const char *given[NPT_FLAGS_MAX]; /* by running number of the row; NULL: not given */
} npt_flag_set;

/* Reads argv[1 …]. -1: go on; otherwise the exit code of the process: help was printed (0, or 1
 * where it could not be), or a sentence on standard error says what is wrong (2). */
int npt_flags_parse(npt_flag_set *set, int argc, char **argv);
/* The text a flag was given with ("true" or "false" for booleans); NULL where it was not. */
const char *npt_flags_given(const npt_flag_set *set, const char *name);
/* Whether two names are the same but for '_' and '-'; `length` bytes of `name` count. */
bool npt_flags_same_name(const char *name, size_t length, const char *other);
/* Changes needed to make one name of another (insert, delete, replace, swap neighbours). */
int npt_flags_distance(const char *a, const char *b);

/* Everything about a command, in at most 96 columns. */
void npt_flags_print_help(const npt_flag_set *set, FILE *out);

/* ---- Rows that several commands share (flag_rows.c) ---- */

extern const npt_flag npt_precision_flags[]; /* target: npt_precision_options */
extern const npt_flag npt_compute_flags[];   /* npt_compute_options */
extern const npt_flag npt_data_flags[];      /* npt_data_options */

extern const npt_flag_choice npt_modulation_choices[], npt_loss_choices[], npt_file_dtype_choices[];

#endif
