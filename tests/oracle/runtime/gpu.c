/* libcudart.so.13: the GPU's facts, as the runtime reports them.

   Environment, read when CUDA is first asked and again by `stand_in_restart`:
     STAND_IN_NAME, _TOTAL_BYTES, _CONTEXT_BYTES, _L2_BYTES, _CAPABILITY (89 for 8.9), _MULTIPROCESSORS
     STAND_IN_COPY_LIMIT  bytes of the largest copy that is really done (default 1 MiB)
     STAND_IN_LAZY        1: work is done when the host waits for it, and not before */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cudart.h"

static gpu_facts gpu;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static const capability_facts CAPABILITIES[] = {
    /* cc   shared memory of a multiprocessor and of a block, threads and blocks of a multiprocessor */
    {120, 100, 99, 1536, 24},  {100, 228, 227, 2048, 32}, {90, 228, 227, 2048, 32}, {89, 100, 99, 1536, 24},
    {86, 100, 99, 1536, 16},   {80, 164, 163, 2048, 32},  {75, 64, 64, 1024, 16},
};
#define COUNT(array) (sizeof(array) / sizeof *(array))

API size_t stand_in_number(const char *variable, size_t otherwise) {
    const char *text = getenv(variable);
    return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

static void read_environment(void) {
    const char *name = getenv("STAND_IN_NAME");
    snprintf(gpu.name, sizeof gpu.name, "%s", name ? name : "NVIDIA H100 80GB HBM3");
    gpu.total_bytes = stand_in_number("STAND_IN_TOTAL_BYTES", 81090 * MIB);
    gpu.context_bytes = stand_in_number("STAND_IN_CONTEXT_BYTES", 600 * MIB);
    gpu.l2_bytes = stand_in_number("STAND_IN_L2_BYTES", 50 * MIB);
    gpu.multiprocessors = (int)stand_in_number("STAND_IN_MULTIPROCESSORS", 132);
    int capability = (int)stand_in_number("STAND_IN_CAPABILITY", 90);
    gpu.major = capability / 10;
    gpu.minor = capability % 10;
    gpu.copy_limit = stand_in_number("STAND_IN_COPY_LIMIT", MIB);
    gpu.lazy = stand_in_number("STAND_IN_LAZY", 0) != 0;
}

API const gpu_facts *stand_in_gpu(void) {
    pthread_once(&once, read_environment);
    return &gpu;
}
API void stand_in_restart(void) { /* in a fork, which may stand in for another GPU */
    stand_in_gpu();
    read_environment();
}
API const capability_facts *stand_in_capability(void) {
    int capability = stand_in_gpu()->major * 10 + stand_in_gpu()->minor;
    for (size_t i = 0; i < COUNT(CAPABILITIES); i++)
        if (CAPABILITIES[i].capability <= capability) return &CAPABILITIES[i];
    return &CAPABILITIES[COUNT(CAPABILITIES) - 1];
}
API int stand_in_binary(void) {
    static const int BUILT[] = {120, 100, 90, 86, 80, 75}; /* torch.cuda.get_arch_list() */
    int capability = stand_in_gpu()->major * 10 + stand_in_gpu()->minor;
    for (size_t i = 0; i < COUNT(BUILT); i++)
        if (BUILT[i] <= capability) return BUILT[i];
    return 75;
}

/* Devices: there is one. */

API cudaError_t cudaGetDeviceCount(int *count) { *count = 1; return cudaSuccess; }
API cudaError_t cudaGetDevice(int *device) { *device = 0; return cudaSuccess; }
API cudaError_t cudaSetDevice(int device) { return device ? failed(cudaErrorInvalidDevice) : cudaSuccess; }
API cudaError_t cudaDriverGetVersion(int *version) { *version = CUDA_VERSION_SHOWN; return cudaSuccess; }
API cudaError_t cudaRuntimeGetVersion(int *version) { *version = CUDA_VERSION_SHOWN; return cudaSuccess; }
API cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    UNUSED(device), UNUSED(peer);
    *can = 0;
    return cudaSuccess;
}
API cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
    UNUSED(peer), UNUSED(flags);
    return failed(cudaErrorPeerAccessUnsupported);
}
API cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device) {
    UNUSED(device);
    snprintf(text, (size_t)size, "0000:01:00.0");
    return cudaSuccess;
}
API cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return cudaSuccess;
}

