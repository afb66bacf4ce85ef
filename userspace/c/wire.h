// The wire, for agentix.c alone (so everything is static): why calls fail, msgpack as far as calls need it, connections.
//
// A call takes a connection off the idle ones, or opens one, and puts it back when it has the whole answer: frames of
// two calls never mix, whether the second is another thread's or that of a handler which interrupted the first. Nothing
// here takes a lock, and what a call needs lies on its stack; only what is larger than SMALL_BYTES is allocated.
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_DEFAULT "/run/agentix/kernel.sock"
#ifndef SMALL_BYTES // tests make it tiny, so that the sanitizer sees the end of every reply
#define SMALL_BYTES 16384 // two paths, or the longest reason
#endif
enum { REPLY_MAX_BYTES = 64 << 20, IDLE_MAX = 8 };

// --- Why a call failed ---------------------------------------------------------------------------------------------

static _Thread_local struct agx_reason reason;

static void copy(char *to, size_t room, const void *from, size_t size)
{
    size_t count = size < room ? size : room - 1;
    if (count)
        memcpy(to, from, count);
    to[count] = '\0';
}

// Refuse, as if the kernel had. Handlers may come here, so no printf.
static int fail(int number, const char *message, const char *about)
{
    char *to = reason.message;
    reason = (struct agx_reason){.number = number};
    copy(to, sizeof reason.message, message, strlen(message));
    copy(to + strlen(to), sizeof reason.message - strlen(to), about, strlen(about));
    errno = number;
    return -1;
}

// --- Writing a request ---------------------------------------------------------------------------------------------

// One call: its request and then, in the same memory, its reply, which `at` to `end` is what is still to be read of.
// Errors stick: what follows one is harmless, and `finish` tells it.
struct call {
    uint8_t *data;
    size_t used, room;
    struct agx_bytes bulk; // sent from where it lies, after the first `split` bytes of data
    size_t split;
    const uint8_t *at, *end;
    bool failed; // errno and reason say why
    bool bad;    // the reply is not as it must be
    int fd;
    uint8_t small[SMALL_BYTES];
};

static void begin(struct call *c)
{
    c->data = c->small;
    c->used = c->split = 0;
    c->room = sizeof c->small;
    c->bulk = (struct agx_bytes){NULL, 0};
    c->at = c->end = NULL;
    c->failed = c->bad = false;
    c->fd = -1;
}

static void release(struct call *c)
{
    if (c->data != c->small)
        free(c->data);
    c->data = c->small;
}

static bool make_room(struct call *c, size_t size)
{
    if (size <= c->room - c->used)
        return true;
    size_t room = 2 * c->used + size; // of a reply, as much as it takes
    uint8_t *larger = malloc(room);
    if (!larger) {
        c->failed = fail(ENOMEM, "no memory for the call", "");
        return false;
    }
    memcpy(larger, c->data, c->used);
    release(c);
    c->data = larger;
    c->room = room;
    return true;
}

static void put(struct call *c, const void *data, size_t size)
{
    if (size && make_room(c, size)) {
        memcpy(c->data + c->used, data, size);
        c->used += size;
    }
}

// A type byte and `width` bytes of a number, the highest first.
static void put_head(struct call *c, uint8_t type, uint64_t number, unsigned width)
{
    uint8_t bytes[9] = {type};
    for (unsigned at = width; at > 0; at--, number >>= 8)
        bytes[at] = (uint8_t)number;
    put(c, bytes, 1 + width);
}

static void put_text(struct call *c, const char *text, size_t size)
{
    put_head(c, 0xdb, size, 4);
    put(c, text, size);
}

static size_t length(const char *const list[])
{
    size_t count = 0;
    while (list && list[count])
        count++;
    return count;
}

static void put_texts(struct call *c, const char *const list[])
{
    size_t count = length(list);
    put_head(c, 0xdd, count, 4);
    for (size_t i = 0; i < count; i++)
        put_text(c, list[i], strlen(list[i]));
}

// Names and values by turns.
static void put_map(struct call *c, const char *const list[])
{
    size_t count = length(list) & ~(size_t)1;
    put_head(c, 0xdf, count / 2, 4);
    for (size_t i = 0; i < count; i++)
        put_text(c, list[i], strlen(list[i]));
}

