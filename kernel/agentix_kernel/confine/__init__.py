"""Sandboxes: agents as really confined Linux processes.

Who does what, from the outside in:

- `sandboxes.py` (agentd): `LinuxSandboxes.launch` makes the cgroups and asks a zygote for a clone (or takes the
  one that `spare.py` has ready), gathers descriptors and orders it to be the agent; `sandbox.py` is the handle of
  one sandbox; `attendant.py` waits for all of their descriptors in one task.
- `spawner.py` (a process of its own, made at boot): execs zygotes and turns bind sources into mounts.
- `zygote.py` (one process for each profile): a preloaded interpreter inside a template root; clones agents.
- `child.py` (the clone): builds its root, waits for its order, confines itself stage by stage, then becomes
  `agentix.init`, pid 1 of its sandbox, which forks the agent as pid 2.

The protocol on the *leash*, the socket between agentd and one sandbox, is in `leash.py`.
This file imports nothing: the zygote and its children load it too, and their memory counts for every agent.
"""
