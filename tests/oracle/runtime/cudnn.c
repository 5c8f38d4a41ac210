/* libcudnn.so.9: the backend API with one engine for every graph, and the older calls that torch makes.

   Which plans cuDNN refuses, and the workspace that a plan takes, it cannot tell. STAND_IN_CONVOLUTION_WORKSPACE says
   what a convolution's plan takes: bytes (default 0), "xw" for the bytes of its input and weight, "xwy" for those of
   its output as well. All other graphs take none. */
#include <stdlib.h>
#include <string.h>

#include <cudnn.h>

#include "stand_in.h"

#define OK CUDNN_STATUS_SUCCESS

typedef struct attribute {
    struct attribute *next;
    cudnnBackendAttributeName_t name;
    int64_t count;
    size_t width; /* bytes of an element */
    char *bytes;
} attribute;
typedef struct { int known; int64_t x, w, y; } convolution; /* bytes of a graph's input, weight and output */
typedef struct { cudnnBackendDescriptorType_t type; attribute *first; convolution graph; } descriptor;
struct cudnnContext { cudaStream_t stream; };

static size_t width_of(cudnnBackendAttributeType_t type) {
    switch (type) {
    case CUDNN_TYPE_BOOLEAN: case CUDNN_TYPE_CHAR: return 1;
    case CUDNN_TYPE_HANDLE: case CUDNN_TYPE_INT64: case CUDNN_TYPE_DOUBLE: case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR: case CUDNN_TYPE_FRACTION: return 8;
    default: return 4;
    }
}
static attribute *find(const descriptor *d, cudnnBackendAttributeName_t name) {
    attribute *a = d->first;
    while (a && a->name != name) a = a->next;
    return a;
}
static descriptor *member(const descriptor *d, cudnnBackendAttributeName_t name) {
    attribute *a = find(d, name);
    return a ? *(descriptor **)a->bytes : NULL;
}
static int64_t element_bytes(cudnnDataType_t type) {
    switch (type) {
    case CUDNN_DATA_DOUBLE: case CUDNN_DATA_INT64: return 8;
    case CUDNN_DATA_FLOAT: case CUDNN_DATA_INT32: return 4;
    case CUDNN_DATA_HALF: case CUDNN_DATA_BFLOAT16: return 2;
    default: return 1;
    }
}
static int64_t tensor_bytes(const descriptor *tensor) {
    attribute *sizes = find(tensor, CUDNN_ATTR_TENSOR_DIMENSIONS), *type = find(tensor, CUDNN_ATTR_TENSOR_DATA_TYPE);
    if (!sizes || !type) return 0;
    int64_t bytes = element_bytes(*(cudnnDataType_t *)type->bytes);
    for (int64_t i = 0; i < sizes->count; i++) bytes *= ((int64_t *)sizes->bytes)[i];
    return bytes;
}

/* Descriptors keep what is set. A graph knows its convolution, and so do the engine, configuration and plan made of it. */

API cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *made) {
    descriptor *d = calloc(1, sizeof *d);
    if (!d) return CUDNN_STATUS_ALLOC_FAILED;
    d->type = type;
    *made = d;
    return OK;
}
API cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t given) {
    descriptor *d = given;
    for (attribute *a = d ? d->first : NULL, *next; a; a = next) {
        next = a->next;
        free(a->bytes);
        free(a);
    }
    free(d);
    return OK;
}
API cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t given) {
    descriptor *d = given;
    if (d->type == CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR) {
        attribute *nodes = find(d, CUDNN_ATTR_OPERATIONGRAPH_OPS);
        for (int64_t i = 0; nodes && i < nodes->count; i++) {
            descriptor *node = ((descriptor **)nodes->bytes)[i];
            if (node->graph.known) d->graph = node->graph;
        }
    } else if (d->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR) {
        descriptor *x = member(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X);
        descriptor *w = member(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W);
        descriptor *y = member(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y);
        if (x && w && y) d->graph = (convolution){1, tensor_bytes(x), tensor_bytes(w), tensor_bytes(y)};
    }
    return OK;
}
static int names_graph(cudnnBackendAttributeName_t name) {
    return name == CUDNN_ATTR_ENGINE_OPERATION_GRAPH || name == CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH ||
           name == CUDNN_ATTR_ENGINECFG_ENGINE || name == CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG;
}
API cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t given, cudnnBackendAttributeName_t name,
                                           cudnnBackendAttributeType_t type, int64_t count, const void *elements) {
    descriptor *d = given;
    attribute *a = find(d, name);
    if (!a) {
        a = calloc(1, sizeof *a);
        if (!a) return CUDNN_STATUS_ALLOC_FAILED;
        a->name = name;
        a->next = d->first;
        d->first = a;
    }
    free(a->bytes);
    a->count = count;
    a->width = width_of(type);
    a->bytes = calloc((size_t)count + 1, a->width < 8 ? 8 : a->width);
    if (!a->bytes) return CUDNN_STATUS_ALLOC_FAILED;
    if (elements) memcpy(a->bytes, elements, (size_t)count * a->width);
    if (elements && names_graph(name)) d->graph = (*(descriptor **)a->bytes)->graph;
    return OK;
}
static int64_t workspace_of(const convolution *graph) {
    const char *rule = getenv("STAND_IN_CONVOLUTION_WORKSPACE");
    if (!graph->known || !rule) return 0;
    if (!strcmp(rule, "xw")) return graph->x + graph->w;
    if (!strcmp(rule, "xwy")) return graph->x + graph->w + graph->y;
    return (int64_t)stand_in_number("STAND_IN_CONVOLUTION_WORKSPACE", 0);
}
API cudnnStatus_t cudnnBackendGetAttribute(const cudnnBackendDescriptor_t given, cudnnBackendAttributeName_t name,
                                           cudnnBackendAttributeType_t type, int64_t asked, int64_t *count,
                                           void *elements) {
    const descriptor *d = given;
    int64_t ignored, *found = count ? count : &ignored;
    int wanted = elements && asked > 0;
    *found = 1;
    switch ((int)name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS: case CUDNN_ATTR_ENGINECFG_ENGINE: case CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG:
        if (wanted) (*(descriptor **)elements)->graph = d->graph;
        return OK;
    case CUDNN_ATTR_ENGINE_GLOBAL_INDEX:
        if (wanted) *(int64_t *)elements = 0;
        return OK;
    case CUDNN_ATTR_ENGINECFG_SHARED_MEMORY_USED:
        if (wanted) *(int32_t *)elements = 0;
        return OK;
    case CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT:
        if (wanted) *(int64_t *)elements = 1;
        return OK;
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE: case CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE:
        if (wanted) *(int64_t *)elements = workspace_of(&d->graph);
        return OK;
    case CUDNN_ATTR_ENGINECFG_KNOB_CHOICES: case CUDNN_ATTR_ENGINE_KNOB_INFO: case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
    case CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE: case CUDNN_ATTR_ENGINECFG_INTERMEDIATE_INFO:
    case CUDNN_ATTR_ENGINE_LAYOUT_INFO:
        *found = 0;
        return OK;
    default: {
        const attribute *a = find(d, name);
        *found = a ? a->count : 0;
        if (a && wanted) memcpy(elements, a->bytes, (size_t)(a->count < asked ? a->count : asked) * width_of(type));
        return OK;
    }
    }
}
API cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                      cudnnBackendDescriptor_t pack) {
    UNUSED(plan), UNUSED(pack);
    stand_in_launched(handle->stream);
    return OK;
}

