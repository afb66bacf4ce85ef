"""A parent that spawns five workers on shards of a corpus, waits for them and merges what they found.

The corpus is Python sources, by default the standard library's own; what is counted is how often each module is
imported. A worker writes its part to /out, the only place that parent and children share, and is spawned again once if
it fails. The shard that TRIP names makes its first worker fail, to show that.

Run it:  agentctl run --spawn-max 6 --bind ./out:/out examples/workers.py [TRIP [CORPUS]]
"""

import json
import os
import re
import sys
from collections import Counter

from agentix import libc

SHARDS = 5
TRIES = 2
OUT = "/out"
IMPORT = re.compile(r"^\s*(?:import|from)\s+([A-Za-z_]\w*)", re.MULTILINE)


def sources(corpus: str) -> list[str]:
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(corpus) for name in names
                  if name.endswith(".py"))


# The worker.


def work(shard: int, attempt: int, trip: int, corpus: str) -> int:
    if (shard, attempt) == (trip, 1):
        raise RuntimeError("this is the shard that trips")
    imports: Counter[str] = Counter()
    mine = sources(corpus)[shard - 1::SHARDS]
    for path in mine:
        with open(path, encoding="utf-8", errors="replace") as file:
            imports.update(IMPORT.findall(file.read()))
    part = f"{OUT}/part-{shard}.json"
    with open(f"{part}.new", "w") as file:
        json.dump({"files": len(mine), "imports": imports}, file)
    os.rename(f"{part}.new", part)  # whole, or not there
    return 0


# The parent.


def spawn(shard: int, attempt: int, trip: int, corpus: str) -> int:
    agent = libc.spawn(sys.argv[0], ["worker", str(shard), str(attempt), str(trip), corpus], memory=128 << 20,
                       timeout=300)
    print(f"shard {shard}: agent {agent} works on it", flush=True)
    return agent


def supervise(trip: int, corpus: str) -> bool:
    """Until every shard is done; whether all are."""
    running = {spawn(shard, 1, trip, corpus): (shard, 1) for shard in range(1, SHARDS + 1)}
    done = 0
    while running:
        ended = libc.wait()
        shard, attempt = running.pop(ended.agent)
        if ended.code == 0:
            done += 1
            continue
        how = f"exit status {ended.code}" if ended.signal is None else ended.signal
        print(f"shard {shard}: agent {ended.agent} failed: {how}, {ended.why}", flush=True)
        if attempt < TRIES:
            running[spawn(shard, attempt + 1, trip, corpus)] = (shard, attempt + 1)
    return done == SHARDS


def merge() -> str:
    imports: Counter[str] = Counter()
    files = 0
    for shard in range(1, SHARDS + 1):
        with open(f"{OUT}/part-{shard}.json") as file:
            part = json.load(file)
        files += part["files"]
        imports.update(part["imports"])
    top = sorted(imports.items(), key=lambda item: (-item[1], item[0]))[:20]
    return f"{files} files, {len(imports)} modules\n" + "".join(f"{count:8} {name}\n" for name, count in top)


def main(trip: int, corpus: str) -> int:
    if not supervise(trip, corpus):
        print("not every shard was done; agentctl logs AGENT says why", file=sys.stderr)
        return 1
    report = merge()
    with libc.openfile("state/report.txt", "w") as file:
        file.write(report)
    print(report, end="")
    return 0


words = sys.argv[1:]
if words[:1] == ["worker"]:
    sys.exit(work(*map(int, words[1:4]), words[4]))
sys.exit(main(int(words[0]) if words else 0, words[1] if words[1:] else os.path.dirname(os.__file__)))
