// An agent that makes every call of agentix.h against a real kernel and holds the answers against what they must be.
// Wants AGENTIX_ID, a rule "deny UNLINK:/state/kept" and children; prints "all held" at the end.
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agentix.h"

#define HOLDS(claim)                                                                                                   \
    do {                                                                                                               \
        if (!(claim)) {                                                                                                \
            printf("line %d: not so: %s (errno %d: %s)\n", __LINE__, #claim, errno, agx_reason()->message);             \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)
#define REFUSED(call, errno_wanted) HOLDS((call) == -1 && errno == (errno_wanted) && agx_reason()->number == errno)

static void files(void)
{
    struct agx_stat st;
    char back[64] = {0};
    int fd = agx_open("state/a", AGX_O_RDWR | AGX_O_CREAT | AGX_O_EXCL, 0640);
    HOLDS(fd >= 0);
    HOLDS(agx_write(fd, "hello world", 11) == 11);
    HOLDS(agx_pwrite(fd, "J", 1, 0) == 1);
    HOLDS(agx_lseek(fd, 0, SEEK_CUR) == 11);
    HOLDS(agx_lseek(fd, -5, SEEK_END) == 6);
    HOLDS(agx_read(fd, back, sizeof back) == 5 && strcmp(back, "world") == 0);
    HOLDS(agx_read(fd, back, sizeof back) == 0);
    HOLDS(agx_pread(fd, back, 5, 0) == 5 && memcmp(back, "Jello", 5) == 0);
    HOLDS(agx_pread(fd, back, 0, 0) == 0 && agx_write(fd, NULL, 0) == 0);
    HOLDS(agx_fsync(fd) == 0 && agx_close(fd) == 0);
    HOLDS(agx_stat("state/a", &st) == 0 && st.size == 11 && S_ISREG(st.mode) && (st.mode & 0777) == 0640);
    HOLDS(st.nlink == 1 && st.mtime_ns > INT64_C(1600000000000000000) && (uid_t)st.uid == getuid());
    HOLDS(agx_truncate("state/a", 4) == 0 && agx_stat("state/a", &st) == 0 && st.size == 4);
    HOLDS(agx_rename("state/a", "state/b") == 0);
    HOLDS(agx_close(agx_open("state/c", AGX_O_WRONLY | AGX_O_CREAT, 0644)) == 0);
    REFUSED(agx_rename2("state/b", "state/c", AGX_RENAME_NOREPLACE), EEXIST);
    HOLDS(agx_unlink("state/c") == 0 && agx_unlink("state/b") == 0);
    REFUSED(agx_unlink("state/b"), ENOENT);
    REFUSED(agx_close(fd), EBADF);
    REFUSED(agx_read(fd, back, 1), EBADF);
    REFUSED(agx_pread(0, back, 1, -1), EINVAL);
    REFUSED(agx_pwrite(0, back, 1, -7), EINVAL);
    REFUSED(agx_open("state", AGX_O_WRONLY, 0), EISDIR);
    REFUSED(agx_open("nowhere", 0, 0), ENOENT);
    HOLDS(strstr(agx_reason()->message, "nowhere") && strcmp(agx_reason()->category, "caller") == 0);
    HOLDS(strcmp(agx_reason()->severity, "info") == 0 && !agx_reason()->retryable);
}

static void much_data(void)
{
    enum { SIZE = 3 << 19 };
    char *out = malloc(SIZE), *in = malloc(SIZE);
    ssize_t once, done = 0;
    HOLDS(out && in);
    for (int i = 0; i < SIZE; i++)
        out[i] = (char)(i * 7 + i / 251);
    int fd = agx_open("mem/working/much", AGX_O_RDWR | AGX_O_CREAT, 0600);
    for (; done < SIZE; done += once)
        HOLDS((once = agx_write(fd, out + done, (size_t)(SIZE - done))) > 0 && once < 1 << 20);
    for (done = 0; (once = agx_pread(fd, in + done, (size_t)(SIZE - done), done)) > 0; done += once)
        HOLDS(once <= AGX_READ_MAX_BYTES);
    HOLDS(once == 0 && done == SIZE && memcmp(in, out, SIZE) == 0);
    HOLDS(agx_close(fd) == 0);
    free(out);
    free(in);
}

static void folders(void)
{
    char path[512], name[200], tree[512];
    struct agx_stat st;
    int seen = 0;
    memset(name, 'n', sizeof name - 1);
    HOLDS(agx_mkdir("state/d", 0755) == 0);
    REFUSED(agx_mkdir("state/d", 0755), EEXIST);
    for (int i = 0; i < 120; i++) { // more than fits on the stack
        snprintf(path, sizeof path, "state/d/%03d%.190s\xff", i, name);
        HOLDS(agx_close(agx_open(path, AGX_O_WRONLY | AGX_O_CREAT, 0644)) == 0);
    }
    AGX_DIR *dir = agx_opendir("state/d");
    HOLDS(dir);
    for (const struct agx_dirent *entry; (entry = agx_readdir(dir)); seen++) {
        HOLDS(strlen(entry->name) == 194 && (unsigned char)entry->name[193] == 0xff);
        HOLDS(S_ISREG(entry->mode) && entry->ino > 0);
        snprintf(path, sizeof path, "state/d/%s", entry->name);
        HOLDS(agx_unlink(path) == 0);
    }
    HOLDS(seen == 120 && !agx_readdir(dir));
    agx_closedir(dir);
    HOLDS(!agx_opendir("state/none") && errno == ENOENT);
    snprintf(tree, sizeof tree, "%s/state/d/link", getenv("AGENTIX_TREE"));
    HOLDS(symlink("nothing", tree) == 0);
    HOLDS(agx_lstat("state/d/link", &st) == 0 && S_ISLNK(st.mode));
    REFUSED(agx_stat("state/d/link", &st), ENOENT);
    REFUSED(agx_rmdir("state/d"), ENOTEMPTY);
    HOLDS(agx_unlink("state/d/link") == 0 && agx_rmdir("state/d") == 0);
}

static void policy(void)
{
    int fd = agx_open("state/kept", AGX_O_WRONLY | AGX_O_CREAT, 0644);
    HOLDS(agx_close(fd) == 0);
    HOLDS(agx_checkpolicy("UNLINK", "state/kept") == 0);
    HOLDS(strcmp(agx_reason()->rule, "deny UNLINK:/state/kept") == 0 && *agx_reason()->message);
    HOLDS(agx_checkpolicy("read", NULL) == 1);
    REFUSED(agx_checkpolicy("nonsense", NULL), EINVAL);
    REFUSED(agx_unlink("state/kept"), EPERM);
    HOLDS(strcmp(agx_reason()->rule, "deny UNLINK:/state/kept") == 0 && agx_reason()->correlation);
    HOLDS(strcmp(agx_reason()->category, "policy") == 0 && strcmp(agx_reason()->enforcer, "dispatch") == 0);
    agx_perror("as it must be");
}

static void children(const char *self)
{
    struct agx_ended ended;
    struct agx_rusage used;
    const char *const env[] = {"GREETING=hello=you", NULL}, *const deny[] = {"MKDIR:/state", NULL};
    const char *const child[] = {self, "child", NULL}, *const sleeper[] = {"/bin/sleep", "60", NULL};
    const char *const script[] = {"seven.py", NULL}, *const missing[] = {"/no/such", NULL};
    const struct agx_spawn_options options = {
        .name = "c-child", .env = env, .deny = deny, .cwd = "/tmp", .memory_bytes = 256 << 20, .cpus = 0.5, .timeout_s = 50};
    const struct agx_spawn_options with_source = {.source = {"raise SystemExit(7)", 19}};
    long agent = agx_spawn("exec", child, &options);
    HOLDS(agent > agx_getpid());
    HOLDS(agx_wait(&ended) == agent && ended.agent == agent && ended.code == 3 && !*ended.signal);
    HOLDS(strcmp(ended.why, "exit") == 0);
    HOLDS((agent = agx_spawn("script", script, &with_source)) > 0);
    HOLDS(agx_waitpid(agent, &ended, 0) == agent && ended.code == 7);
    HOLDS((agent = agx_spawn("exec", sleeper, NULL)) > 0);
    HOLDS(agx_waitpid(agent, &ended, AGX_WNOHANG) == 0);
    REFUSED(agx_timedwait(-1, &ended, 0.001), ETIMEDOUT);
    HOLDS(agx_kill(agent, AGX_SIGKILL) == 0);
    HOLDS(agx_waitpid(-1, &ended, 0) == agent && ended.code == -1 && strcmp(ended.signal, "SIGKILL") == 0);
    REFUSED(agx_wait(NULL), ECHILD);
    REFUSED(agx_kill(agent, AGX_SIGTERM), ESRCH);
    REFUSED(agx_spawn("exec", missing, NULL), ENOENT);
    REFUSED(agx_spawn("fork", missing, NULL), EINVAL);
    HOLDS(agx_getrusage(&used) == 0 && used.calls > 10 && used.memory_bytes > 0 && used.denials == 1);
}

static void large_arguments(void)
{
    static char word[1024], source[2 << 20];
    const char *argv[101] = {"/bin/true"};
    struct agx_ended ended;
    memset(word, 'w', sizeof word - 1);
    memset(source, '\n', sizeof source);
    for (int i = 1; i < 100; i++)
        argv[i] = word;
    HOLDS(agx_spawn("exec", argv, NULL) > 0 && agx_wait(&ended) > 0 && ended.code == 0);
    REFUSED(agx_spawn("script", argv, &(struct agx_spawn_options){.source = {source, sizeof source}}), EMSGSIZE);
}

static void tools(void)
{
    struct agx_tool_result result;
    const char *const arguments[] = {"command", "echo out; echo err >&2; exit 3", NULL}, *const none[] = {NULL};
    const char *const much[] = {"command", "head -c 60000 /dev/zero", NULL};
    HOLDS(agx_exec_tool("shell.execute", arguments, 0, &result) == 0 && result.status == 3);
    HOLDS(result.out.size == 4 && memcmp(result.out.data, "out\n", 4) == 0);
    HOLDS(result.err.size == 4 && memcmp(result.err.data, "err\n", 4) == 0);
    agx_tool_free(&result);
    HOLDS(agx_exec_tool("shell.execute", much, 20, &result) == 0 && result.out.size == 60000);
    agx_tool_free(&result);
    REFUSED(agx_exec_tool("shell.execute", none, 0, &result), EINVAL);
    agx_tool_free(&result);
    REFUSED(agx_exec_tool("no.such", none, 0, &result), ENOENT);
}

static volatile int handled, whose;

static void handler(int signal, const struct agx_siginfo *info)
{
    handled = info->signal == signal ? signal : -1;
    whose = (int)agx_getpid(); // a call, while perhaps another waits
    errno = 0;
}

static void signals(void)
{
    struct agx_siginfo info;
    uint64_t old;
    agx_handler before = handler;
    long self = agx_getpid();
    HOLDS(agx_sigaction(AGX_SIGUSR1, handler, &before) == 0 && !before);
    HOLDS(agx_kill(self, AGX_SIGUSR1) == 0);
    while (!handled)
        continue; // the bell rings in its own time
    HOLDS(handled == AGX_SIGUSR1 && whose == self);
    handled = 0;
    HOLDS(agx_sigprocmask(AGX_SIG_BLOCK, AGX_BIT(AGX_SIGUSR1) | AGX_BIT(AGX_SIGUSR2), &old) == 0 && old == 0);
    HOLDS(agx_kill(self, AGX_SIGUSR2) == 0 && agx_kill(self, AGX_SIGUSR1) == 0);
    HOLDS(agx_sigtimedwait(AGX_BIT(AGX_SIGUSR2), &info, 10) == AGX_SIGUSR2 && info.sender == self && *info.why);
    HOLDS(!handled);
    HOLDS(agx_sigprocmask(AGX_SIG_SETMASK, 0, &old) == 0);
    HOLDS(old == (AGX_BIT(AGX_SIGUSR1) | AGX_BIT(AGX_SIGUSR2)) && handled == AGX_SIGUSR1);
    REFUSED(agx_sigtimedwait(AGX_BIT(AGX_SIGUSR2), NULL, 0), EAGAIN);
    REFUSED(agx_sigtimedwait(AGX_BIT(AGX_SIGUSR2), NULL, -1), EINVAL);
    HOLDS(agx_sigaction(AGX_SIGUSR2, agx_ignore, NULL) == 0 && agx_kill(self, AGX_SIGUSR2) == 0);
    HOLDS(agx_sigaction(AGX_SIGUSR2, NULL, &before) == 0 && before == agx_ignore);
    REFUSED(agx_sigaction(AGX_SIGKILL, handler, NULL), EINVAL);
    REFUSED(agx_sigaction(900, handler, NULL), EINVAL);
    REFUSED(agx_kill(self, AGX_SIGPOLICY), EPERM);
}

static void handler_while_a_call_waits(void)
{
    struct agx_ended ended;
    const char *const child[] = {"/bin/true", NULL};
    handled = 0;
    HOLDS(agx_sigaction(AGX_SIGCHLD, handler, NULL) == 0);
    long agent = agx_spawn("exec", child, NULL);
    HOLDS(agx_wait(&ended) == agent && ended.code == 0);
    while (!handled)
        continue;
    HOLDS(handled == AGX_SIGCHLD);
}

static void *many_calls(void *self)
{
    for (int i = 0; i < 50; i++)
        HOLDS(agx_getpid() == *(long *)self);
    return NULL;
}

static void threads_and_forks(void)
{
    pthread_t threads[12]; // more than connections are kept
    long self = agx_getpid();
    int status;
    for (int i = 0; i < 12; i++)
        HOLDS(pthread_create(&threads[i], NULL, many_calls, &self) == 0);
    for (int i = 0; i < 12; i++)
        HOLDS(pthread_join(threads[i], NULL) == 0);
    pid_t forked = fork();
    if (forked == 0) {
        many_calls(&self);
        _exit(0);
    }
    many_calls(&self);
    HOLDS(waitpid(forked, &status, 0) == forked && status == 0);
}

static void any_call(void)
{
    void *result;
    ssize_t size = agx_syscall(AGX_SYS_SYSINFO, "\x90", 1, &result);
    HOLDS(size > 10 && (*(unsigned char *)result & 0xf0) == 0x80);
    free(result);
    REFUSED(agx_syscall(AGX_SYS_FORK, "\x90", 1, &result), ENOSYS);
    REFUSED(agx_syscall(4711, "\x90", 1, &result), ENOSYS);
    REFUSED(agx_syscall(AGX_SYS_OPEN, "\x90", 1, &result), EINVAL);
    REFUSED(agx_syscall(AGX_SYS_OPEN, "\xc1", 1, &result), EPROTO);
    HOLDS(agx_getpid() > 0); // by another connection: the kernel hangs up on whoever breaks the protocol
}

static int child(void)
{
    char folder[64];
    HOLDS(strcmp(getenv("GREETING"), "hello=you") == 0 && getcwd(folder, sizeof folder) && strcmp(folder, "/tmp") == 0);
    HOLDS(agx_getppid() > 0);
    REFUSED(agx_mkdir("state/x", 0755), EPERM);
    agx_exit(3);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        return child();
    HOLDS(agx_getpid() == atol(getenv("AGENTIX_ID")) && agx_getppid() == 0);
    files();
    much_data();
    folders();
    policy();
    children(argv[0]);
    large_arguments();
    tools();
    signals();
    handler_while_a_call_waits();
    threads_and_forks();
    any_call();
    printf("all held");
    agx_exit(5);
}
