/* libcudart.so.13: the books of the GPU's memory and of page-locked host memory, and copies between them.

   The GPU's memory is reserved address space of the host, given out at the lowest free address; a page of it takes RAM
   once it is written. So the tests can read and write what a kernel would. Copies up to the copy limit are done, larger
   ones only counted. Page-locked memory above the limit is one small file mapped over and over, so that pinned weights
   take no RAM.

   It cannot tell which addresses the driver would give, nor what the CUDA context takes: that is said to it. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cudart.h"

#define SPACE ((size_t)16 << 40)
#define CHUNK (16 * MIB)
#define PAGE ((size_t)4096)
#define ROUND_UP(size, grain) (((size_t)(size) + (grain) - 1) & ~((size_t)(grain) - 1))
#define ADDRESSES(size) mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)

pthread_mutex_t books = PTHREAD_MUTEX_INITIALIZER;
static size_t taken, taken_peak, pinned, pinned_peak, bytes_up, bytes_down, refused;

/* The books, for the other libraries and, by ctypes, for Python. */

static size_t capacity(void) { return stand_in_gpu()->total_bytes - stand_in_gpu()->context_bytes; }
size_t taken_bytes(void) { return taken; }
size_t free_bytes(void) { return capacity() > taken ? capacity() - taken : 0; }

static int take(size_t bytes) {
    if (bytes > free_bytes()) {
        refused++;
        return -1;
    }
    taken += bytes;
    if (taken > taken_peak) taken_peak = taken;
    return 0;
}
API int stand_in_take(size_t bytes) {
    pthread_mutex_lock(&books);
    int answer = take(bytes);
    pthread_mutex_unlock(&books);
    return answer;
}
API void stand_in_give(size_t bytes) {
    pthread_mutex_lock(&books);
    taken -= bytes;
    pthread_mutex_unlock(&books);
}
API size_t stand_in_taken_peak(void) { return taken_peak; }
API size_t stand_in_pinned_peak(void) { return pinned_peak; }
API size_t stand_in_bytes_up(void) { return bytes_up; }
API size_t stand_in_bytes_down(void) { return bytes_down; }
API size_t stand_in_refused(void) { return refused; }

/* Extents, sorted by address. */

typedef struct { char *at; size_t size, booked; } extent;
typedef struct { extent *all; size_t count, room; } extents;
static extents allocated, mapped, locked;

static size_t index_above(const extents *list, const char *at) {
    size_t low = 0, high = list->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (list->all[middle].at <= at) low = middle + 1;
        else high = middle;
    }
    return low;
}
static extent *holder(const extents *list, const void *at) {
    size_t index = index_above(list, at);
    if (!index) return NULL;
    extent *found = &list->all[index - 1];
    return (const char *)at < found->at + found->size ? found : NULL;
}
static extent *starting(const extents *list, const void *at) {
    extent *found = holder(list, at);
    return found && found->at == at ? found : NULL;
}
static void insert(extents *list, extent one) {
    if (list->count == list->room) {
        list->room = list->room * 2 + 64;
        list->all = realloc(list->all, list->room * sizeof *list->all);
        if (!list->all) abort();
    }
    size_t index = index_above(list, one.at);
    memmove(&list->all[index + 1], &list->all[index], (list->count++ - index) * sizeof *list->all);
    list->all[index] = one;
}
static void drop(extents *list, const extent *old) {
    size_t index = (size_t)(old - list->all);
    memmove(&list->all[index], &list->all[index + 1], (--list->count - index) * sizeof *list->all);
}
place place_of(const void *pointer) {
    if (holder(&allocated, pointer) || holder(&mapped, pointer)) return ON_GPU;
    return holder(&locked, pointer) ? PAGE_LOCKED : ELSEWHERE;
}

/* The GPU's memory. */

static char *space_start(void) {
    static char *start;
    if (!start) {
        char *at = ADDRESSES(SPACE);
        if (at == MAP_FAILED) {
            perror("stand-in: address space");
            abort();
        }
        madvise(at, SPACE, MADV_DONTDUMP);
        madvise(at, SPACE, MADV_NOHUGEPAGE);
        start = (char *)ROUND_UP(at, GRAIN);
    }
    return start;
}
static char *lowest_gap(size_t size) {
    char *at = space_start();
    for (size_t i = 0; i < allocated.count && allocated.all[i].at < at + size; i++)
        at = (char *)ROUND_UP(allocated.all[i].at + allocated.all[i].size, GRAIN);
    return at;
}

