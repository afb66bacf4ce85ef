// The C client of Agentix: every call of agentix.h, over the wire of wire.h.
#define _POSIX_C_SOURCE 200809L
#include "agentix.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>

#include "wire.h"

// A call whose result is a whole number.
static int64_t ask_integer(int number, const struct arg *args, size_t count, int64_t least, int64_t most)
{
    struct call c;
    ask(&c, number, args, count);
    int64_t result = want_integer(&c, least, most);
    return finish(&c, result);
}

// A call whose result says nothing.
static int ask_nothing(int number, const struct arg *args, size_t count)
{
    struct call c;
    ask(&c, number, args, count);
    return (int)finish(&c, 0);
}

// A call whose result is an array of whole numbers: the first `bytes` of them, into a struct of such fields.
static int ask_integers(int number, const struct arg *args, size_t count, void *to, size_t bytes)
{
    struct call c;
    ask(&c, number, args, count);
    c.bad = want(&c, ARRAY).number < bytes / sizeof(int64_t) || c.bad;
    for (char *field = to; field < (char *)to + bytes && !c.bad; field += sizeof(int64_t)) {
        int64_t value = want_integer(&c, INT64_MIN, INT64_MAX);
        memcpy(field, &value, sizeof value);
    }
    return (int)finish(&c, 0);
}

// --- Files ---------------------------------------------------------------------------------------------------------

int agx_open(const char *path, int flags, unsigned mode)
{
    return (int)ask_integer(AGX_SYS_OPEN, ARGS(path_of(path), integer(flags), integer(mode)), 0, INT_MAX);
}

int agx_close(int fd) { return ask_nothing(AGX_SYS_CLOSE, ARGS(integer(fd))); }

int agx_fsync(int fd) { return ask_nothing(AGX_SYS_SYNC, ARGS(integer(fd))); }

// The data of a READ goes where it is wanted; only its head, five bytes at most, comes by the call's memory.
static ssize_t receive_data(struct call *c, size_t size, void *buffer, size_t room)
{
    size_t first = size < 5 ? size : 5;
    if (receive_all(c->fd, c->data, first) < 0)
        return -1;
    c->at = c->data;
    c->end = c->data + first;
    struct item item = item_head(c);
    size_t rest = size - (size_t)(c->at - c->data), here = (size_t)(c->end - c->at);
    if (c->bad || item.shape != BYTES || item.number != rest || rest > room)
        return malformed();
    if (here)
        memcpy(buffer, c->at, here);
    return receive_all(c->fd, (char *)buffer + here, rest - here) < 0 ? -1 : (ssize_t)rest;
}

static ssize_t read_at(int fd, void *buffer, size_t count, int64_t offset)
{
    struct call c;
    bool refused;
    size_t room = count < AGX_READ_MAX_BYTES ? count : AGX_READ_MAX_BYTES;
    ssize_t size = request(&c, AGX_SYS_READ, ARGS(integer(fd), integer((int64_t)room), integer(offset)), &refused);
    if (size >= 0 && refused) {
        answer(&c, (size_t)size, refused);
    } else if (size >= 0) {
        size = receive_data(&c, (size_t)size, buffer, room);
        let_go(&c, size >= 0);
    }
    return (ssize_t)finish(&c, size);
}

static ssize_t write_at(int fd, const void *data, size_t count, int64_t offset)
{
    size_t most = AGX_BODY_MAX_BYTES - 64; // without what the other arguments take
    struct arg bytes = {DATA, {.bytes = {data, count < most ? count : most}}};
    return (ssize_t)ask_integer(AGX_SYS_WRITE, ARGS(integer(fd), bytes, integer(offset)), 0, (int64_t)most);
}

// On the wire AGX_CURRENT means the handle's position; POSIX refuses it here.
static bool is_offset(int64_t offset)
{
    return offset >= 0 || fail(EINVAL, "the offset is before the start of the file", "") == 0;
}

ssize_t agx_read(int fd, void *buffer, size_t count) { return read_at(fd, buffer, count, AGX_CURRENT); }

ssize_t agx_pread(int fd, void *buffer, size_t count, int64_t offset)
{
    return is_offset(offset) ? read_at(fd, buffer, count, offset) : -1;
}

ssize_t agx_write(int fd, const void *data, size_t count) { return write_at(fd, data, count, AGX_CURRENT); }

