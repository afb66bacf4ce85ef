"""An agent that indexes a document tree: words of every text file below a folder that it may only read.

It keeps working notes (where it is) under mem/working, an append-only log of what it did under mem/episodic,
and writes its report to state/report.txt. SIGTERM lets it finish the page it is on and report what it has.

Run it:  agentctl run --bind-ro /usr/share/doc:/docs examples/indexer.py /docs
"""

import gzip
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator

from agentix import libc

WORD = re.compile(r"[a-z]{4,}")
PAGE_BYTES = 256 * 1024
NOTE_EVERY = 25

stopping = False


def on_term(signum: int, info: libc.SigInfo) -> None:
    global stopping
    stopping = True
    print(f"indexer: {libc.Signals(signum).name} ({info.why}): finishing this page", flush=True)


def documents(root: str) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and (name.endswith((".txt", ".gz", ".md")) or "." not in name):
                yield path


def page(path: str) -> str:
    """The text of one document, as far as one page goes."""
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
        return file.read(PAGE_BYTES).decode("utf-8", "replace").lower()


def append(path: str, line: str) -> None:
    fd = libc.open(path, libc.O_WRONLY | libc.O_CREAT | libc.O_APPEND)
    libc.write(fd, line.encode())
    libc.close(fd)


def overwrite(path: str, text: str) -> None:
    fd = libc.open(path, libc.O_WRONLY | libc.O_CREAT | libc.O_TRUNC)
    libc.write(fd, text.encode())
    libc.fsync(fd)
    libc.close(fd)


def main() -> int:
    root = sys.argv[1] if len(sys.argv) > 1 else "/docs"
    limit = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    libc.signal(libc.SIGTERM, on_term)
    append("mem/episodic/log", f"started on {root} as agent {libc.getpid()}\n")
    words: Counter[str] = Counter()
    pages = unreadable = 0
    for path in documents(root):
        try:
            words.update(WORD.findall(page(path)))
        except OSError as error:
            unreadable += 1
            append("mem/episodic/log", f"skipped {path}: {error.strerror}\n")
            continue
        pages += 1
        if pages % NOTE_EVERY == 0:
            overwrite("mem/working/position", f"{pages} {path}\n")
            append("mem/episodic/log", f"read {pages} documents, now at {path}\n")
        if stopping or pages == limit:
            break
    if not pages:
        print(f"indexer: nothing to read below {root}: bind a folder there with --bind-ro", file=sys.stderr)
        return 1
    top = "".join(f"{count:8} {word}\n" for word, count in words.most_common(20))
    overwrite("state/report.txt", f"{pages} documents, {unreadable} unreadable, {len(words)} words\n{top}")
    append("mem/episodic/log", f"reported on {pages} documents{' (asked to stop)' if stopping else ''}\n")
    print(f"indexer: {pages} documents, {len(words)} different words; the report is state/report.txt", flush=True)
    return 0


sys.exit(main())
