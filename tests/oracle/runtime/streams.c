/* libcudart.so.13: streams and events as vector clocks.

   Each piece of work ticks the clock of its stream. `done` is what the host knows to be finished: everything, at once,
   or, if the GPU is lazy, only what it waited for. What time work takes it cannot tell. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cudart.h"

#define STREAMS 160
#define FIRST 3 /* 0, 1 and 2 are the handles of the default streams */

typedef struct { int priority, used; uint64_t clock[STREAMS]; } stream_state;
typedef struct { int stream, recorded; uint64_t clock[STREAMS]; double milliseconds; } event_state;
static stream_state streams[STREAMS];
static uint64_t done[STREAMS];
static size_t launches;

int stream_number(cudaStream_t stream) {
    return (uintptr_t)stream < FIRST ? 0 : (int)((stream_state *)stream - streams);
}
static void catch_up(uint64_t *clock, const uint64_t *with) {
    for (int i = 0; i < STREAMS; i++)
        if (with[i] > clock[i]) clock[i] = with[i];
}
void add_work(int stream) {
    streams[stream].clock[stream]++;
    if (!stand_in_gpu()->lazy) done[stream] = streams[stream].clock[stream];
}
void finish_stream(int stream) { catch_up(done, streams[stream].clock); }
void finish_everything(void) {
    for (int i = 0; i < STREAMS; i++) finish_stream(i);
}

API void stand_in_launched(void *stream) {
    pthread_mutex_lock(&books);
    launches++;
    add_work(stream_number(stream));
    pthread_mutex_unlock(&books);
}
API size_t stand_in_launches(void) { return launches; }

/* Streams. */

API cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    UNUSED(flags);
    *stream = NULL;
    pthread_mutex_lock(&books);
    for (int i = FIRST; i < STREAMS && !*stream; i++)
        if (!streams[i].used) {
            streams[i] = (stream_state){.priority = priority, .used = 1};
            done[i] = 0;
            *stream = (cudaStream_t)&streams[i];
        }
    pthread_mutex_unlock(&books);
    return *stream ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}
API cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
API cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    streams[stream_number(stream)].used = 0;
    return cudaSuccess;
}
API cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) {
    *priority = streams[stream_number(stream)].priority;
    return cudaSuccess;
}
API cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    pthread_mutex_lock(&books);
    finish_stream(stream_number(stream));
    pthread_mutex_unlock(&books);
    return cudaSuccess;
}
API cudaError_t cudaDeviceSynchronize(void) {
    pthread_mutex_lock(&books);
    finish_everything();
    pthread_mutex_unlock(&books);
    return cudaSuccess;
}
API cudaError_t cudaStreamQuery(cudaStream_t stream) {
    int number = stream_number(stream);
    pthread_mutex_lock(&books);
    int ready = done[number] >= streams[number].clock[number];
    pthread_mutex_unlock(&books);
    return ready ? cudaSuccess : failed(cudaErrorNotReady);
}
API cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    UNUSED(flags);
    const event_state *e = (event_state *)event;
    pthread_mutex_lock(&books);
    if (e->recorded) catch_up(streams[stream_number(stream)].clock, e->clock);
    pthread_mutex_unlock(&books);
    return cudaSuccess;
}
API cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void *data, unsigned flags) {
    UNUSED(flags);
    callback(stream, cudaSuccess, data);
    return cudaSuccess;
}
API cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
    UNUSED(stream);
    function(data);
    return cudaSuccess;
}

/* Graphs: nothing is ever captured. */

API cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    UNUSED(stream);
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                         unsigned long long *id, cudaGraph_t *graph, const cudaGraphNode_t **nodes,
                                         const cudaGraphEdgeData **edges, size_t *count) {
    if (id) *id = 0;
    if (graph) *graph = NULL;
    if (nodes) *nodes = NULL;
    if (edges) *edges = NULL;
    if (count) *count = 0;
    return cudaStreamIsCapturing(stream, status);
}
API cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) {
    *mode = cudaStreamCaptureModeGlobal;
    return cudaSuccess;
}

/* Events. */

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec * 1e-6;
}
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    UNUSED(flags);
    *event = calloc(1, sizeof(event_state));
    return *event ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}
API cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }
API cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}
API cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    event_state *e = (event_state *)event;
    int number = stream_number(stream);
    pthread_mutex_lock(&books);
    add_work(number);
    memcpy(e->clock, streams[number].clock, sizeof e->clock);
    e->stream = number;
    e->recorded = 1;
    e->milliseconds = now();
    pthread_mutex_unlock(&books);
    return cudaSuccess;
}
API cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
    UNUSED(flags);
    return cudaEventRecord(event, stream);
}
API cudaError_t cudaEventQuery(cudaEvent_t event) {
    const event_state *e = (event_state *)event;
    pthread_mutex_lock(&books);
    int ready = !e->recorded || done[e->stream] >= e->clock[e->stream];
    pthread_mutex_unlock(&books);
    return ready ? cudaSuccess : failed(cudaErrorNotReady);
}
API cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    const event_state *e = (event_state *)event;
    pthread_mutex_lock(&books);
    catch_up(done, e->clock);
    pthread_mutex_unlock(&books);
    return cudaSuccess;
}
API cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    *milliseconds = (float)(((event_state *)to)->milliseconds - ((event_state *)from)->milliseconds);
    return cudaSuccess;
}