ssize_t agx_pwrite(int fd, const void *data, size_t count, int64_t offset)
{
    return is_offset(offset) ? write_at(fd, data, count, offset) : -1;
}

int64_t agx_lseek(int fd, int64_t offset, int whence)
{
    return ask_integer(AGX_SYS_SEEK, ARGS(integer(fd), integer(offset), integer(whence)), 0, INT64_MAX);
}

int agx_stat(const char *path, struct agx_stat *result)
{
    return ask_integers(AGX_SYS_STAT, ARGS(path_of(path)), result, sizeof *result);
}

int agx_lstat(const char *path, struct agx_stat *result)
{
    return ask_integers(AGX_SYS_STAT, ARGS(path_of(path), integer(AGX_AT_SYMLINK_NOFOLLOW)), result, sizeof *result);
}

struct agx_dir {
    struct call call;
    uint64_t left;
    struct agx_dirent entry;
};

AGX_DIR *agx_opendir(const char *path)
{
    AGX_DIR *dir = malloc(sizeof *dir);
    if (!dir) {
        fail(ENOMEM, "no memory for a directory", "");
        return NULL;
    }
    ask(&dir->call, AGX_SYS_READDIR, ARGS(path_of(path)));
    dir->left = want(&dir->call, ARRAY).number;
    if (!dir->call.bad)
        return dir;
    finish(&dir->call, 0);
    free(dir);
    return NULL;
}

const struct agx_dirent *agx_readdir(AGX_DIR *dir)
{
    struct call *c = &dir->call;
    if (!dir->left)
        return NULL;
    uint64_t values = want(c, ARRAY).number;
    want_text(c, dir->entry.name, sizeof dir->entry.name);
    dir->entry.mode = (uint32_t)want_integer(c, 0, UINT32_MAX);
    dir->entry.ino = want(c, NUMBER).number;
    for (; values > 3 && !c->bad; values--)
        skip(c);
    dir->left = c->bad ? 0 : dir->left - 1;
    if (c->bad)
        malformed();
    return c->bad ? NULL : &dir->entry;
}

void agx_closedir(AGX_DIR *dir)
{
    release(&dir->call);
    free(dir);
}

int agx_mkdir(const char *path, unsigned mode) { return ask_nothing(AGX_SYS_MKDIR, ARGS(path_of(path), integer(mode))); }

int agx_unlink(const char *path) { return ask_nothing(AGX_SYS_UNLINK, ARGS(path_of(path))); }

int agx_rmdir(const char *path)
{
    return ask_nothing(AGX_SYS_UNLINK, ARGS(path_of(path), integer(AGX_AT_REMOVEDIR)));
}

int agx_rename(const char *old_path, const char *new_path) { return agx_rename2(old_path, new_path, 0); }

int agx_rename2(const char *old_path, const char *new_path, unsigned flags)
{
    return ask_nothing(AGX_SYS_RENAME, ARGS(path_of(old_path), path_of(new_path), integer(flags)));
}

int agx_truncate(const char *path, int64_t size)
{
    return ask_nothing(AGX_SYS_TRUNCATE, ARGS(path_of(path), integer(size)));
}

// --- Agents --------------------------------------------------------------------------------------------------------

long agx_spawn(const char *kind, const char *const argv[], const struct agx_spawn_options *options)
{
    const struct agx_spawn_options none = {.name = NULL};
    struct arg words = {TEXTS, {.list = argv}}, wanted = {OPTIONS, {.options = options ? options : &none}};
    return (long)ask_integer(AGX_SYS_SPAWN, ARGS(text(kind), words, wanted), 1, LONG_MAX);
}

// The answer is [agent, code or nil, signal or nil, why], or nil when none has ended.
static long wait_for(long agent, struct agx_ended *ended, int flags, struct arg timeout)
{
    struct call c;
    struct agx_ended found = {.code = -1};
    ask(&c, AGX_SYS_WAIT, ARGS(integer(agent), integer(flags), timeout));
    struct item head = next(&c);
    if (head.shape != NOTHING) {
        c.bad = c.bad || head.shape != ARRAY;
        found.agent = (long)want_integer(&c, 1, LONG_MAX);
        struct item code = next(&c);
        c.bad = c.bad || (code.shape != NOTHING && code.shape != NUMBER) || code.number > INT_MAX;
        if (code.shape == NUMBER)
            found.code = (int)code.number;
        want_text(&c, found.signal, sizeof found.signal);
        want_text(&c, found.why, sizeof found.why);
    }
    if (ended && !c.bad)
        *ended = found;
    return (long)finish(&c, found.agent);
}