// Each a NAME=VALUE.
static void put_pairs(struct call *c, const char *const list[])
{
    size_t count = length(list);
    put_head(c, 0xdf, count, 4);
    for (size_t i = 0; i < count; i++) {
        size_t name = strcspn(list[i], "=");
        const char *value = list[i] + name + (list[i][name] == '=');
        put_text(c, list[i], name);
        put_text(c, value, strlen(value));
    }
}

enum kind { NIL, INT, SET, SECONDS, TEXT, PATH, DATA, TEXTS, PAIRS, MAP, OPTIONS, PACKED };

// One argument: its kind, and the member that the kind reads.
struct arg {
    enum kind kind;
    union {
        int64_t number;
        uint64_t set;
        double seconds;
        const char *text;
        const char *const *list;
        struct agx_bytes bytes;
        const struct agx_spawn_options *options;
    } is;
};

static void put_options(struct call *c, const struct agx_spawn_options *options);

static void put_arg(struct call *c, const struct arg *arg)
{
    uint64_t bits;
    switch (arg->kind) {
    case NIL: put_head(c, 0xc0, 0, 0); break;
    case INT: put_head(c, 0xd3, (uint64_t)arg->is.number, 8); break;
    case SET: put_head(c, 0xcf, arg->is.set, 8); break;
    case SECONDS:
        memcpy(&bits, &arg->is.seconds, sizeof bits);
        put_head(c, 0xcb, bits, 8);
        break;
    case TEXT: put_text(c, arg->is.text, strlen(arg->is.text)); break;
    case PATH: // as bytes, for names need not be UTF-8
        put_head(c, 0xc6, strlen(arg->is.text), 4);
        put(c, arg->is.text, strlen(arg->is.text));
        break;
    case DATA:
        put_head(c, 0xc6, arg->is.bytes.size, 4);
        c->bulk = arg->is.bytes;
        c->split = c->used;
        break;
    case TEXTS: put_texts(c, arg->is.list); break;
    case PAIRS: put_pairs(c, arg->is.list); break;
    case MAP: put_map(c, arg->is.list); break;
    case OPTIONS: put_options(c, arg->is.options); break;
    case PACKED: put(c, arg->is.bytes.data, arg->is.bytes.size); break;
    }
}

static const struct option {
    const char *name;
    enum kind kind;
    size_t offset;
} SPAWN_OPTIONS[] = {
// BEGIN c-spawn-table
    {"name", TEXT, offsetof(struct agx_spawn_options, name)},
    {"source", DATA, offsetof(struct agx_spawn_options, source)},
    {"env", PAIRS, offsetof(struct agx_spawn_options, env)},
    {"cwd", TEXT, offsetof(struct agx_spawn_options, cwd)},
    {"memory_bytes", INT, offsetof(struct agx_spawn_options, memory_bytes)},
    {"cpus", SECONDS, offsetof(struct agx_spawn_options, cpus)},
    {"pids", INT, offsetof(struct agx_spawn_options, pids)},
    {"timeout_s", SECONDS, offsetof(struct agx_spawn_options, timeout_s)},
    {"deny", TEXTS, offsetof(struct agx_spawn_options, deny)},
    {"mode", TEXT, offsetof(struct agx_spawn_options, mode)},
    {"spawn_max", INT, offsetof(struct agx_spawn_options, spawn_max)},
    {"capabilities", TEXTS, offsetof(struct agx_spawn_options, capabilities)},
// END c-spawn-table
};

// The argument that an option of a spawn makes: NIL when it was not asked for.
static struct arg option_of(const struct option *row, const struct agx_spawn_options *options)
{
    struct arg made = {row->kind, {.number = 0}};
    const void *field = (const char *)options + row->offset;
    bool given;
    switch (row->kind) {
    case INT: memcpy(&made.is.number, field, sizeof made.is.number); given = made.is.number; break;
    case SECONDS: memcpy(&made.is.seconds, field, sizeof made.is.seconds); given = made.is.seconds != 0; break;
    case TEXT: memcpy(&made.is.text, field, sizeof made.is.text); given = made.is.text; break;
    case DATA: memcpy(&made.is.bytes, field, sizeof made.is.bytes); given = made.is.bytes.data; break;
    default: memcpy(&made.is.list, field, sizeof made.is.list); given = made.is.list; break;
    }
    made.kind = given ? made.kind : NIL;
    return made;
}

