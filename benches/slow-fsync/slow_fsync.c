/*
 * A disk that takes its time, or fails: a preload library around fsync and fdatasync.
 *
 *   LD_PRELOAD=target/slow_fsync.so SLOW_FSYNC_US=1000 jangbu serve
 *
 *   SLOW_FSYNC_US          how many microseconds each call takes longer; 0 when not set
 *   SLOW_FSYNC_FAIL_AFTER  after so many calls in a process each further one fails with EIO; never when not set
 *
 * A call that fails this way has not reached the disk, and stays failing as a broken disk does. What is no number ends the program:
 * a figure measured on a disk that was not slow after all would be worse than none.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef int (*sync_call)(int);

static sync_call real_fsync;
static sync_call real_fdatasync;
static long long delay_us;
static long long fail_after = -1;
static atomic_llong calls;

static long long setting(const char *name, long long unset)
{
    const char *text = getenv(name);
    if (text == NULL || *text == '\0')
        return unset;
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0' || value < 0) {
        fprintf(stderr, "slow_fsync: %s=%s is not a whole number\n", name, text);
        _exit(2);
    }
    return value;
}

static sync_call next(const char *name)
{
    sync_call call = (sync_call)dlsym(RTLD_NEXT, name);
    if (call == NULL) {
        fprintf(stderr, "slow_fsync: there is no %s to call\n", name);
        _exit(2);
    }
    return call;
}

__attribute__((constructor)) static void start(void)
{
    real_fsync = next("fsync");
    real_fdatasync = next("fdatasync");
    delay_us = setting("SLOW_FSYNC_US", 0);
    fail_after = setting("SLOW_FSYNC_FAIL_AFTER", -1);
}

/* Until a moment and not for a while: a signal in between makes it no longer. */
static void wait_a_moment(void)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += delay_us / 1000000;
    until.tv_nsec += (delay_us % 1000000) * 1000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec += 1;
        until.tv_nsec -= 1000000000;
    }
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
    }
}

static int slowly(sync_call call, int fd)
{
    long long number = atomic_fetch_add(&calls, 1);
    int result = -1;
    int error = EIO;
    if (fail_after < 0 || number < fail_after) {
        result = call(fd);
        error = errno;
    }
    if (delay_us > 0)
        wait_a_moment();
    errno = error;
    return result;
}

int fsync(int fd)
{
    /* Another library's constructor may come before ours. */
    return slowly(real_fsync != NULL ? real_fsync : next("fsync"), fd);
}

int fdatasync(int fd)
{
    return slowly(real_fdatasync != NULL ? real_fdatasync : next("fdatasync"), fd);
}
