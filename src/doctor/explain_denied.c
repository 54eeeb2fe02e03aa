/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/explain.h"

#include <ctype.h>

/* Failures that a text names without reporting them: it denies them ("no NaN or inf", "the loss
 * isn't NaN", "overflows: 0"), guards against them ("to avoid overflow") or asks whether there are
 * any ("does bf16 overflow?"). Their words are struck out, letter for letter, before any rule for
 * descriptions looks at the text; the places of all other words stay the same. */

enum { DENIED_MAX = 20000 };

#define NAN_WORD                                                                                   \
    "(?:\\bnan'?s?\\b|\\bnon-?finites?\\b|\\binfs?\\b|\\binfinit\\w+|overflow\\w*|not a "          \
    "number|underflow\\w*)"
#define FAILURE                                                                                    \
    "(?:" NAN_WORD                                                                                 \
    "|\\bgarbage|\\bgibberish|\\bnonsens\\w*|\\bworse\\w*|\\bdegrad\\w*|\\bdiverg\\w*|\\bdrift"    \
    "\\w*|\\bunstable|\\binstabilit\\w*|\\binaccura\\w*|\\bdiffer(?:s|ed|ent\\w*|ences?)?\\b|"     \
    "\\bmismatch\\w*|\\bdiscrepanc\\w*|\\bdisagree\\w*|\\bdeviat\\w*|\\binconsisten\\w*|"          \
    "\\bdeteriorat\\w*|\\bcollaps\\w*)"
/* Further words that the same denial covers. */
#define LIST                                                                                       \
    "(?: ?(?:/|,? (?:or|nor) )(?:any |a |an |even )?" FAILURE                                      \
    "| ?(?:,|&|,? and) (?:\\binfs?\\b|\\bnans\\b|\\binfinities))*"

/* What may stand between the denial and what it denies. */
#define FILLER                                                                                     \
    "(?:(?:an?|any|the|single|one|more|even|ever|such|yet|longer|there|at|all|to|into|of|in|be|"   \
    "been|being|is|are|was|were|has|have|had|see|seen|seeing|saw|get|gets|getting|got|go|goes|"    \
    "going|giv\\w+|give|produc\\w+|show\\w*|contain\\w*|becom\\w+|became|went|gave|ran|turn\\w*|"  \
    "return\\w*|report\\w*|"                                                                       \
    "observ\\w+|find|found|hit|hits|encounter\\w*|yield\\w*|experience\\w*|caus\\w+|lead|leads|"   \
    "trigger\\w*|run|runs|sign|signs|trace|traces|numerical\\w*|numeric|visible|real|much|losses|" \
    "loss|grads?|gradients?|logits?|outputs?|values?|results?|weights?|activations?|quality|"      \
    "(?!only|merely|simply)[a-z]+ly) ){0,5}"
#define NEGATION                                                                                   \
    "(?:\\bno|(?<!should )(?<!must )(?<!can )(?<!may )\\bnot|\\bnever|\\bwithout|\\bnothing|"      \
    "\\bnone(?: of (?:the |my |our |them )?\\w{0,20})?|\\b(?:is|are|was|were|do|does|did|has|"     \
    "have|had|wo|would|could)n'?t|\\binstead of|\\brather than|\\bfree (?:of|from)|"               \
    "\\brul\\w+ out|\\b(?:absence|lack) of|\\b(?:neither|nor)(?: (?!prevent|avoid|help|remov|"     \
    "fix|stop|solv|cur|chang)[\\w-]+){0,6}?)"
/* "It does not prevent NaN" reports one. */
#define GUARD                                                                                      \
    "(?<!not )(?<!n't )(?<!cannot )(?:\\b(?:avoid|prevent)\\w*|\\b(?:protect|guard|robust|safe|"   \
    "defen[cs]e)\\w* (?:against|from|to)|\\b(?:check|test|look|watch|scan|monitor)\\w* for|\\bin " \
    "case of|\\bworr\\w+ about|\\bafraid of|\\bhandl(?:e|es|ing)|\\b(?:treat|filter|ignore|skip)"  \
    "s?|\\b(?:deal|cop)\\w* with|\\b(?:detect|catch)(?:s|es|ing)?|\\bif (?:the |your |my "         \
    ")?(?:loss|it|this|they|values?|grad\\w*|anything|something) (?:ever "                         \
    ")?(?:is|are|becomes?|goes|gets|turns?|hits?|contains?|has|have))"
