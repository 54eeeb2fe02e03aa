/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <math.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/flags.h"

/* npt evaluate: teacher and student on the same rows, as a table or as one JSON object. */

typedef struct request {
    npt_evaluate_options options;
    bool json;
} request;

#define AT(field) offsetof(request, field)
#define END_OF_ROWS                                                                                \
    {                                                                                              \
        NULL, NPT_FLAG_BOOL, 0, 0, 0, NULL, NULL, NULL, NULL                                       \
    }

static const npt_flag model_flags[] = {
    {"model_name", NPT_FLAG_TEXT, AT(options.model_name), 0, 0, NULL, "DIR|NAME",
     "the bundled model", "model directory, or a Hub name that is in the local cache"},
    {"adapter", NPT_FLAG_TEXT, AT(options.adapter), 0, 0, NULL, "PATH", "untrained",
     "checkpoint or adapter directory; without it an untrained adapter is evaluated"},
    {"json", NPT_FLAG_BOOL, AT(json), 0, 0, NULL, NULL, NULL, "print one JSON object, not a table"},
    END_OF_ROWS};

static const npt_flag untrained_flags[] = {
    {"adapter_rank", NPT_FLAG_INT, AT(options.adapter_rank), 1, 65536, NULL, NULL, NULL,
     "rank of the adapters"},
    {"layers", NPT_FLAG_TEXT, AT(options.layers), 0, 0, NULL, "LIST", "all",
     "blocks that get an adapter: 16-31, 0,2,5-7, upper_half or all"},
    {"modulation", NPT_FLAG_CHOICE, AT(options.modulation), 0, 0, npt_modulation_choices, NULL,
     NULL, "how the attention output modulates the gate"},
    {"modulation_scale", NPT_FLAG_REAL, AT(options.modulation_scale), 0, INFINITY, NULL, NULL, NULL,
     "factor of the additive term"},
    {"seed", NPT_FLAG_UINT64, AT(options.seed), 0, INFINITY, NULL, NULL, NULL, "of the adapters"},
    END_OF_ROWS};

static const npt_flag measure_flags[] = {
    {"loss", NPT_FLAG_CHOICE, AT(options.loss), 0, 0, npt_loss_choices, NULL, NULL,
     "distance that is printed per block: of unit vectors, or of the states as they are"},
    {"batch_size", NPT_FLAG_INT64, AT(options.batch_size), 1, 1048576, NULL, NULL, NULL,
     "rows at a time"},
    END_OF_ROWS};

static void print_table(const npt_evaluate_report *report)
{
    printf("model               %s\n", report->model);
    printf("policy              %s\n", report->policy);
    printf("rows                %lld\n", (long long)report->rows);
    printf("predicted tokens    %lld\n", (long long)report->tokens);
    printf("teacher perplexity  %.4f\n", report->teacher_perplexity);
    printf("student perplexity  %.4f\n", report->student_perplexity);
    printf("KL to the teacher   %.4f nats a token\n", report->kl);
    printf("top-1 agreement     %.2f %%\n", 100 * report->top1_agreement);
    printf("\nblock  distance\n");
    for (int i = 0; i < report->layers; i++) printf("%5d  %.5e\n", i, report->layer_loss[i]);
}

/* JSON has no NaN and no infinity. */
static void print_number(double value)
{
    if (isfinite(value))
        printf("%.17g", value);
    else
        fputs("null", stdout);
}

static void print_json(const npt_evaluate_report *report)
{
    const struct {
        const char *key;
        double value;
    } numbers[] = {{"teacher_perplexity", report->teacher_perplexity},
                   {"student_perplexity", report->student_perplexity},
                   {"kl", report->kl},
                   {"top1_agreement", report->top1_agreement}};
    printf("{\"rows\": %lld, \"tokens\": %lld", (long long)report->rows, (long long)report->tokens);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        printf(", \"%s\": ", numbers[i].key);
        print_number(numbers[i].value);
    }
    printf(", \"layer_loss\": [");
    for (int i = 0; i < report->layers; i++) {
        if (i > 0) printf(", ");
        print_number(report->layer_loss[i]);
    }
    printf("], \"model\": ");
    npt_cli_print_json_string(stdout, report->model);
    printf(", \"policy\": ");
    npt_cli_print_json_string(stdout, report->policy);
    printf("}\n");
}

int npt_command_evaluate(int argc, char **argv)
{
    request wanted;
    npt_evaluate_report report;
    memset(&wanted, 0, sizeof(wanted));
    npt_evaluate_options_init(&wanted.options);
    npt_flag_set set = {
        .command = "evaluate",
        .synopsis = "[--adapter PATH] [FLAG...]",
        .purpose = "Runs the model as it is (the teacher) and with its NPT adapters (the student) "
                   "on the same rows, and prints how near the student is.",
        .groups = {{"Model and output", model_flags, &wanted},
                   {"Data", npt_data_flags, &wanted.options.data},
                   {"Measure", measure_flags, &wanted},
                   {"Precision", npt_precision_flags, &wanted.options.precision},
                   {"Computation", npt_compute_flags, &wanted.options.compute},
                   {"Without --adapter", untrained_flags, &wanted}},
    };
    const int code = npt_flags_parse(&set, argc, argv);
    if (code >= 0) return code;
    const npt_status status = npt_evaluate(&wanted.options, &report);
    if (status != NPT_OK) return npt_cli_exit_code(set.command, status);
    if (wanted.json)
        print_json(&report);
    else
        print_table(&report);
    npt_evaluate_report_fini(&report);
    return npt_cli_finish(set.command, 0);
}
