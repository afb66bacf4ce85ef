"""Copying between the host and an agent's tree: a source tells what it finds, a goal takes it, neither trusts names.

The host's side belongs to whoever runs agentctl and is touched with their rights alone; the agent's side goes through
the control socket. While it lasts the agent may change its tree as it likes, and folders of the host that it was given
with --bind: so below what the person named no symbolic link is followed on the host, on either side.
"""

from agentix.agentctl.copying.agent import AgentGoal, AgentSource
from agentix.agentctl.copying.engine import Copying
from agentix.agentctl.copying.host import HostGoal, HostSource
from agentix.agentctl.copying.progress import Progress

__all__ = ["AgentGoal", "AgentSource", "Copying", "HostGoal", "HostSource", "Progress"]
