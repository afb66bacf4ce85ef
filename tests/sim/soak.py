#!/usr/bin/env python3
"""Run worlds for as long as asked, each with a seed of its own, and print what they covered and what they found.

Usage: soak.py [--minutes N] [--first SEED]. Exit status 1 when a world had a problem; `run_world(SEED)` replays it.
"""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from sim.worlds import run_world

from agentix_syscalls import calls

PIECE = 20


def run(first: int) -> tuple[dict[int, list[str]], Counter[str], Counter[tuple[str, str]], int]:
    problems, seen, answers, records = {}, Counter(), Counter(), 0
    for seed in range(first, first + PIECE):
        told = run_world(seed)
        seen.update(told.seen)
        answers.update(told.answers)
        records += len(told.trace)
        if told.problems:
            problems[seed] = told.problems
    return problems, seen, answers, records


def main() -> int:
    parser = argparse.ArgumentParser(description="Run simulated worlds for some time.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--first", type=int, default=1_000_000, help="first seed")
    given = parser.parse_args()
    begun, first = time.monotonic(), given.first
    problems, seen, answers, records, worlds = {}, Counter(), Counter(), 0, 0
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        while time.monotonic() < begun + given.minutes * 60:
            for found, saw, answered, recorded in pool.map(run, range(first, first + 4 * PIECE, PIECE)):
                problems |= found
                seen += saw
                answers += answered
                records += recorded
            first += 4 * PIECE
            worlds += 4 * PIECE
    show(problems, seen, answers)
    elapsed = time.monotonic() - begun
    print(f"\n{worlds} worlds from seed {given.first} in {elapsed:.0f} s ({worlds / elapsed:.1f} a second), "
          f"{records} records, {len(problems)} worlds with problems")
    return 1 if problems else 0


def show(problems: dict[int, list[str]], seen: Counter[str], answers: Counter[tuple[str, str]]) -> None:
    print("What happened, by worlds in which it did:")
    for what, count in seen.most_common():
        print(f"  {count:7} {what}")
    named = {call.name for call in calls.CALLS}
    met = {name for name, _ in answers} & named
    pairs = {(name, error) for name, error in answers if name in met}
    print(f"\n{len(met)} of {len(named)} calls, {len(pairs)} pairs of a call and an answer; answers by call:")
    for name in sorted(met):
        told = ", ".join(f"{error} {count}" for (one, error), count in answers.most_common() if one == name)
        print(f"  {name:14} {told}")
    print(f"  never made: {', '.join(sorted(named - met))}")
    for seed, said in sorted(problems.items()):
        print(f"\nseed {seed}:", *said[:5], sep="\n  ")


if __name__ == "__main__":
    sys.exit(main())
