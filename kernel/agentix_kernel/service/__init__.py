"""agentd as a service: what it tells a service manager, the operator's log, and who looks for kernels."""
