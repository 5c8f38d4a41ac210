/* libnvrtc.so.13: compiles anything to nothing, since kernels are never run. From the documentation of NVRTC. */
#include <string.h>

#include "stand_in.h"

enum { OK = 0, CODE_BYTES = 8 };

static int code(char *text) {
    memset(text, 0, CODE_BYTES);
    return OK;
}
API int nvrtcVersion(int *major, int *minor) { *major = 13; *minor = 0; return OK; }
API int nvrtcCreateProgram(void **program) {
    static int only;
    *program = &only;
    return OK;
}
API int nvrtcGetPTXSize(void *program, size_t *bytes) { UNUSED(program); *bytes = CODE_BYTES; return OK; }
API int nvrtcGetPTX(void *program, char *text) { UNUSED(program); return code(text); }
API int nvrtcGetCUBINSize(void *program, size_t *bytes) { UNUSED(program); *bytes = CODE_BYTES; return OK; }
API int nvrtcGetCUBIN(void *program, char *text) { UNUSED(program); return code(text); }
API int nvrtcGetProgramLogSize(void *program, size_t *bytes) { UNUSED(program); *bytes = 1; return OK; }
API int nvrtcGetProgramLog(void *program, char *text) { UNUSED(program); *text = 0; return OK; }
API int nvrtcGetLoweredName(void *program, const char *name, const char **lowered) {
    UNUSED(program);
    *lowered = name;
    return OK;
}
API const char *nvrtcGetErrorString(int result) { return result ? "an error of the stand-in" : "NVRTC_SUCCESS"; }
