// Agentix for agents in C: its system calls under their POSIX names with agx_ before them, its numbers with AGX_.
// agentix-c(3) is the manual. Lines between BEGIN and END come from the kernel's tables: man/render.py rewrites them.
//
// What fails answers -1, or NULL, with Linux's number in errno and the kernel's own words in agx_reason().
// Every call may be made from any thread. A handler of a signal may make those that its comment does not exclude.
#ifndef AGENTIX_H
#define AGENTIX_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

// A frame is a header, all little-endian: body length (32 bits), call (16), flags (16), user data (64, echoed in the
// reply); then its body in msgpack: an array of arguments, or a result. The first call of a connection is HELLO.
// BEGIN c-numbers
#define AGX_O_RDONLY 0x0
#define AGX_O_WRONLY 0x1
#define AGX_O_RDWR 0x2
#define AGX_O_ACCMODE 0x3
#define AGX_O_CREAT 0x40
#define AGX_O_EXCL 0x80
#define AGX_O_TRUNC 0x200
#define AGX_O_APPEND 0x400
#define AGX_O_DIRECTORY 0x10000
#define AGX_O_NOFOLLOW 0x20000
#define AGX_OPEN_FLAGS 198339
#define AGX_AT_REMOVEDIR 512
#define AGX_AT_SYMLINK_NOFOLLOW 256
#define AGX_RENAME_NOREPLACE 1
#define AGX_RENAME_EXCHANGE 2
#define AGX_WNOHANG 1
#define AGX_SIG_BLOCK 0
#define AGX_SIG_UNBLOCK 1
#define AGX_SIG_SETMASK 2
#define AGX_SIG_DFL 0
#define AGX_SIG_IGN 1
#define AGX_SIG_HANDLE 2
#define AGX_SIGWAIT_DELIVERABLE 1
#define AGX_READ_MAX_BYTES 1048576
#define AGX_CURRENT (-1)
#define AGX_SYS_HELLO 0 // Open a connection: agree on version and features.
#define AGX_SYS_OPEN 1 // Open a file of the own tree.
#define AGX_SYS_CLOSE 2 // Close a handle.
#define AGX_SYS_READ 3 // Read from a handle.
#define AGX_SYS_WRITE 4 // Write to a handle.
#define AGX_SYS_SEEK 5 // Move a handle's position.
#define AGX_SYS_STAT 6 // Attributes of a file.
#define AGX_SYS_READDIR 7 // Names in a directory.
#define AGX_SYS_MKDIR 8 // Make a directory.
#define AGX_SYS_UNLINK 9 // Remove a name; with AT_REMOVEDIR an empty directory.
#define AGX_SYS_RENAME 10 // Rename within one mount.
#define AGX_SYS_TRUNCATE 11 // Set a file's size.
#define AGX_SYS_SYNC 12 // Bring a file's content and the record so far to stable storage.
#define AGX_SYS_SPAWN 16 // Spawn a child agent, confined like the caller or more.
#define AGX_SYS_EXEC 17 // Run a tool through the kernel, in a sandbox and with a uid of its own.
#define AGX_SYS_WAIT 18 // Wait for a child to end.
#define AGX_SYS_EXIT 19 // End the caller with this status.
#define AGX_SYS_GETPID 20 // The caller's agent id and its parent's.
#define AGX_SYS_FORK 21 // Branch the caller: processes, tree and all.
#define AGX_SYS_SIGNAL 24 // Send a signal to itself or to an own child.
#define AGX_SYS_SIGACTION 25 // Say what a signal does: the default, nothing, or a handler in the agent.
#define AGX_SYS_SIGPROCMASK 26 // Change the set of blocked signals.
#define AGX_SYS_SIGWAIT 27 // Take a pending signal of a set, waiting for one if need be.
#define AGX_SYS_PIPE 32 // Make a typed pipe.
#define AGX_SYS_SEND 33 // Send a message.
#define AGX_SYS_RECV 34 // Receive a message.
#define AGX_SYS_SNAPSHOT 40 // Snapshot the own tree.
#define AGX_SYS_ROLLBACK 41 // Go back to a snapshot.
#define AGX_SYS_CHECKPOLICY 48 // Would this call be allowed? Asks; does nothing, counts nothing.
#define AGX_SYS_GETPOLICY 49 // The policy in force for the caller.
#define AGX_SYS_GRANT 50 // Narrow a capability that is held into another of the caller's own, or give it to an own child, narrowed or as it is.
#define AGX_SYS_REVOKE 51 // Take a capability back from the caller itself or from who has it from the caller, and with it all that was made of it, whoever holds that.
#define AGX_SYS_CAPS 52 // The capabilities that the caller or a child of it holds.
#define AGX_SYS_RUSAGE 56 // What the caller has used.
#define AGX_SYS_SYSINFO 57 // About this kernel.
#define AGX_SYS_RING_SETUP 64 // Set up a ring.
#define AGX_SYS_RING_ENTER 65 // Submit to a ring.
#define AGX_SYS_CANCEL 66 // Cancel a call of this connection that waits.

