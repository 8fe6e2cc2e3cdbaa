"""What is there after a crash, a restore, a full disk: everything that anybody has seen, and nobody who writes on top of it."""

import contextlib
import json
import random
import shutil
import subprocess
import time

import judge
from board import Board, kept, texts, until_kept
from crew import VERSIONS, Crew, Hotset, PeerError, for_each, settle
from harness import LONG, expect
from manners import running

NODES = 200


def two_hundred(peer):
    """Begins a session with 200 nodes that use each other; returns their keys."""
    keys = []
    for number in range(NODES):
        kind = ("Mesh", "Object", "Material", "Image", "Scene")[number % 5]
        uses = keys[-1:] if number % 3 else keys[:2]
        keys.append(peer.add(kind, f"node {number}", {"list": list(range(number % 9)), "bytes": bytes([number]) * number}, uses, push=False))
    peer.init()
    return keys


def all_is_there_after_everybody_has_left_and_a_kill():
    """200 nodes, edits, locks, a task, a message; all leave, kill -9, restart: a newcomer of another version finds it all."""
    versions = list(VERSIONS)
    newcomers = dict(zip(versions, versions[1:] + versions[:1]))

    def one(first):
        newcomer = newcomers[first]
        with Hotset() as daemon, Crew(daemon.folder) as crew:
            daemon.start()
            alice, bob = crew.hire(first).lobby(daemon, "alice"), crew.hire(newcomer)
            keys = two_hundred(alice)
            bob.join(daemon, "bob")
            for number, key in enumerate(keys[:150]):
                editor = (alice, bob)[number % 2]
                editor.edit(key, list=[number, "edited", {"by": editor.name}], more=(1, None, b"\0"))
            for number in range(100):
                alice.edit(keys[0], count=number, list=[*range(number)][-9:])  # a long chain of deltas
            new = bob.add("Object", "new", {"x": 1}, [keys[4]])
            bob.ask("rm", uuid=keys.pop(7))
            alice.ask("lock", uuids=[keys[0], new])
            bob.until_owner(keys[0], "alice")
            Board(alice).add("paint it")
            Board(bob).say("hello everybody")
            before = settle([alice, bob], nodes=NODES)
            until_kept(bob, lambda tasks, chat: tasks and chat, "task and message")
            was = kept(bob)
            for node in before.values():
                node["owner"] = "COMMON"
            alice.leave()
            bob.leave()
            time.sleep(0.2)
            daemon.kill()
            daemon.start()
            carol = crew.hire(newcomer).connect(daemon, "carol")
            carol.until(lambda about: about["state"] == "STATE_ACTIVE", "active without an init", 20)
            states = [event["state"] for event in carol.ask("about")["events"] if event["event"] == "state"]
            expect("STATE_SRV_SYNC" in states, False, f"an init: {states}")
            # Who was there may be expected back for some seconds, with his locks.
            for key in (keys[0], new):
                carol.until_owner(key, "COMMON", timeout=20)
            expect(settle([carol], nodes=NODES), before, "the nodes")
            expect(until_kept(carol, lambda tasks, chat: tasks and chat, "task and message"), was, "tasks and chat")
            expect(carol.edit(keys[0], list=["after"]), "Commit", "an edit after the restart")
            dave = crew.hire(first).join(daemon, "dave")
            settle([carol, dave], nodes=NODES)
            carol.check()

    for_each(versions, one)


def zeromq_clients_do_not_notice_a_restart():
    """kill -9 and a restart, several times, up to four seconds apart: 0.9.10 stays, keeps its locks, and goes on as before."""
    with Hotset() as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        (alice, bob, carol), keys = running(crew, daemon, "0.9.10", "0.9.10-pins", "0.10.3")
        alice.ask("lock", uuids=[keys["mesh"]])
        bob.until_owner(keys["mesh"], "alice")
        alice.metadata(color=(1, 0, 0, 1))
        bob.until(lambda about: "color" in bob.unpack_users(about)["alice"]["metadata"], "seeing the colour")
        time.sleep(1.5)
        seen = {peer: len(peer.ask("about")["events"]) for peer in (alice, bob)}
        for number, pause in enumerate((0, 2, 3.5)):
            daemon.kill()
            begin = time.monotonic()
            carol.until_gone("Server lost")
            # What is done meanwhile waits in the client's own queue.
            time.sleep(min(pause, 0.5))
            bob.edit(keys["thing"], meanwhile=number)
            time.sleep(max(0.0, pause - 0.5))
            daemon.start()
            down = time.monotonic() - begin
            alice.until(lambda _: alice.node(keys["thing"]).get("meanwhile") == number, "receiving what was done meanwhile")
            alice.edit(keys["mesh"], vertices=["after", number])
            bob.edit(keys["material"], after=number)
            carol.join(daemon, "carol")
            carol.edit(keys["scene"], frame=1000 + number)
            settle([alice, bob, carol], nodes=len(keys))
            expect(carol.owner(keys["mesh"]), "alice", "who owns what alice has locked")
            bob.metadata(frame_current=number)
            for peer in (alice, carol):
                peer.until(lambda about: peer.unpack_users(about)["bob"]["metadata"].get("frame_current") == number, "seeing metadata")
            expect(carol.users()["alice"]["metadata"].get("color"), (1, 0, 0, 1), "metadata from before")
            time.sleep(7)
            for peer in (alice, bob):
                expect(peer.ask("about", events_from=seen[peer])["events"], [], f"what happened to {peer} in a restart of {down:.1f} s")
                peer.check()
            carol.until_users("alice", "bob", "carol")
        # Gone is who has not come back.
        daemon.kill()
        alice.kill()
        daemon.start()
        bob.until_owner(keys["mesh"], "COMMON", timeout=30)
        bob.until(lambda about: "alice" not in bob.unpack_users(about), "seeing that alice is gone", 30)


