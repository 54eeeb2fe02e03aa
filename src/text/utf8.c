/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "text/utf8.h"

#include <utf8proc.h>

/* Every text is checked once, at the door; behind it the functions here trust it. The check is the
 * table of well-formed byte sequences in the Unicode standard (3.9, table 3-7). */

/* Length of the well-formed character at the start, or minus the length of the ill-formed part. */
static int scan(const unsigned char *s, size_t length)
{
    unsigned char low = 0x80, high = 0xBF;
    int need;

    if (s[0] < 0x80) return 1;
    if (s[0] < 0xC2 || s[0] > 0xF4) return -1;
    need = s[0] < 0xE0 ? 1 : s[0] < 0xF0 ? 2 : 3;
    if (s[0] == 0xE0) low = 0xA0;  /* overlong */
    if (s[0] == 0xED) high = 0x9F; /* surrogates */
    if (s[0] == 0xF0) low = 0x90;  /* overlong */
    if (s[0] == 0xF4) high = 0x8F; /* past U+10FFFF */
    for (int i = 1; i <= need; i++) {
        if ((size_t)i >= length || s[i] < low || s[i] > high) return -i;
        low = 0x80;
        high = 0xBF;
    }
    return need + 1;
}

size_t npt_utf8_valid_prefix(const char *text, size_t length)
{
    size_t at = 0;
    while (at < length) {
        int bytes = scan((const unsigned char *)text + at, length - at);
        if (bytes < 0) break;
        at += (size_t)bytes;
    }
    return at;
}

size_t npt_utf8_bad_length(const char *text, size_t length)
{
    int bytes = scan((const unsigned char *)text, length);
    return bytes < 0 ? (size_t)-bytes : 1;
}

uint32_t npt_utf8_next(const char *text, size_t *at)
{
    const unsigned char *s = (const unsigned char *)text + *at;
    if (s[0] < 0x80) {
        *at += 1;
        return s[0];
    }
    if (s[0] < 0xE0) {
        *at += 2;
        return (s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu);
    }
    if (s[0] < 0xF0) {
        *at += 3;
        return (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
    }
    *at += 4;
    return (s[0] & 0x07u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
}

size_t npt_utf8_back(const char *text, size_t at)
{
    do at--;
    while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80);
    return at;
}

size_t npt_utf8_put(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

bool npt_char_is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

bool npt_char_is_word(uint32_t c)
{
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: break;
    }
    /* Symbols that are Alphabetic (circled and squared letters), and the two joiners. */
    return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
           (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C ||
           c == 0x200D;
}

bool npt_char_is_number(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
           category == UTF8PROC_CATEGORY_NO;
}
