"""The world outside of a hostile agent, as the host sees it: taken before and after, and nothing of it may change."""

import contextlib
import hashlib
import os
import socket
import stat
import struct
import subprocess
import time
from pathlib import Path

from attrs import define, field

WORLD = 0xC000_024D
"""192.0.2.77, which no other test sends to."""
_PACKETS_THERE = ((0x20, 0, 0, 16), (0x15, 0, 1, WORLD), (6, 0, 0, 65535), (6, 0, 0, 0))
"""Classic BPF on IP packets: those to WORLD."""


def contents(folder: str) -> list[tuple[object, ...]]:
    """All that is below: path, type and mode, owner, and a digest of a file's content."""
    found = []
    for path in sorted([folder, *(str(path) for path in Path(folder).rglob("*"))]):
        info = os.lstat(path)
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest() if stat.S_ISREG(info.st_mode) else ""
        found.append((path, info.st_mode, info.st_uid, info.st_mtime_ns if digest else 0, digest))
    return found


def of_uid(uid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                found.append(int(name))
    return sorted(found)


def status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as file:
        return dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)


@define(eq=False)
class Outside:
    """A host that listens, a neighbour with something precious, and who attacks. `views` is what must not change."""

    kernel: object
    client: object
    folder: str
    """Of the host: `secret`, and `shown` and `shared`, which the attacker sees."""
    token: str
    attacker: int = 0
    victim: int = 0
    canary: subprocess.Popen = field(init=False)
    ears: list[socket.socket] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self.canary = subprocess.Popen(["/bin/sleep", "infinity"])
        for folder in ("shown", "shared"):
            os.mkdir(f"{self.folder}/{folder}")
        os.chmod(f"{self.folder}/shared", 0o777)
        for path in ("secret", "shown/file"):
            Path(self.folder, path).write_text(self.token)
        self._listen()

    def _listen(self) -> None:
        tcp, udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp.bind(("127.0.0.1", 0))
        udp.bind(tcp.getsockname())
        abstract, datagrams = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        abstract.bind(f"\0{self.token}")
        datagrams.bind(f"\0{self.token}-datagrams")
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        program = b"".join(struct.pack("=HBBI", *row) for row in _PACKETS_THERE)
        buffer = bytearray(program)
        import ctypes
        address = ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
        wire.setsockopt(socket.SOL_SOCKET, 26, struct.pack("=HxxxxxxQ", len(_PACKETS_THERE), address))
        for sock in (tcp, abstract):
            sock.listen()
        self.ears = [tcp, udp, abstract, datagrams, wire]
        for sock in self.ears:
            sock.setblocking(False)

    def close(self) -> None:
        self.canary.kill()
        self.canary.wait()
        for sock in self.ears:
            sock.close()

    def told(self, **more) -> dict:
        """What the attacker knows, as one who has read everything would."""
        return {"secret": f"{self.folder}/secret", "prefix": self.kernel.prefix, "victim": self.victim,
                "name": "kid-precious", "uid": self.kernel.agent(self.victim)["uid"], "canary": self.canary.pid,
                "victim_pid": self.program(self.victim), "port": self.ears[0].getsockname()[1], "abstract": self.token,
                "meeting": f"{self.token}-meeting", **more}

    def tree(self, path: str = "") -> str:
        return self.kernel.tree(self.attacker, path)

    def program(self, agent: int) -> int:
        """The host's number of an agent's own process: 2 in its namespace."""
        uid = self.kernel.agent(agent)["uid"]
        return next(pid for pid in of_uid(uid) if status(pid)["NSpid"].split()[-1] == "2")

    def furnish(self) -> None:
        """Give the attacker's tree what its policy is about."""
        uid = self.kernel.agent(self.attacker)["uid"]
        for folder in ("state/held", "state/deep/a/held"):
            os.makedirs(self.tree(folder))
            Path(self.tree(folder), "secret").write_text(self.token)
        for path in ("state/kept", "state/drop"):
            Path(self.tree(path)).write_text(self.token)
        for folder, folders, files in os.walk(self.tree("state")):
            for name in (*folders, *files):
                os.chown(f"{folder}/{name}", uid, uid)

    # What must not change. Each is asked before and after.

    def views(self) -> dict[str, object]:
        names = [name.removeprefix("view_") for name in dir(self) if name.startswith("view_")]
        return {name.replace("_", "-"): getattr(self, f"view_{name}")() for name in names}

    def view_kept(self) -> object:
        names = sorted(os.listdir(os.fsencode(self.tree("state"))))
        planted = [name for name in names if name.startswith((b"key", b"flat", b"out", b"alias", b"planted", b"taken"))]
        return planted, [contents(self.tree(f"state/{path}")) for path in ("held", "deep", "kept")]

    def view_accomplice(self) -> object:
        return self.view_kept(), self.view_secrets()

    def view_past(self) -> object:
        path = self.tree("mem/episodic/log")
        return sorted(os.listdir(self.tree("mem/episodic"))), os.stat(path).st_ino, Path(path).read_bytes()[:5]

    def view_secrets(self) -> object:
        """Where anything secret has got to."""
        hashes = [line.split(":")[1] for line in Path("/etc/shadow").read_text().splitlines()]
        secret = [self.token, *(word for word in hashes if len(word) > 8)]
        places = {f"log of {agent}": b"".join(data for _, data, _ in self.client.stream("logs", agent, False))
                  for agent in (self.attacker, self.victim)}
        for folder in (self.tree("mem"), f"{self.folder}/shared"):
            places |= {path: Path(path).read_bytes() for path, mode, *_ in contents(folder) if stat.S_ISREG(mode)}
        for name in os.listdir(self.tree("state")):
            path = self.tree(f"state/{name}")
            if name not in {"kept", "drop"} and stat.S_ISREG(os.lstat(path).st_mode):
                places[path] = Path(path).read_bytes()
        return [place for place, data in places.items() for word in secret if word.encode() in data]

    def view_host(self) -> object:
        here = ["/etc/shadow", "/etc/passwd", "/etc/hosts", "/etc/ld.so.cache"]
        shared = [row for row in contents(f"{self.folder}/shared") if stat.S_ISREG(row[1]) or stat.S_ISBLK(row[1])]
        programs = sorted(os.listdir("/usr/bin"))
        return [contents(path) for path in here], programs, contents(f"{self.folder}/shown"), shared

    def view_set_id(self) -> object:
        with open("/proc/self/mountinfo") as mounts:
            options = next(line.split()[5] for line in mounts if line.split()[4] == f"{self.kernel.prefix}/agent")
        found = [path for path, mode, *_ in contents(f"{self.folder}/shared") if mode & 0o6000 or stat.S_ISBLK(mode)]
        return {"nosuid", "nodev"} <= set(options.split(",")), found

    def view_confined(self) -> object:
        pid = self.program(self.attacker)
        spaces = {name: os.stat(f"/proc/{pid}/ns/{name}").st_ino for name in os.listdir(f"/proc/{pid}/ns")}
        kept = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
                "Seccomp_filters", "NSpid", "TracerPid")
        files = [Path(f"/proc/{pid}/{name}").read_text() for name in ("mountinfo", "cgroup", "limits", "oom_score_adj",
                                                                      "personality")]
        rights = [status(pid)[name] for name in kept]
        how = os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid)
        return pid, spaces, rights, files, how, os.readlink(f"/proc/{pid}/root"), os.uname().nodename

    def view_victim(self) -> object:
        row, pid = self.kernel.agent(self.victim), self.program(self.victim)
        began = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        how = os.getpriority(os.PRIO_PROCESS, pid), Path(f"/proc/{pid}/oom_score_adj").read_text()
        return row["state"], row["name"], row["life"], pid, began, how, contents(self.kernel.tree(self.victim, "state"))

    def view_alive(self) -> object:
        pid = self.canary.pid
        return self.canary.poll(), os.getpriority(os.PRIO_PROCESS, pid), Path(f"/proc/{pid}/oom_score_adj").read_text()

    def view_network(self) -> object:
        """What has been heard."""
        heard = []
        for ear in self.ears:
            with contextlib.suppress(BlockingIOError):
                listens = ear.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                heard.append(ear.accept()[1] if listens else ear.recv(1000))
        return heard

    def view_policy(self) -> object:
        return (self.client.call("policy_show", self.attacker), sorted(os.listdir(self.tree())),
                sorted(os.listdir(self.tree("policy"))), sorted(os.listdir(self.tree("proc"))),
                sorted(os.listdir(f"{self.kernel.prefix}/run/agents/{self.attacker}.1")),
                self.kernel.agent(self.attacker)["state"])

    def view_children(self) -> object:
        allowed = ("kid-1", "kid-of-many-")  # four in all: what may be spawned is
        names = sorted(row["name"] for row in self.client.call("ps", True, False))
        return [name for name in names if not name.startswith(allowed)]

    def view_caps(self) -> object:
        """Who holds what, but for the children that it may have."""
        rows = [row for row in self.client.call("caps") if not row["name"].startswith(("kid-1", "kid-of-many-"))]
        return [[row[name] for name in ("agent", "handle", "capability", "from", "held")] for row in rows]

    def view_processes(self) -> object:
        """All that runs under any uid of this kernel but its agents' own."""
        uids = {row["uid"] for row in self.client.call("ps", True, False)}
        first = min(uids) & ~0xFFFF
        strays = [pid for uid in range(first, first + 64) if uid not in uids for pid in of_uid(uid)]
        return strays, len(of_uid(self.kernel.agent(self.attacker)["uid"]))

    def view_kernel(self) -> object:
        info = self.client.call("info")
        with open(f"/proc/{self.kernel.process.pid}/statm") as file:
            megabytes = int(file.read().split()[1]) * 4096 >> 20
        descriptors = len(os.listdir(f"/proc/{self.kernel.process.pid}/fd"))
        return (info["pid"], info["faults"], self.client.call("audit_verify")["ok"], megabytes < 400, descriptors < 400)

    def view_clock(self) -> object:
        return round((time.time() - time.monotonic()) / 3600)

    def view_ipc(self) -> object:
        return Path("/proc/sysvipc/shm").read_text(), sorted(os.listdir("/dev/mqueue") if os.path.isdir("/dev/mqueue")
                                                               else [])
