"""Stores: where the nodes of a mount live. The contract is `agentix_vfs.nodes.Store`."""
