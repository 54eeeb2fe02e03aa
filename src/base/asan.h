/* SPDX-License-Identifier: BSD-2-Clause */
/* What AddressSanitizer is told and asked; without it all of this is nothing. */
#ifndef NPT_BASE_ASAN_H
#define NPT_BASE_ASAN_H

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define NPT_HAVE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NPT_HAVE_ASAN 1
#endif
#endif

/* Bytes that nobody may touch, and that they may be touched again. */
#ifdef NPT_HAVE_ASAN
#include <sanitizer/asan_interface.h>
#define NPT_ASAN_HIDE(start, bytes) __asan_poison_memory_region((start), (bytes))
#define NPT_ASAN_SHOW(start, bytes) __asan_unpoison_memory_region((start), (bytes))
#else
#define NPT_ASAN_HIDE(start, bytes) ((void)(start), (void)(bytes))
#define NPT_ASAN_SHOW(start, bytes) ((void)(start), (void)(bytes))
#endif

/* A function whose accesses are not checked one by one: the check of a vector costs more than what
 * is computed with it, twentyfold in a matmul. Whoever calls it says with npt_asan_check() what it
 * is going to touch. */
#ifdef NPT_HAVE_ASAN
#define NPT_ASAN_UNCHECKED __attribute__((no_sanitize_address))
#else
#define NPT_ASAN_UNCHECKED
#endif

/* Reports, as an access would, the first of these bytes that may not be touched. */
static inline void npt_asan_check(const void *start, size_t bytes)
{
#ifdef NPT_HAVE_ASAN
    const volatile char *bad = __asan_region_is_poisoned((void *)start, bytes);
    if (bad != NULL) (void)*bad;
#else
    (void)start, (void)bytes;
#endif
}

#endif
