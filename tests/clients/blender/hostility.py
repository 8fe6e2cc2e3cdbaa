"""The malicious pickles through the real ports: none is stored, none relayed, and nobody is asked for anything."""

import contextlib
import gzip
import json
import time
import uuid

import malicious
import wire
from crew import Crew, Hotset, settle
from harness import SAMPLES, expect
from manners import running
from wire import COMMAND, COMMIT, DATA, METADATA, NODE, RIGHT, SERVER_SNAPSHOT, SNAPSHOT, Hungup, Raw, dump

MIB = 1 << 20
# What a delta may ask for, in the words of the peer's recorder.
ALLOWED = {f"delta builtins.{name}" for name in "int float bool str bytes list tuple dict set".split()} | {
    "delta persistent <<NoneType>>", "delta deepdiff.helper.Opcode", "delta deepdiff.helper.OrderedDictPlus"}  # fmt: skip
NEW = "11111111-1111-4111-8111-%012d"


def checked_in():
    """Those of the parser's tests."""
    for case in json.loads(gzip.decompress((SAMPLES / "malicious.json.gz").read_bytes())):
        # One of them is only meant for deltas.
        if "as_delta" not in case:
            yield case["what"], bytes.fromhex(case["hex"])


def places(key, known, bad):
    """Wherever a pickle may stand: (channel, chunks)."""
    name = key.encode()
    good = dump({"type_id": "Mesh", "uuid": key})
    return {
        "data of a Node": (DATA, [dump(NODE), name, b"COMMON", dump([]), bad]),
        "dependencies of a Node": (DATA, [dump(NODE), name, b"COMMON", bad, good]),
        "number of a Node": (DATA, [bad, name, b"COMMON", dump([]), good]),
        "data of a known Node": (DATA, [dump(NODE), known.encode(), b"COMMON", dump([]), bad]),
        "a Commit": (DATA, [dump(COMMIT), known.encode(), dump([]), bad]),
        "dependencies of a Commit": (DATA, [dump(COMMIT), known.encode(), bad, wire.renaming("bad")]),
        "metadata": (COMMAND, [dump(METADATA), b"mallory", bad]),
        "a Right": (COMMAND, [dump(RIGHT), b"mallory", bad]),
        "a Delete": (COMMAND, [dump(4), b"client", bad]),
        "a Snapshot": (COMMAND, [dump(SNAPSHOT), b"mallory", bad]),
        "a node of an init": (COMMAND, [dump(SERVER_SNAPSHOT), b"server",
                                        dump({"STATE": "SET", "DATA": [dump(NODE), name, b"COMMON", dump([]), bad]})]),
        "a Kick": (COMMAND, [dump(11), b"mallory", bad]),
        "an Auth": (COMMAND, [dump(9), b"mallory", bad]),
        "a command's number": (COMMAND, [bad, b"mallory", dump({})]),
    }  # fmt: skip


# One that breaks every rule in each place, and each of the corpus where it does most harm.
EVERYWHERE = ("data of a Node", "a Commit", "metadata")


def among_good(key, inner):
    """The data of a node in which nothing is wrong but, perhaps, one value."""
    text = malicious.text
    head = malicious.PROTO + b"}" + text("type_id") + text("Mesh") + b"s" + text("name") + text("n") + b"s" + text("uuid") + text(key) + b"s"
    return head + text("x") + inner[2:-1] + b"s."


def attacks():
    """(what, place, pickle or a function that makes it for a node's key)."""
    cases = list(malicious.corpus())
    for name, bad in cases:
        for place in EVERYWHERE:
            yield name, place, bad
    for number, (name, bad) in enumerate(checked_in()):
        cases.append((name, bad))
        yield name, EVERYWHERE[number % len(EVERYWHERE)], bad
    for name, bad in cases:
        if bad.startswith(malicious.PROTO) and bad.endswith(b"."):
            yield f"{name}, in a dictionary", "data of a Node", lambda key, bad=bad: among_good(key, bad)
    for name, bad in [case for case in cases if case[0].endswith(("os.system", "no STOP"))][:8]:
        for place in places("", "", b""):
            yield name, place, bad
    for name, bad in malicious.of_deltas():
        for place in places("", "", b""):
            if place != "a Commit":
                yield name, place, bad
    for name, bad in malicious.misuses_of_deltas():
        for place in ("a Commit", "data of a Node"):
            yield name, place, bad