/* Handles. */

API cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) {
    *handle = calloc(1, sizeof **handle);
    return *handle ? OK : CUDNN_STATUS_ALLOC_FAILED;
}
API cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
    free(handle);
    return OK;
}
API cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
    handle->stream = stream;
    return OK;
}
API cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t *stream) {
    *stream = handle->stream;
    return OK;
}
API size_t cudnnGetVersion(void) { return CUDNN_VERSION; }
API size_t cudnnGetCudartVersion(void) { return CUDA_VERSION_SHOWN; }
API cudnnStatus_t cudnnGetProperty(libraryPropertyType type, int *value) {
    *value = type == MAJOR_VERSION ? CUDNN_MAJOR : type == MINOR_VERSION ? CUDNN_MINOR : CUDNN_PATCHLEVEL;
    return OK;
}
API const char *cudnnGetErrorString(cudnnStatus_t status) {
    return status == OK ? "CUDNN_STATUS_SUCCESS" : "an error of the stand-in";
}
API void cudnnGetLastErrorString(char *text, size_t size) {
    if (size) *text = 0;
}

/* Older descriptors hold nothing, and sizes that are asked for are 0. */

#define CREATE(name)                                                        \
    API cudnnStatus_t cudnnCreate##name(cudnn##name##_t *made) {            \
        *made = calloc(1, 256);                                             \
        return *made ? OK : CUDNN_STATUS_ALLOC_FAILED;                      \
    }
CREATE(ActivationDescriptor)
CREATE(CTCLossDescriptor)
CREATE(ConvolutionDescriptor)
CREATE(DropoutDescriptor)
CREATE(FilterDescriptor)
CREATE(PoolingDescriptor)
CREATE(RNNDataDescriptor)
CREATE(RNNDescriptor)
CREATE(SpatialTransformerDescriptor)
CREATE(TensorDescriptor)

API cudnnStatus_t cudnnDropoutGetStatesSize(cudnnHandle_t handle, size_t *bytes) {
    UNUSED(handle);
    *bytes = 0;
    return OK;
}
API cudnnStatus_t cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(
    cudnnHandle_t handle, cudnnBatchNormMode_t mode, cudnnBatchNormOps_t ops, const cudnnTensorDescriptor_t x,
    const cudnnTensorDescriptor_t z, const cudnnTensorDescriptor_t y, const cudnnTensorDescriptor_t b,
    const cudnnActivationDescriptor_t activation, size_t *bytes) {
    UNUSED(handle), UNUSED(mode), UNUSED(ops), UNUSED(x), UNUSED(z), UNUSED(y), UNUSED(b), UNUSED(activation);
    *bytes = 0;
    return OK;
}
API cudnnStatus_t cudnnGetBatchNormalizationTrainingExReserveSpaceSize(
    cudnnHandle_t handle, cudnnBatchNormMode_t mode, cudnnBatchNormOps_t ops,
    const cudnnActivationDescriptor_t activation, const cudnnTensorDescriptor_t x, size_t *bytes) {
    UNUSED(handle), UNUSED(mode), UNUSED(ops), UNUSED(activation), UNUSED(x);
    *bytes = 0;
    return OK;
}