#define AGX_SIGSTOP 1 // Freeze the agent. A mask may defer it, for sigstop_grace_s at most; it is never handled.
#define AGX_SIGCONT 2 // Continue a stopped agent. Always continues; a mask defers only its handler.
#define AGX_SIGINT 3 // Interrupt, as Ctrl-C does.
#define AGX_SIGKILL 4 // Proven kill: afterwards no process of the agent is left.
#define AGX_SIGTERM 5 // Ask to end; followed by the proven kill after stop_timeout_s.
#define AGX_SIGUSR1 6 // Ask for a checkpoint.
#define AGX_SIGUSR2 7 // For the agent's own use.
#define AGX_SIGPOLICY 8 // The agent broke its policy: proven kill of it and of all it spawned.
#define AGX_SIGTRUST 9 // The agent claimed to be somebody else: proven kill of it and of all it spawned.
#define AGX_SIGBUDGET 10 // A budget of the policy is exhausted.
#define AGX_SIGLOOP 11 // The agent makes the same call again and again, and nothing comes of it.
#define AGX_SIGDRIFT 12 // The agent drifts from its goal.
#define AGX_SIGCHLD 13 // A child ended, stopped or continued.
#define AGX_DOORBELL 35
#define AGX_ALL_SIGNALS UINT64_C(0x1fff)

#define AGX_PROTOCOL 1
#define AGX_HEADER_BYTES 16
#define AGX_BODY_MAX_BYTES 1048576
#define AGX_F_MORE 0x20
#define AGX_F_REPLY 0x4000
#define AGX_F_ERROR 0x8000
// END c-numbers

// A set of signals has this bit for each. The numbers are not Linux's: AGX_SIGTERM, never SIGTERM.
#define AGX_BIT(signal) (UINT64_C(1) << ((signal) - 1))

struct agx_reason {
    int number;           // errno
    int retryable;        // whether the same call may succeed later
    uint64_t correlation; // finds the call in the record; 0 when there is none
    char category[16];    // whose business it is: caller, policy, resource ...; empty when no kernel was reached
    char severity[16];    // info, warning, error, fatal
    char enforcer[16];    // what saw that a rule was broken (dispatch, signals ...), or empty
    char message[1024];
    char rule[512];   // the rule of the policy that refused, or empty
    char remedy[512]; // what to do next, or empty
};

struct agx_stat {
// BEGIN c-integers STAT
    int64_t mode;
    int64_t ino;
    int64_t nlink;
    int64_t uid;
    int64_t gid;
    int64_t size;
    int64_t blocks;
    int64_t atime_ns;
    int64_t mtime_ns;
    int64_t ctime_ns;
// END c-integers STAT
};

struct agx_rusage {
// BEGIN c-integers RUSAGE
    int64_t cpu_us;
    int64_t memory_bytes;
    int64_t memory_peak_bytes;
    int64_t processes;
    int64_t calls;
    int64_t denials;
// END c-integers RUSAGE
};

