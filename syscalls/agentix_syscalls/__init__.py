"""The contract between agents and the kernel: tables and the wire codec. Imports nothing of ours."""

__version__ = "0.1.0"
