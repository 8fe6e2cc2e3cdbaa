"""Who may do what: logins, probes, locks of others, kicks, first inits, clients that are slow or gone."""

import contextlib
import socket
import time

import flows
import wire
from crew import ADMIN_PASSWORD, VERSIONS, Crew, Hotset, PythonServer, for_each, settle
from harness import expect
from wire import COMMAND, DATA, KICK, METADATA, RIGHT, SERVER_SNAPSHOT, SNAPSHOT, TTL, USERS, Hungup, Raw, small_node

MIB = 1 << 20


def running(crew, daemon, *versions):
    """Peers in a session that the first of them has begun; returns them and the scene's keys."""
    peers = [crew.hire(version) for version in versions]
    peers[0].lobby(daemon, flows.PEOPLE[0])
    keys = flows.furnish(peers[0])
    peers[0].init()
    for peer, name in zip(peers[1:], flows.PEOPLE[1:]):
        peer.join(daemon, name)
    settle(peers, nodes=len(keys))
    return peers, keys


def logins_that_are_refused_say_why():
    with Hotset(SERVER_PASSWORD="open sesame") as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        for version, says in VERSIONS.items():
            peer = crew.hire(version)
            expect(peer.ask("probe", port=daemon.port)["private"], True, "private, with a password")
            peer.connect(daemon, version, password="")
            peer.until_gone("FAILED: wrong server password")
            peer.connect(daemon, version, password="open sesame", admin="guess")
            peer.until_gone("FAILED: wrong admin password")
            peer.connect(daemon, version, password="open sesame", version="0.8.99")
            peer.until_gone("FAILED: wrong client version (0.8.99 != ")
            peer.connect(daemon, "~session", password="open sesame", version=says)
            peer.until_gone("FAILED")
            peer.lobby(daemon, version, password="open sesame", version=says)
            other = crew.hire(version)
            other.connect(daemon, version, password="open sesame")
            other.until_gone("FAILED: client already logged in")
            other.lobby(daemon, version.upper() + "x", password="open sesame", admin=ADMIN_PASSWORD)
            other.leave()


def a_name_is_free_when_its_owner_has_left():
    with Hotset(TIMEOUT="2s") as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        for version in VERSIONS:
            peer = crew.hire(version).lobby(daemon, version)
            crash = crew.hire(version)
            peer.kill()
            end = time.monotonic() + 12
            while True:
                crash.connect(daemon, version)
                crash.until(lambda about: about["state"] in ("STATE_LOBBY", "STATE_INITIAL"), "answered")
                if crash.ask("about")["state"] == "STATE_LOBBY":
                    break
                crash.until_gone("already logged in")
                expect(time.monotonic() < end, True, f"{version}: the name is free within 12 s after a crash")
                time.sleep(0.2)


def who_has_not_logged_in_does_nothing():
    with Hotset() as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        (peer,), keys = running(crew, daemon, "0.10.3")
        before = peer.nodes()
        seen = len(peer.ask("about")["events"])
        for transport in wire.TRANSPORTS:
            key = keys["mesh"]
            attempts = [
                lambda raw: raw.put(key, {"type_id": "Mesh"}),
                lambda raw: raw[DATA].send(small_node()),
                lambda raw: raw[DATA].send([wire.dump(1), key.encode(), wire.dump([]), wire.renaming("no")]),
                lambda raw: raw.say(4, key, "client"),
                lambda raw: raw.say(RIGHT, {"uuid": [key], "owner": "alice"}),
                lambda raw: raw.say(KICK, {"user": "alice"}),
                lambda raw: raw.say(METADATA, {"tasks": "{}"}, "alice"),
                lambda raw: raw.say(SERVER_SNAPSHOT, {"STATE": "INIT", "SIZE": 0, "NODES": []}),
                lambda raw: raw.say(SERVER_SNAPSHOT, {"STATE": "SET", "DATA": small_node()}),
                lambda raw: raw.say(SNAPSHOT, {"STATE": "REQUEST_INIT"}),
                lambda raw: raw.say(SNAPSHOT, {"STATE": "GET", "ID": key}),
                lambda raw: raw.say(SNAPSHOT, {"STATE": "DONE"}),
            ]  # fmt: skip
            for number, attempt in enumerate(attempts):
                with Raw(daemon.port, transport) as raw:
                    attempt(raw)
                    try:
                        while True:
                            chunks = raw[COMMAND].receive(0.2)
                            told = wire.load(chunks[0]) in (SNAPSHOT, SERVER_SNAPSHOT, USERS)
                            expect(told, False, f"{transport} {number}: an answer {chunks}")
                    except (TimeoutError, Hungup):
                        pass
            # The probe is for everybody.
            with Raw(daemon.port, transport, roles=(COMMAND,)) as raw:
                raw.say(wire.INFO, "RQ_INFO", "guest")
                expect(raw.hear(wire.INFO)["private"], False, "private")
        time.sleep(0.5)
        expect(peer.nodes(), before, "the nodes")
        expect(peer.ask("about", events_from=seen)["events"], [], "what happened to the member")
        peer.check()