struct agx_dirent {
    uint64_t ino;
    uint32_t mode; // with the bits of its type, as in agx_stat
    char name[256];
};

typedef struct agx_dir AGX_DIR;

struct agx_ended {
    long agent;
    int code;        // exit code, or -1 when a signal ended it
    char signal[16]; // the signal's name, or empty
    char why[16];    // one word: exit, killed, policy, memory ...
};

struct agx_bytes {
    const void *data;
    size_t size;
};

// What is NULL or 0 is not asked for. Lists end with NULL; env has NAME=VALUE.
struct agx_spawn_options {
// BEGIN c-spawn-options
    const char *name; // name beside the id; must be free
    struct agx_bytes source; // the script's text, read by whoever asks, with their own rights
    const char *const *env; // environment variable; nothing else is inherited
    const char *cwd; // working directory inside the sandbox (default: mem/working of its tree)
    int64_t memory_bytes; // memory limit (default 512M)
    double cpus; // processors, as a number such as 0.5 (default 1)
    int64_t pids; // processes and threads at most (default 64)
    double timeout_s; // kill it after so many seconds
    const char *const *deny; // deny a call, below a path of its tree if one is given
    const char *mode; // what a violation does: strict kills, enforce refuses, audit records (default: as the policy says)
    int64_t spawn_max; // agents it may spawn in its life (default 0, or its policy's)
    const char *const *capabilities; // hold this and nothing that is not given so, each at most what its policy allows; see agentix-policy(5)
// END c-spawn-options
};

struct agx_tool_result {
    int64_t status; // exit status; 128 and its signal's Linux number when one ended it
    struct agx_bytes out, err;
    void *memory; // what agx_tool_free frees
};

struct agx_siginfo {
    int signal;
    long sender;   // id of the agent that sent it; 0 for the kernel and for operators
    char why[512]; // a rule, a limit, who sent it; or empty
};

typedef void (*agx_handler)(int signal, const struct agx_siginfo *info);

// --- Files ---------------------------------------------------------------------------------------------------------

// Open a file of the agent's own tree: a handle of Agentix, not a file descriptor of Linux. Flags are AGX_O_*.
int agx_open(const char *path, int flags, unsigned mode);

// Close a handle.
int agx_close(int fd);

// Read at the handle's position: how many bytes, at most AGX_READ_MAX_BYTES; 0 at the end.
ssize_t agx_read(int fd, void *buffer, size_t count);

// As agx_read, at an offset; the position stays.
ssize_t agx_pread(int fd, void *buffer, size_t count, int64_t offset);

// Write at the handle's position: how many bytes were written, which is fewer for more than about 1 MiB.
ssize_t agx_write(int fd, const void *data, size_t count);

// As agx_write, at an offset; the position stays.
ssize_t agx_pwrite(int fd, const void *data, size_t count, int64_t offset);

// Move the handle's position; whence is SEEK_SET, SEEK_CUR or SEEK_END. The new position.
int64_t agx_lseek(int fd, int64_t offset, int whence);

// On return the file's content and the record so far are on stable storage.
int agx_fsync(int fd);

// Attributes of a file.
int agx_stat(const char *path, struct agx_stat *result);

// As agx_stat, of a link itself.
int agx_lstat(const char *path, struct agx_stat *result);

// Read the names of a directory. Not in handlers.
AGX_DIR *agx_opendir(const char *path);

// The next name, or NULL at the end; it lasts until the next call or agx_closedir.
const struct agx_dirent *agx_readdir(AGX_DIR *dir);

// Free what agx_opendir gave. Not in handlers.
void agx_closedir(AGX_DIR *dir);

// Make a directory.
int agx_mkdir(const char *path, unsigned mode);

// Remove a name that is no directory's.
int agx_unlink(const char *path);

// Remove an empty directory.
int agx_rmdir(const char *path);

