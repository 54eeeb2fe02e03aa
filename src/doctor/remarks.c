/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/remarks.h"

#include "base/memory.h"

npt_status npt_remarks_add(npt_remarks *remarks, npt_remark remark)
{
    npt_remark *list = NULL;
    if (remark.text != NULL)
        list = npt_realloc(remarks->list, remarks->count + 1, sizeof *remarks->list);
    if (list == NULL) {
        npt_free(remark.text);
        return NPT_E_NOMEM;
    }
    remarks->list = list;
    list[remarks->count++] = remark;
    return NPT_OK;
}

void npt_remarks_fini(npt_remarks *remarks)
{
    for (size_t i = 0; i < remarks->count; i++) npt_free(remarks->list[i].text);
    npt_free(remarks->list);
    *remarks = (npt_remarks){0};
}

npt_verdict npt_remarks_verdict(const npt_remarks *remarks)
{
    npt_verdict verdict = NPT_VERDICT_FINE;
    for (size_t i = 0; i < remarks->count; i++)
        if (remarks->list[i].verdict > verdict) verdict = remarks->list[i].verdict;
    return verdict;
}
