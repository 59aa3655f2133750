/* Stands between a program and the disk: says on standard error what is written and what is flushed, by file, and has
 * every flush fail as long as a file of the name in DISK_FAILS_IF is there. Loaded before the C library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static const char *folder(void) { return getenv("DISK_FOLDER"); }

static ssize_t plain_write(int fd, const void *bytes, size_t len) {
    static ssize_t (*next)(int, const void *, size_t);
    if (!next) next = dlsym(RTLD_NEXT, "write");
    return next(fd, bytes, len);
}

/* One line, written at once. */
static void say(const char *what, const char *path) {
    char line[PATH_MAX + 64];
    int len = snprintf(line, sizeof line, "disk %s %s\n", what, path);
    if (len > 0) plain_write(2, line, (size_t)len);
}

/* Whether it is a file of ours, and which. */
static int is_ours(int fd, char *path, size_t room) {
    char link[64];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, room - 1);
    errno = saved;
    if (len <= 0 || !folder()) return 0;
    path[len] = 0;
    return strncmp(path, folder(), strlen(folder())) == 0;
}

static void written(int fd) {
    char path[PATH_MAX];
    if (fd > 2 && is_ours(fd, path, sizeof path)) say("wrote", path);
}

static int flushed(int fd, const char *name) {
    char path[PATH_MAX];
    int ours = is_ours(fd, path, sizeof path);
    const char *fails = getenv("DISK_FAILS_IF");
    if (ours && fails && access(fails, F_OK) == 0) {
        say("refused", path);
        errno = EIO;
        return -1;
    }
    int (*next)(int) = dlsym(RTLD_NEXT, name);
    int done = next(fd);
    if (ours && done == 0) say("flushed", path);
    return done;
}

int fsync(int fd) { return flushed(fd, "fsync"); }
int fdatasync(int fd) { return flushed(fd, "fdatasync"); }

ssize_t write(int fd, const void *bytes, size_t len) {
    ssize_t done = plain_write(fd, bytes, len);
    if (done > 0) written(fd);
    return done;
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) {
    static ssize_t (*next)(int, const void *, size_t, off64_t);
    if (!next) next = dlsym(RTLD_NEXT, "pwrite64");
    ssize_t done = next(fd, bytes, len, at);
    if (done > 0) written(fd);
    return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) { return pwrite64(fd, bytes, len, at); }

int rename(const char *from, const char *to) {
    static int (*next)(const char *, const char *);
    if (!next) next = dlsym(RTLD_NEXT, "rename");
    int done = next(from, to);
    if (done == 0 && folder() && strncmp(to, folder(), strlen(folder())) == 0) {
        char both[2 * PATH_MAX];
        snprintf(both, sizeof both, "%s %s", from, to);
        char line[2 * PATH_MAX + 64];
        int len = snprintf(line, sizeof line, "disk renamed %s\n", both);
        if (len > 0) plain_write(2, line, (size_t)len);
    }
    return done;
}

/* A name that was not there is news to the folder. */
static void opened(int fd, const char *path, int flags, int was_there) {
    char real[PATH_MAX];
    (void)path;
    if (fd >= 0 && (flags & O_CREAT) && !was_there && is_ours(fd, real, sizeof real)) say("made", real);
}

int open64(const char *path, int flags, ...) {
    static int (*next)(const char *, int, ...);
    if (!next) next = dlsym(RTLD_NEXT, "open64");
    va_list more;
    va_start(more, flags);
    mode_t mode = (flags & O_CREAT) ? va_arg(more, mode_t) : 0;
    va_end(more);
    int saved = errno, was_there = (flags & O_CREAT) && access(path, F_OK) == 0;
    errno = saved;
    int fd = next(path, flags, mode);
    opened(fd, path, flags, was_there);
    return fd;
}
