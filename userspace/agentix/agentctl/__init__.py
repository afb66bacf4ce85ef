"""agentctl: the shell of an Agentix kernel, for operators."""

from agentix.agentctl.cli import cli


def main() -> None:
    """Run the command line of this process."""
    cli()


__all__ = ["cli", "main"]
