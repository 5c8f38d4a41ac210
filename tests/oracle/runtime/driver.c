/* libcuda.so.1: the driver's public calls that torch asks for, virtual memory (expandable segments) among them.

   Memory comes from the books that cudaMalloc writes. Modules that are compiled at run time are accepted and never run. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cuda.h>
#undef cuMemAddressReserve

#include "stand_in.h"

int cudaDeviceGetAttribute(int *value, int attribute, int device);

#define OK CUDA_SUCCESS
static int context, module;

API CUresult stand_in_unsupported(void) { return CUDA_ERROR_NOT_SUPPORTED; }
API CUresult cuInit(unsigned flags) {
    UNUSED(flags);
    return OK;
}
API CUresult cuDriverGetVersion(int *version) { *version = CUDA_VERSION_SHOWN; return OK; }
API CUresult cuDeviceGetCount(int *count) { *count = 1; return OK; }
API CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    *device = ordinal;
    return ordinal ? CUDA_ERROR_INVALID_DEVICE : OK;
}
API CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    *value = 1;
    if (attribute == CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) return OK;
    return cudaDeviceGetAttribute(value, (int)attribute, device) ? CUDA_ERROR_INVALID_VALUE : OK;
}
API CUresult cuCtxGetCurrent(CUcontext *current) { *current = (CUcontext)&context; return OK; }
API CUresult cuCtxSetCurrent(CUcontext current) {
    UNUSED(current);
    return OK;
}
API CUresult cuCtxGetDevice(CUdevice *device) { *device = 0; return OK; }
API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    UNUSED(device);
    *flags = 0;
    *active = 1;
    return OK;
}
API CUresult cuDevicePrimaryCtxRetain(CUcontext *primary, CUdevice device) {
    UNUSED(device);
    *primary = (CUcontext)&context;
    return OK;
}
API CUresult cuGetErrorString(CUresult error, const char **text) {
    *text = error == OK ? "no error" : error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "an error of the stand-in";
    return OK;
}
API CUresult cuGetErrorName(CUresult error, const char **text) {
    *text = error == OK ? "CUDA_SUCCESS" : error == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR";
    return OK;
}
API CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer) {
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT: *(CUcontext *)data = (CUcontext)&context; return OK;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: *(CUmemorytype *)data = CU_MEMORYTYPE_DEVICE; return OK;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *(CUdeviceptr *)data = pointer; return OK;
    default: return CUDA_ERROR_NOT_SUPPORTED;
    }
}

/* Virtual memory: addresses are reserved, memory is created, and mapped there. */

API CUresult cuMemGetAllocationGranularity(size_t *grain, const CUmemAllocationProp *properties,
                                           CUmemAllocationGranularity_flags flags) {
    UNUSED(properties), UNUSED(flags);
    *grain = GRAIN;
    return OK;
}
API CUresult cuMemAddressReserve(CUdeviceptr *pointer, size_t size, size_t alignment, CUdeviceptr wish,
                                 unsigned long long flags) {
    UNUSED(wish), UNUSED(flags);
    size_t grain = alignment > GRAIN ? alignment : GRAIN;
    char *at = mmap(NULL, size + grain, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    madvise(at, size + grain, MADV_NOHUGEPAGE);
    *pointer = ((uintptr_t)at + grain - 1) & ~(grain - 1);
    return OK;
}
API CUresult cuMemAddressFree(CUdeviceptr pointer, size_t size) {
    munmap((void *)pointer, size);
    return OK;
}
API CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *properties,
                         unsigned long long flags) {
    UNUSED(properties), UNUSED(flags);
    if (stand_in_take(size)) return CUDA_ERROR_OUT_OF_MEMORY;
    size_t *record = malloc(sizeof *record);
    if (!record) abort();
    *record = size;
    *handle = (CUmemGenericAllocationHandle)(uintptr_t)record;
    return OK;
}
API CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
    size_t *record = (size_t *)(uintptr_t)handle;
    stand_in_give(*record);
    free(record);
    return OK;
}
API CUresult cuMemMap(CUdeviceptr pointer, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                      unsigned long long flags) {
    UNUSED(offset), UNUSED(handle), UNUSED(flags);
    stand_in_map((void *)pointer, size);
    return OK;
}
API CUresult cuMemUnmap(CUdeviceptr pointer, size_t size) {
    stand_in_unmap((void *)pointer, size);
    madvise((void *)pointer, size, MADV_DONTNEED);
    return OK;
}
API CUresult cuMemSetAccess(CUdeviceptr pointer, size_t size, const CUmemAccessDesc *access, size_t count) {
    UNUSED(pointer), UNUSED(size), UNUSED(access), UNUSED(count);
    return OK;
}
API CUresult cuMemsetD32Async(CUdeviceptr pointer, unsigned value, size_t count, CUstream stream) {
    UNUSED(pointer), UNUSED(value), UNUSED(count);
    stand_in_launched(stream);
    return OK;
}

/* Modules and their kernels. */

API CUresult cuModuleLoadData(CUmodule *loaded, const void *image) {
    UNUSED(image);
    *loaded = (CUmodule)&module;
    return OK;
}
API CUresult cuModuleLoad(CUmodule *loaded, const char *name) { return cuModuleLoadData(loaded, name); }
API CUresult cuModuleLoadDataEx(CUmodule *loaded, const void *image, unsigned count, CUjit_option *options,
                                void **values) {
    UNUSED(count), UNUSED(options), UNUSED(values);
    return cuModuleLoadData(loaded, image);
}
API CUresult cuModuleUnload(CUmodule loaded) {
    UNUSED(loaded);
    return OK;
}
API CUresult cuModuleGetFunction(CUfunction *function, CUmodule loaded, const char *name) {
    UNUSED(loaded), UNUSED(name);
    *function = (CUfunction)&module;
    return OK;
}
API CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
    UNUSED(attribute), UNUSED(function);
    *value = 0;
    return OK;
}
API CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    UNUSED(function), UNUSED(attribute), UNUSED(value);
    return OK;
}
API CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache config) {
    UNUSED(function), UNUSED(config);
    return OK;
}
API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction function, int threads, size_t shared) {
    UNUSED(function), UNUSED(shared);
    *blocks = stand_in_capability()->threads / (threads > 0 ? threads : 1);
    return OK;
}
API CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                            unsigned bz, unsigned shared, CUstream stream, void **parameters, void **extra) {
    UNUSED(function), UNUSED(gx), UNUSED(gy), UNUSED(gz), UNUSED(bx), UNUSED(by), UNUSED(bz), UNUSED(shared);
    UNUSED(parameters), UNUSED(extra);
    stand_in_launched(stream);
    return OK;
}
API CUresult cuLaunchCooperativeKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                                       unsigned by, unsigned bz, unsigned shared, CUstream stream, void **parameters) {
    return cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, stream, parameters, NULL);
}
