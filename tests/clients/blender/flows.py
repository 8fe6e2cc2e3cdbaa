"""What users of the add-on do in a session, step by step, with whatever versions on whatever server."""

import time

from crew import ADMIN_PASSWORD, GONE, PeerError, PythonServer, settle
from harness import expect

PEOPLE = ("alice", "bob", "carol", "dave", "erin", "frank")


def probe(server, peer, version=None):
    """What the add-on asks before it connects."""
    info = peer.ask("probe", port=server.port)
    expect(info["private"], False, "private, without a password")
    if version:
        expect(info["version"], version, "version")


def furnish(peer, push=False):
    """A small scene, not yet sent unless asked: something of each type; returns key -> uuid."""
    mesh = peer.add("Mesh", "Cube", {"vertices": [0.5, -0.5, 1e300], "co": b"\0\1\xff" * 100, "groups": {1: {"a": 2}, 2: {}}}, push=push)
    material = peer.add("Material", "Red", {"color": (1.0, 0.0, 0.0, 1.0), "nodes": [{"name": "out"}, {"name": "in"}], "on": True}, push=push)
    thing = peer.add("Object", "Cube", {"location": [0.0, 0.0, 0.0], "parent": None, "big": 1 << 70, "é": "ü😀"}, [mesh, material], push=push)
    image = peer.add("Image", "paper", {"size": (2, 2), "pixels": b"\x80" * 70_000}, push=push)
    file = peer.add("PosixPath", "note.txt", {"ext": ".txt", "file": b"text \xe4"}, push=push)
    scene = peer.add("Scene", "Scene", {"objects": [thing, "b", "c", "b"], "frame": 1, "text": "x" * 300}, [thing], push=push)
    return {"mesh": mesh, "material": material, "thing": thing, "image": image, "file": file, "scene": scene}


def everything(server, crew, versions):
    """All flows; at the end nobody is connected any more."""
    peers = [crew.hire(version) for version in versions]
    keys = begin(server, peers)
    for number, peer in enumerate(peers):
        edit_everything(peer, keys, number)
        settle(peers, nodes=len(keys))
    all_at_once(peers, keys)
    locks(peers, keys)
    metadata(peers)
    deletes(peers, keys)
    for peer in peers:
        peer.check()
    leaving(server, peers, keys)
    kicking(server, peers)


def begin(server, peers):
    """The first two wait in the lobby; the first one begins the session, the others join one after another."""
    first, second, *late = peers
    first.lobby(server, PEOPLE[0])
    second.lobby(server, PEOPLE[1])
    for peer in (first, second):
        users = peer.until_users(*PEOPLE[:2])
        expect(users["alice"]["admin"], False, "admin")
        expect(users["alice"]["metadata"], {}, "metadata of somebody new")
    keys = furnish(first)
    first.init()
    second.until_state("STATE_ACTIVE")
    for name, peer in zip(PEOPLE[2:], late):
        peer.join(server, name)
    names = PEOPLE[: len(peers)]
    for peer in peers:
        peer.until(lambda about: [u["status"] for n, u in sorted(peer.unpack_users(about).items()) if n in names] == [2] * len(names),
                   "seeing everybody active")  # fmt: skip
    nodes = settle(peers, nodes=len(keys))
    expect(set(nodes), set(keys.values()), "the nodes")
    expect(nodes[keys["thing"]]["uses"], sorted([keys["mesh"], keys["material"]]), "dependencies")
    return keys


def edit_everything(peer, keys, number):
    """Changes of every kind that deltas know, one object after another, by one peer."""
    mesh, thing = keys["mesh"], keys["thing"]
    # deepdiff 5.7.0 cannot address keys with quotes.
    quoted = {} if peer.version == "0.9.10-pins" else {"it's": 'a "quoted" key', 'quo"te': 1, "[0]": 2}
    sent = [
        peer.edit(mesh, vertices=[number, 0.5, "new", 1e300, None]),  # to a longer list: insertions and replacements
        peer.edit(mesh, vertices=["other", 1e300, number]),
        peer.edit(mesh, vertices=[number, [number], [[]]], co=bytes([number]) * 50, groups={1: {"a": 3}, number + 5: {"b": (1, 2)}}),
        peer.edit(mesh, groups={1: {}}, more={"deep": {"er": [{"x": 1}, {"y": 2.5}]}}),
        peer.edit(mesh, more={"deep": {"er": [{"y": 2.5}]}}),
        peer.edit(mesh, more=GONE),
        peer.edit(thing, location=(number, 2.5), parent="somebody", big=-(1 << 65)),
        peer.edit(thing, location=[1, 2, 3, 4], parent=None, **quoted),
        peer.edit(thing, **dict.fromkeys(quoted, GONE), after="that"),
        peer.edit(keys["material"], color=(1.0, number / 7, 0.0, 1.0), on=number,
                  nodes=[{"name": "in"}, {"name": "mid"}, {"name": "out", "n": number}]),
        peer.edit(keys["material"], color="none", on=None),
        peer.edit(keys["material"], color=(1.0, 0.0, 0.0, 1.0), on=True),
        peer.edit(keys["scene"], objects=["c", "b", f"of {number}", thing], frame=number),
        peer.edit(keys["scene"], objects=[thing, "b", "b", "d"], text="y" * 300 + str(number)),
    ]  # fmt: skip
    expect(set(sent), {"Commit"}, "what was sent of types with deltas")
    peer.edit(thing, after=GONE)
    expect(peer.edit(thing), "nothing", "what was sent without a change")
    expect(peer.edit(keys["image"], pixels=bytes([number]) * 80_000), "Node", "what was sent of a type without deltas")
    key = f"of {number}"
    keys[key] = peer.add("Object", key, {"made by": peer.name}, [mesh])
    expect(peer.edit(keys["scene"], uses=[thing, keys[key]], objects=[thing, keys[key]]), "Commit", "a new dependency")


