"""What runs without privilege: the agents' libc and the operator's agentctl."""