class Scene:
    """A session with recording witnesses, and raw ones that read everything that is relayed."""

    def __init__(self, daemon, crew):
        self.daemon = daemon
        self.peers, self.keys = running(crew, daemon, "0.9.10", "0.9.10-pins", "0.10.3")
        for peer in self.peers:
            peer.ask("record")
        self.raws = [Raw(daemon.port, transport) for transport in wire.TRANSPORTS]
        for number, raw in enumerate(self.raws):
            raw.join(f"witness {number}")
            raw.open(wire.TTL)
        self.before = settle(self.peers)
        self.peak = daemon.status("VmHWM")

    def expect_unharmed(self, what):
        for raw in self.raws:
            try:
                raise AssertionError(f"{what}: relayed {raw[DATA].receive(0.3)}")
            except TimeoutError:
                pass
        expect(self.daemon.get("/readyz")[0], 200, "/readyz")
        expect(settle(self.peers), self.before, f"the nodes after {what}")
        for peer in self.peers:
            about = peer.ask("about")
            expect(set(about["asked"]) <= ALLOWED, True, f"{peer} was asked for {set(about['asked']) - ALLOWED}")
            expect(about["state"], "STATE_ACTIVE", f"{peer} after {what}")
            peer.check()
        with Raw(self.daemon.port, "tcp") as raw:
            nodes = raw.join("fresh")
            expect(set(nodes), set(self.before), "the nodes of somebody new")
        grown = (self.daemon.status("VmHWM") - self.peak) / MIB
        expect(grown < 192, True, f"the daemon's peak grew by {grown:.0f} MiB")
        return grown

    def expect_that_good_ones_pass(self):
        """The same message with nothing wrong in it is stored and relayed: it is the pickle that is refused above."""
        key = NEW % 999_999
        with Raw(self.daemon.port, "tcp") as raw:
            raw.join("a good one")
            raw[DATA].send([dump(NODE), key.encode(), b"COMMON", dump([]), among_good(key, dump([1, "good"]))])
            for peer in self.peers:
                peer.until(lambda _: (peer.node(key) or {}).get("x") == [1, "good"], "seeing a good node")

    def answer_pings(self):
        """The witnesses stay alive while the attacks go on."""
        for raw in self.raws:
            for role in (wire.TTL, COMMAND):
                try:
                    while True:
                        raw[role].receive(0.0005)
                        if role == wire.TTL:
                            raw[role].send([b"PONG"])
                except TimeoutError:
                    pass


def attack(daemon, transport, known, logged_in):
    """All of it, one connection each; returns how many there were, and calls back between them."""
    for number, (what, place, bad) in enumerate(attacks()):
        with Raw(daemon.port, transport) as raw:
            if logged_in:
                raw.login(f"mallory {transport} {number}")
            key = NEW % number
            role, chunks = places(key, known, bad(key) if callable(bad) else bad)[place]
            try:
                raw[role].send(chunks)
                if number % 50 == 0:
                    raw[role].receive(0.05)
            except (Hungup, ConnectionError, TimeoutError):
                pass
        yield what


def no_pickle_of_a_stranger_does_anything():
    attack_everything(logged_in=False)


def no_pickle_of_a_member_does_anything():
    attack_everything(logged_in=True)


def attack_everything(logged_in):
    with Hotset(TIMEOUT="5s", OPS_PER_SECOND=0, MAX_MEMBERS=10_000, MAX_CONNECTIONS_PER_IP=10_000) as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        scene = Scene(daemon, crew)
        count, begin = 0, time.monotonic()
        for transport in wire.TRANSPORTS:
            for _ in attack(daemon, transport, scene.keys["mesh"], logged_in):
                count += 1
                if count % 20 == 0:
                    scene.answer_pings()
            scene.answer_pings()
            grown = scene.expect_unharmed(f"all of it by {transport}")
        if logged_in:
            scene.expect_that_good_ones_pass()
        print(f"  {count} attacks in {time.monotonic() - begin:.0f} s; the daemon's peak grew by {grown:.0f} MiB")


def three_violations_end_a_connection():
    with Hotset() as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        (peer,), keys = running(crew, daemon, "0.10.3")
        bad = next(iter(malicious.importers("os", "system")))[1]
        for transport in wire.TRANSPORTS:
            with Raw(daemon.port, transport) as raw:
                raw.join(f"mallory {transport}")
                for number in range(3):
                    expect(raw[COMMAND].hangs_up(0.2), False, f"hangs up after {number} violations")
                    raw[DATA].send([dump(NODE), (NEW % number).encode(), b"COMMON", dump([]), bad])
                expect(raw[COMMAND].hangs_up(5), True, "hangs up after three violations")
                peer.until_users("alice", timeout=10)
        log = daemon.log()
        for word in ("os", "system"):
            expect(word in log, True, f"{word} in the log: {log[-2000:]}")


def who_asks_for_signs_of_life_and_reads_none_fills_nothing():
    with Hotset(SERVER_PASSWORD="secret", TIMEOUT="6s") as daemon:
        daemon.start()
        before = daemon.status("VmHWM")
        greedy = [wire.Channel(daemon.port, "tcp", wire.TTL, uuid.uuid4().bytes, buffer=2048) for _ in range(2)]
        block, sent, end = wire.frame("tcp", [b"INIT"]) * 5_000, 0, time.monotonic() + 5
        with contextlib.suppress(OSError):
            while time.monotonic() < end:
                for channel in greedy:
                    channel.raw(block)
                    sent += len(block)
        grown = (daemon.status("VmHWM") - before) / MIB
        print(f"  {sent / MIB:.0f} MiB of INIT; the daemon's peak grew by {grown:.0f} MiB")
        expect(sent > MIB, True, f"{sent} bytes were sent")
        expect(grown < 32, True, f"the daemon's peak grew by {grown:.0f} MiB")


def a_wrong_password_sends_nobody_away():
    with Hotset(SERVER_PASSWORD="secret") as daemon:
        daemon.start()
        alice = Raw(daemon.port, "zmtp").init("alice", [wire.small_node()], password="secret")
        for role in (COMMAND, DATA):
            alice[role].close()
        time.sleep(0.3)
        answer = Raw(daemon.port, "tcp", roles=(COMMAND,)).auth("alice", password="wrong")
        expect(answer, "FAILED: wrong server password", "the stranger's answer")
        for role in (COMMAND, DATA):
            alice.open(role)
        expect("alice" in alice.hear(wire.USERS), True, "alice has come back and is still there")


SCENARIOS = [
    who_asks_for_signs_of_life_and_reads_none_fills_nothing,
    a_wrong_password_sends_nobody_away,
    no_pickle_of_a_stranger_does_anything,
    no_pickle_of_a_member_does_anything,
    three_violations_end_a_connection,
]
