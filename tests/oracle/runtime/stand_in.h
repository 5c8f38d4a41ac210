/* What the stand-in libraries share: the GPU that they stand in for, and the books of its memory.

   The books live in libcudart.so.13 (`gpu.c`, `memory.c`, `streams.c`); the other libraries call in. Everything here is
   written from NVIDIA's public headers and documentation. Nothing of NVIDIA's is copied, patched or decompiled. */
#ifndef STAND_IN_H
#define STAND_IN_H
#include <stddef.h>
#include <stdint.h>

#define API __attribute__((visibility("default")))
#define UNUSED(x) ((void)(x))
#define MIB ((size_t)1 << 20)
#define GRAIN (2 * MIB) /* the driver maps memory in pages of 2 MiB */
#define CUDA_VERSION_SHOWN 13000

typedef struct {
    char name[128];
    size_t total_bytes, context_bytes, l2_bytes;
    int major, minor, multiprocessors;
    size_t copy_limit; /* bytes: larger copies are counted, not done */
    int lazy;          /* work is done when the host waits for it, not when it is launched */
} gpu_facts;

/* Facts of each compute capability, from the CUDA programming guide's table of technical specifications. */
typedef struct { int capability, shared_kib, shared_block_kib, threads, blocks; } capability_facts;

const gpu_facts *stand_in_gpu(void);
const capability_facts *stand_in_capability(void);
int stand_in_binary(void); /* 10 * major + minor of the kernels in torch's wheel that this GPU would run */
size_t stand_in_number(const char *variable, size_t otherwise);

/* Take returns 0, or -1 where the GPU has no such bytes left. */
int stand_in_take(size_t bytes);
void stand_in_give(size_t bytes);
void stand_in_map(void *at, size_t size);
void stand_in_unmap(void *at, size_t size);

void stand_in_launched(void *stream);
#endif
