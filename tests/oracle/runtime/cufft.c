/* libcufft.so.12: plans without a work area, from the documentation of cuFFT. What one would take it cannot tell. */
#include "stand_in.h"

API int cufftCreate(int *plan) {
    static int last;
    *plan = ++last;
    return 0;
}
API int cufftXtMakePlanMany(int plan, int rank, long long *sizes, long long *in_sizes, long long in_stride,
                            long long in_distance, int in_type, long long *out_sizes, long long out_stride,
                            long long out_distance, int out_type, long long batch, size_t *work_bytes, int type) {
    UNUSED(plan), UNUSED(rank), UNUSED(sizes), UNUSED(in_sizes), UNUSED(in_stride), UNUSED(in_distance);
    UNUSED(in_type), UNUSED(out_sizes), UNUSED(out_stride), UNUSED(out_distance), UNUSED(out_type), UNUSED(batch);
    UNUSED(type);
    *work_bytes = 0;
    return 0;
}
