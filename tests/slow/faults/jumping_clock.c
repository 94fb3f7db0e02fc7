/* Preloaded into a process: its Python reads a clock that is off by the seconds (int64) in the file named by CLOCK_FILE.
 *
 * Only calls from Python's own code are answered so: what waits in C++ for an instant of the kernel's clock would wait an
 * hour too long, as it would not if the kernel's clock itself had jumped. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *seconds;
static void *python;

__attribute__((constructor)) static void begin(void) {
    Dl_info found;
    void *symbol = dlsym(RTLD_DEFAULT, "Py_IsInitialized");
    const char *path = getenv("CLOCK_FILE");
    int file = symbol && path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0 || !dladdr(symbol, &found)) return;
    void *mapped = mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED) return;
    python = found.dli_fbase;
    seconds = mapped;
}

static int64_t ahead(void *caller) {
    Dl_info found;
    return seconds && dladdr(caller, &found) && found.dli_fbase == python ? *seconds : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += ahead(__builtin_return_address(0));
    return failed;
}

time_t time(time_t *kept) {
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    now.tv_sec += ahead(__builtin_return_address(0));
    if (kept) *kept = now.tv_sec;
    return now.tv_sec;
}