def what_a_surviving_client_had_under_way_is_not_held_against_it():
    """A kill in the middle of edits: some that the client has sent never arrived. In the end all hold the same."""
    with Hotset() as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        (alice, bob), keys = running(crew, daemon, "0.9.10", "0.9.10-pins")
        for number in range(6):
            for step in range(40):
                for peer, key in ((alice, keys["mesh"]), (bob, keys["thing"])):
                    old = peer.node(key).get("list", [])
                    with contextlib.suppress(PeerError):  # it may have been disconnected
                        peer.edit(key, list=[*old, f"{number} {step}"][-12:], count=step)
                if step == 10 + number:
                    daemon.kill()
                    daemon.spawn()
            daemon.wait_ready()
            time.sleep(1)
            for peer, key in ((alice, keys["mesh"]), (bob, keys["thing"])):
                with contextlib.suppress(PeerError):
                    peer.edit(key, done=number)
            time.sleep(0.5)
            for peer in (alice, bob):
                if peer.ask("about")["state"] != "STATE_ACTIVE":
                    print(f"  {peer} was disconnected: {peer.until_gone()}")
                    peer.join(daemon, peer.name)
            fresh = crew.hire("0.10.3").join(daemon, f"fresh {number}")
            settle([fresh, alice, bob], nodes=len(keys))
            fresh.kill()


# --- restores ----------------------------------------------------------------------------------------------------


def by_copy(daemon, backup):
    """The guide's way: stop, copy, start."""
    daemon.stop()
    shutil.copy(daemon.data / "backups" / backup, daemon.data / "session_snapshot.bin")


def by_copy_after_a_crash(daemon, backup):
    daemon.kill()
    shutil.copy(daemon.data / "backups" / backup, daemon.data / "session_snapshot.bin")


def by_copy_while_running(daemon, backup):
    shutil.copy(daemon.data / "backups" / backup, daemon.data / "session_snapshot.bin")
    time.sleep(0.5)
    daemon.kill()


def by_command(daemon, backup):
    daemon.kill()
    done = daemon.run("restore", backup)
    expect(done.returncode, 0, f"hotset restore: {done.stdout}{done.stderr}")


def restores_disconnect_everybody():
    def one(way):
        with Hotset(SAVE_INTERVAL=3600, MAX_BACKUPS=100) as daemon, Crew(daemon.folder) as crew:
            daemon.start()
            peers, keys = running(crew, daemon, *VERSIONS)
            peers[0].edit(keys["mesh"], vertices=["as it was"])
            wanted = settle(peers)
            for _ in range(2):
                expect(daemon.run("save").returncode, 0, "hotset save")
                peers[0].edit(keys["mesh"], vertices=["newer", time.time()])
                settle(peers)
            backup = sorted(path.name for path in (daemon.data / "backups").glob("*.bin"))[0]
            for number, peer in enumerate(peers):
                peer.ask("load", log=str(daemon.folder / f"{way.__name__}-{number}.log"), rate=50, seed=number)
            time.sleep(1)
            way(daemon, backup)
            daemon.start()
            for peer in peers:
                reason = peer.until_gone(timeout=20)
                told = "session restored to" in reason and "connect again" in reason
                # Only 0.9.10 is there to be told, if nobody has told it before; to the others the connection just ended.
                expect(told or VERSIONS[peer.version] != "0.9.10" or way is by_copy, True, f"{way.__name__}: {peer} was told {reason!r}")
            time.sleep(1)
            fresh = crew.hire("0.10.3").join(daemon, "fresh")
            expect(settle([fresh], nodes=len(wanted)), wanted, f"the nodes after {way.__name__}")
            for peer in peers:
                peer.ask("load_end")
                peer.join(daemon, peer.name)
            peers[1].edit(keys["mesh"], vertices=["after the restore"])
            settle([fresh, *peers], nodes=len(wanted))

    for_each((by_copy, by_copy_after_a_crash, by_copy_while_running, by_command), one)


