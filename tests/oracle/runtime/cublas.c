/* libcublas.so.13: products succeed and do nothing. torch gives it a workspace of its own (cublasSetWorkspace). */
#include <stdlib.h>

#include <cublas_v2.h>

#include "stand_in.h"

#define OK CUBLAS_STATUS_SUCCESS

struct cublasContext { cudaStream_t stream; cublasMath_t math; cublasPointerMode_t pointer; };

API cublasStatus_t cublasCreate_v2(cublasHandle_t *made) {
    *made = calloc(1, sizeof **made);
    return *made ? OK : CUBLAS_STATUS_ALLOC_FAILED;
}
API cublasStatus_t cublasDestroy_v2(cublasHandle_t h) { free(h); return OK; }
API cublasStatus_t cublasSetStream_v2(cublasHandle_t h, cudaStream_t stream) { h->stream = stream; return OK; }
API cublasStatus_t cublasGetStream_v2(cublasHandle_t h, cudaStream_t *stream) { *stream = h->stream; return OK; }
API cublasStatus_t cublasSetMathMode(cublasHandle_t h, cublasMath_t mode) { h->math = mode; return OK; }
API cublasStatus_t cublasGetMathMode(cublasHandle_t h, cublasMath_t *mode) { *mode = h->math; return OK; }
API cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t h, cublasPointerMode_t mode) { h->pointer = mode; return OK; }
API cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t h, cublasPointerMode_t *mode) { *mode = h->pointer; return OK; }
API cublasStatus_t cublasGetVersion_v2(cublasHandle_t h, int *version) {
    UNUSED(h);
    *version = CUBLAS_VERSION;
    return OK;
}
API cublasStatus_t cublasGetEmulationStrategy(cublasHandle_t h, cublasEmulationStrategy_t *strategy) {
    UNUSED(h);
    *strategy = CUBLAS_EMULATION_STRATEGY_DEFAULT;
    return OK;
}
API const char *cublasGetStatusName(cublasStatus_t status) {
    return status == OK ? "CUBLAS_STATUS_SUCCESS" : "CUBLAS_STATUS_OF_THE_STAND_IN";
}
API const char *cublasGetStatusString(cublasStatus_t status) {
    return status == OK ? "success" : "an error of the stand-in";
}
