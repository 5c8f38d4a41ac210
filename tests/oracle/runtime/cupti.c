/* libcupti.so.13: says that there is nothing to trace. Numbers are those of CUptiResult in the documentation. */
#include "stand_in.h"

enum { OK = 0, MAX_LIMIT_REACHED = 12, UNKNOWN = 999 };

API int cuptiGetVersion(unsigned *version) { *version = 130000; return OK; }
API int cuptiSubscribe(void) { return UNKNOWN; }
API int cuptiActivityGetNextRecord(void) { return MAX_LIMIT_REACHED; }
API int cuptiGetResultString(int result, const char **text) {
    UNUSED(result);
    *text = "no CUPTI in the stand-in";
    return OK;
}
API int cuptiGetCallbackName(int domain, unsigned id, const char **name) {
    UNUSED(domain), UNUSED(id);
    *name = "?";
    return OK;
}
API int cuptiActivityGetNumDroppedRecords(void *context, unsigned stream, size_t *count) {
    UNUSED(context), UNUSED(stream);
    *count = 0;
    return OK;
}