static void put_options(struct call *c, const struct agx_spawn_options *options)
{
    const struct option *end = SPAWN_OPTIONS + sizeof SPAWN_OPTIONS / sizeof *SPAWN_OPTIONS;
    unsigned given = 0;
    for (const struct option *row = SPAWN_OPTIONS; row < end; row++)
        given += option_of(row, options).kind != NIL;
    put_head(c, 0xdf, given, 4);
    for (const struct option *row = SPAWN_OPTIONS; row < end; row++) {
        struct arg arg = option_of(row, options);
        if (arg.kind == NIL)
            continue;
        put_text(c, row->name, strlen(row->name));
        put_arg(c, &arg);
    }
}

// --- Reading a reply -----------------------------------------------------------------------------------------------

enum shape { NOTHING, BOOLEAN, NUMBER, NEGATIVE, FLOATING, BYTES, ARRAY, MAPPING };

struct item {
    enum shape shape;
    uint64_t number; // of a number its value (of a negative one the two's complement), else how many bytes or items
    const uint8_t *bytes;
};

static bool has(struct call *c, uint64_t size)
{
    c->bad = c->bad || size > (uint64_t)(c->end - c->at);
    return !c->bad;
}

static uint64_t big_endian(struct call *c, unsigned width)
{
    uint64_t number = 0;
    if (has(c, width))
        while (width--)
            number = number << 8 | *c->at++;
    return number;
}

static struct item signed_item(struct call *c, unsigned width)
{
    uint64_t number = big_endian(c, width), sign = UINT64_C(1) << (8 * width - 1);
    if (!(number & sign))
        return (struct item){NUMBER, number, NULL};
    return (struct item){NEGATIVE, number | ~(sign - 1), NULL};
}

static struct item item_head(struct call *c)
{
    uint8_t type = (uint8_t)big_endian(c, 1);
    if (type < 0x80)
        return (struct item){NUMBER, type, NULL};
    if (type < 0xa0)
        return (struct item){type < 0x90 ? MAPPING : ARRAY, type & 15, NULL};
    if (type < 0xc0)
        return (struct item){BYTES, type & 31, NULL};
    if (type >= 0xe0)
        return (struct item){NEGATIVE, type | ~UINT64_C(0xff), NULL};
    switch (type) {
    case 0xc0: return (struct item){NOTHING, 0, NULL};
    case 0xc2: case 0xc3: return (struct item){BOOLEAN, type & 1, NULL};
    case 0xc4: case 0xc5: case 0xc6: return (struct item){BYTES, big_endian(c, 1u << (type - 0xc4)), NULL};
    case 0xca: case 0xcb: return (struct item){FLOATING, big_endian(c, 4u << (type - 0xca)), NULL};
    case 0xcc: case 0xcd: case 0xce: case 0xcf:
        return (struct item){NUMBER, big_endian(c, 1u << (type - 0xcc)), NULL};
    case 0xd0: case 0xd1: case 0xd2: case 0xd3: return signed_item(c, 1u << (type - 0xd0));
    case 0xd9: case 0xda: case 0xdb: return (struct item){BYTES, big_endian(c, 1u << (type - 0xd9)), NULL};
    case 0xdc: case 0xdd: return (struct item){ARRAY, big_endian(c, 2u << (type - 0xdc)), NULL};
    case 0xde: case 0xdf: return (struct item){MAPPING, big_endian(c, 2u << (type - 0xde)), NULL};
    }
    c->bad = true;
    return (struct item){NOTHING, 0, NULL};
}

// The next item; of arrays and maps its head alone.
static struct item next(struct call *c)
{
    struct item item = item_head(c);
    if (item.shape == BYTES && has(c, item.number)) {
        item.bytes = c->at;
        c->at += item.number;
    } else if (item.shape == ARRAY || item.shape == MAPPING) {
        has(c, item.number); // an item takes a byte at least
    }
    return c->bad ? (struct item){NOTHING, 0, NULL} : item;
}

static struct item want(struct call *c, enum shape shape)
{
    struct item item = next(c);
    c->bad = c->bad || item.shape != shape;
    return c->bad ? (struct item){shape, 0, NULL} : item;
}

static int64_t want_integer(struct call *c, int64_t least, int64_t most)
{
    struct item item = next(c);
    bool fits = item.shape == NUMBER ? item.number <= INT64_MAX : item.shape == NEGATIVE;
    int64_t number = (int64_t)item.number;
    c->bad = c->bad || !fits || number < least || number > most;
    return c->bad ? 0 : number;
}

// Text or nil, cut to fit.
static void want_text(struct call *c, char *to, size_t room)
{
    struct item item = next(c);
    c->bad = c->bad || (item.shape != BYTES && item.shape != NOTHING);
    copy(to, room, item.bytes, item.shape == BYTES ? item.number : 0);
}

