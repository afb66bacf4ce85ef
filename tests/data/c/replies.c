// Makes the call that each line of its input names, and prints what it gave: a number, errno, and what was read.
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agentix.h"

static void show(const void *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        printf("%02x", ((const unsigned char *)data)[i]);
    printf(" ");
}

static int64_t list(void)
{
    int64_t count = 0;
    AGX_DIR *dir = agx_opendir("d");
    if (!dir)
        return -1;
    errno = 0;
    for (const struct agx_dirent *entry; (entry = agx_readdir(dir)); count++)
        show(entry->name, strlen(entry->name));
    agx_closedir(dir);
    return errno ? -1 : count;
}

static int64_t tool(void)
{
    struct agx_tool_result result;
    const char *const arguments[] = {"command", "x", NULL};
    int told = agx_exec_tool("t", arguments, 1, &result);
    if (told < 0)
        return told;
    show(result.out.data, result.out.size);
    show(result.err.data, result.err.size);
    int64_t status = result.status;
    agx_tool_free(&result);
    return status;
}

static int64_t any(void)
{
    void *result;
    ssize_t size = agx_syscall(AGX_SYS_GETPOLICY, "\x90", 1, &result);
    if (size >= 0)
        show(result, (size_t)size);
    free(result);
    return size;
}

static int64_t make(const char *call)
{
    char buffer[9];
    struct agx_stat st;
    struct agx_ended ended;
    struct agx_siginfo info;
    struct agx_rusage used;
    uint64_t old;
    const char *const argv[] = {"a", NULL};
    int64_t told = -1;
    if (strcmp(call, "OPEN") == 0)
        told = agx_open("f", 0, 0);
    else if (strcmp(call, "CLOSE") == 0)
        told = agx_close(3);
    else if (strcmp(call, "READ") == 0 && (told = agx_read(3, buffer, sizeof buffer)) > 0)
        show(buffer, (size_t)told);
    else if (strcmp(call, "STAT") == 0 && (told = agx_stat("f", &st)) == 0)
        told = st.size ^ st.ctime_ns;
    else if (strcmp(call, "READDIR") == 0)
        told = list();
    else if (strcmp(call, "WAIT") == 0 && (told = agx_wait(&ended)) > 0)
        printf("%d %s %s ", ended.code, ended.signal, ended.why);
    else if (strcmp(call, "SIGWAIT") == 0 && (told = agx_sigwait(AGX_ALL_SIGNALS, &info)) > 0)
        printf("%ld %s ", info.sender, info.why);
    else if (strcmp(call, "EXEC") == 0)
        told = tool();
    else if (strcmp(call, "CHECKPOLICY") == 0)
        told = agx_checkpolicy("READ", "f");
    else if (strcmp(call, "GETPID") == 0)
        told = agx_getpid();
    else if (strcmp(call, "RUSAGE") == 0 && (told = agx_getrusage(&used)) == 0)
        told = used.denials;
    else if (strcmp(call, "SIGPROCMASK") == 0 && (told = agx_sigprocmask(AGX_SIG_BLOCK, 0, &old)) == 0)
        show(&old, sizeof old);
    else if (strcmp(call, "SPAWN") == 0)
        told = agx_spawn("exec", argv, NULL);
    else if (strcmp(call, "GETPOLICY") == 0)
        told = any();
    return told;
}

int main(void)
{
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = '\0';
        errno = 0;
        int64_t told = make(line);
        int number = errno;
        printf("= %" PRId64 " %d %s\n", told, told < 0 ? number : 0, told < 0 ? agx_reason()->message : "");
        fflush(stdout);
    }
    return 0;
}
