"""completion: what a shell needs to complete command lines of agentctl, with the agents that are there."""

from typing import Final

import click

from agentix.agentctl.cli import Which, cli, verb

SHELLS: Final = ("bash", "zsh", "fish")
COMPLETE_VARIABLE: Final = "_AGENTCTL_COMPLETE"
"""Environment variable by which a shell's function asks agentctl for words (click's protocol)."""


@verb(examples=(
    ('eval "$(agentctl completion bash)"', "in ~/.bashrc"),
    ('eval "$(agentctl completion zsh)"', "in ~/.zshrc, after compinit"),
    ("agentctl completion fish | source", "in ~/.config/fish/config.fish"),
))
@click.argument("shell", metavar="SHELL", type=click.Choice(SHELLS))
def completion(_which: Which, shell: str) -> None:
    """Print the script that completes agentctl in bash, zsh or fish: verbs, options, and the agents that are there."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None, "click knows these shells"
    click.echo(found(cli, {}, "agentctl", COMPLETE_VARIABLE).source())
