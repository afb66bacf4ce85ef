"""The control socket: what operators ask through agentctl."""