// Rename, replacing new_path.
int agx_rename(const char *old_path, const char *new_path);

// Rename with AGX_RENAME_NOREPLACE or AGX_RENAME_EXCHANGE.
int agx_rename2(const char *old_path, const char *new_path, unsigned flags);

// Set a file's size.
int agx_truncate(const char *path, int64_t size);

// --- Agents --------------------------------------------------------------------------------------------------------

// Spawn a child agent: its id. Kind is "exec", "module" or "script" (whose text goes into options->source); argv ends
// with NULL; options may be NULL. Not in handlers.
long agx_spawn(const char *kind, const char *const argv[], const struct agx_spawn_options *options);

// Wait for any child to end: its id. Goes on after a handler has run.
long agx_wait(struct agx_ended *ended);

// Wait for a child, or -1 for any: its id; 0 with AGX_WNOHANG when none has ended.
long agx_waitpid(long agent, struct agx_ended *ended, int flags);

// As agx_waitpid, for so many seconds at most: ETIMEDOUT when none ended.
long agx_timedwait(long agent, struct agx_ended *ended, double timeout_s);

// Flush stdio and end the agent with all of its processes. Nothing of atexit runs.
void agx_exit(int status) __attribute__((noreturn));

// The agent's id. All processes of an agent share it.
long agx_getpid(void);

// The id of the agent that spawned this one, or 0.
long agx_getppid(void);

// What the agent has used so far.
int agx_getrusage(struct agx_rusage *result);

// Run a tool through the kernel, in a sandbox of its own. Arguments are names and texts by turns, and end with NULL;
// timeout_s 0 means the tool's own limit. Free the result with agx_tool_free. Not in handlers.
int agx_exec_tool(const char *tool, const char *const arguments[], double timeout_s, struct agx_tool_result *result);

// Free what agx_exec_tool gave. Not in handlers.
void agx_tool_free(struct agx_tool_result *result);

// --- Signals -------------------------------------------------------------------------------------------------------

// Send a signal to itself or an own child.
int agx_kill(long agent, int signal);

// Set what a signal does: NULL for its default, agx_ignore for nothing, or a handler. The old one goes to *old, which
// may be NULL. A handler runs as one of Linux does, between any two instructions of a thread that does not block
// AGX_DOORBELL.
int agx_sigaction(int signal, agx_handler handler, agx_handler *old);

// Given to agx_sigaction, it means that the signal does nothing.
void agx_ignore(int signal, const struct agx_siginfo *info);

// Change the set of blocked signals; how is AGX_SIG_BLOCK, AGX_SIG_UNBLOCK or AGX_SIG_SETMASK. The old set goes to
// *old, which may be NULL. Handlers of signals that this lets through have run on return.
int agx_sigprocmask(int how, uint64_t set, uint64_t *old);

// Take a pending signal of a set (of AGX_BITs), waiting for one: its number. The info may be NULL.
int agx_sigwait(uint64_t set, struct agx_siginfo *info);

// As agx_sigwait, for so many seconds at most: EAGAIN when none came.
int agx_sigtimedwait(uint64_t set, struct agx_siginfo *info, double timeout_s);

// --- Policy --------------------------------------------------------------------------------------------------------

// Would this call (a name such as "WRITE") be allowed, on this path if one is given? 1 for yes; 0 for no, with
// agx_reason() saying why. Does nothing and counts nothing.
int agx_checkpolicy(const char *call, const char *path);

// --- Any call ------------------------------------------------------------------------------------------------------

// Make a call by number (AGX_SYS_*), with a msgpack array of arguments: the size of its result in msgpack, which the
// caller frees. Not in handlers.
ssize_t agx_syscall(int number, const void *arguments, size_t size, void **result);

// Why the last call of this thread that failed did; it is the next failure's to overwrite.
const struct agx_reason *agx_reason(void);

// As perror: what, the reason's message, its rule and its remedy in one line on standard error. Not in handlers.
void agx_perror(const char *what);

#ifdef __cplusplus
}
#endif
#endif
