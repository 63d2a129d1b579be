/*
 * A disk that fails when it is told to: a preload library around read, pread, write, pwrite, fsync and fdatasync, for the files that
 * are named.
 *
 *   LD_PRELOAD=target/failing_disk.so FAILING_DISK_FILES=log.db,log.db-wal FAILING_DISK_CONTROL=/tmp/control jangbu serve
 *
 * The control file holds five numbers of 64 bits, in this machine's order of bytes. Whoever runs the program writes the first three at
 * any time, the kind last; the library counts in the other two.
 *
 *   kind      0 nothing fails
 *             1 a sync fails with EIO; what was written stays, as in a kernel that keeps its pages
 *             2 a sync fails with EIO, and what was written since the last one is lost, as in a kernel that drops them
 *             3 a write fails with EIO
 *             4 a write fails with ENOSPC
 *             5 a write takes half of what it is given
 *             6 a read of what lies at or behind the byte of room fails with EIO, as of a bad sector
 *   room      so many syncs (kinds 1 and 2), or bytes (3 and 4), go well before that; the byte at which it ends may be in the middle
 *             of a write, which is then a short one; of kind 6 the place in the file that is bad, which is not used up
 *   times     so often it fails, then the kind becomes 0 by itself; below zero for ever
 *   failures  so often it has failed
 *   syncs     so many syncs have gone well
 *
 * All threads and files share the numbers. A process that sees no control file of that size ends: a test on a disk that is sound after
 * all would be worse than none.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum kind { SOUND, SYNC_FAILS, SYNC_LOSES, WRITE_FAILS, NO_ROOM, SHORT_WRITES, READ_FAILS };

struct control {
    atomic_llong kind;
    atomic_llong room;
    atomic_llong times;
    atomic_llong failures;
    atomic_llong syncs;
};

/* What a write replaced, until it is synced. */
struct replaced {
    struct replaced *before;
    dev_t device;
    ino_t file;
    off_t offset;
    off_t size;
    ssize_t length;
    char bytes[];
};

static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static ssize_t (*real_read)(int, void *, size_t);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static struct control *control;
static const char *files;
static struct replaced *unsynced;
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void give_up(const char *what)
{
    dprintf(STDERR_FILENO, "failing_disk: %s\n", what);
    _exit(2);
}

static void *next(const char *name)
{
    void *call = dlsym(RTLD_NEXT, name);
    if (call == NULL)
        give_up("there is no such call to stand in for");
    return call;
}

static void start(void)
{
    *(void **)&real_fsync = next("fsync");
    *(void **)&real_fdatasync = next("fdatasync");
    *(void **)&real_read = next("read");
    *(void **)&real_pread = next("pread");
    *(void **)&real_write = next("write");
    *(void **)&real_pwrite = next("pwrite");
    files = getenv("FAILING_DISK_FILES");
    const char *path = getenv("FAILING_DISK_CONTROL");
    if (files == NULL || path == NULL)
        give_up("FAILING_DISK_FILES and FAILING_DISK_CONTROL are not set");
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat about;
    if (fd < 0 || fstat(fd, &about) != 0 || about.st_size != sizeof(struct control))
        give_up("there is no control file of the right size");
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (control == MAP_FAILED)
        give_up("the control file cannot be mapped");
    close(fd);
}

/* At the first call already: another library's constructor may come before ours. */
__attribute__((constructor)) static void prepare(void)
{
    pthread_once(&once, start);
}

/* Whether the file of this descriptor is one of those that are named. */
static bool is_named(int fd)
{
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return false;
    path[length] = '\0';
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        return false;
    const char *name = slash + 1;
    size_t wanted = strlen(name);
    for (const char *at = files; *at != '\0';) {
        size_t given = strcspn(at, ",");
        if (given == wanted && strncmp(at, name, wanted) == 0)
            return true;
        at += given + (at[given] == ',');
    }
    return false;
}

static void count_failure(void)
{
    atomic_fetch_add(&control->failures, 1);
    long long times = atomic_load(&control->times);
    if (times > 0) {
        atomic_store(&control->times, times - 1);
        if (times == 1)
            atomic_store(&control->kind, SOUND);
    }
}

static void remember(int fd, off_t offset, size_t length)
{
    struct stat about;
    struct replaced *entry = malloc(sizeof *entry + length);
    if (entry == NULL || fstat(fd, &about) != 0)
        give_up("what a write replaces cannot be kept");
    entry->device = about.st_dev;
    entry->file = about.st_ino;
    entry->offset = offset;
    entry->size = about.st_size;
    entry->length = real_pread(fd, entry->bytes, length, offset);
    if (entry->length < 0)
        give_up("what a write replaces cannot be read");
    entry->before = unsynced;
    unsynced = entry;
}

