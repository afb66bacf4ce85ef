"""`python -m agentix.agentctl`."""

from agentix.agentctl import main

main()