static void skip(struct call *c)
{
    for (uint64_t left = 1; left && !c->bad; left--) {
        struct item item = next(c);
        left += item.shape == ARRAY ? item.number : item.shape == MAPPING ? 2 * item.number : 0;
    }
}

// --- Connections ---------------------------------------------------------------------------------------------------

static _Atomic int idle[IDLE_MAX]; // descriptor + 1, or 0
static _Atomic pid_t owner;        // the process that opened them

static int send_all(int fd, struct iovec *parts, size_t count)
{
    while (count) {
        struct msghdr header = {.msg_iov = parts, .msg_iovlen = count};
        ssize_t sent = sendmsg(fd, &header, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return fail(errno, "the kernel closed the connection", "");
        for (; count && (size_t)sent >= parts->iov_len; parts++, count--)
            sent -= (ssize_t)parts->iov_len;
        if (count) {
            parts->iov_base = (char *)parts->iov_base + sent;
            parts->iov_len -= (size_t)sent;
        }
    }
    return 0;
}

static int receive_all(int fd, void *to, size_t size)
{
    for (size_t got = 0; got < size;) {
        ssize_t more = recv(fd, (char *)to + got, size - got, 0);
        if (more < 0 && errno == EINTR)
            continue;
        if (more <= 0)
            return fail(more ? errno : ECONNRESET, "the kernel closed the connection", "");
        got += (size_t)more;
    }
    return 0;
}

// Connect to the kernel: a descriptor.
static int reach(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *where = getenv("AGENTIX_SOCKET");
    where = where ? where : SOCKET_DEFAULT;
    if (strlen(where) >= sizeof address.sun_path)
        return fail(ENAMETOOLONG, "AGENTIX_SOCKET is too long: ", where);
    memcpy(address.sun_path, where, strlen(where));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), connected = -1;
    while (fd >= 0 && (connected = connect(fd, (struct sockaddr *)&address, sizeof address)) < 0 && errno == EINTR)
        continue;
    if (connected == 0)
        return fd;
    int number = errno;
    if (fd >= 0)
        close(fd);
    return fail(number, "no Agentix kernel answers at ", where);
}

static int hello(int fd);

// An idle connection, or a new one. A forked child gives up those of its parent.
static int take(void)
{
    pid_t me = getpid();
    bool forked = atomic_exchange(&owner, me) != me;
    for (int i = 0; i < IDLE_MAX; i++) {
        int found = atomic_exchange(&idle[i], 0);
        if (found && !forked)
            return found - 1;
        if (found)
            close(found - 1);
    }
    int fd = reach();
    return fd < 0 ? -1 : hello(fd);
}

static void give_back(int fd)
{
    for (int i = 0; i < IDLE_MAX; i++) {
        int none = 0;
        if (atomic_compare_exchange_strong(&idle[i], &none, fd + 1))
            return;
    }
    close(fd);
}

// --- The whole of a call -------------------------------------------------------------------------------------------

#define ARGS(...) (const struct arg[]){__VA_ARGS__}, sizeof((const struct arg[]){__VA_ARGS__}) / sizeof(struct arg)
#define NO_ARGS NULL, 0

static struct arg nil(void) { return (struct arg){NIL, {.number = 0}}; }
static struct arg integer(int64_t number) { return (struct arg){INT, {.number = number}}; }
static struct arg set_of(uint64_t set) { return (struct arg){SET, {.set = set}}; }
static struct arg time_of(double seconds) { return (struct arg){SECONDS, {.seconds = seconds}}; }
static struct arg text(const char *word) { return (struct arg){TEXT, {.text = word}}; }
static struct arg path_of(const char *path) { return (struct arg){PATH, {.text = path}}; }

static uint64_t little_endian(const uint8_t *from, unsigned width)
{
    uint64_t number = 0;
    while (width--)
        number = number << 8 | from[width];
    return number;
}

static int malformed(void) { return fail(EPROTO, "the kernel's reply is not as the table of calls says", ""); }

