/* libcublasLt.so.13: one algorithm for every product, which takes no workspace. What cuBLASLt would take it cannot tell. */
#include <stdlib.h>
#include <string.h>

#include <cublasLt.h>

#include "stand_in.h"

#define OK CUBLAS_STATUS_SUCCESS

API size_t cublasLtGetVersion(void) { return CUBLAS_VERSION; }
API cublasStatus_t cublasLtCreate(cublasLtHandle_t *made) {
    *made = calloc(1, 8);
    return *made ? OK : CUBLAS_STATUS_ALLOC_FAILED;
}
API cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t h, cublasLtMatmulDesc_t product, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
    cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int asked,
    cublasLtMatmulHeuristicResult_t results[], int *count) {
    UNUSED(h), UNUSED(product), UNUSED(a), UNUSED(b), UNUSED(c), UNUSED(d), UNUSED(preference);
    *count = asked > 0;
    if (asked > 0) {
        memset(results, 0, sizeof *results);
        results->state = OK;
        results->wavesCount = 1;
    }
    return OK;
}
API cublasStatus_t cublasLtMatmul(
    cublasLtHandle_t h, cublasLtMatmulDesc_t product, const void *alpha, const void *a, cublasLtMatrixLayout_t a_layout,
    const void *b, cublasLtMatrixLayout_t b_layout, const void *beta, const void *c, cublasLtMatrixLayout_t c_layout,
    void *d, cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t bytes,
    cudaStream_t stream) {
    UNUSED(h), UNUSED(product), UNUSED(alpha), UNUSED(a), UNUSED(a_layout), UNUSED(b), UNUSED(b_layout), UNUSED(beta);
    UNUSED(c), UNUSED(c_layout), UNUSED(d), UNUSED(d_layout), UNUSED(algorithm), UNUSED(workspace), UNUSED(bytes);
    stand_in_launched(stream);
    return OK;
}
