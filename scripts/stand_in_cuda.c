// Stands where a program looks for NVIDIA's driver and its compiler NVRTC, on a machine without a GPU: one H200 that
// checks what it is asked to do and computes nothing. Kernels are compiled by NVIDIA's NVRTC, which this library is
// linked with and whose compilations it times. A launch, a copy or an allocation that the H200 or the kernel would not
// allow is refused with CUDA_ERROR_INVALID_VALUE. Device memory is addresses without memory behind them: a host that
// reads or writes one crashes. What is copied from the device is one word of 32 bits, again and again: STAND_IN_WORD, a
// decimal number, or 0.
//
// A line for each event goes to the file that STAND_IN_LOG names, or to standard error, fields separated by tabs:
//   compiled  MILLISECONDS
//   failed    the first error of NVRTC
//   launch    KERNEL  GRID  BLOCK  BYTES OF DYNAMIC SHARED MEMORY
//   violation what was refused
//
// Written for CubeCL, which has one kernel in a module and gives a kernel its numbers in structures, so that every
// parameter of 64 bits is a pointer. It has the functions that cubecl-cuda 0.11 calls, without those for graphs, tensor
// maps, priorities and several devices: a program that calls one of them ends with an error that names it.
#define _GNU_SOURCE
#include <cuda.h>
#include <dlfcn.h>
#include <nvrtc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static const size_t MEMORY = 143771ull << 20;
static const unsigned MAX_THREADS = 1024, MAX_BLOCK[3] = {1024, 1024, 64};
static const unsigned MAX_GRID[3] = {2147483647, 65535, 65535};
static const size_t DEFAULT_SHARED = 48 << 10, MAX_SHARED = 227 << 10;

// The settings and the log.

static FILE *events;
static uint32_t word;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("STAND_IN_LOG"), *number = getenv("STAND_IN_WORD");
    word = number ? strtoul(number, NULL, 10) : 0;
    events = path ? fopen(path, "a") : NULL;
    if (events)
        setvbuf(events, NULL, _IOLBF, BUFSIZ);
    else
        events = stderr;
}

__attribute__((format(printf, 1, 2))) static CUresult refuse(const char *format, ...) {
    char text[512];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    fprintf(events, "violation\t%s\n", text);
    return CUDA_ERROR_INVALID_VALUE;
}

// NVRTC, of which only this function is here; the others are found in the library that this one is linked with.

static void log_failure(nvrtcProgram program) {
    char text[1 << 16];
    size_t len;
    bool fits = !nvrtcGetProgramLogSize(program, &len) && len <= sizeof text && !nvrtcGetProgramLog(program, text);
    const char *error = fits ? strstr(text, "error") : NULL;
    error = error ? error : "error in a kernel, see the program's message";
    fprintf(events, "failed\t%.*s\n", (int)strcspn(error, "\n"), error);
}

nvrtcResult nvrtcCompileProgram(nvrtcProgram program, int num_options, const char *const *options) {
    nvrtcResult (*compile)(nvrtcProgram, int, const char *const *);
    *(void **)&compile = dlsym(RTLD_NEXT, "nvrtcCompileProgram");
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    nvrtcResult result = compile(program, num_options, options);
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (result == NVRTC_SUCCESS)
        fprintf(events, "compiled\t%.3f\n", (end.tv_sec - start.tv_sec) * 1e3 + (end.tv_nsec - start.tv_nsec) / 1e6);
    else
        log_failure(program);
    return result;
}

// The device.

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *version) { return *version = CUDA_VERSION, CUDA_SUCCESS; }

CUresult cuGetErrorName(CUresult error, const char **name) {
    *name = error == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_INVALID_VALUE";
    return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char **text) { return cuGetErrorName(error, text); }
CUresult cuDeviceGetCount(int *count) { return *count = 1, CUDA_SUCCESS; }

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    return *device = 0, ordinal ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int len, CUdevice) {
    return snprintf(name, len, "NVIDIA H200 (stand-in)"), CUDA_SUCCESS;
}
CUresult cuDeviceGetPCIBusId(char *id, int len, CUdevice) { return snprintf(id, len, "0000:01:00.0"), CUDA_SUCCESS; }
CUresult cuDeviceTotalMem(size_t *bytes, CUdevice) { return *bytes = MEMORY, CUDA_SUCCESS; }

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice) {
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = MAX_SHARED; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = MAX_THREADS; break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X: *value = MAX_BLOCK[0]; break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: *value = MAX_BLOCK[1]; break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: *value = MAX_BLOCK[2]; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: *value = MAX_GRID[0]; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y: *value = MAX_GRID[1]; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: *value = MAX_GRID[2]; break;
    default: return refuse("attribute %d of the device, which the stand-in does not know", attribute);
    }
    return CUDA_SUCCESS;
}

// Contexts, streams and events: nothing runs, so nothing is waited for. Their handles are different numbers.