/* "Does flash attention overflow in fp16?", but not "do you know why the loss is NaN?" */
#define QUESTION                                                                                   \
    "(?:\\A|(?<=[.?!:,\\n] )|(?<=\\n))(?:so |but |and )?(?:can|could|will|would|does|do|might|"    \
    "should) "                                                                                     \
    "(?:(?!\\b(?:why|how|that|this|my|me|our|you|know\\w*|explain|bug|see[ns]?|others?|people|"    \
    "some(?:one|body)|any(?:one|body))\\b)[^.?\\n]){0,100}?"

static const char denied[] =
    "(?|" NEGATION " " FILLER "(?<a>" FAILURE LIST ")"
    "|" GUARD " " FILLER "(?<a>" FAILURE LIST ")"
    "|(?<![\\d.])(?:0|zero) (?<a>(?:nans|infs|overflow\\w*|non-?finites?|nan(?= (?:values|"
    "elements|entries|steps)))" LIST ")"
    /* "nan: 0", "overflow=False", "NaN-free", "NaN never shows up" */
    "|(?<a>" NAN_WORD LIST ")(?: (?:count|values?|grads?|ratio|detected|found|steps?|seen))?'? "
    "?[:=] ?'?(?:0(?:\\.0+)?%?(?![\\d.])|none\\b|false\\b|no\\b)"
    "|(?<a>" NAN_WORD LIST ")(?:[- ]free\\b| (?:never|do(?:es)?(?: not|n't)|did(?: not|n't)|(?:is|"
    "are|was|were)(?: not|n't| never)) (?:occur|appear|happen|show|come|seen|present|observed|"
    "found|there|the (?:problem|issue|cause)))"
    "|\\b(?:can|could|may|might) (?:also |[a-z]+ly )?(?<a>(?:over|under)flow\\w*)"
    /* of something else than numbers */
    "|\\b(?:memory|ram|stack|heap|buffer|disk|queue|integer|int\\d+|context(?: window)?|text) "
    "(?<a>overflow\\w*)|(?<a>overflow\\w*) (?:of|in) (?:the |my )?(?:context|stack|heap|buffer|"
    "memory|queue|disk)"
    /* constants of a program */
    "|float\\('?-?(?<a>inf|nan)'?\\)|\\b(?:np|numpy|math|torch|jnp)\\.(?<a>inf|nan)\\b"
    "|" QUESTION "(?<a>" FAILURE LIST ")[^.?\\n]{0,100}\\?"
    ")";

static void strike(npt_explain_pattern *pattern, char *text, size_t length)
{
    npt_explain_match match;
    size_t at = 0;
    for (int count = 0; count < DENIED_MAX; count++) {
        if (!npt_explain_pattern_find(pattern, text, length, at, &match)) break;
        at = match.group[NPT_EXPLAIN_A].end;
        for (size_t i = match.group[NPT_EXPLAIN_A].begin; i < at; i++)
            if (!isspace((unsigned char)text[i])) text[i] = NPT_EXPLAIN_STRUCK;
    }
}

npt_status npt_explain_strike_denied(char *text, size_t length)
{
    const size_t head = NPT_EXPLAIN_PROSE_HEAD, tail = NPT_EXPLAIN_PROSE_TAIL;
    npt_explain_pattern *pattern = NULL;
    NPT_TRY(npt_explain_pattern_open(&pattern, denied, NPT_EXPLAIN_BLANK_IS_SPACE, true));
    if (length > head + tail) {
        strike(pattern, text, head);
        strike(pattern, text + length - tail, tail);
    } else {
        strike(pattern, text, length);
    }
    npt_explain_pattern_close(pattern);
    return NPT_OK;
}