def a_restore_while_it_runs_disconnects_everybody():
    """Clients of all versions edit while a backup is restored under them, three times: all are told, none writes on top."""
    with Hotset(SAVE_INTERVAL=3600, MAX_BACKUPS=100) as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        peers, keys = running(crew, daemon, *VERSIONS)
        peers[0].edit(keys["mesh"], vertices=["as it was"])
        Board(peers[0]).add("paint it")
        until_kept(peers[-1], lambda tasks, _: tasks, "a task")
        wanted = settle(peers)
        done = daemon.run("backups", "create", "--json")
        backup = json.loads(done.stdout)["backup"]
        waiting = crew.hire("0.9.12").connect(daemon, "in between")
        for round_ in range(3):
            for number, peer in enumerate(peers):
                log = daemon.folder / f"live-restore-{round_}-{number}.log"
                peer.ask("load", log=str(log), rate=50, seed=10 * round_ + number)
                peer.ask("lock", uuids=[sorted(keys.values())[number]])
            time.sleep(1)
            done = daemon.run("restore", backup, "--json")
            expect(done.returncode, 0, f"hotset restore: {done.stdout}{done.stderr}")
            answer = json.loads(done.stdout)
            for peer in [*peers, waiting]:
                reason = peer.until_gone("session restored to the snapshot of", "connect again", timeout=20)
                expect(answer["time"] in reason, True, f"{peer} was told {reason!r}")
            # Nobody comes back by himself, also not those whose lines do.
            fresh = crew.hire("0.10.3").join(daemon, "fresh")
            time.sleep(2)
            expect(settle([fresh], nodes=len(wanted)), wanted, f"the nodes after restore {round_}")
            fresh.until_users("fresh")
            expect({fresh.owner(key) for key in keys.values()}, {"COMMON"}, "locks")
            for peer in peers:
                peer.ask("load_end")
                peer.join(daemon, peer.name)
            waiting.join(daemon, "in between")
            expect(settle([fresh, *peers, waiting], nodes=len(wanted)), wanted, f"what everybody has after restore {round_}")
            peers[round_].edit(keys["mesh"], vertices=["after the restore", round_])
            settle([fresh, *peers, waiting], nodes=len(wanted))
            fresh.leave()
        daemon.kill()
        daemon.start()
        newcomer = crew.hire("0.10.3").join(daemon, "newcomer")
        seen = settle([newcomer], nodes=len(wanted))
        expect({key for key in wanted if seen[key] != wanted[key]}, {keys["mesh"]}, "what differs from the backup after a kill")


# --- the end of a project ----------------------------------------------------------------------------------------


def the_end_of_a_project_sends_everybody_away_and_the_next_one_begins():
    with Hotset(SAVE_INTERVAL=3600) as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        peers, keys = running(crew, daemon, *VERSIONS)
        before = settle(peers)
        waiting = crew.hire("0.9.10")
        for number, peer in enumerate(peers):
            peer.ask("load", log=str(daemon.folder / f"archive-{number}.log"), rate=50, seed=number)
        time.sleep(1)
        done = daemon.run("sessions", "archive")
        expect(done.returncode, 0, f"hotset sessions archive: {done.stdout}{done.stderr}")
        for peer in peers:
            peer.until_gone("session archived: connect again", timeout=20)
            peer.ask("load_end")
        # Nothing of the old project has found its way into the new one, which is in its lobby.
        waiting.lobby(daemon, "waiting")
        waiting.add("Scene", "new", push=False)
        waiting.init()
        peers[-1].join(daemon, "again")
        peers[-1].add("Object", "new, too")
        expect(set(settle([waiting, peers[-1]], nodes=2)) & set(before), set(), "old nodes in the new project")
        for peer in (waiting, peers[-1]):
            peer.leave()
        daemon.stop()
        archive = next((daemon.data / "backups" / "kept").glob("archived_*.bin")).name
        done = daemon.run("restore", archive)
        expect(done.returncode, 0, f"hotset restore: {done.stdout}{done.stderr}")
        daemon.start()
        fresh = crew.hire("0.9.12").join(daemon, "fresh")
        expect(set(settle([fresh], nodes=len(before))), set(before), "the nodes of the archive")
        expect(keys["mesh"] in settle([fresh]), True, "the mesh is among them")


# --- a full disk -------------------------------------------------------------------------------------------------


