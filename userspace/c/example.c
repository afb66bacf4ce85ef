// An agent in C: it counts lines, words and bytes of every file that is put into state/inbox, writes what it counted to
// state/outbox under the same name, and removes the file. It looks every second, and at once on SIGUSR1. SIGTERM lets it
// finish the file that it is on, and write the totals to state/totals.
//
//   make -C userspace/c
//   agentctl spawn --name counter --bind-ro userspace/c/example:/opt/example -- /opt/example
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "agentix.h"

struct counts {
    int64_t files, lines, words, bytes;
};

static volatile sig_atomic_t stopping;

static void on_term(int signal, const struct agx_siginfo *info)
{
    (void)signal;
    (void)info;
    stopping = 1;
}

static void count(struct counts *counted, bool *in_word, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        bool blank = memchr(" \t\n\r\f\v", text[i], 6) != NULL;
        counted->lines += text[i] == '\n';
        counted->words += !blank && !*in_word;
        *in_word = !blank;
    }
    counted->bytes += (int64_t)size;
}

static int count_file(const char *path, struct counts *counted)
{
    char page[65536];
    bool in_word = false;
    ssize_t got;
    int fd = agx_open(path, AGX_O_RDONLY, 0);
    if (fd < 0)
        return -1;
    while ((got = agx_read(fd, page, sizeof page)) > 0)
        count(counted, &in_word, page, (size_t)got);
    agx_close(fd);
    return got < 0 ? -1 : 0;
}

static int write_line(const char *path, int flags, const char *line)
{
    int fd = agx_open(path, AGX_O_WRONLY | AGX_O_CREAT | flags, 0644);
    if (fd < 0)
        return -1;
    ssize_t written = agx_write(fd, line, strlen(line));
    agx_close(fd);
    return written < 0 ? -1 : 0;
}

// Under another name first, so that nobody sees half of it.
static int publish(const char *path, const struct counts *counted)
{
    char line[128];
    snprintf(line, sizeof line, "%" PRId64 " lines, %" PRId64 " words, %" PRId64 " bytes, %" PRId64 " files\n",
             counted->lines, counted->words, counted->bytes, counted->files);
    if (write_line("state/answer", AGX_O_TRUNC, line) < 0)
        return -1;
    return agx_rename("state/answer", path);
}

static int work_on(const char *name, struct counts *totals)
{
    char inbox[300], outbox[300], line[300];
    struct counts counted = {.files = 1};
    snprintf(inbox, sizeof inbox, "state/inbox/%s", name);
    snprintf(outbox, sizeof outbox, "state/outbox/%s", name);
    if (count_file(inbox, &counted) < 0 || publish(outbox, &counted) < 0 || agx_unlink(inbox) < 0)
        return -1;
    totals->files++;
    totals->lines += counted.lines;
    totals->words += counted.words;
    totals->bytes += counted.bytes;
    snprintf(line, sizeof line, "counted %s\n", name);
    return write_line("mem/episodic/log", AGX_O_APPEND, line);
}

// What begins with a dot is still being written: put files in under such a name, and rename them.
static int look(struct counts *totals)
{
    const struct agx_dirent *entry;
    AGX_DIR *inbox = agx_opendir("state/inbox");
    if (!inbox)
        return -1;
    while (!stopping && (entry = agx_readdir(inbox)))
        if (S_ISREG(entry->mode) && entry->name[0] != '.' && work_on(entry->name, totals) < 0)
            agx_perror(entry->name);
    agx_closedir(inbox);
    return 0;
}

static int make_folder(const char *path) { return agx_mkdir(path, 0755) < 0 && errno != EEXIST ? -1 : 0; }

int main(void)
{
    struct counts totals = {0};
    if (agx_sigprocmask(AGX_SIG_BLOCK, AGX_BIT(AGX_SIGUSR1), NULL) < 0 || agx_sigaction(AGX_SIGTERM, on_term, NULL) < 0 ||
        make_folder("state/inbox") < 0 || make_folder("state/outbox") < 0) {
        agx_perror("counter");
        return 1;
    }
    printf("counter: agent %ld waits for files in state/inbox\n", agx_getpid());
    fflush(stdout);
    while (!stopping && look(&totals) == 0)
        agx_sigtimedwait(AGX_BIT(AGX_SIGUSR1), NULL, 1);
    if (!stopping || publish("state/totals", &totals) < 0) {
        agx_perror("counter");
        return 1;
    }
    printf("counter: counted %" PRId64 " files; the totals are in state/totals\n", totals.files);
    return 0;
}
