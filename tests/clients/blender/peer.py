"""A headless stand-in for Blender with the add-on: the real `replication` library, its public calls and its listening loop.

Runs in each of the library's environments. Commands come as JSON, one a line, on standard input; each has one answer on
standard output. Datablocks are dictionaries; like the add-on's, some types send deltas and some are always sent whole.
"""

import copy
import io
import json
import logging
import os
import pickle
import random
import select
import sys
import time
import traceback

import replication
import typed
from deepdiff import DeepDiff, Delta, serialization
from replication import constants, exception, objects, porcelain
from replication.interface import session
from replication.protocol import DataTranslationProtocol, ReplicatedDatablock
from replication.repository import Repository

STATES = {value: name for name, value in vars(constants).items() if name.startswith("STATE_") or name == "CONNECTING"}
# The add-on's own: every tick of its network timer handles one message of each channel.
TICK = 0.001
# How often changes from others are taken over into the scene; the add-on does it for each type every few milliseconds.
APPLY_EVERY = 0.01
REMOTE = "origin"

blocks = {}  # uuid -> what would be a Blender datablock


class Block:
    """A datablock: a name, some content, and what it uses."""

    def __init__(self, name="", content=None, uses=()):
        self.name, self.content, self.uses = name, content or {}, list(uses)


class Whole(ReplicatedDatablock):
    """A type that is sent whole at each change, as the add-on's images, sounds and files are."""

    @classmethod
    def construct(cls, data):
        block = blocks[data["uuid"]] = KINDS[data["type_id"]]()
        return block

    @staticmethod
    def dump(block):
        return {"name": block.name, **copy.deepcopy(block.content)}

    @staticmethod
    def load(data, block):
        block.content = {key: copy.deepcopy(value) for key, value in data.items() if key not in ("uuid", "type_id", "name")}
        block.name = data.get("name", "")
        node = session.repository.graph.get(data["uuid"])
        block.uses = [blocks[uuid] for uuid in node.dependencies or [] if uuid in blocks]

    @staticmethod
    def resolve(data):
        return blocks.get(data["uuid"])

    @staticmethod
    def resolve_deps(block):
        return block.uses


class Differing(Whole):
    """A type whose changes are sent as deltas, with the library's own parameters."""

    use_delta = True


class Unordered(Differing):
    """A type for which the add-on ignores the order of lists, as it does for scenes and collections."""

    is_root = True

    @staticmethod
    def compute_delta(last_data, current_data):
        return Delta(DeepDiff(last_data, current_data, ignore_order=True, report_repetition=True, cache_size=5000))


KINDS = {name: type(name, (Block,), {}) for name in ("Mesh", "Object", "Material", "Scene", "Image", "PosixPath")}
WAYS = {"Mesh": Differing, "Object": Differing, "Material": Differing, "Scene": Unordered, "Image": Whole, "PosixPath": Whole}