def only_administrators_kick():
    with Hotset() as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        (alice, bob), _ = running(crew, daemon, "0.9.10", "0.10.3")
        for kicker, victim in ((bob, alice), (alice, bob)):
            kicker.ask("kick", name=victim.name, ruthless=True)
            time.sleep(0.7)
            expect(victim.ask("about")["state"], "STATE_ACTIVE", f"{victim} after a kick by somebody")
        for version in VERSIONS:
            admin = crew.hire(version).join(daemon, "admin", admin=ADMIN_PASSWORD)
            expect(alice.until_users("alice", "bob", "admin")["admin"]["admin"], True, "admin")
            admin.ask("kick", name="bob")
            expect(bob.until_gone(), "kicked by admin", "reason")
            bob.join(daemon, "bob")
            admin.leave()
            alice.until_users("alice", "bob")


def a_reason_reaches_also_who_is_busy():
    """A Blender that does not listen for a moment hears afterwards why it was sent away, as it did from the old servers."""

    def one(server, version):
        with Crew(server.folder) as crew:
            (alice, bob), _ = running(crew, server, version, version)
            admin = crew.hire(version).join(server, "admin", admin=ADMIN_PASSWORD)
            bob.ask("listening", on=False)
            admin.ask("kick", name="bob")
            alice.until_users("alice", "admin")
            time.sleep(0.5)
            bob.ask("listening", on=True)
            expect(bob.until_gone(), "kicked by admin", f"what {server.__class__.__name__} told {bob}")

    def both(version):
        with PythonServer(version) as server:
            one(server, version)
        with Hotset() as daemon:
            one(daemon.start(), version)

    for_each(VERSIONS, both)


def what_others_have_locked_stays_as_it_is():
    """Edits, locks and deletions by somebody else are dropped, and he sees again what is true."""
    with Hotset() as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        peers, keys = running(crew, daemon, "0.9.10", "0.9.12", "0.9.10-pins", "0.10.3")
        owner, *others = peers
        mine = [keys["mesh"], keys["image"]]
        owner.ask("lock", uuids=mine)
        for peer in peers:
            for key in mine:
                peer.until_owner(key, owner.name)
        before = owner.nodes()
        for number, stranger in enumerate(others):
            sent = stranger.edit(keys["mesh"], command="push_stranger", vertices=[f"stolen {number}"], groups=number)
            expect(sent, "Commit", "what the stranger sent")
            settle(peers)
            expect(stranger.edit(keys["image"], command="push_stranger", pixels=b"stolen"), "Node", "what the stranger sent")
            settle(peers)
            expect(owner.nodes(), before, f"the nodes after {stranger}")
            stranger.ask("lock", uuids=mine)
            stranger.ask("send_command", number=RIGHT, data={"d": [["uuid", mine], ["owner", "COMMON"]]})
            stranger.ask("send_command", number=4, data=mine[0], owner="client")
            time.sleep(0.5)
            expect(settle(peers), before, f"the nodes after locks and deletions by {stranger}")
        expect(owner.edit(keys["mesh"], vertices=["mine"]), "Commit", "what the owner sent")
        settle(peers)
        for peer in peers:
            expect(peer.node(keys["mesh"])["vertices"], ["mine"], f"vertices at {peer}")
            expect(peer.ask("about")["state"], "STATE_ACTIVE", f"{peer}")
        for transport in wire.TRANSPORTS:
            with Raw(daemon.port, transport) as raw:
                raw.join(transport)
                raw.say(RIGHT, {"uuid": [*mine, keys["thing"], "nothing"], "owner": others[0].name})
                heard = [raw.hear(RIGHT) for _ in range(2)]
                told = {key: one["owner"] for one in heard for key in one["uuid"]}
                expect(told, {**dict.fromkeys(mine, owner.name), keys["thing"]: "COMMON"}, "whose the nodes are")


def locks_go_also_with_the_last_user():
    with Hotset() as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        for version in ("0.9.10", "0.10.3"):
            peer, fresh = crew.hire(version), crew.hire(version)
            if version == "0.9.10":
                peer.lobby(daemon, "alice")
                keys = flows.furnish(peer)
                peer.init()
            else:
                peer.join(daemon, "alice")
            peer.ask("lock", uuids=[keys["mesh"]])
            peer.until_owner(keys["mesh"], "alice")
            peer.leave()
            time.sleep(7)
            fresh.join(daemon, "fresh")
            expect(fresh.owner(keys["mesh"]), "COMMON", "the owner after the last user has left")
            fresh.leave()
            time.sleep(7)