API cudaError_t cudaMalloc(void **pointer, size_t size) {
    *pointer = NULL;
    if (!size) return cudaSuccess;
    size_t booked = ROUND_UP(size, GRAIN);
    pthread_mutex_lock(&books);
    int none = take(booked);
    if (!none) {
        *pointer = lowest_gap(size);
        insert(&allocated, (extent){*pointer, size, booked});
    }
    pthread_mutex_unlock(&books);
    return none ? failed(cudaErrorMemoryAllocation) : cudaSuccess;
}
API cudaError_t cudaFree(void *pointer) {
    if (!pointer) return cudaSuccess;
    pthread_mutex_lock(&books);
    finish_everything();
    extent *found = starting(&allocated, pointer);
    if (found) {
        madvise(found->at, ROUND_UP(found->size, PAGE), MADV_DONTNEED);
        taken -= found->booked;
        drop(&allocated, found);
    }
    pthread_mutex_unlock(&books);
    return found ? cudaSuccess : failed(cudaErrorInvalidValue);
}
API cudaError_t cudaMallocAsync(void **pointer, size_t size, cudaStream_t stream) {
    UNUSED(stream);
    return cudaMalloc(pointer, size);
}
API cudaError_t cudaFreeAsync(void *pointer, cudaStream_t stream) {
    UNUSED(stream);
    return cudaFree(pointer);
}
API cudaError_t cudaMallocManaged(void **pointer, size_t size, unsigned flags) {
    UNUSED(flags);
    *pointer = ADDRESSES(size);
    return *pointer == MAP_FAILED ? failed(cudaErrorMemoryAllocation) : cudaSuccess;
}
API cudaError_t cudaMemGetInfo(size_t *left, size_t *total) {
    *total = stand_in_gpu()->total_bytes;
    *left = free_bytes();
    return cudaSuccess;
}

/* Memory that libcuda maps into addresses reserved before. */

API void stand_in_map(void *at, size_t size) {
    pthread_mutex_lock(&books);
    insert(&mapped, (extent){at, size, 0});
    pthread_mutex_unlock(&books);
}
API void stand_in_unmap(void *at, size_t size) {
    char *end = (char *)at + size;
    extent *found;
    pthread_mutex_lock(&books);
    finish_everything();
    for (char *from = at; from < end && (found = holder(&mapped, from)); drop(&mapped, found))
        from = found->at + found->size;
    pthread_mutex_unlock(&books);
}

/* Page-locked host memory. */

static void *repeated_chunk(size_t size) { /* addresses, all of them of the same 16 MiB */
    static int file = -1;
    if (file < 0) {
        file = memfd_create("stand-in-pinned", MFD_CLOEXEC);
        if (file < 0 || ftruncate(file, CHUNK)) return MAP_FAILED;
    }
    char *at = ADDRESSES(size);
    for (size_t from = 0; at != MAP_FAILED && from < size; from += CHUNK) {
        size_t piece = size - from < CHUNK ? size - from : CHUNK;
        if (mmap(at + from, piece, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)
            return MAP_FAILED;
    }
    return at;
}
static void lock_pages(void *at, size_t size, size_t bytes) {
    insert(&locked, (extent){at, size, bytes});
    pinned += bytes;
    if (pinned > pinned_peak) pinned_peak = pinned;
}
static void unlock_pages(const extent *found) {
    pinned -= found->booked;
    drop(&locked, found);
}

API cudaError_t cudaHostAlloc(void **pointer, size_t size, unsigned flags) {
    UNUSED(flags);
    size_t whole = ROUND_UP(size, PAGE);
    pthread_mutex_lock(&books);
    void *at = size > stand_in_gpu()->copy_limit ? repeated_chunk(whole) : ADDRESSES(whole);
    if (at != MAP_FAILED) lock_pages(at, whole, size);
    pthread_mutex_unlock(&books);
    *pointer = at == MAP_FAILED ? NULL : at;
    return *pointer ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}
API cudaError_t cudaMallocHost(void **pointer, size_t size) { return cudaHostAlloc(pointer, size, 0); }
API cudaError_t cudaFreeHost(void *pointer) {
    if (!pointer) return cudaSuccess;
    pthread_mutex_lock(&books);
    finish_everything();
    extent *found = starting(&locked, pointer);
    if (found) {
        munmap(found->at, found->size);
        unlock_pages(found);
    }
    pthread_mutex_unlock(&books);
    return found ? cudaSuccess : failed(cudaErrorInvalidValue);
}
API cudaError_t cudaHostRegister(void *pointer, size_t size, unsigned flags) {
    UNUSED(flags);
    pthread_mutex_lock(&books);
    lock_pages(pointer, size, size);
    pthread_mutex_unlock(&books);
    return cudaSuccess;
}
API cudaError_t cudaHostUnregister(void *pointer) {
    pthread_mutex_lock(&books);
    extent *found = starting(&locked, pointer);
    if (found) unlock_pages(found);
    pthread_mutex_unlock(&books);
    return found ? cudaSuccess : failed(cudaErrorHostMemoryNotRegistered);
}
API cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned flags) {
    UNUSED(flags);
    *device = host;
    return cudaSuccess;
}
API cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *pointer) {
    static const enum cudaMemoryType TYPES[] = {
        [ELSEWHERE] = cudaMemoryTypeUnregistered, [ON_GPU] = cudaMemoryTypeDevice, [PAGE_LOCKED] = cudaMemoryTypeHost};
    pthread_mutex_lock(&books);
    place where = place_of(pointer);
    pthread_mutex_unlock(&books);
    memset(a, 0, sizeof *a);
    a->type = TYPES[where];
    a->device = where == ELSEWHERE ? -1 : 0;
    a->devicePointer = where == ELSEWHERE ? NULL : (void *)pointer;
    a->hostPointer = where == ON_GPU ? NULL : (void *)pointer;
    return cudaSuccess;
}