def all_at_once(peers, keys):
    """Everybody edits what is his own, while the others do."""
    own = [peer.add("Mesh", f"own of {peer.name}", {"list": [], "n": -1}) for peer in peers]
    keys.update({f"own of {peer.name}": key for peer, key in zip(peers, own)})
    settle(peers, nodes=len(keys))
    for number in range(30):
        for peer, key in zip(peers, own):
            peer.edit(key, n=number, list=list(range(number % 7, number)))
    nodes = settle(peers, nodes=len(keys))
    for key in own:
        expect(peers[-1].node(key)["n"], 29, f"the last edit of {nodes[key]}")


def locks(peers, keys):
    first, second = peers[:2]
    mesh, thing = keys["mesh"], keys["thing"]
    first.ask("lock", uuids=[thing], alone=False)
    for peer in peers:
        for key in (thing, mesh, keys["material"]):
            peer.until_owner(key, first.name)
    try:
        second.edit(mesh, vertices=["not mine"])
    except PeerError as error:
        expect("NonAuthorizedOperationError" in str(error), True, f"{error}")
    else:
        raise AssertionError("the library let somebody edit what another has locked")
    # What it has changed locally is put right by the next whole version from the owner.
    first.edit(mesh, push=False, vertices=["mine"])
    expect(first.ask("push", uuid=mesh, force=True), "Commit", "what there was to send")
    second.until(lambda _: second.node(mesh)["vertices"] == ["mine"], "seeing the owner's edit")
    first.ask("unlock", uuids=[thing, mesh])
    for peer in peers:
        peer.until_owner(mesh, "COMMON")
        expect(peer.owner(keys["material"]), first.name, "who owns what was not unlocked")
    first.ask("unlock", uuids=[keys["material"]])
    second.until_owner(keys["material"], "COMMON")
    settle(peers)


def metadata(peers):
    first, second = peers[:2]
    first.metadata(frame_current=7)
    first.metadata(view_matrix=[[1.0, 0.0], [0.0, 1.0]], color=(1, 0, 0, 1), mode_current="OBJECT")
    first.metadata(selected_objects={"a", "b"})
    second.metadata(frame_current=9, view_matrix=None)
    wanted = {"frame_current": 7, "view_matrix": [[1.0, 0.0], [0.0, 1.0]], "color": (1, 0, 0, 1), "mode_current": "OBJECT",
              "selected_objects": {"a", "b"}}  # fmt: skip
    for peer in peers:
        peer.until(lambda about: peer.unpack_users(about)[first.name]["metadata"] == wanted, "seeing metadata")
        peer.until(lambda about: peer.unpack_users(about)[second.name]["metadata"] == {"frame_current": 9, "view_matrix": None}, "seeing it")
    # Also after the next lists of users.
    time.sleep(1.2)
    expect(peers[-1].users()[first.name]["metadata"], wanted, "metadata after a while")


def deletes(peers, keys):
    second, last = peers[1], peers[-1]
    second.ask("rm", uuid=keys.pop("of 0"))
    last.ask("rm", uuid=keys.pop("image"))
    nodes = settle(peers, nodes=len(keys))
    for node in nodes.values():
        expect(set(node["uses"]) <= set(nodes), True, f"dependencies on what is there: {node}")
    # A second deletion of the same node is no error, and neither is one of what never was.
    first = peers[0]
    first.ask("send_command", number=4, data=keys["file"], owner="client")
    second.ask("send_command", number=4, data=keys.pop("file"), owner="client")
    first.ask("send_command", number=4, data="00000000-0000-4000-8000-000000000000", owner="client")
    settle(peers, nodes=len(keys))


def leaving(server, peers, keys):
    """The last of them locks and leaves without a word: his locks are released, and his name is free again."""
    *staying, leaver = peers
    key = keys["thing"]
    leaver.ask("lock", uuids=[key])
    for peer in peers:
        peer.until_owner(key, leaver.name)
    leaver.leave()
    for peer in staying:
        peer.until_owner(key, "COMMON", timeout=20)
        peer.until_users(*(other.name for other in staying), timeout=20)
        peer.check()
    leaver.join(server, leaver.name)
    settle(peers)
    if isinstance(server, PythonServer):
        # It never misses who leaves before his helper process has spoken.
        staying[0].until(lambda about: staying[0].unpack_users(about)[leaver.name]["latency"] < 999, "seeing him answer")
    leaver.leave()
    staying[0].until_users(*(other.name for other in staying), timeout=20)


def kicking(server, peers):
    """An administrator throws somebody out; the rest goes by itself."""
    admin, victim = peers[-1], peers[0]
    admin.join(server, "an admin", admin=ADMIN_PASSWORD)
    expect(admin.users()["an admin"]["admin"], True, "admin")
    peers[1].ask("lock", uuids=[])  # nothing, which is no reason to do anything
    admin.ask("kick", name=victim.name)
    victim.until_gone("kicked by admin")
    rest = [peer for peer in peers if peer is not victim]
    rest[0].until_users(*(peer.name for peer in rest), timeout=20)
    settle(rest)
    for peer in rest:
        peer.check()
        peer.leave()