long agx_wait(struct agx_ended *ended) { return wait_for(-1, ended, 0, nil()); }

long agx_waitpid(long agent, struct agx_ended *ended, int flags) { return wait_for(agent, ended, flags, nil()); }

long agx_timedwait(long agent, struct agx_ended *ended, double timeout_s)
{
    return wait_for(agent, ended, 0, time_of(timeout_s));
}

void agx_exit(int status)
{
    fflush(NULL);
    ask_nothing(AGX_SYS_EXIT, ARGS(integer(status & 0xff)));
    _exit(status & 0xff); // the kernel kills; this is for when it has gone away
}

static long own_id(bool parent)
{
    struct call c;
    ask(&c, AGX_SYS_GETPID, NO_ARGS);
    want(&c, ARRAY);
    int64_t id = want_integer(&c, 1, LONG_MAX), parent_id = want_integer(&c, 0, LONG_MAX);
    return (long)finish(&c, parent ? parent_id : id);
}

long agx_getpid(void) { return own_id(false); }

long agx_getppid(void) { return own_id(true); }

int agx_getrusage(struct agx_rusage *result)
{
    return ask_integers(AGX_SYS_RUSAGE, NO_ARGS, result, sizeof *result);
}

static bool is_key(struct item item, const char *name)
{
    return item.shape == BYTES && item.number == strlen(name) && memcmp(item.bytes, name, strlen(name)) == 0;
}

static void read_tool_result(struct call *c, struct agx_tool_result *result)
{
    for (uint64_t left = want(c, MAPPING).number; left && !c->bad; left--) {
        struct item key = next(c);
        bool out = is_key(key, "stdout"), err = is_key(key, "stderr");
        if (out || err) {
            struct item said = want(c, BYTES);
            *(out ? &result->out : &result->err) = (struct agx_bytes){said.bytes, (size_t)said.number};
        } else if (is_key(key, "status")) {
            result->status = want_integer(c, INT64_MIN, INT64_MAX);
        } else {
            skip(c);
        }
    }
}

int agx_exec_tool(const char *tool, const char *const arguments[], double timeout_s, struct agx_tool_result *result)
{
    struct call *c = malloc(sizeof *c);
    struct arg map = {MAP, {.list = arguments}};
    *result = (struct agx_tool_result){.memory = c};
    if (!c)
        return fail(ENOMEM, "no memory for a tool", "");
    ask(c, AGX_SYS_EXEC, ARGS(text(tool), map, timeout_s == 0 ? nil() : time_of(timeout_s)));
    read_tool_result(c, result);
    if (!c->bad)
        return 0;
    finish(c, 0);
    agx_tool_free(result);
    return -1;
}

void agx_tool_free(struct agx_tool_result *result)
{
    struct call *c = result->memory;
    *result = (struct agx_tool_result){.memory = NULL};
    if (c)
        release(c);
    free(c);
}

// --- Signals -------------------------------------------------------------------------------------------------------

static _Atomic(agx_handler) handlers[8 * sizeof(uint64_t) + 1];
enum { HANDLERS = sizeof handlers / sizeof *handlers };

int agx_kill(long agent, int signal) { return ask_nothing(AGX_SYS_SIGNAL, ARGS(integer(agent), integer(signal))); }

// The answer is [signal, sender, why], or nil when no handler is due.
static int wait_signal(uint64_t set, struct agx_siginfo *info, struct arg timeout, int flags)
{
    struct call c;
    struct agx_siginfo found = {.signal = 0};
    ask(&c, AGX_SYS_SIGWAIT, ARGS(set_of(set), timeout, integer(flags)));
    struct item head = next(&c);
    if (head.shape != NOTHING) {
        c.bad = c.bad || head.shape != ARRAY;
        found.signal = (int)want_integer(&c, 1, HANDLERS - 1);
        found.sender = (long)want_integer(&c, 0, LONG_MAX);
        want_text(&c, found.why, sizeof found.why);
    }
    if (info && !c.bad)
        *info = found;
    return (int)finish(&c, found.signal);
}

int agx_sigwait(uint64_t set, struct agx_siginfo *info) { return wait_signal(set, info, nil(), 0); }