def sessions_may_be_empty():
    for transport, version in (("zmtp", "0.9.10"), ("tcp", "0.10.3")):
        with Hotset() as daemon, Crew(daemon.folder) as crew, Raw(daemon.port if daemon.start() else 0, transport) as raw:
            raw.init("raw", [])
            peer = crew.hire(version).join(daemon, "alice")
            expect(peer.nodes(), {}, "nodes")
            key = peer.add("Mesh", "first")
            expect(raw[DATA].receive()[1], key.encode(), "the first node")
            peer.ask("rm", uuid=key)
            peer.until(lambda _: not peer.nodes(), "empty again")
            again = crew.hire(version).join(daemon, "bob")
            expect(again.nodes(), {}, "nodes")
            again.add("Image", "another")
            settle([peer, again], nodes=1)


def an_abandoned_init_is_nobodys_business():
    """Who announces nodes and vanishes, or never sends them, does not keep others from beginning."""
    for transport, version in (("zmtp", "0.9.10"), ("tcp", "0.10.3")):
        with Hotset(TIMEOUT="2s") as daemon, Crew(daemon.folder) as crew:
            daemon.start()
            peer = crew.hire(version).lobby(daemon, "alice")
            flows.furnish(peer)
            raw = Raw(daemon.port, transport)
            raw.login("raw")
            nodes = [small_node(number) for number in range(3)]
            raw.say(SERVER_SNAPSHOT, {"STATE": "INIT", "SIZE": 3, "NODES": [chunks[1].decode() for chunks in nodes]})
            expect(raw.hear(SERVER_SNAPSHOT)["STATE"], "ACCEPTED", "the first init")
            raw.say(SERVER_SNAPSHOT, {"STATE": "SET", "DATA": nodes[0]})
            peer.ask("init")
            time.sleep(0.3)
            expect(peer.ask("about")["state"], "STATE_LOBBY", "who asks meanwhile is back in the lobby")
            raw.close()
            end = time.monotonic() + 15
            while peer.ask("about")["state"] != "STATE_ACTIVE":
                expect(time.monotonic() < end, True, "can begin within 15 s")
                if peer.ask("about")["state"] == "STATE_LOBBY":
                    peer.ask("init")
                time.sleep(0.2)
            other = crew.hire(version).join(daemon, "bob")
            settle([peer, other], nodes=6)


def an_init_of_a_running_session_is_refused():
    with Hotset() as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        (peer, other), keys = running(crew, daemon, "0.9.10", "0.10.3")
        for transport in wire.TRANSPORTS:
            with Raw(daemon.port, transport) as raw:
                raw.login(transport)
                raw.say(SERVER_SNAPSHOT, {"STATE": "INIT", "SIZE": 1, "NODES": ["00000000-0000-4000-8000-000000000000"]})
                expect(raw.hear(SERVER_SNAPSHOT)["STATE"], "REJECTED", "answer to an init of a running session")
        settle([peer, other], nodes=len(keys))
        peer.check()


def who_does_not_read_costs_little_and_is_told():
    """Megabytes for somebody who takes none of them: the others go on, the daemon does not grow, and he gets a reason."""
    for version, transport in (("0.9.10", "zmtp"), ("0.10.3", "tcp")):
        with Hotset(OPS_PER_SECOND=0) as daemon, Crew(daemon.folder) as crew:
            daemon.start()
            (author, reader, sleeper), keys = running(crew, daemon, version, version, version)
            raw = Raw(daemon.port, transport, buffer=65536)
            raw.join("raw sleeper")
            raw.open(TTL)
            before, before_rss = daemon.status("VmHWM"), daemon.status("VmRSS")
            sleeper.ask("listening", on=False)
            key = keys["image"]
            for number in range(60):
                author.ask("repeat", count=50, uuid=key, size=100_000, timeout=120)
                # The one who reads must keep up, and the one who only sleeps has its helper answer for it.
                keep_alive(raw)
                wanted = author.node(key)["filling"]
                reader.until(lambda _: reader.node(key).get("filling") == wanted, "seeing the newest version", 60)
            grown = (daemon.status("VmHWM") - before) / MIB
            larger = (daemon.status("VmRSS") - before_rss) / MIB
            print(f"  {version}: 300 MB past two sleepers, the daemon's peak grew by {grown:.0f} MiB, it is {larger:.0f} MiB larger")
            expect(grown < 192, True, f"the daemon's memory grew by {grown:.0f} MiB")
            expect(raw[DATA].hangs_up(30), True, "hangs up on who does not read")
            sleeper.ask("listening", on=True)
            print(f"  {version}: told {sleeper.until_gone(timeout=30)!r}")
            author.check()
            raw.close()


