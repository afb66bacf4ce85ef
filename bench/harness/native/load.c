/* A closed loop of system calls: every connection has one request under way and sends the next when it is answered.
 *
 *   load OPERATION MILLISECONDS WINDOW_MILLISECONDS SERVER_PID SOCKET:UID...
 *
 * OPERATION is noop, check, read or write. Started as root; takes each UID while it connects to that SOCKET, since a kernel
 * knows its agents by the uid of their socket. A lone connection blocks in recv, as an agent's libc does; several are
 * waited for with one epoll. Prints one object: operations, p50_ns, p99_ns, best_ops_s (the best window),
 * mean_ops_s, same_core (share of samples, one a millisecond, in which server and client were last on one processor).
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "frames.h"

enum { CONNECTIONS_MAX = 1024, SAMPLES_MAX = 1 << 24, SAMPLE_NS = 1000000, CPU_FIELD = 39 };

struct connection {
    int fd;
    int handle; /* of its file, where there is one */
    uint64_t user_data, sent_ns;
};

static struct connection connections[CONNECTIONS_MAX];
static int connection_count, server_stat = -1;
static uint32_t *samples;
static size_t sample_count;
static uint64_t core_samples, core_same;

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void send_request(struct connection *c, uint16_t operation, const char *body, uint32_t length) {
    static char frame[FRAME_MAX_BYTES];
    struct header head = { length, operation, 0, ++c->user_data };
    memcpy(frame, &head, sizeof head);
    memcpy(frame + sizeof head, body, length);
    size_t size = sizeof head + length;
    c->sent_ns = now_ns();
    if (send(c->fd, frame, size, MSG_NOSIGNAL) != (ssize_t)size)
        err(1, "send");
}

/* Receive one whole reply into `reply`; its header. Ends the program when it is an error or not the one expected. */
static struct header receive_reply(struct connection *c, char *reply) {
    struct header head = { 0 };
    size_t held = 0;
    while (held < sizeof head || held < sizeof head + head.length) {
        ssize_t got = recv(c->fd, reply + held, FRAME_MAX_BYTES - held, 0);
        if (got <= 0)
            errx(1, "the server closed the connection");
        held += (size_t)got;
        if (held >= sizeof head)
            memcpy(&head, reply, sizeof head);
        if (head.length > FRAME_MAX_BYTES - sizeof head)
            errx(1, "a reply of %u bytes", head.length);
    }
    if (!(head.flags & F_REPLY) || head.flags & F_ERROR || head.user_data != c->user_data)
        errx(1, "operation %u failed: %.*s", head.operation, (int)head.length, reply + sizeof head);
    return head;
}

static int connect_to(const char *target) {
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char folder[4096];
    const char *colon = strrchr(target, ':'), *slash = strrchr(target, '/');
    if (!colon || !slash || colon - target >= (long)sizeof folder)
        errx(2, "%s: not SOCKET:UID", target);
    snprintf(folder, sizeof folder, "%.*s", (int)(slash - target), target);
    snprintf(address.sun_path, sizeof address.sun_path, "%.*s", (int)(colon - slash - 1), slash + 1);
    /* The way to the folder is root's alone, so go there first and name the socket from there. */
    if (chdir(*folder ? folder : "/"))
        err(1, "%s", folder);
    uid_t uid = (uid_t)strtoul(colon + 1, NULL, 10);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setresuid(-1, uid, -1))
        err(1, "become uid %u", uid);
    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        err(1, "%s", target);
    if (setresuid(-1, 0, -1))
        err(1, "become root again");
    return fd;
}

/* The request of an operation on a page: its body, whose length is the answer. */
static uint32_t make_body(char *body, uint16_t operation, int handle) {
    static const char check[] = "\x92\xa4READ\xb3" "state/folder1/part1";
    switch (operation) {
    case OP_READ: /* [handle, 4096, 0] */
        memcpy(body, "\x93?\xcd\x10\x00\x00", 6);
        body[1] = (char)handle;
        return 6;
    case OP_WRITE: /* [handle, 4096 bytes, 0] */
        memset(body, 'a', 5 + PAGE_BYTES);
        memcpy(body, "\x93?\xc5\x10\x00", 5);
        body[1] = (char)handle;
        body[5 + PAGE_BYTES] = 0;
        return 6 + PAGE_BYTES;
    case OP_CHECKPOLICY: /* [call, path] */
        memcpy(body, check, sizeof check - 1);
        return sizeof check - 1;
    default: /* [] */
        body[0] = '\x90';
        return 1;
    }
}

