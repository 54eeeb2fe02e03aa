/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/progress.h"
#include "cli/train_flags.h"

/* npt pretrain and npt pretrain-safe: flags in, progress on standard error, a summary on standard
 * output. The first SIGINT or SIGTERM asks the library to stop, which saves a checkpoint; the
 * second leaves at once. */

static volatile sig_atomic_t first_signal;

static void on_signal(int number)
{
    static const char again[] = "\nnpt: stopping; once more to leave without saving\n";
    const int saved_errno = errno;
    if (first_signal != 0) _exit(128 + number);
    first_signal = number;
    npt_request_stop(number);
    if (isatty(STDERR_FILENO) && write(STDERR_FILENO, again, sizeof(again) - 1) < 0) {
        /* there is nobody to tell */
    }
    errno = saved_errno;
}

/* ---- Commands to go on with ---- */

/* Appends the flags as given; with `resume`, --resume and that value instead of what was given. */
static char *append_flags(char *text, int argc, char **argv, const char *resume)
{
    for (int i = 1; i < argc && text != NULL; i++) {
        const char *name = argv[i] + strspn(argv[i], "-");
        const size_t length = strcspn(name, "=");
        if (resume != NULL && name != argv[i] && npt_flags_same_name(name, length, "resume")) {
            const bool alone = i + 1 >= argc || strncmp(argv[i + 1], "--", 2) == 0;
            if (name[length] == '\0' && !alone) i++; /* its value is the next word */
            continue;
        }
        text = npt_cli_append_word(text, argv[i]);
    }
    if (resume == NULL || text == NULL) return text;
    text = npt_cli_append_word(text, "--resume");
    return text != NULL ? npt_cli_append_word(text, resume) : NULL;
}

/* "npt pretrain ..." as given; with `resume`, the same with --resume auto. NULL: out of memory. */
static char *given_command(int argc, char **argv, bool resume)
{
    char *text = npt_cli_append_word(NULL, npt_cli_program);
    if (text != NULL) text = npt_cli_append_word(text, argv[0]);
    return append_flags(text, argc, argv, resume ? "auto" : NULL);
}

/* What looks at the batch that ended a run, as its checkpoint left it. */
static char *probe_command(int argc, char **argv, const char *checkpoint)
{
    static const char *const words[] = {"doctor", "probe", "--recipe"};
    char *text = npt_cli_append_word(NULL, npt_cli_program);
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]) && text != NULL; i++)
        text = npt_cli_append_word(text, words[i]);
    if (text != NULL) text = npt_cli_append_word(text, argv[0]);
    return append_flags(text, argc, argv, checkpoint);
}

/* Appends --name VALUE where the run was given that flag. */
static char *append_given(char *text, const npt_flag_set *set, const char *name, const char *as)
{
    char flag[64];
    const char *value = npt_flags_given(set, name);
    if (value == NULL || text == NULL || strcmp(value, "false") == 0) return text;
    snprintf(flag, sizeof(flag), "--%s", as);
    text = npt_cli_append_word(text, flag);
    if (text == NULL || strcmp(value, "true") == 0) return text;
    return npt_cli_append_word(text, value);
}

static char *evaluate_command(const npt_flag_set *set, const char *checkpoint)
{
    static const char *const kept[][2] = {
        {"model_name", "model_name"},
        {"use_quantization", "use_quantization"},
        {"no_double_quantization", "no_double_quantization"},
        {"use_fp16", "use_fp16"},
        {"use_bf16", "use_bf16"},
        {"mixed_precision", "mixed_precision"},
        {"adapter_dtype", "adapter_dtype"},
        {"max_length", "max_length"},
        {"loss", "loss"},
        {"eval_dataset", "dataset_name"},
    };
    char *text = npt_cli_append_word(NULL, npt_cli_program);
    if (text != NULL) text = npt_cli_append_word(text, "evaluate");
    if (text != NULL) text = npt_cli_append_word(text, "--adapter");
    if (text != NULL) text = npt_cli_append_word(text, checkpoint);
    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
        text = append_given(text, set, kept[i][0], kept[i][1]);
    return text;
}

/* ---- The end of a run ---- */

static void print_summary(const npt_train_report *report, const npt_progress *progress,
                          const npt_flag_set *set)
{
    char seconds[32];
    npt_format_seconds(report->seconds, seconds, sizeof(seconds));
    printf("steps       %lld", (long long)report->steps);
    if (report->skipped_steps > 0) printf(", %lld skipped", (long long)report->skipped_steps);
    if (report->skipped_batches > 0)
        printf(", %lld batches skipped", (long long)report->skipped_batches);
    printf("\nloss        %.5g -> %.5g\n", report->first_loss, report->last_loss);
    printf("tokens      %lld, %.0f a second\n", (long long)report->tokens,
           progress->last.tokens_per_second);
    printf("time        %s\n", seconds);
    if (report->last_checkpoint[0] == '\0') {
        printf("checkpoint  none was written\n");
        return;
    }
    char *command = evaluate_command(set, report->last_checkpoint);
    printf("checkpoint  %s\n", report->last_checkpoint);
    if (command != NULL) printf("evaluate    %s\n", command);
    free(command);
}

static int say_interrupted(const npt_flag_set *set, const npt_train_report *report, int argc,
                           char **argv)
{
    const int number = report->signal != 0 ? report->signal
                       : first_signal != 0 ? (int)first_signal
                                           : SIGINT;
    npt_cli_exit_code(set->command, NPT_E_INTERRUPTED);
    char *command = given_command(argc, argv, true);
    if (command != NULL) fprintf(stderr, "npt: to go on from there: %s\n", command);
    free(command);
    return 128 + number;
}

static void say_probe(int argc, char **argv, const char *checkpoint)
{
    char *command = probe_command(argc, argv, checkpoint);
    if (command != NULL) fprintf(stderr, "npt: to see every site: %s\n", command);
    free(command);
}

static int train(npt_train_request *request, const npt_flag_set *set, int argc, char **argv)
{
    npt_progress progress;
    npt_train_report report;
    char *command_line = given_command(argc, argv, false);
    npt_progress_init(&progress);
    memset(&report, 0, sizeof(report));
    request->options.command_line = command_line;
    request->options.on_step = npt_progress_step;
    request->options.on_step_context = &progress;
    npt_log_set(npt_progress_log, &progress);
    npt_cli_on_signals(on_signal);
    const npt_status status = npt_pretrain(&request->options, &report);
    npt_progress_finish(&progress);
    npt_log_set(NULL, NULL);
    free(command_line);
    if (status == NPT_E_INTERRUPTED) return say_interrupted(set, &report, argc, argv);
    const int code = npt_cli_exit_code(set->command, status);
    const bool saved = status == NPT_E_NUMERIC && report.last_checkpoint[0] != '\0';
    if (saved) say_probe(argc, argv, report.last_checkpoint);
    if ((status == NPT_OK || saved) && !request->options.dry_run)
        print_summary(&report, &progress, set);
    return npt_cli_finish(set->command, code);
}

static int run(npt_recipe recipe, int argc, char **argv)
{
    npt_train_request request;
    npt_flag_set set;
    npt_train_request_init(&request, recipe, &set);
    const int code = npt_train_request_parse(&request, &set, argc, argv);
    return code >= 0 ? code : train(&request, &set, argc, argv);
}

int npt_command_pretrain(int argc, char **argv)
{
    return run(NPT_RECIPE_PRETRAIN, argc, argv);
}

int npt_command_pretrain_safe(int argc, char **argv)
{
    return run(NPT_RECIPE_PRETRAIN_SAFE, argc, argv);
}
