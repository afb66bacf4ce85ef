/* The floor: what the kernel's socket path would cost if there were no kernel behind it.
 *
 *   echo SOCKET
 *
 * One thread and one epoll serve any number of connections, as agentd does. Each request is answered with a constant
 * of the size that the kernel's reply has; nothing is decoded, checked, recorded or stored. Says "ready" on stdout.
 */
#define _GNU_SOURCE
#include <err.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "frames.h"

enum { CONNECTIONS_MAX = 4096, EVENTS = 256 };

/* Bytes of one connection that are not a whole frame yet. */
static struct { size_t held; char data[FRAME_MAX_BYTES]; } connections[CONNECTIONS_MAX];

static char page[3 + PAGE_BYTES] = "\xc5\x10"; /* bin 16, 4096 bytes */

static void answer(int fd, const struct header *request) {
    static char reply[sizeof(struct header) + sizeof page];
    const char *body = "\x92\x01"; /* [1, 0]: the agent and its parent; its NUL is the 0 */
    struct header head = *request;
    head.length = 3;
    head.flags = F_REPLY;
    switch (request->operation) {
    case OP_READ: body = page; head.length = sizeof page; break;
    case OP_WRITE: body = "\xcd\x10"; break; /* 4096 */
    case OP_OPEN: body = "\x03"; head.length = 1; break;
    }
    memcpy(reply, &head, sizeof head);
    memcpy(reply + sizeof head, body, head.length);
    size_t size = sizeof head + head.length;
    if (send(fd, reply, size, MSG_NOSIGNAL) != (ssize_t)size)
        close(fd);
}

static void receive(int fd) {
    char *data = connections[fd].data;
    ssize_t got = recv(fd, data + connections[fd].held, FRAME_MAX_BYTES - connections[fd].held, 0);
    if (got <= 0) {
        close(fd);
        connections[fd].held = 0;
        return;
    }
    size_t held = connections[fd].held += (size_t)got;
    struct header head;
    memcpy(&head, data, sizeof head);
    if (held >= sizeof head && held == sizeof head + head.length) { /* a closed loop: never more than one frame */
        connections[fd].held = 0;
        answer(fd, &head);
    }
}

static int listen_at(const char *path) {
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof address.sun_path)
        errx(1, "%s: too long for a socket", path);
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 256))
        err(1, "%s", path);
    return fd;
}

static void watch(int epoll, int fd) {
    struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };
    if (fd < 0 || fd >= CONNECTIONS_MAX || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
        err(1, "connection %d", fd);
}

int main(int argc, char **argv) {
    if (argc != 2)
        errx(2, "usage: echo SOCKET");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int listener = listen_at(argv[1]), epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, listener);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener)
                watch(epoll, accept4(listener, NULL, NULL, SOCK_CLOEXEC));
            else
                receive(events[i].data.fd);
        }
    }
}
