/* The wire, as agentix_syscalls/wire.py has it: a 16-byte header, little-endian, and a msgpack body. */
#ifndef FRAMES_H
#define FRAMES_H

#include <stdint.h>

enum { OP_HELLO = 0, OP_OPEN = 1, OP_READ = 3, OP_WRITE = 4, OP_GETPID = 20, OP_CHECKPOLICY = 48 };
enum { F_REPLY = 0x4000, F_ERROR = 0x8000 };
enum { PAGE_BYTES = 4096, FRAME_MAX_BYTES = 8192 };

struct header {
    uint32_t length; /* of the body */
    uint16_t operation;
    uint16_t flags;
    uint64_t user_data; /* the caller's, given back in the reply */
};
_Static_assert(sizeof(struct header) == 16, "the header has no padding");

#endif