def a_full_disk_is_told_and_loses_nothing():
    with Hotset(SAVE_INTERVAL=5) as daemon:
        daemon.data.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", daemon.data], capture_output=True, check=False)
        if mounted.returncode:
            print(f"skip a full disk: a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
            return
        try:
            with Crew(daemon.folder) as crew:
                fill_and_free(daemon, crew)
        finally:
            if daemon.process and daemon.process.poll() is None:
                daemon.kill()
            subprocess.run(["umount", "-l", daemon.data], check=True)


def fill_and_free(daemon, crew):
    daemon.start()
    peers, keys = running(crew, daemon, "0.9.10", "0.9.12", "0.10.3")
    logs = {}
    for number, peer in enumerate(peers):
        own = [peer.add("Mesh", f"{number} {n}") for n in range(5)]
        logs[peer] = judge.Diary(peer, daemon.folder / f"load-{number}.log", own)
    settle(peers, nodes=len(keys) + 15)
    for diary in logs.values():
        diary.begin(rate=30)
    time.sleep(2)
    filler = daemon.data / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 65536)
    alice, bob, carol = peers
    # The journal has some room of its own, which has to be used up, too.
    end = time.monotonic() + 60
    while not (said := [text for text in texts(kept(bob)[1]) if "SAVED" in text]):
        expect(time.monotonic() < end, True, "a line about it in the chat within 60 s")
        carol.ask("repeat", count=1, uuid=keys["image"], size=500_000)
        time.sleep(0.1)
    begin = time.monotonic()
    print(f"  the chat says {said}")
    expect(daemon.get("/readyz")[0], 503, "/readyz")
    alice.ask("lock", uuids=[keys["mesh"]])
    time.sleep(1)
    for peer in peers:
        expect(peer.owner(keys["mesh"]), "COMMON", f"a lock on a full disk, at {peer}")
    # Everybody goes on, and nobody's own work is taken back on his screen.
    for diary in logs.values():
        diary.expect_own_work()
    for peer in peers:
        reason = peer.until_gone("server disk full", timeout=60)
    print(f"  after {time.monotonic() - begin:.0f} s: {reason!r}")
    expect("save your .blend now" in reason, True, f"reason {reason!r}")
    for diary in logs.values():
        diary.end()
    filler.unlink()
    daemon.wait_ready(30)
    for peer in peers:
        peer.join(daemon, peer.name)
    settle(peers, nodes=len(keys) + 15)
    judge.expect_nothing_lost(logs.values(), peers[0])
    daemon.kill()
    daemon.start()
    fresh = crew.hire("0.9.12").join(daemon, "fresh")
    judge.expect_nothing_lost(logs.values(), fresh)


# --- loss --------------------------------------------------------------------------------------------------------


def what_anybody_has_seen_survives_kills():
    """Clients of all versions edit while the daemon is killed at random moments; whatever another has seen is there."""
    kills, seed = 200 if LONG else 20, random.randrange(1 << 32)
    chance = random.Random(seed)
    print(f"  seed {seed}: {kills} kills")
    with Hotset(SAVE_INTERVAL=2, MAX_BACKUPS=3, OPS_PER_SECOND=0) as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        peers, keys = running(crew, daemon, *VERSIONS, "0.10.3")
        diaries = []
        for number, peer in enumerate(peers):
            own = [peer.add("Mesh" if n % 3 else "Image", f"{number} {n}") for n in range(20)]
            diaries.append(judge.Diary(peer, daemon.folder / f"load-{number}.log", own))
        settle(peers, nodes=len(keys) + 20 * len(peers))
        rejoins = 0
        for diary in diaries:
            diary.begin(rate=100)
        for _ in range(kills):
            time.sleep(chance.uniform(0.2, 3))
            daemon.kill()
            time.sleep(chance.choice([0, 0, 0.3, 1]))
            daemon.start()
            for diary in diaries:
                rejoins += diary.come_back(daemon)
        time.sleep(1)
        for diary in diaries:
            diary.end()
        time.sleep(1)
        for diary in diaries:
            rejoins += diary.come_back(daemon)
        fresh = crew.hire("0.9.12").join(daemon, "fresh", timeout=5000)
        found = judge.expect_nothing_lost(diaries, fresh)
        settle([fresh, *peers], timeout=40)
        print(f"  {kills} kills, {rejoins} joins again, {found['sent']} edits sent, {found['seen']} seen by others, lost 0")
        judge.expect_that_the_judge_bites(diaries, fresh)


SCENARIOS = [
    all_is_there_after_everybody_has_left_and_a_kill, zeromq_clients_do_not_notice_a_restart,
    what_a_surviving_client_had_under_way_is_not_held_against_it, restores_disconnect_everybody,
    a_restore_while_it_runs_disconnects_everybody, the_end_of_a_project_sends_everybody_away_and_the_next_one_begins, a_full_disk_is_told_and_loses_nothing, what_anybody_has_seen_survives_kills,
]  # fmt: skip