/* Copies. What a computation would have found, such as how many elements a mask selects, is said beforehand: the next
   small copy to the host brings it in place of what lies there. */

static int64_t answers[16];
static int answers_waiting;

API void stand_in_answer(int64_t value) {
    if (answers_waiting < 16) answers[answers_waiting++] = value;
}
API void stand_in_drop_answers(void) { answers_waiting = 0; }

static int answered(void *to, size_t size) {
    if (!answers_waiting || (size != 4 && size != 8)) return 0;
    memcpy(to, &answers[0], size); /* little-endian */
    memmove(answers, answers + 1, (size_t)--answers_waiting * sizeof *answers);
    return 1;
}

/* A copy from or to pageable memory lets the host wait, up to 64 KiB to the GPU excepted. Source: "API synchronization
   behavior" in the documentation of the CUDA runtime. */
static void book_copy(place to, place from, size_t size, int stream) {
    int up = to == ON_GPU && from != ON_GPU, down = from == ON_GPU && to != ON_GPU;
    bytes_up += up ? size : 0;
    bytes_down += down ? size : 0;
    add_work(stream);
    if ((down && to == ELSEWHERE) || (up && from == ELSEWHERE && size > 65536)) finish_stream(stream);
}
static cudaError_t copy(void *to, const void *from, size_t size, cudaStream_t stream) {
    pthread_mutex_lock(&books);
    place target = place_of(to), source = place_of(from);
    book_copy(target, source, size, stream_number(stream));
    pthread_mutex_unlock(&books);
    if (source == ON_GPU && target != ON_GPU && answered(to, size)) return cudaSuccess;
    if (size <= stand_in_gpu()->copy_limit) memmove(to, from, size);
    return cudaSuccess;
}
API cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
    UNUSED(kind);
    return copy(to, from, size, stream);
}
API cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    UNUSED(kind);
    copy(to, from, size, NULL);
    return cudaStreamSynchronize(NULL);
}
API cudaError_t cudaMemcpyPeerAsync(void *to, int d, const void *from, int e, size_t size, cudaStream_t stream) {
    UNUSED(d), UNUSED(e);
    return copy(to, from, size, stream);
}
API cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                                  size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
    UNUSED(kind);
    stand_in_launched(stream);
    if (width * height > stand_in_gpu()->copy_limit) return cudaSuccess;
    for (size_t row = 0; row < height; row++)
        memmove((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
    return cudaSuccess;
}
API cudaError_t cudaMemcpyToSymbol(const void *symbol, const void *from, size_t size, size_t offset,
                                   enum cudaMemcpyKind kind) {
    UNUSED(symbol), UNUSED(from), UNUSED(size), UNUSED(offset), UNUSED(kind);
    return cudaSuccess;
}
API cudaError_t cudaMemset(void *at, int value, size_t size) {
    if (size <= stand_in_gpu()->copy_limit) memset(at, value, size);
    return cudaSuccess;
}
API cudaError_t cudaMemsetAsync(void *at, int value, size_t size, cudaStream_t stream) {
    stand_in_launched(stream);
    return cudaMemset(at, value, size);
}
API cudaError_t cudaMemPrefetchAsync(const void *at, size_t size, struct cudaMemLocation location, unsigned flags,
                                     cudaStream_t stream) {
    UNUSED(at), UNUSED(size), UNUSED(location), UNUSED(flags), UNUSED(stream);
    return cudaSuccess;
}
API cudaError_t cudaGetSymbolAddress(void **pointer, const void *symbol) {
    *pointer = (void *)symbol;
    return cudaSuccess;
}

/* Memory pools of the driver, which torch asks about and does not use by default. */

API cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device) {
    static int only;
    UNUSED(device);
    *pool = (cudaMemPool_t)&only;
    return cudaSuccess;
}
API cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value) {
    UNUSED(pool);
    if (attribute >= cudaMemPoolAttrReservedMemCurrent) *(uint64_t *)value = taken;
    else *(int *)value = 1;
    return cudaSuccess;
}