int agx_sigtimedwait(uint64_t set, struct agx_siginfo *info, double timeout_s)
{
    return wait_signal(set, info, time_of(timeout_s), 0);
}

// The kernel rings when handlers are due. All that is due is taken; Linux holds back another ring until we return.
static void doorbell(int linux_signal)
{
    struct agx_siginfo info;
    struct agx_reason kept = reason;
    int number = errno;
    (void)linux_signal;
    while (wait_signal(AGX_ALL_SIGNALS, &info, time_of(0), AGX_SIGWAIT_DELIVERABLE) > 0) {
        agx_handler handler = atomic_load(&handlers[info.signal]);
        if (handler) // or it was taken away in the meantime
            handler(info.signal, &info);
    }
    reason = kept;
    errno = number;
}

void agx_ignore(int signal, const struct agx_siginfo *info)
{
    (void)signal;
    (void)info;
}

int agx_sigaction(int signal, agx_handler handler, agx_handler *old)
{
    bool handled = handler && handler != agx_ignore;
    int disposition = handled ? AGX_SIG_HANDLE : handler ? AGX_SIG_IGN : AGX_SIG_DFL;
    struct sigaction bell = {.sa_handler = doorbell, .sa_flags = SA_RESTART};
    if (signal < 1 || signal >= HANDLERS)
        return fail(EINVAL, "no such signal", "");
    if (handled && sigaction(AGX_DOORBELL, &bell, NULL) < 0)
        return fail(errno, "Linux refuses a handler for the doorbell", "");
    agx_handler before = atomic_load(&handlers[signal]);
    if (handled) // in its place before the bell can ring for it
        atomic_store(&handlers[signal], handler);
    if (ask_nothing(AGX_SYS_SIGACTION, ARGS(integer(signal), integer(disposition))) < 0) {
        atomic_store(&handlers[signal], before);
        return -1;
    }
    atomic_store(&handlers[signal], handler);
    if (old)
        *old = before;
    if (handled)
        raise(AGX_DOORBELL); // for what came before the bell could be heard
    return 0;
}

int agx_sigprocmask(int how, uint64_t set, uint64_t *old)
{
    struct call c;
    struct sigaction bell;
    ask(&c, AGX_SYS_SIGPROCMASK, ARGS(integer(how), set_of(set)));
    uint64_t before = want(&c, NUMBER).number;
    if (finish(&c, 0) < 0)
        return -1;
    if (old)
        *old = before;
    if (how != AGX_SIG_BLOCK && sigaction(AGX_DOORBELL, NULL, &bell) == 0 && bell.sa_handler == doorbell)
        raise(AGX_DOORBELL);
    return 0;
}

// --- Policy --------------------------------------------------------------------------------------------------------

int agx_checkpolicy(const char *call, const char *path)
{
    struct call c;
    struct agx_reason told = {.number = EPERM};
    ask(&c, AGX_SYS_CHECKPOLICY, ARGS(text(call), path ? path_of(path) : nil()));
    want(&c, ARRAY);
    int allowed = (int)want(&c, BOOLEAN).number;
    skip(&c); // the mode
    want_text(&c, told.rule, sizeof told.rule);
    want_text(&c, told.message, sizeof told.message);
    if (!c.bad && !allowed)
        reason = told;
    return (int)finish(&c, allowed);
}

// --- Any call ------------------------------------------------------------------------------------------------------

ssize_t agx_syscall(int number, const void *arguments, size_t size, void **result)
{
    struct call c;
    struct arg packed = {PACKED, {.bytes = {arguments, size}}};
    ask(&c, number, &packed, 1);
    size_t told = c.bad ? 0 : (size_t)(c.end - c.at);
    *result = c.bad ? NULL : malloc(told + 1);
    if (*result)
        memcpy(*result, c.at, told);
    else if (!c.bad)
        c.failed = fail(ENOMEM, "no memory for the result", "");
    return (ssize_t)finish(&c, (int64_t)told);
}

const struct agx_reason *agx_reason(void) { return &reason; }

void agx_perror(const char *what)
{
    const char *open = *reason.rule ? " (" : "", *close = *reason.rule ? ")" : "", *then = *reason.remedy ? "; " : "";
    fprintf(stderr, "%s: %s%s%s%s%s%s\n", what, reason.message, open, reason.rule, close, then, reason.remedy);
}
