"""The mount: FUSE requests answered from the tree, by pyfuse3, one mount for all agents."""
