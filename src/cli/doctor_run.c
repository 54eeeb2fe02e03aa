/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <math.h>
#include <string.h>

#include "cli/doctor.h"
#include "cli/train_flags.h"

/* npt doctor plan and npt doctor probe: a training run that is looked at instead of made. They take
 * the flags of npt pretrain, so that a command line needs only another name. */

typedef struct doctor_request {
    npt_doctor_options options;
    npt_recipe recipe;
} doctor_request;

static const npt_flag_choice recipes[] = {
    {"pretrain", NPT_RECIPE_PRETRAIN}, {"pretrain-safe", NPT_RECIPE_PRETRAIN_SAFE}, {NULL, 0}};

#define AT(field) offsetof(doctor_request, field)
#define RECIPE                                                                                     \
    {                                                                                              \
        "recipe", NPT_FLAG_CHOICE, AT(recipe), 0, 0, recipes, NULL, NULL,                          \
            "the command whose defaults are meant"                                                 \
    }

static const npt_flag probe_flags[] = {
    RECIPE,
    {"json", NPT_FLAG_BOOL, AT(options.json), 0, 0, NULL, NULL, NULL,
     "print JSON, npt-doctor-probe/1"},
    {"top", NPT_FLAG_INT, AT(options.top), 1, 1000000, NULL, NULL, NULL,
     "sites to show, the worst first"},
    {"all", NPT_FLAG_BOOL, AT(options.all), 0, 0, NULL, NULL, NULL,
     "show every site, in the order of execution"},
    {"show_layers", NPT_FLAG_TEXT, AT(options.layers), 0, 0, NULL, "LIST", "those of --layers",
     "show sites of these blocks only: 3-5, 0,2 or all; the first culprit is always shown"},
    {NULL, NPT_FLAG_BOOL, 0, 0, 0, NULL, NULL, NULL, NULL}};

static const npt_flag plan_flags[] = {
    RECIPE,
    {"json", NPT_FLAG_BOOL, AT(options.json), 0, 0, NULL, NULL, NULL,
     "print JSON, npt-doctor-plan/1"},
    {"scan", NPT_FLAG_BOOL, AT(options.scan), 0, 0, NULL, NULL, NULL,
     "read the weights, too, and count the values that the planned dtype cannot hold"},
    {"all", NPT_FLAG_BOOL, AT(options.all), 0, 0, NULL, NULL, NULL,
     "show the casts of every layer, not one row for layers that are alike"},
    {NULL, NPT_FLAG_BOOL, 0, 0, 0, NULL, NULL, NULL, NULL}};

typedef npt_status doctor_call(const npt_train_options *options, const npt_doctor_options *doctor,
                               FILE *out, npt_verdict *verdict);

/* Defaults depend on the recipe and are set before flags are read, so it is looked for first. */
static npt_recipe find_recipe(int argc, char **argv)
{
    npt_recipe recipe = NPT_RECIPE_PRETRAIN;
    for (int i = 1; i < argc; i++) {
        const char *value = strncmp(argv[i], "--recipe=", 9) == 0              ? argv[i] + 9
                            : strcmp(argv[i], "--recipe") == 0 && i + 1 < argc ? argv[i + 1]
                                                                               : "";
        if (strcmp(value, "pretrain-safe") == 0) recipe = NPT_RECIPE_PRETRAIN_SAFE;
    }
    return recipe;
}

/* The groups of npt pretrain, after the doctor's own. */
static int run(const npt_flag_set *as, const npt_flag *flags, doctor_call *call, int argc,
               char **argv)
{
    npt_train_request request;
    npt_flag_set set;
    doctor_request doctor = {.options = {.top = 10}, .recipe = find_recipe(argc, argv)};
    npt_verdict verdict = NPT_VERDICT_FINE;
    npt_train_request_init(&request, doctor.recipe, &set);
    set.command = as->command;
    set.synopsis = "[FLAG...]";
    set.purpose = as->purpose;
    set.closing = as->closing;
    for (size_t i = NPT_FLAG_GROUPS_MAX - 1; i > 0; i--) set.groups[i] = set.groups[i - 1];
    set.groups[0] = (npt_flag_group){"Doctor", flags, &doctor};
    int code = npt_train_request_parse(&request, &set, argc, argv);
    if (code >= 0) return code;
    code =
        npt_cli_exit_code(set.command, call(&request.options, &doctor.options, stdout, &verdict));
    return npt_cli_finish(set.command, code != 0 ? code : (int)verdict);
}

int npt_command_doctor_plan(int argc, char **argv)
{
    static const npt_flag_set as = {
        .command = "doctor plan",
        .purpose =
            "Says what the run that these flags of npt pretrain describe would do, from headers "
            "only: every dtype and the rule that decides it, every cast, what the files hold "
            "against what config.json says, memory, and what the same choice does in other "
            "programs. --output_dir is not needed. Nothing is written.",
        .closing = "Exit codes: 0 fine, 1 a warning, 2 npt pretrain would refuse it, 3 values that "
                   "are not finite,\nor lost; 1 also where the plan failed, 2 where the request is "
                   "wrong."};
    return run(&as, plan_flags, npt_doctor_plan, argc, argv);
}

int npt_command_doctor_probe(int argc, char **argv)
{
    static const npt_flag_set as = {
        .command = "doctor probe",
        .purpose =
            "Sends one batch forward and backward through the run that these flags of npt "
            "pretrain describe, and the same batch through an F32 shadow of it. Says of every "
            "site where a value is rounded how large values are, how many bits of headroom are "
            "left, how many are flushed to zero, how far they are from the shadow, and which site "
            "began what went wrong. --resume CHECKPOINT takes its adapters, moments and loss "
            "scale. Nothing is written.",
        .closing = "Exit codes: 0 fine, 1 a warning, 3 values that are not finite, or lost; 1 also "
                   "where the\nprobe failed, 2 where the request is wrong."};
    return run(&as, probe_flags, npt_doctor_probe, argc, argv);
}