static void *handle(void) {
    static uintptr_t last;
    return (void *)__atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice) { return *context = handle(), CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult cuStreamCreate(CUstream *stream, unsigned) { return *stream = handle(), CUDA_SUCCESS; }
CUresult cuStreamDestroy(CUstream) { return CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream) { return CUDA_SUCCESS; }
CUresult cuStreamWaitEvent(CUstream, CUevent, unsigned) { return CUDA_SUCCESS; }
CUresult cuEventCreate(CUevent *event, unsigned) { return *event = handle(), CUDA_SUCCESS; }
CUresult cuEventDestroy(CUevent) { return CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent, CUstream) { return CUDA_SUCCESS; }
CUresult cuEventSynchronize(CUevent) { return CUDA_SUCCESS; }
CUresult cuEventElapsedTime(float *milliseconds, CUevent, CUevent) { return *milliseconds = 0.01f, CUDA_SUCCESS; }

// Memory.

struct allocation {
    uintptr_t start;
    size_t len;
};

static struct allocation *allocations;
static size_t num_allocations, allocated;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

// Whether `len` bytes from `start` lie in one allocation.
static bool is_allocated(uintptr_t start, size_t len) {
    bool found = false;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < num_allocations && !found; i++) {
        size_t offset = start - allocations[i].start;
        found = offset < allocations[i].len && len <= allocations[i].len - offset;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

CUresult cuMemAlloc(CUdeviceptr *start, size_t len) {
    if (!len)
        return refuse("an allocation of 0 bytes");
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    void *addresses = MAP_FAILED;
    if (len <= MEMORY - allocated)
        addresses = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *grown = NULL;
    if (addresses != MAP_FAILED)
        grown = realloc(allocations, (num_allocations + 1) * sizeof *allocations);
    if (grown) {
        allocations = grown;
        allocations[num_allocations++] = (struct allocation){(uintptr_t)addresses, len};
        allocated += len;
        *start = (uintptr_t)addresses;
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&lock);
    return result;
}
CUresult cuMemAllocAsync(CUdeviceptr *start, size_t len, CUstream) { return cuMemAlloc(start, len); }

CUresult cuMemFree(CUdeviceptr start) {
    bool found = false;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < num_allocations && !found; i++) {
        if (allocations[i].start != start)
            continue;
        munmap((void *)start, allocations[i].len);
        allocated -= allocations[i].len;
        allocations[i] = allocations[--num_allocations];
        found = true;
    }
    pthread_mutex_unlock(&lock);
    return found ? CUDA_SUCCESS : refuse("freeing %#llx, which is not allocated", start);
}
CUresult cuMemFreeAsync(CUdeviceptr start, CUstream) { return cuMemFree(start); }

CUresult cuMemAllocHost(void **start, size_t len) {
    return posix_memalign(start, 4096, len) ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}
CUresult cuMemFreeHost(void *start) { return free(start), CUDA_SUCCESS; }

static CUresult check_copy(const char *what, CUdeviceptr start, size_t len) {
    if (!len || is_allocated(start, len))
        return CUDA_SUCCESS;
    return refuse("copying %zu bytes %s %#llx, which leaves what is allocated", len, what, start);
}

static void fill(void *to, size_t len) {
    for (size_t i = 0; i < len; i++)
        ((uint8_t *)to)[i] = word >> i % 4 * 8;
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *, size_t len, CUstream) { return check_copy("to", to, len); }

CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t len, CUstream) {
    fill(to, len);
    return check_copy("from", from, len);
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t len, CUstream) {
    CUresult result = check_copy("from", from, len);
    return result ? result : check_copy("to", to, len);
}

// The bytes that rows of a copy span.
static size_t span(const CUDA_MEMCPY2D *copy, size_t pitch) {
    return copy->Height ? (copy->Height - 1) * pitch + copy->WidthInBytes : 0;
}

CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D *copy, CUstream) {
    bool from_device = copy->srcMemoryType == CU_MEMORYTYPE_DEVICE;
    bool to_device = copy->dstMemoryType == CU_MEMORYTYPE_DEVICE;
    if (copy->srcXInBytes || copy->srcY || copy->dstXInBytes || copy->dstY || from_device == to_device)
        return refuse("a copy in two dimensions of a kind that the stand-in does not know");
    if (copy->WidthInBytes > copy->srcPitch || copy->WidthInBytes > copy->dstPitch)
        return refuse("a copy of rows of %zu bytes that are wider than their pitch", copy->WidthInBytes);
    if (to_device)
        return check_copy("to", copy->dstDevice, span(copy, copy->dstPitch));
    for (size_t row = 0; row < copy->Height; row++)
        fill((char *)copy->dstHost + row * copy->dstPitch, copy->WidthInBytes);
    return check_copy("from", copy->srcDevice, span(copy, copy->srcPitch));
}

// Kernels.

