"""What a real Blender 4.5 was heard to say, said again through the ports: the session holds what its users had at the end."""

import base64
import gzip
import json
import struct
import time

import typed
import wire
from crew import VERSIONS, Crew, Hotset, for_each
from harness import SAMPLES, differences, expect
from wire import AUTH, COMMAND, COMMIT, DATA, DELETE, METADATA, NODE, RIGHT, SERVER_SNAPSHOT, SNAPSHOT, Raw, load

ADMIN_PASSWORD_HEARD = "admin"
TASK, WORD = "Do it", "hello bob"


def heard():
    """The messages of all users in order, each a list of chunks."""
    rest = memoryview(gzip.decompress((SAMPLES / "blender_4.5_client_messages.frames.gz").read_bytes()))
    messages = []
    while rest:
        (count,), rest = struct.unpack("!I", rest[:4]), rest[4:]
        chunks = []
        for _ in range(count):
            (size,) = struct.unpack("!I", rest[:4])
            chunks.append(bytes(rest[4 : 4 + size]))
            rest = rest[4 + size :]
        messages.append(chunks)
    return messages


def final_graph():
    """What was there at the end, as peers dump it."""
    graph = json.loads(gzip.decompress((SAMPLES / "blender_4.5_final_graph.json.gz").read_bytes()))
    return {key: {"owner": node["owner"], "uses": sorted(node["deps"]), "data": typed.pack(typed.unpack(node["data"]))}
            for key, node in graph.items()}  # fmt: skip


def expect_graph(found, what):
    wanted = final_graph()
    expect(len(wanted), 47, "nodes in the recording")
    if wrong := differences(wanted, found):
        raise AssertionError(f"{what} is not the recorded graph:\n  " + "\n  ".join(wrong))


class Stage:
    """Says every message byte for byte in its order, each by a client of its user. The next is said when the effect of
    the last is seen, because a client's channels keep no order among themselves."""

    def __init__(self, port, transport):
        self.port, self.transport = port, transport
        self.clients, self.owners, self.fetched, self.catalogs = {}, {}, {}, {}

    def say(self, chunks):
        number = load(chunks[0])
        if number in (COMMIT, NODE):
            return self.change(chunks)
        user, data = chunks[1].decode(), load(chunks[2])
        if number == AUTH:
            self.clients[user] = Raw(self.port, self.transport, timeout=30)
            self.clients[user].name = user
        # Two kinds of messages do not say whose they are: both were alice's.
        user = user if user in self.clients else "alice"
        self.clients[user][COMMAND].send(chunks)
        answers = {AUTH: self.auth, SERVER_SNAPSHOT: self.opens, SNAPSHOT: self.joins, RIGHT: self.owns, DELETE: self.deletes}
        if number != METADATA:
            answers[number](user, data)

    def change(self, chunks):
        """A change is its owner's, or alice's; the others are told of it, word for word if it is a delta."""
        key = chunks[1].decode()
        author = self.owners.get(key, "alice")
        self.clients[author][DATA].send(chunks)
        for user, client in self.clients.items():
            if user != author:
                got = client[DATA].receive(15)
                expect((got[0], got[1], got[-1]), (chunks[0], chunks[1], chunks[-1]), f"what {user} is told of {key}")

    def auth(self, user, _):
        expect(self.clients[user].hear(AUTH), "RUNNING" if len(self.clients) > 1 else "LOBBY", f"the answer to {user}")

    def opens(self, user, data):
        if data["STATE"] != "SET":
            wanted = {"INIT": "ACCEPTED", "END": "DONE"}[data["STATE"]]
            expect(self.clients[user].hear(SERVER_SNAPSHOT), {"STATE": wanted}, f"the answer to {data['STATE']}")

    def joins(self, user, data):
        if data["STATE"] == "REQUEST_INIT":
            self.catalogs[user], self.fetched[user] = set(self.clients[user].hear(SNAPSHOT)["CATALOG"]), {}
        elif data["STATE"] == "GET":
            _, key, owner, uses, content = self.clients[user].hear(SNAPSHOT)["DATA"]
            expect(key.decode(), data["ID"], "the node that was asked for")
            self.fetched[user][data["ID"]] = {"owner": owner.decode(), "uses": sorted(load(uses)), "data": typed.pack(load(content))}

    def owns(self, user, data):
        owners = {key: data["owner"] for key in data["uuid"]}
        self.owners.update(owners)
        for client in self.clients.values():
            told = client.hear(RIGHT)
            expect((set(told["uuid"]), told["owner"]), (set(owners), data["owner"]), f"what {client.name} is told")

    def deletes(self, _, key):
        for client in self.clients.values():
            expect(client.hear(DELETE), key, f"what {client.name} is told")

    def close(self):
        for client in self.clients.values():
            client.close()