def keep_alive(raw):
    """Answers what has come on ttl, without waiting."""
    channel = raw.channels.get(TTL)
    channel.socket.setblocking(False)
    try:
        if channel.socket.recv(1 << 16):
            channel.socket.setblocking(True)
            channel.send([b"PONG"])
    except (BlockingIOError, ConnectionError):
        pass


def who_stops_answering_is_lost():
    """No PONG any more, with open connections: after TIMEOUT the user is gone, and so are his locks."""
    with Hotset(TIMEOUT="2s") as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        (peer,), keys = running(crew, daemon, "0.10.3")
        for transport in wire.TRANSPORTS:
            with Raw(daemon.port, transport) as raw:
                raw.join("quiet")
                raw.open(TTL)
                expect(raw[TTL].receive(), [b"PING"], "the answer to INIT")
                raw.say(RIGHT, {"uuid": [keys["mesh"]], "owner": "quiet"})
                peer.until_owner(keys["mesh"], "quiet")
                peer.until_owner(keys["mesh"], "COMMON", timeout=12)
                peer.until_users("alice", timeout=5)


def late_commits_are_for_nobody():
    """A Commit for a node that is gone reaches nobody: real clients would leave the session."""
    with Hotset() as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        peers, keys = running(crew, daemon, "0.9.10", "0.9.10-pins", "0.9.12", "0.10.3")
        for transport in wire.TRANSPORTS:
            with Raw(daemon.port, transport) as raw:
                raw.join(transport)
                peers[0].ask("rm", uuid=keys["file"]) if keys.get("file") else None
                keys.pop("file", None)
                settle(peers, nodes=len(keys))
                gone = "00000000-0000-4000-8000-000000000000"
                raw[DATA].send([wire.dump(1), gone.encode(), wire.dump([]), wire.renaming("late")])
                raw[DATA].send(small_node())
                settle(peers, nodes=len(keys) + 1)
                keys[f"of {transport}"] = None
        for peer in peers:
            peer.check()


def who_goes_on_editing_is_not_told_his_own_edits():
    """One whole version of a node for somebody whose deepdiff cannot read the change; not one after each of his own edits."""
    with Hotset() as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        (alice, bob), keys = running(crew, daemon, "0.9.12", "0.9.10-pins")
        for key in (keys["mesh"], keys["thing"]):
            bob.edit(key, known="dialect")
        settle([alice, bob])
        for transport in wire.TRANSPORTS:
            with Raw(daemon.port, transport) as raw:
                raw.join(transport)
                # Both insertions and deletions: only deepdiff 8 has words for it.
                alice.edit(keys["mesh"], vertices=[1, 0.5, "new", 1e300, None])
                alice.edit(keys["mesh"], vertices=[0.5, 7, "x", None])
                heard = 0
                for number in range(60):
                    raw[DATA].send([wire.dump(1), keys["mesh"].encode(), wire.dump([]), wire.renaming(f"{transport} {number}")])
                    with contextlib.suppress(TimeoutError):
                        while raw[DATA].receive(0.03):
                            heard += 1
                alice.until(lambda _: alice.node(keys["mesh"])["name"] == f"{transport} 59", "seeing the last edit")
                expect(heard < 10, True, f"{heard} messages to the author of 60 edits")
        settle([alice, bob])


def connections_that_say_nothing_are_closed():
    with Hotset(TIMEOUT="1s") as daemon:
        daemon.start()
        greetings = (b"", b"\xff", wire.GREETING[:32], b"\0\0\0\x10abc", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\xff\xff" + b"x" * 300)
        connections = []
        for port in range(daemon.port, daemon.port + 3):
            for greeting in greetings:
                connections.append(socket.create_connection(("127.0.0.1", port), timeout=15))
                connections[-1].sendall(greeting)
        for connection in connections:
            with connection, contextlib.suppress(ConnectionError):
                while connection.recv(4096):
                    pass
        expect(daemon.get("/readyz")[0], 200, "/readyz")


SCENARIOS = [
    logins_that_are_refused_say_why,
    a_name_is_free_when_its_owner_has_left,
    who_has_not_logged_in_does_nothing,
    only_administrators_kick,
    a_reason_reaches_also_who_is_busy,
    what_others_have_locked_stays_as_it_is,
    locks_go_also_with_the_last_user,
    sessions_may_be_empty,
    an_abandoned_init_is_nobodys_business,
    an_init_of_a_running_session_is_refused,
    who_does_not_read_costs_little_and_is_told,
    who_stops_answering_is_lost,
    late_commits_are_for_nobody,
    who_goes_on_editing_is_not_told_his_own_edits,
    connections_that_say_nothing_are_closed,
]
