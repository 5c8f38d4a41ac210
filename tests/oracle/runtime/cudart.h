/* What the files of libcudart.so.13 share with each other and with no other library. */
#ifndef STAND_IN_CUDART_H
#define STAND_IN_CUDART_H
#include <pthread.h>

#include <cuda_runtime_api.h>

#include "stand_in.h"

extern pthread_mutex_t books; /* held while memory, streams or events are read or written */

typedef enum { ELSEWHERE, ON_GPU, PAGE_LOCKED } place;

cudaError_t failed(cudaError_t error); /* remembers it for cudaGetLastError */
size_t free_bytes(void);
size_t taken_bytes(void);
place place_of(const void *pointer); /* the books must be held */

/* Streams by number, 0 the default stream. The books must be held. */
int stream_number(cudaStream_t stream);
void add_work(int stream);
void finish_stream(int stream);
void finish_everything(void);
#endif
