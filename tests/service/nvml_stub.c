/* A stand-in for NVIDIA's library, libnvidia-ml.so.1: two GPUs, told through the same functions and structures, so that
   the real binding (nvidia-ml-py) runs against it. Tests set the variables of its first part through ctypes. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10,
       LOST = 15 };
enum { GPUS = 2 };

int driver_loaded = 1;
int lost[GPUS];              /* 1: every call says so; 2: from the temperature on, in the middle of a sample */
int slow_us;                 /* how long the memory's size takes */
int temperature[GPUS] = {41, 42};
int xid[GPUS];               /* one that waits to be taken; 0 is none */
int starts;                  /* of the library */

static int started, numbers[GPUS] = {0, 1}, watched[GPUS];
static int gone[GPUS];       /* of a GPU that was lost, until the library is started anew */
static const char *const uuids[GPUS] = {"GPU-0a", "GPU-0b"};

#define GPU(handle) (*(int *)(handle))
#define ASK(handle) do { \
        if (!started) return UNINITIALIZED; \
        gone[GPU(handle)] |= lost[GPU(handle)] == 1; \
        if (gone[GPU(handle)]) return LOST; \
    } while (0)
#define TELL(function, type, value) \
    int function(void *gpu, type *told) { ASK(gpu); *told = (value); return OK; }

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (!driver_loaded) return DRIVER_NOT_LOADED;
    started = 1, starts++;
    return OK;
}
int nvmlShutdown(void) {
    started = 0, memset(watched, 0, sizeof watched), memset(gone, 0, sizeof gone);
    return OK;
}
int nvmlSystemGetDriverVersion(char *text, unsigned size) { return snprintf(text, size, "580.95.05"), OK; }

int nvmlDeviceGetHandleByUUID(const char *uuid, void **gpu) {
    for (int number = 0; number < GPUS; number++)
        if (!strcmp(uuid, uuids[number])) {
            *gpu = &numbers[number];
            ASK(*gpu);
            return OK;
        }
    return NOT_FOUND;
}
int nvmlDeviceGetUUID(void *gpu, char *text, unsigned size) { return snprintf(text, size, "%s", uuids[GPU(gpu)]), OK; }
int nvmlDeviceGetName(void *gpu, char *text, unsigned size) { (void)gpu; return snprintf(text, size, "Stub 80GB"), OK; }

struct utilization { unsigned gpu, memory; };
TELL(nvmlDeviceGetUtilizationRates, struct utilization, ((struct utilization){87, 40}))

struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(void *gpu, struct memory *told) {
    usleep(slow_us);
    ASK(gpu);
    *told = (struct memory){80ull << 30, 60ull << 30, 20ull << 30};
    return OK;
}
int nvmlDeviceGetTemperature(void *gpu, int sensor, unsigned *told) {
    ASK(gpu);
    if (lost[GPU(gpu)] == 2) lost[GPU(gpu)] = 1;
    if (sensor != 0 || lost[GPU(gpu)]) return LOST;
    *told = temperature[GPU(gpu)];
    return OK;
}
TELL(nvmlDeviceGetPowerUsage, unsigned, 312500)        /* mW */
TELL(nvmlDeviceGetEnforcedPowerLimit, unsigned, 700000)
int nvmlDeviceGetClockInfo(void *gpu, int clock, unsigned *told) {
    ASK(gpu);
    *told = clock == 1 ? 1980 : clock == 2 ? 2619 : 0; /* MHz of the SMs and of the memory */
    return OK;
}
TELL(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, 0x40) /* hardware thermal slowdown */
int nvmlDeviceGetTotalEccErrors(void *gpu, int kind, int counter, unsigned long long *told) {
    ASK(gpu);
    *told = counter != 0 ? 1000 : kind == 1 ? 2 : 5;   /* volatile: 2 uncorrected, 5 corrected */
    return OK;
}
TELL(nvmlDeviceGetPcieReplayCounter, unsigned, 3)
/* One generation has this, the other that. */
int nvmlDeviceGetRetiredPages(void *gpu, int cause, unsigned *count, unsigned long long *pages) {
    ASK(gpu);
    if (GPU(gpu) == 0) return NOT_SUPPORTED;
    if (!pages) return *count = cause == 1 ? 1 : 0, *count ? TOO_SMALL : OK;
    *count = cause == 1 ? 1 : 0;
    return OK;
}
int nvmlDeviceGetRemappedRows(void *gpu, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    ASK(gpu);
    if (GPU(gpu) == 1) return NOT_SUPPORTED;
    *corrected = 4, *uncorrected = 1, *pending = 1, *failed = 0;
    return OK;
}

struct process { unsigned pid; unsigned long long memory; unsigned instance, compute; };
int nvmlDeviceGetComputeRunningProcesses_v3(void *gpu, unsigned *count, struct process *told) {
    ASK(gpu);
    unsigned room = *count;
    *count = 1;
    if (room < 1 || !told) return TOO_SMALL;
    told[0] = (struct process){4711, 19ull << 30, -1u, -1u};
    return OK;
}

struct event { void *gpu; unsigned long long type, data; unsigned instance, compute; };
int nvmlEventSetCreate(void **set) { return *set = numbers, OK; }
int nvmlDeviceRegisterEvents(void *gpu, unsigned long long types, void *set) {
    (void)set;
    ASK(gpu);
    watched[GPU(gpu)] = types == 8;                    /* XIDs */
    return OK;
}
int nvmlEventSetWait_v2(void *set, struct event *told, unsigned timeout_ms) {
    (void)set, (void)timeout_ms;
    for (int number = 0; number < GPUS; number++)
        if (watched[number] && xid[number]) {
            *told = (struct event){&numbers[number], 8, xid[number], -1u, -1u};
            xid[number] = 0;
            return OK;
        }
    return TIMEOUT;
}
