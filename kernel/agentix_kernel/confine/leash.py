"""What is said on the leash, the SOCK_SEQPACKET socket between agentd and the init of one sandbox.

agentd first says the order: a message of messages.py, {names, spec} with the descriptors of these names. The child
waits for it as root, once what does not depend on it is done. Later come orders to start further programs:
{serial, argv, env, cwd, tty} with the three standard descriptors, or with none where a terminal is to be made.

Each message to agentd is one line of text, so that the init needs the standard library alone:

    born <pid>                       from the zygote, with the pidfd of the init
    agent ready|waiting              from the init, with the seccomp listener, the pidfd of the agent, and its terminal
    ready                            the agent's exec has succeeded
    error <errno> <stage> <message>  from the zygote or the child; nothing follows
    started <serial>                 a further program runs: with its pidfd, and its terminal if it has one
    failed <serial> <errno> <why>    it does not
    done <serial> <wait status>      it has ended
    ended <wait status>              the agent has ended; the init is about to

End of file from agentd's side: the kernel is gone, and the init ends at once.
"""

BORN = "born"
AGENT = "agent"
READY = "ready"
WAITING = "waiting"
ERROR = "error"
ENDED = "ended"
STARTED = "started"
FAILED = "failed"
DONE = "done"
LINE_MAX_BYTES = 4096


def error_line(number: int, stage: str, message: str) -> bytes:
    return f"{ERROR} {number} {stage} {message}".encode("utf-8", "replace")[:LINE_MAX_BYTES]
