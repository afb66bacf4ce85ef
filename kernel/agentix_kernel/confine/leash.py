"""What is said on the leash, the SOCK_SEQPACKET socket between agentd and the init of one sandbox.

agentd says one thing, the order: a message of messages.py, {names, spec} with the descriptors of these names. The
child waits for it as root, once what does not depend on it is done.

Each message to agentd is one line of text, so that the init needs the standard library alone:

    born <pid>                       from the zygote, with the pidfd of the init
    agent ready|waiting              from the init, with the seccomp listener (if any) and the pidfd of the agent
    ready                            the agent's exec has succeeded
    error <errno> <stage> <message>  from the zygote or the child; nothing follows
    ended <wait status>              the agent has ended; the init is about to

End of file from agentd's side: the kernel is gone, and the init ends at once.
"""

BORN = "born"
AGENT = "agent"
READY = "ready"
WAITING = "waiting"
ERROR = "error"
ENDED = "ended"
LINE_MAX_BYTES = 4096


def error_line(number: int, stage: str, message: str) -> bytes:
    return f"{ERROR} {number} {stage} {message}".encode("utf-8", "replace")[:LINE_MAX_BYTES]
