"""agentd: the privileged daemon that runs agents as confined processes and answers their system calls."""