struct kernel {
    char name[256];
    unsigned num_params, max_threads, cluster;
    bool is_pointer[256];
    size_t static_shared, dynamic_shared; // bytes; the dynamic ones are what a launch may ask for at most
};

// The product of the numbers after `directive`, 1 without it.
static unsigned product_after(const char *directive, const char *text, const char *end) {
    const char *found = strstr(text, directive);
    unsigned of[3] = {1, 1, 1};
    if (found && found < end)
        sscanf(found + strlen(directive), "%u, %u, %u", of, of + 1, of + 2);
    return of[0] * of[1] * of[2];
}

// Reads from PTX what bounds its launches.
CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    const char *entry = strstr(image, ".entry "), *end = entry ? strchr(entry, '{') : NULL;
    struct kernel *kernel = calloc(1, sizeof *kernel);
    if (!kernel || !end || sscanf(entry, ".entry %255[^( \n]", kernel->name) != 1)
        return refuse("a module without a kernel in PTX");
    for (const char *at = entry; (at = strstr(at + 1, ".param ")) && at < end;) {
        if (kernel->num_params == sizeof kernel->is_pointer)
            return refuse("%s has too many parameters for the stand-in", kernel->name);
        kernel->is_pointer[kernel->num_params++] = !strncmp(at, ".param .u64 ", 12) || !strncmp(at, ".param .b64 ", 12);
    }
    bool is_bounded = strstr(entry, ".maxntid") && strstr(entry, ".maxntid") < end;
    kernel->max_threads = is_bounded ? product_after(".maxntid", entry, end) : MAX_THREADS;
    kernel->cluster = product_after(".reqnctapercluster", entry, end);
    for (const char *at = image; (at = strstr(at + 1, ".shared .align "));) {
        unsigned align, bits, elements = 1;
        if (!strncmp(at - 8, ".extern ", 8) ||
            sscanf(at, ".shared .align %u .%*c%u %*[^][;][%u", &align, &bits, &elements) < 2)
            continue; // its size comes with the launch
        kernel->static_shared = (kernel->static_shared + align - 1) / align * align + bits / 8 * elements;
    }
    if (kernel->static_shared > DEFAULT_SHARED)
        return refuse("%s has %zu bytes of static shared memory", kernel->name, kernel->static_shared);
    kernel->dynamic_shared = DEFAULT_SHARED - kernel->static_shared;
    *module = (CUmodule)kernel;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    struct kernel *kernel = (struct kernel *)module;
    *function = (CUfunction)kernel;
    return strcmp(kernel->name, name) ? CUDA_ERROR_NOT_FOUND : CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    struct kernel *kernel = (struct kernel *)function;
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
        return refuse("attribute %d of a kernel, which the stand-in does not know", attribute);
    if (value < 0 || kernel->static_shared + value > MAX_SHARED)
        return refuse("%s with %d + %zu bytes of shared memory", kernel->name, value, kernel->static_shared);
    kernel->dynamic_shared = value;
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared, CUstream, void **params, void **extra) {
    const struct kernel *kernel = (struct kernel *)function;
    unsigned grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
    fprintf(events, "launch\t%s\t%u,%u,%u\t%u,%u,%u\t%u\n", kernel->name, grid_x, grid_y, grid_z, block_x, block_y,
            block_z, shared);
    uint64_t threads = 1, blocks = 1;
    for (int i = 0; i < 3; i++) {
        if (grid[i] == 0 || grid[i] > MAX_GRID[i])
            return refuse("%s with a grid of %u along %c", kernel->name, grid[i], "xyz"[i]);
        if (block[i] == 0 || block[i] > MAX_BLOCK[i])
            return refuse("%s with a block of %u along %c", kernel->name, block[i], "xyz"[i]);
        threads *= block[i];
        blocks *= grid[i];
    }
    if (threads > MAX_THREADS || threads > kernel->max_threads)
        return refuse("%s with %lu threads, bound to %u", kernel->name, threads, kernel->max_threads);
    if (blocks % kernel->cluster)
        return refuse("%s with %lu blocks in clusters of %u", kernel->name, blocks, kernel->cluster);
    if (shared > kernel->dynamic_shared)
        return refuse("%s with %u bytes of shared memory, of %zu", kernel->name, shared, kernel->dynamic_shared);
    if (extra || (kernel->num_params && !params))
        return refuse("%s without an array of parameters", kernel->name);
    for (unsigned i = 0; i < kernel->num_params; i++) {
        if (!params[i])
            return refuse("%s without its parameter %u", kernel->name, i);
        uintptr_t pointer = 0;
        if (kernel->is_pointer[i])
            memcpy(&pointer, params[i], sizeof pointer);
        if (kernel->is_pointer[i] && !is_allocated(pointer, 1))
            return refuse("%s with %#lx as parameter %u, which is not allocated", kernel->name, pointer, i);
    }
    return CUDA_SUCCESS;
}