static void set_up(struct connection *c, const char *target, int with_file) {
    static const char file[] = "\x93\xb1" "mem/working/bench" "\x42\xcd\x01\xa4"; /* [path, O_RDWR|O_CREAT, 0644] */
    static char body[FRAME_MAX_BYTES], reply[FRAME_MAX_BYTES];
    c->fd = connect_to(target);
    send_request(c, OP_HELLO, "\x92\x01", 3); /* [version 1, no features]; the string's NUL is the 0 */
    receive_reply(c, reply);
    if (with_file) {
        send_request(c, OP_OPEN, file, sizeof file - 1);
        receive_reply(c, reply);
        c->handle = reply[sizeof(struct header)];
        if (c->handle < 0)
            errx(1, "a handle over 127");
        send_request(c, OP_WRITE, body, make_body(body, OP_WRITE, c->handle));
        receive_reply(c, reply);
    }
}

/* Where server and client ran last. Costs some microseconds, so once a millisecond, and after a reply was timed. */
static void sample_core(void) {
    char text[1024];
    ssize_t size = pread(server_stat, text, sizeof text - 1, 0);
    if (size <= 0)
        return;
    text[size] = 0;
    char *field = strrchr(text, ')');
    for (int number = 2; field && number < CPU_FIELD; number++)
        field = strchr(field + 1, ' ');
    if (field) {
        core_samples++;
        core_same += atoi(field + 1) == sched_getcpu();
    }
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

struct pace { uint64_t window_ns, begin, window_begin, window_count, next_sample; double best; };

static void keep(struct pace *pace, uint64_t sent, uint64_t now) {
    samples[sample_count++] = (uint32_t)(now - sent);
    pace->window_count++;
    if (now - pace->window_begin >= pace->window_ns) {
        double rate = (double)pace->window_count * 1e9 / (double)(now - pace->window_begin);
        pace->best = rate > pace->best ? rate : pace->best;
        pace->window_begin = now;
        pace->window_count = 0;
    }
    if (now >= pace->next_sample) {
        sample_core();
        pace->next_sample = now + SAMPLE_NS;
    }
}

static void run(struct pace *pace, uint16_t operation, uint64_t duration_ns, int epoll) {
    static char bodies[CONNECTIONS_MAX][8 + PAGE_BYTES], reply[FRAME_MAX_BYTES];
    uint32_t length = 0;
    for (int i = 0; i < connection_count; i++)
        length = make_body(bodies[i], operation, connections[i].handle);
    uint64_t now = pace->begin = pace->window_begin = now_ns();
    for (int i = 0; i < connection_count; i++)
        send_request(&connections[i], operation, bodies[i], length);
    while (now - pace->begin < duration_ns && sample_count + CONNECTIONS_MAX < SAMPLES_MAX) {
        struct epoll_event events[CONNECTIONS_MAX] = { { .data.u32 = 0 } };
        int ready = connection_count == 1 ? 1 : epoll_wait(epoll, events, CONNECTIONS_MAX, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = &connections[events[i].data.u32];
            receive_reply(c, reply);
            now = now_ns();
            keep(pace, c->sent_ns, now);
            send_request(c, operation, bodies[events[i].data.u32], length);
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 6 || argc - 5 > CONNECTIONS_MAX)
        errx(2, "usage: load OPERATION MILLISECONDS WINDOW_MILLISECONDS SERVER_PID SOCKET:UID...");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    uint16_t operation = !strcmp(argv[1], "read") ? OP_READ : !strcmp(argv[1], "write") ? OP_WRITE
                         : !strcmp(argv[1], "check") ? OP_CHECKPOLICY : OP_GETPID;
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/stat", argv[4]);
    server_stat = open(path, O_RDONLY | O_CLOEXEC);
    samples = malloc(SAMPLES_MAX * sizeof *samples);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (server_stat < 0 || !samples || epoll < 0)
        err(1, "%s", path);
    connection_count = argc - 5;
    for (int i = 0; i < connection_count; i++) {
        set_up(&connections[i], argv[5 + i], operation == OP_READ || operation == OP_WRITE);
        struct epoll_event event = { .events = EPOLLIN, .data.u32 = (uint32_t)i };
        epoll_ctl(epoll, EPOLL_CTL_ADD, connections[i].fd, &event);
    }
    struct pace pace = { .window_ns = strtoull(argv[3], NULL, 10) * 1000000 };
    run(&pace, operation, strtoull(argv[2], NULL, 10) * 1000000, epoll);
    double seconds = (double)(now_ns() - pace.begin) / 1e9;
    qsort(samples, sample_count, sizeof *samples, compare);
    printf("{\"operations\": %zu, \"p50_ns\": %u, \"p99_ns\": %u, \"best_ops_s\": %.0f, \"mean_ops_s\": %.0f, "
           "\"same_core\": %.3f}\n", sample_count, samples[sample_count / 2], samples[sample_count * 99 / 100],
           pace.best, (double)sample_count / seconds, core_samples ? (double)core_same / (double)core_samples : 0.0);
}