class Faults(logging.Handler):
    """What the library or deepdiff complain about."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}"[:500])


class RecordingPickle:
    """Stands where the library has its pickle module, and notes what the bytes ask for."""

    def __init__(self):
        self.asked = set()
        self.dumps = pickle.dumps
        restricted = serialization._RestrictedUnpickler
        recorder, find, load = self, restricted.find_class, restricted.persistent_load

        def find_class(unpickler, module, name):
            recorder.asked.add(f"delta {module}.{name}")
            return find(unpickler, module, name)

        def persistent_load(unpickler, identity):
            recorder.asked.add(f"delta persistent {identity}")
            return load(unpickler, identity)

        restricted.find_class, restricted.persistent_load = find_class, persistent_load
        objects.pickle = self

    def loads(self, data):
        recorder = self

        class Unpickler(pickle.Unpickler):
            def find_class(self, module, name):
                recorder.asked.add(f"{module}.{name}")
                raise pickle.UnpicklingError(f"{module}.{name} is not for a Blender client")

            def persistent_load(self, identity):
                recorder.asked.add(f"persistent {identity}")
                raise pickle.UnpicklingError("no persistent ids here")

        return Unpickler(io.BytesIO(data)).load()


class Load:
    """Edits on its own, at a rate, and notes what it did and what it saw of the others."""

    def __init__(self, log, name, nodes, rate, seed, count):
        self.log, self.name, self.nodes, self.rate = open(log, "a", buffering=1), name, nodes, rate
        self.chance, self.count, self.next = random.Random(seed), count, time.monotonic()
        self.seen, self.looked = {}, 0

    def tick(self):
        if time.monotonic() - self.looked > APPLY_EVERY:
            self.looked = time.monotonic()
            self.look()
        if session.state != constants.STATE_ACTIVE or time.monotonic() < self.next:
            return
        self.next = max(self.next + 1 / self.rate, time.monotonic() - 1)
        self.count += 1
        uuid = self.chance.choice(self.nodes)
        if uuid not in blocks or session.repository.graph.get(uuid) is None:
            return
        block, mark = blocks[uuid], f"{self.name} {self.count}"
        block.content["mark"] = mark
        if self.count % 20 == 0:
            block.content["list"] = [*block.content.get("list", []), mark][-20:]
        self.log.write(f"S {uuid} {mark}\n")
        try:
            commit_and_push(uuid)
        except exception.NonAuthorizedOperationError:
            self.log.write(f"N {uuid} {mark}\n")

    def look(self):
        for uuid, node in list(session.repository.graph.items()):
            mark = (node.data or {}).get("mark")
            if mark and self.seen.get(uuid) != mark:
                self.seen[uuid] = mark
                if not mark.startswith(f"{self.name} "):
                    self.log.write(f"E {uuid} {mark}\n")


class Peer:
    """The commands. What a command returns is its answer."""

    def __init__(self):
        self.events, self.load, self.recorder, self.name, self.ticks = [], None, None, None, 0
        self.faults = Faults()
        logging.getLogger().addHandler(self.faults)
        logging.getLogger().setLevel(logging.WARNING)
        self.listening, self.last_apply, self.was = True, 0, None
        session.register("on_exit")(lambda reason: self.event("exit", reason=reason))
        session.register("on_connection")(lambda: self.event("active"))

    def event(self, kind, **fields):
        self.events.append({"event": kind, "at": time.time(), "tick": self.ticks, **fields})

    # -- the loop

    def tick(self):
        if session.repository is None:
            return
        self.ticks += 1
        if self.listening:
            try:
                session.listen()
            except Exception as error:
                # What the add-on does when one of its timers fails.
                self.event("timer", error=f"{type(error).__name__}: {error}", where=traceback.format_exc()[-1500:])
                session.disconnect(reason=f"Error during timer execution: {error}")
        if session.state != self.was:
            self.was = session.state
            self.event("state", state=STATES[session.state])
        if time.monotonic() - self.last_apply >= APPLY_EVERY:
            self.apply()
        if self.load and session.state != constants.STATE_INITIAL:
            self.load.tick()

    def apply(self):
        self.last_apply = time.monotonic()
        if session.state == constants.STATE_ACTIVE:
            for uuid in [uuid for uuid, node in session.repository.graph.items() if node.state == constants.FETCHED]:
                porcelain.apply(session.repository, uuid)

    # -- connecting

    def do_connect(self, port, name, server_password="", admin_password=None, timeout=5000, version=None):
        blocks.clear()
        self.name, self.was = name, None
        protocol = DataTranslationProtocol()
        for kind, way in WAYS.items():
            protocol.register_implementation(KINDS[kind], way)
        repository = Repository(rdp=protocol, username=name)
        porcelain.remote_add(repository, REMOTE, "127.0.0.1", port, server_password=server_password,
                             admin_password=admin_password)  # fmt: skip
        if version:
            # The one thing about itself that the library tells, and only here.
            sys.modules["replication.interface"].__version__ = version
        self.event("connect")
        session.connect(repository=repository, remote=REMOTE, timeout=timeout, server_password=server_password,
                        admin_password=admin_password)  # fmt: skip

    def do_know(self, kinds):
        """Registers more types, all with deltas."""
        for kind in kinds:
            if kind not in KINDS:
                KINDS[kind], WAYS[kind] = type(kind, (Block,), {}), Differing

    def do_probe(self, port, timeout=500):
        return porcelain.request_session_info(f"127.0.0.1:{port}", timeout)

    def do_init(self):
        session.init()

    def do_disconnect(self, reason="user"):
        session.disconnect(reason=reason)

    def do_listening(self, on):
        """Off is a Blender that is busy: its helper process goes on answering."""
        self.listening = on

    # -- editing

    def do_add(self, kind, name="", content=None, uses=()):
        block = KINDS[kind](name, typed.unpack(content) or {}, [blocks[uuid] for uuid in uses])
        uuid = porcelain.add(session.repository, block, dependencies=[])
        blocks[uuid] = block
        return uuid

    def do_edit(self, uuid, content, uses=None, push=True):
        """Changes fields of the content; a field that is {"?": "gone"} goes."""
        self.apply()
        block = blocks[uuid]
        for key, value in content.items():
            if value == {"?": "gone"}:
                block.content.pop(key, None)
            else:
                block.content[key] = typed.unpack(value)
        if uses is not None:
            block.uses = [blocks[other] for other in uses]
        return commit_and_push(uuid) if push else None

    def do_push(self, uuid, force=False):
        return commit_and_push(uuid, force)

    def do_push_stranger(self, uuid, content):
        """What a client does that holds no lock and does not look: the library's own check is left out."""
        node = session.repository.graph[uuid]
        owner, node.owner = node.owner, self.name
        try:
            return self.do_edit(uuid, content)
        finally:
            if uuid in session.repository.graph:
                node.owner = owner

    def do_lock(self, uuids, alone=True):
        porcelain.lock(session.repository, list(uuids), affect_dependencies=not alone)

    def do_unlock(self, uuids, alone=True):
        porcelain.unlock(session.repository, list(uuids), affect_dependencies=not alone)

    def do_rm(self, uuid, alone=True):
        porcelain.rm(session.repository, uuid, remove_dependencies=not alone)

    def do_kick(self, name, ruthless=False):
        if ruthless:
            # The server must not rely on the client asking itself whether it may.
            session.repository.push(session.remote.command, objects.Kick(owner=self.name, data={"user": name}))
        else:
            porcelain.kick(session.repository, name)

    def do_metadata(self, fields):
        porcelain.update_user_metadata(session.repository, typed.unpack(fields))

    def do_send_command(self, number, data, owner=None):
        """Any object of the library on the command channel."""
        session.repository.push(session.remote.command, objects.object_classes(number)(owner=owner or self.name, data=typed.unpack(data)))

    # -- looking

    def do_about(self, events_from=0):
        repository = session.repository
        return {
            "state": STATES[session.state],
            "nodes": len(repository.graph) if repository else 0,
            "users": typed.pack(session.online_users) if repository and repository.remote else None,
            "events": self.events[events_from:],
            "faults": self.faults.lines,
            "asked": sorted(self.recorder.asked) if self.recorder else [],
            "helper": session.is_connection_alive() if repository and hasattr(session, "_ttl") else False,
        }

    def do_nodes(self, uuids=None):
        graph = session.repository.graph
        return {uuid: {"owner": node.owner, "uses": sorted(node.dependencies or []), "data": typed.pack(node.data)}
                for uuid, node in graph.items() if uuids is None or uuid in uuids}  # fmt: skip

    def do_owners(self):
        return {uuid: node.owner for uuid, node in session.repository.graph.items()}

    def do_fold(self, base, deltas):
        """What deltas make of a node's data, without any server."""
        data = pickle.loads(bytes.fromhex(base))
        for delta in deltas:
            data = data + Delta(bytes.fromhex(delta), mutate=False, raise_errors=True)
        return typed.pack(data)

    def do_versions(self):
        import deepdiff

        return {"replication": replication.__version__, "deepdiff": deepdiff.__version__}

    def do_record(self):
        self.recorder = RecordingPickle()

    def do_load(self, log, rate, seed, nodes=None, count=0):
        """Begins to edit by itself, until told `load_end`; `count` is what the last load ended with."""
        self.load = Load(log, self.name, nodes or sorted(session.repository.graph), rate, seed, count)

    def do_load_end(self):
        count, self.load = self.load.count if self.load else 0, None
        return count

    def do_repeat(self, count, uuid, size):
        """Pushes one node again and again, as fast as the sockets take it."""
        for number in range(count):
            blocks[uuid].content.update(number=number, filling=os.urandom(size // 2).hex())
            commit_and_push(uuid)


def commit_and_push(uuid, force=False):
    """As the add-on's push timer does; returns which object went out."""
    porcelain.commit(session.repository, uuid)
    node = session.repository.graph[uuid]
    sent = "nothing" if node.state != constants.COMMITED else "Commit" if node.last_commit else "Node"
    porcelain.push(session.repository, REMOTE, uuid, force=force)
    return sent


def handle(peer, line):
    try:
        asked = json.loads(line)
        command = asked.pop("command")
        answer = {"result": getattr(peer, f"do_{command}")(**asked)}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}", "where": traceback.format_exc()[-1500:]}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main():
    peer, waiting, source = Peer(), b"", sys.stdin.fileno()
    while True:
        if select.select([source], [], [], TICK)[0]:
            got = os.read(source, 1 << 20)
            if not got:
                break
            waiting += got
            *lines, waiting = waiting.split(b"\n")
            for line in lines:
                handle(peer, line)
        peer.tick()
    if session.repository is not None and session.state not in (constants.STATE_INITIAL, constants.STATE_QUITTING):
        session.disconnect(reason="end of input")


if __name__ == "__main__":
    main()
