/* libnvidia-ml.so.1: enough of NVML for torch's C++: who uses the GPU, and whether there is a fabric. */
#include "stand_in.h"

enum { OK = 0, NOT_SUPPORTED = 3, FABRIC_STATE_AT = 28 }; /* nvmlReturn_t; offset in nvmlGpuFabricInfoV_t */
static int device;

API int nvmlInit_v2(void) { return OK; }
API int nvmlShutdown(void) { return OK; }
API int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return OK; }
API int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **handle) { UNUSED(id); *handle = &device; return OK; }
API int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { UNUSED(index); *handle = &device; return OK; }
API int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = CUDA_VERSION_SHOWN; return OK; }
API int nvmlDeviceGetNvLinkRemoteDeviceType(void) { return NOT_SUPPORTED; }
API int nvmlDeviceGetNvLinkRemotePciInfo_v2(void) { return NOT_SUPPORTED; }
/* torch asks for them when it words an error of memory. */
API int nvmlDeviceGetComputeRunningProcesses(void *handle, unsigned *count, void *infos) {
    UNUSED(handle), UNUSED(infos);
    *count = 0;
    return OK;
}
API int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, void *infos) {
    return nvmlDeviceGetComputeRunningProcesses(handle, count, infos);
}
API int nvmlDeviceGetGpuFabricInfoV(void *handle, unsigned char *info) {
    UNUSED(handle);
    info[FABRIC_STATE_AT] = 0; /* none */
    return OK;
}
