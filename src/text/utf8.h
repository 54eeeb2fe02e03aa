/* SPDX-License-Identifier: BSD-2-Clause */
/* UTF-8, and the four questions about characters that tokenizers ask. */
#ifndef NPT_TEXT_UTF8_H
#define NPT_TEXT_UTF8_H

#include "base/status.h"

/* Bytes of well-formed UTF-8 at the start of `text` (no surrogates, no overlong forms): `length`
 * where all of it is. */
size_t npt_utf8_valid_prefix(const char *text, size_t length);
/* Length of the ill-formed sequence at the start of `text`, as replaced by one U+FFFD ("maximal
 * subpart", Unicode 3.9, table 3-8); at least 1 where length > 0. */
size_t npt_utf8_bad_length(const char *text, size_t length);

/* The character at *at, which is moved past it. The text must be valid and *at inside it. */
uint32_t npt_utf8_next(const char *text, size_t *at);
/* Start of the character that ends at `at` > 0. */
size_t npt_utf8_back(const char *text, size_t at);
/* Writes `character`; returns its 1 to 4 bytes. */
size_t npt_utf8_put(uint32_t character, char out[4]);

/* White_Space; a word character (Alphabetic, Mark, Nd, Pc, joiners); a number (Nd, Nl, No). */
bool npt_char_is_space(uint32_t character);
bool npt_char_is_word(uint32_t character);
bool npt_char_is_number(uint32_t character);

#endif