/* Forgets what was replaced in this file since its last sync, or puts it back. */
static void settle(int fd, bool put_back)
{
    struct stat about;
    if (fstat(fd, &about) != 0)
        give_up("a file cannot be looked at");
    for (struct replaced **at = &unsynced; *at != NULL;) {
        struct replaced *entry = *at;
        if (entry->device != about.st_dev || entry->file != about.st_ino) {
            at = &entry->before;
            continue;
        }
        if (put_back) {
            if (real_pwrite(fd, entry->bytes, (size_t)entry->length, entry->offset) != entry->length)
                give_up("what was lost cannot be taken away");
            if (fstat(fd, &about) == 0 && about.st_size > entry->size && ftruncate(fd, entry->size) != 0)
                give_up("what was lost cannot be cut off");
        }
        *at = entry->before;
        free(entry);
    }
}

static int synced(int (*call)(int), int fd)
{
    if (!is_named(fd))
        return call(fd);
    pthread_mutex_lock(&one_at_a_time);
    long long kind = atomic_load(&control->kind);
    int result;
    if ((kind == SYNC_FAILS || kind == SYNC_LOSES) && atomic_fetch_sub(&control->room, 1) <= 0) {
        settle(fd, kind == SYNC_LOSES);
        count_failure();
        errno = EIO;
        result = -1;
    } else {
        result = call(fd);
        settle(fd, false);
        atomic_fetch_add(&control->syncs, 1);
    }
    int error = errno;
    pthread_mutex_unlock(&one_at_a_time);
    errno = error;
    return result;
}

/* How much of a write goes well; below zero when nothing does. */
static ssize_t portion(size_t length)
{
    switch (atomic_load(&control->kind)) {
    case WRITE_FAILS:
    case NO_ROOM: {
        long long room = atomic_load(&control->room);
        if (room >= (long long)length) {
            atomic_store(&control->room, room - (long long)length);
            return (ssize_t)length;
        }
        atomic_store(&control->room, 0);
        if (room > 0)
            return (ssize_t)room;
        errno = atomic_load(&control->kind) == NO_ROOM ? ENOSPC : EIO;
        count_failure();
        return -1;
    }
    case SHORT_WRITES:
        if (length < 2)
            return (ssize_t)length;
        count_failure();
        return (ssize_t)(length / 2);
    default:
        return (ssize_t)length;
    }
}

/* An offset below zero is where the descriptor stands. */
static ssize_t written(int fd, const void *bytes, size_t length, off_t offset)
{
    pthread_mutex_lock(&one_at_a_time);
    ssize_t result = portion(length);
    if (result >= 0) {
        off_t at = offset < 0 ? lseek(fd, 0, SEEK_CUR) : offset;
        if (at >= 0)
            remember(fd, at, (size_t)result);
        result = offset < 0 ? real_write(fd, bytes, (size_t)result) : real_pwrite(fd, bytes, (size_t)result, offset);
    }
    int error = errno;
    pthread_mutex_unlock(&one_at_a_time);
    errno = error;
    return result;
}

/* An offset below zero is where the descriptor stands. */
static bool is_bad(int fd, size_t length, off_t offset)
{
    if (atomic_load(&control->kind) != READ_FAILS || !is_named(fd))
        return false;
    off_t at = offset < 0 ? lseek(fd, 0, SEEK_CUR) : offset;
    if (at < 0 || (long long)at + (long long)length <= atomic_load(&control->room))
        return false;
    count_failure();
    errno = EIO;
    return true;
}

int fsync(int fd)
{
    prepare();
    return synced(real_fsync, fd);
}

int fdatasync(int fd)
{
    prepare();
    return synced(real_fdatasync, fd);
}

ssize_t read(int fd, void *bytes, size_t length)
{
    prepare();
    return is_bad(fd, length, -1) ? -1 : real_read(fd, bytes, length);
}

ssize_t pread(int fd, void *bytes, size_t length, off_t offset)
{
    prepare();
    return is_bad(fd, length, offset) ? -1 : real_pread(fd, bytes, length, offset);
}

ssize_t pread64(int fd, void *bytes, size_t length, off64_t offset)
{
    return pread(fd, bytes, length, offset);
}

ssize_t write(int fd, const void *bytes, size_t length)
{
    prepare();
    return is_named(fd) ? written(fd, bytes, length, -1) : real_write(fd, bytes, length);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset)
{
    prepare();
    return is_named(fd) ? written(fd, bytes, length, offset) : real_pwrite(fd, bytes, length, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset)
{
    return pwrite(fd, bytes, length, offset);
}
