"""The agents' file tree: inodes, stores, synthetic files and the FUSE server (in fuse/, imported on demand)."""

from agentix_vfs.handles import Handle
from agentix_vfs.nodes import Attributes, Node
from agentix_vfs.synthetic import Entry, Growing, Synthetic, Waiting
from agentix_vfs.tree import Tree
from agentix_vfs.who import Who

__all__ = ["Attributes", "Entry", "Growing", "Handle", "Node", "Synthetic", "Tree", "Waiting", "Who"]