static void fill_sizes(struct cudaDeviceProp *p) {
    const capability_facts *facts = stand_in_capability();
    p->totalGlobalMem = gpu.total_bytes;
    p->l2CacheSize = (int)gpu.l2_bytes;
    p->multiProcessorCount = gpu.multiprocessors;
    p->memoryBusWidth = 384;
    p->totalConstMem = 65536;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = (size_t)facts->shared_block_kib << 10;
    p->sharedMemPerMultiprocessor = (size_t)facts->shared_kib << 10;
    p->reservedSharedMemPerBlock = 1024;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->maxThreadsPerMultiProcessor = facts->threads;
    p->maxBlocksPerMultiProcessor = facts->blocks;
}

API cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    stand_in_gpu();
    if (device) return failed(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    memcpy(p->name, gpu.name, sizeof gpu.name);
    memcpy(p->uuid.bytes, "stand-in-gpu-000", 16);
    p->major = gpu.major;
    p->minor = gpu.minor;
    fill_sizes(p);
    p->warpSize = 32;
    p->memPitch = 0x7fffffff;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->textureAlignment = p->surfaceAlignment = 512;
    p->texturePitchAlignment = 32;
    p->pciBusID = 1;
    p->asyncEngineCount = 2;
    p->hostNumaId = -1;
    p->canMapHostMemory = p->concurrentKernels = p->unifiedAddressing = p->managedMemory = 1;
    p->streamPrioritiesSupported = p->globalL1CacheSupported = p->localL1CacheSupported = 1;
    p->concurrentManagedAccess = p->computePreemptionSupported = p->cooperativeLaunch = 1;
    p->canUseHostPointerForRegisteredMem = p->hostRegisterSupported = p->memoryPoolsSupported = 1;
    p->clusterLaunch = gpu.major >= 9;
    return cudaSuccess;
}

API cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    struct cudaDeviceProp p;
    cudaError_t error = cudaGetDeviceProperties(&p, device);
    if (error) return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: case cudaDevAttrMaxBlockDimX: case cudaDevAttrMaxBlockDimY: *value = 1024; break;
    case cudaDevAttrMaxBlockDimZ: *value = 64; break;
    case cudaDevAttrMaxGridDimX: *value = p.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)p.sharedMemPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)p.sharedMemPerBlockOptin; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)p.sharedMemPerMultiprocessor; break;
    case cudaDevAttrReservedSharedMemoryPerBlock: *value = 1024; break;
    case cudaDevAttrTotalConstantMemory: *value = 65536; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxRegistersPerBlock: case cudaDevAttrMaxRegistersPerMultiprocessor: *value = 65536; break;
    case cudaDevAttrClockRate: *value = 1980000; break;
    case cudaDevAttrMemoryClockRate: *value = 2619000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = p.memoryBusWidth; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = p.maxBlocksPerMultiProcessor; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrUnifiedAddressing: case cudaDevAttrCooperativeLaunch: case cudaDevAttrMemoryPoolsSupported:
    case cudaDevAttrStreamPrioritiesSupported: case cudaDevAttrHostRegisterSupported:
    case cudaDevAttrConcurrentKernels: case cudaDevAttrCanMapHostMemory: case cudaDevAttrManagedMemory: *value = 1; break;
    default: *value = 0;
    }
    return cudaSuccess;
}

/* Errors: the last one of each thread, and their names. */

static __thread cudaError_t last_error;
static const struct { cudaError_t error; const char *name, *text; } ERRORS[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
};

cudaError_t failed(cudaError_t error) { return last_error = error; }
API cudaError_t cudaPeekAtLastError(void) { return last_error; }
API cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}
API const char *cudaGetErrorName(cudaError_t error) {
    for (size_t i = 0; i < COUNT(ERRORS); i++)
        if (ERRORS[i].error == error) return ERRORS[i].name;
    return "cudaError";
}
API const char *cudaGetErrorString(cudaError_t error) {
    for (size_t i = 0; i < COUNT(ERRORS); i++)
        if (ERRORS[i].error == error) return ERRORS[i].text;
    return "an error of the stand-in";
}