def what_a_real_blender_said_leads_through_the_ports_to_the_recorded_graph():
    messages = heard()
    expect(len(messages), 194, "recorded messages")

    def one(transport):
        with Hotset(ADMIN_PASSWORD=ADMIN_PASSWORD_HEARD, TIMEOUT="60s") as daemon, Crew(daemon.folder) as crew:
            daemon.start()
            stage = Stage(daemon.port, transport)
            for chunks in messages:
                stage.say(chunks)
            for user, keys in stage.catalogs.items():
                expect(set(stage.fetched[user]), keys, f"the nodes that {user} was offered")
            expect_graph(stage.fetched["carol"], "what the last one fetched")
            stage.close()
            expect(daemon.metric("hotset_blender_messages_refused"), 0, "refused messages")
            expect(daemon.metric("hotset_blender_suspect_nodes"), 0, "deltas that do not apply")
            joiners_see_it(daemon, crew)
            the_export_holds_it(daemon, crew)

    for_each(wire.TRANSPORTS, one)


def joiners_see_it(daemon, crew):
    kinds = sorted({dict(node["data"]["d"])["type_id"] for node in final_graph().values()})
    for version in VERSIONS:
        peer = crew.hire(version)
        peer.ask("know", kinds=kinds)
        peer.join(daemon, f"joiner {version}")
        expect_graph(peer.nodes(), f"what a client of {version} has joined")
        peer.check()
        peer.leave()


def the_export_holds_it(daemon, crew):
    """As whoever reads an export would: each node's bytes, and then its deltas, by the add-on's own deepdiff."""
    wait_until_unlocked(daemon)
    exported = daemon.run("export", "--json", timeout=60)
    expect((exported.returncode, exported.stderr), (0, ""), "hotset export")
    session, reader, nodes = json.loads(exported.stdout), crew.hire("0.10.3"), {}
    for node in session["nodes"]:
        base, *deltas = [base64.b64decode(text).hex() for text in (node["payload_base64"], *node.get("deltas_base64", []))]
        data = reader.ask("fold", base=base, deltas=deltas)
        nodes[node["id"]] = {"owner": node["owner"] or "COMMON", "uses": sorted(node["dependencies"]), "data": data}
        expect(node["kind"], dict(data["d"])["type_id"], "kind")
    expect_graph(nodes, "what is exported")
    expect(any("deltas_base64" in node for node in session["nodes"]), True, "whether deltas are exported")
    expect([task["title"] for task in session["tasks"]], [TASK], "tasks")
    expect([message["text"] for message in session["chat"]], [WORD], "chat")


def wait_until_unlocked(daemon, timeout=15):
    """Whoever has left holds no locks, as soon as the server has noticed."""
    deadline = time.monotonic() + timeout
    while any(node["owner"] for node in json.loads(daemon.run("export", "--json").stdout)["nodes"]):
        if time.monotonic() > deadline:
            raise AssertionError("nodes are locked by who has left")
        time.sleep(0.1)


SCENARIOS = [what_a_real_blender_said_leads_through_the_ports_to_the_recorded_graph]