// Send the request and receive the header of its reply: the size of the body, which is still to come.
static ssize_t exchange(struct call *c, int number, bool *refused)
{
    size_t size = c->used + c->bulk.size - AGX_HEADER_BYTES;
    if (size > AGX_BODY_MAX_BYTES)
        return fail(EMSGSIZE, "the arguments are over 1 MiB", "");
    for (unsigned at = 0; at < 4; at++)
        c->data[at] = (uint8_t)(size >> 8 * at);
    size_t split = c->bulk.size ? c->split : c->used;
    struct iovec parts[] = {{c->data, split}, {(void *)c->bulk.data, c->bulk.size}, {c->data + split, c->used - split}};
    uint8_t header[AGX_HEADER_BYTES];
    if (send_all(c->fd, parts, 3) < 0 || receive_all(c->fd, header, sizeof header) < 0)
        return -1;
    uint64_t body = little_endian(header, 4), flags = little_endian(header + 6, 2);
    bool ours = little_endian(header + 4, 2) == (uint64_t)number && little_endian(header + 8, 8) == 0;
    if (!ours || !(flags & AGX_F_REPLY) || flags & AGX_F_MORE || body > REPLY_MAX_BYTES)
        return malformed();
    *refused = flags & AGX_F_ERROR;
    return (ssize_t)body;
}

// What an error reply says, into errno and reason.
static void read_refusal(struct call *c)
{
    struct agx_reason told = {0};
    uint64_t values = want(c, ARRAY).number;
    told.number = (int)want_integer(c, 1, 4095);
    want_text(c, told.message, sizeof told.message);
    want_text(c, told.rule, sizeof told.rule);
    want_text(c, told.remedy, sizeof told.remedy);
    told.correlation = want(c, NUMBER).number;
    if (values >= 8) {
        want_text(c, told.category, sizeof told.category);
        want_text(c, told.severity, sizeof told.severity);
        told.retryable = (int)want(c, BOOLEAN).number;
    }
    if (values >= 9)
        want_text(c, told.enforcer, sizeof told.enforcer);
    if (c->bad)
        return;
    reason = told;
    errno = told.number;
    c->failed = true;
}

static bool receive_body(struct call *c, size_t size, bool refused)
{
    c->used = 0;
    if (!make_room(c, size) || receive_all(c->fd, c->data, size) < 0)
        return false;
    c->at = c->data;
    c->end = c->data + size;
    if (refused)
        read_refusal(c);
    return true;
}

// Make a request of a call.
static void build(struct call *c, int number, const struct arg *args, size_t count)
{
    const uint8_t header[AGX_HEADER_BYTES] = {[4] = (uint8_t)number, [5] = (uint8_t)(number >> 8)};
    begin(c);
    put(c, header, sizeof header);
    if (!count || args->kind != PACKED)
        put_head(c, 0xdd, count, 4);
    for (size_t i = 0; i < count; i++)
        put_arg(c, &args[i]);
}

// The last of a call, whatever became of it: its result, or -1.
static int64_t finish(struct call *c, int64_t result)
{
    release(c);
    return c->failed ? -1 : c->bad ? malformed() : result;
}

// The first call on a connection: the same descriptor, or -1 with it closed.
static int hello(int fd)
{
    struct call c;
    bool refused;
    build(&c, AGX_SYS_HELLO, ARGS(integer(AGX_PROTOCOL), integer(0)));
    c.fd = fd;
    ssize_t size = exchange(&c, AGX_SYS_HELLO, &refused);
    c.failed = size < 0 || !receive_body(&c, (size_t)size, refused) || c.failed;
    if (finish(&c, 0) == 0)
        return fd;
    close(fd);
    return -1;
}

// Done with the connection of a call, which goes on being used if `whole`.
static void let_go(struct call *c, bool whole)
{
    if (whole)
        give_back(c->fd);
    else if (c->fd >= 0)
        close(c->fd);
    c->failed = c->failed || !whole;
}

// A call as far as the header of its reply: the size of the body, or -1.
static ssize_t request(struct call *c, int number, const struct arg *args, size_t count, bool *refused)
{
    build(c, number, args, count);
    c->fd = c->failed ? -1 : take();
    ssize_t size = c->fd < 0 ? -1 : exchange(c, number, refused);
    if (size < 0)
        let_go(c, false);
    return size;
}

// The rest of a call.
static void answer(struct call *c, size_t size, bool refused)
{
    bool received = receive_body(c, size, refused);
    let_go(c, received && !(c->failed && errno == EPROTO)); // after which the kernel hangs up
}

// A whole call; what it answered is to be read, and then `finish`ed.
static void ask(struct call *c, int number, const struct arg *args, size_t count)
{
    bool refused;
    ssize_t size = request(c, number, args, count, &refused);
    if (size >= 0)
        answer(c, (size_t)size, refused);
    c->bad = c->bad || c->failed;
}
