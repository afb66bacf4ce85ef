"""The agents' file tree: inodes, stores, synthetic files and the FUSE server."""
