/* libcudart.so.13: kernels, which are launched and do nothing, and the way to the driver's functions.

   What occupancy a kernel reaches depends on its registers, which are not known here: answers are guesses, and so is
   the scratch memory of CUB that follows from them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "cudart.h"

API cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *function) {
    UNUSED(function);
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = 1024;
    a->numRegs = 32;
    a->ptxVersion = a->binaryVersion = stand_in_binary();
    a->maxDynamicSharedSizeBytes = 48 << 10;
    return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int threads,
                                                                       size_t shared, unsigned flags) {
    UNUSED(function), UNUSED(flags);
    const capability_facts *facts = stand_in_capability();
    int most = threads > 0 ? facts->threads / threads : facts->blocks;
    int fit = (int)(((size_t)facts->shared_kib << 10) / (shared + 1024));
    if (shared > 1024 && fit < most) most = fit;
    *blocks = most > facts->blocks ? facts->blocks : most < 1 ? 1 : most;
    return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function, int threads,
                                                              size_t shared) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared, 0);
}
API cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **arguments, size_t shared,
                                 cudaStream_t stream) {
    UNUSED(function), UNUSED(grid), UNUSED(block), UNUSED(arguments), UNUSED(shared);
    stand_in_launched(stream);
    return cudaSuccess;
}
API cudaError_t cudaLaunchCooperativeKernel(const void *function, dim3 grid, dim3 block, void **arguments,
                                            size_t shared, cudaStream_t stream) {
    return cudaLaunchKernel(function, grid, block, arguments, shared, stream);
}
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *function, void **arguments) {
    UNUSED(function), UNUSED(arguments);
    stand_in_launched(config->stream);
    return cudaSuccess;
}

/* What the code that nvcc generates calls: declared in crt/host_runtime.h and crt/device_functions.h. */

static __thread struct { dim3 grid, block; size_t shared; cudaStream_t stream; } pushed[8];
static __thread int depth;

API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream) {
    pushed[depth].grid = grid;
    pushed[depth].block = block;
    pushed[depth].shared = shared;
    pushed[depth].stream = stream;
    if (depth < 7) depth++;
    return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    if (depth) depth--;
    *grid = pushed[depth].grid;
    *block = pushed[depth].block;
    *shared = pushed[depth].shared;
    *(cudaStream_t *)stream = pushed[depth].stream;
    return cudaSuccess;
}
API cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
    *kernel = (cudaKernel_t)function;
    return cudaSuccess;
}
API cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                                   cudaStream_t stream) {
    return cudaLaunchKernel((const void *)kernel, grid, block, arguments, shared, stream);
}
API void **__cudaRegisterFatBinary(void *binary) {
    static void *handle;
    UNUSED(binary);
    return &handle;
}
API void __cudaRegisterFatBinaryEnd(void **handle) { UNUSED(handle); }
API void __cudaUnregisterFatBinary(void **handle) { UNUSED(handle); }
API char __cudaInitModule(void **handle) {
    UNUSED(handle);
    return 1;
}
API void __cudaRegisterVar(void) {}
API void __cudaRegisterFunction(void) {}

/* The driver's functions, by their public names, from our own libcuda.so.1 beside this library. */

static void *driver(void) {
    static void *handle;
    if (!handle) {
        Dl_info here;
        char path[4096];
        dladdr((void *)cudaLaunchKernel, &here);
        snprintf(path, sizeof path - 32, "%s", here.dli_fname);
        char *slash = strrchr(path, '/');
        strcpy(slash ? slash + 1 : path, "libcuda.so.1");
        handle = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
        if (!handle) fprintf(stderr, "stand-in: %s\n", dlerror());
    }
    return handle;
}
API cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version,
                                                 unsigned long long flags,
                                                 enum cudaDriverEntryPointQueryResult *status) {
    UNUSED(version), UNUSED(flags);
    *function = driver() ? dlsym(driver(), symbol) : NULL;
    if (!*function && driver()) *function = dlsym(driver(), "stand_in_unsupported");
    if (status) *status = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
