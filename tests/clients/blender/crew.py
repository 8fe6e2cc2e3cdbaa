"""Drives the peers: processes with the real library, one environment for each of its versions; and the Python servers of old."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import typed
from harness import HERE, ROOT, Daemon, clean_environment, differences, expect, free_ports, short

# What an environment is called, and what its library calls itself on the wire.
VERSIONS = {"0.9.10": "0.9.10", "0.9.10-pins": "0.9.10", "0.9.12": "0.9.12", "0.10.3": "0.10.2"}
ADMIN_PASSWORD = "admin of the test"


def python_of(version):
    path = ROOT / f".venv-mu-{version}" / "bin" / "python"
    if not path.exists():
        raise SystemExit(f"{path} does not exist: scripts/check -k 'prepare blender'")
    return str(path)


class PeerError(Exception):
    """A command that the library refused, with the name of its exception in front."""


class Peer:
    """One headless Blender."""

    def __init__(self, version, folder=None):
        self.version, self.name, self.buffer = version, None, b""
        # The helper process of the library outlives it when it is killed: both are in a group of their own.
        self.log = open(pathlib.Path(folder) / f"peer-{version}-{id(self)}.log", "wb") if folder else subprocess.DEVNULL
        self.process = subprocess.Popen(
            [python_of(version), str(HERE / "blender" / "peer.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.log, env=clean_environment(), cwd=folder or tempfile.gettempdir(), start_new_session=True,
        )  # fmt: skip
        self.events_seen = 0

    def ask(self, command, timeout=60, **fields):
        self.process.stdin.write(json.dumps({"command": command, **fields}).encode() + b"\n")
        self.process.stdin.flush()
        answer = json.loads(self.line(timeout))
        if "error" in answer:
            raise PeerError(f"{answer['error']}\n{answer['where']}")
        return answer["result"]

    def line(self, timeout):
        deadline = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise AssertionError(f"{self} did not answer within {timeout} s")
            got = os.read(self.process.stdout.fileno(), 1 << 20)
            if not got:
                raise AssertionError(f"{self} died with {self.process.wait()}")
            self.buffer += got
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line

    def __str__(self):
        return f"{self.name} ({self.version})"

    # -- connecting

    def connect(self, server, name, password="", admin=None, version=None, timeout=5000):
        self.name = name
        self.ask("connect", port=server.port, name=name, server_password=password, admin_password=admin, version=version,
                 timeout=timeout)  # fmt: skip
        return self

    def join(self, server, name, **options):
        """Connects to a running session and waits until all nodes are there."""
        self.connect(server, name, **options)
        return self.until_state("STATE_ACTIVE")

    def lobby(self, server, name, **options):
        self.connect(server, name, **options)
        return self.until_state("STATE_LOBBY")

    def init(self):
        self.ask("init")
        return self.until_state("STATE_ACTIVE")

    def leave(self):
        self.ask("disconnect")

    # -- waiting

    def until(self, condition, what, timeout=15):
        """Polls what it knows until the condition holds; returns what it knows."""
        deadline = time.monotonic() + timeout
        while not condition(about := self.ask("about")):
            if time.monotonic() > deadline:
                raise AssertionError(f"{self} not {what} within {timeout} s: {short(about)}")
            time.sleep(0.01)
        return about

    def until_state(self, state, timeout=15):
        self.until(lambda about: about["state"] == state, f"in {state}", timeout)
        return self

    def until_users(self, *names, timeout=15):
        """Waits until exactly these are in its list; users that begin with ~ are the server's own."""
        wanted = set(names)
        self.until(lambda about: {n for n in self.unpack_users(about) if not n.startswith("~")} == wanted, f"seeing {wanted}", timeout)
        return self.users()

    def until_gone(self, *words, timeout=15):
        """Waits until it has been disconnected; returns the reason, which must hold the words."""
        about = self.until(lambda about: about["state"] == "STATE_INITIAL", "disconnected", timeout)
        reason = [event["reason"] for event in about["events"] if event["event"] == "exit"][-1]
        reason = reason.get("reason") if isinstance(reason, dict) else reason
        for word in words:
            if word not in reason:
                raise AssertionError(f"{self} was disconnected with {reason!r}, without {word!r}")
        return reason

    @staticmethod
    def unpack_users(about):
        return typed.unpack(about["users"]) if about["users"] else {}

    # -- looking

    def users(self):
        return self.unpack_users(self.ask("about"))

    def nodes(self, uuids=None):
        return self.ask("nodes", uuids=uuids)

    def node(self, uuid):
        """The data of one node as Python values; None if it is not there."""
        found = self.nodes([uuid]).get(uuid)
        return typed.unpack(found["data"]) if found else None

    def owner(self, uuid):
        return self.ask("owners").get(uuid)

    def until_owner(self, uuid, owner, timeout=15):
        self.until(lambda _: self.owner(uuid) == owner, f"seeing {uuid} owned by {owner}", timeout)

    # -- editing

    def add(self, kind, name, content=None, uses=(), push=True):
        uuid = self.ask("add", kind=kind, name=name, content=typed.pack(content or {}), uses=list(uses))
        if push:
            self.ask("push", uuid=uuid)
        return uuid

    def edit(self, uuid, uses=None, command="edit", push=True, **content):
        """Changes some of the content; returns what was sent: Node, Commit or nothing."""
        packed = {key: {"?": "gone"} if value is GONE else typed.pack(value) for key, value in content.items()}
        fields = {} if uses is None else {"uses": list(uses)}
        if not push:
            fields["push"] = False
        return self.ask(command, uuid=uuid, content=packed, **fields)

    def metadata(self, **fields):
        self.ask("metadata", fields=typed.pack(fields))

    def check(self):
        """No timer failed, and the library complained about nothing."""
        about = self.ask("about")
        timers = [event for event in about["events"] if event["event"] == "timer"]
        expect((timers, about["faults"]), ([], []), f"complaints of {self}")

    def kill(self):
        """kill -9, of the helper too: a Blender that crashes with its machine."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                stream.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


GONE = object()


class Crew:
    """Peers that are ended together."""

    def __init__(self, folder=None):
        self.peers, self.folder = [], folder

    def hire(self, version):
        self.peers.append(Peer(version, self.folder))
        return self.peers[-1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for peer in self.peers:
            peer.kill()


def settle(peers, timeout=20, nodes=None):
    """Waits until all hold the same nodes, owners and dependencies; returns them. `nodes` is how many there must be."""
    deadline, before = time.monotonic() + timeout, None
    while True:
        dumps = [peer.nodes() for peer in peers]
        agree = all(dump == dumps[0] for dump in dumps) and nodes in (None, len(dumps[0]))
        if agree and dumps[0] == before:
            return dumps[0]
        before = dumps[0] if agree else None
        if time.monotonic() > deadline:
            found = [f"{peers[0]} / {peer}{line}" for peer, dump in zip(peers, dumps) for line in differences(dumps[0], dump)]
            raise AssertionError(f"replicas differ ({[len(dump) for dump in dumps]} nodes, {nodes} wanted):\n  " + "\n  ".join(found[:20]))
        time.sleep(0.05)


class Hotset(Daemon):
    """The daemon with the door that this is about."""

    def __init__(self, folder=None, **settings):
        super().__init__(folder, **{"DOORS": "native,blender", "ADMIN_PASSWORD": ADMIN_PASSWORD, "TIMEOUT": "5s", **settings})

    @property
    def port(self):
        return int(self.settings["PORT"])

    def metric(self, name):
        """The sum of a metric over its labels; 0 if it is not there."""
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+]+)$", self.get("/metrics")[1], re.M)
        return sum(float(value) for value in found)

    def cpu_seconds(self):
        return cpu_seconds(self.process.pid)


def cpu_seconds(pid):
    """What a process has used of the processor until now."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def for_each(cases, scenario):
    """Runs the scenario for each case. They mostly wait: two at a time share two processors well."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = [(case, pool.submit(scenario, case)) for case in cases]
        failures = [(case, failure) for case, run in runs if (failure := run.exception())]
    for case, failure in failures[1:]:
        print(f"  with {case} too: {short(str(failure))}", file=sys.stderr)
    if failures:
        raise AssertionError(f"with {failures[0][0]}") from failures[0][1]


class PythonServer:
    """The server that the library brings along, for comparison."""

    def __init__(self, version, timeout=5000):
        self.version, self.timeout = version, timeout
        self.folder = tempfile.mkdtemp(prefix="hotset-python-server-")
        self.port = free_ports(3)[0]

    def __enter__(self):
        command = [python_of(self.version), "-m", "replication.server", "-p", self.port, "-t", self.timeout, "-spwd", "",
                   "-apwd", ADMIN_PASSWORD, "-l", "WARNING", "-lf", "server.log"]  # fmt: skip
        # Its shell ends with its input, so that has to stay open.
        self.process = subprocess.Popen([str(word) for word in command], cwd=self.folder, stdin=subprocess.PIPE,
                                        stdout=subprocess.DEVNULL, stderr=open(f"{self.folder}/stderr.log", "wb"),
                                        env=clean_environment())  # fmt: skip
        wait_port(self.port, self.process)
        return self

    def cpu_seconds(self):
        return cpu_seconds(self.process.pid)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def wait_port(port, process, timeout=15):
    """Waits until somebody listens; it must not cost the server a connection, so the kernel is asked."""
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            if re.search(rf":{port:04X} [0-9A-F]+:0000 0A ", pathlib.Path(table).read_text()):
                return
        time.sleep(0.02)
    raise AssertionError(f"nobody listens on {port}")
