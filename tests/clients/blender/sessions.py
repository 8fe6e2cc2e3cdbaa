"""Further sessions at ports of their own: nothing of one is seen in another, and each survives what the first one does."""

import json
import time

import flows
from board import Board, kept, texts, titles, until_kept
from crew import VERSIONS, Crew, Hotset, for_each, settle
from harness import expect, free_ports
from wire import COMMAND, Channel, Hungup, Raw

PEOPLE = ("alice", "bob")


class Door:
    """Where one session of a daemon is, for peers that connect."""

    def __init__(self, daemon, port):
        self.daemon, self.port = daemon, port


def two_sessions(**settings):
    """A daemon, not started, and the doors of its sessions `default` and `film`."""
    daemon = Hotset(**settings)
    taken = {daemon.http, *range(daemon.port, daemon.port + 3)}
    while taken & {*(ports := free_ports(3))}:
        pass
    daemon.settings["BLENDER_SESSIONS"] = f"film={ports[0]}"
    return daemon, {"default": Door(daemon, daemon.port), "film": Door(daemon, ports[0])}


def sessions_of(daemon):
    return [session["name"] for session in json.loads(daemon.run("status", "--json").stdout)["sessions"]]


def exported(daemon, name):
    done = daemon.run("export", "--session", name, "--json")
    expect(done.returncode, 0, f"hotset export: {done.stderr}")
    return {node["id"] for node in json.loads(done.stdout)["nodes"]}


def sessions_with_ports_of_their_own_know_nothing_of_each_other():
    """The same names in two sessions: scenes, edits, locks, users, tasks and chat stay apart, also over kill -9."""
    versions = list(VERSIONS)
    others = dict(zip(versions, versions[1:] + versions[:1]))

    def one(first):
        daemon, doors = two_sessions()
        with daemon, Crew(daemon.folder) as crew:
            daemon.start()
            daemon.wait_log("Port of session film")
            expect(sessions_of(daemon), ["default"], "sessions before anybody came")
            alices = {name: crew.hire(first) for name in doors}
            bobs = {name: crew.hire(others[first]) for name in doors}
            scenes = {name: begin(door, alices[name], bobs[name]) for name, door in doors.items()}
            expect(sessions_of(daemon), ["default", "film"], "sessions")
            work(alices, bobs, scenes)
            expect(daemon.metric("hotset_blender_clients"), 4, "clients of both doors")
            before = apart(daemon, alices, bobs, scenes)
            daemon.kill()
            gone = [peer for peer in (*alices.values(), *bobs.values()) if not peer.version.startswith("0.9.10")]
            for peer in gone:
                peer.until_gone("Server lost")
            daemon.start()
            for name, door in doors.items():
                for peer in (alices[name], bobs[name]):
                    if peer in gone:
                        peer.join(door, peer.name)
                expect(set(settle([alices[name], bobs[name]])), set(before[name]), f"the nodes of {name} after the kill")
            work(alices, bobs, scenes)
            apart(daemon, alices, bobs, scenes)
            for peer in (*alices.values(), *bobs.values()):
                peer.check()

    for_each(versions, one)


def begin(door, alice, bob):
    """Its lobby is its own, whatever there is elsewhere; returns the scene's keys."""
    alice.lobby(door, PEOPLE[0])
    bob.lobby(door, PEOPLE[1])
    keys = flows.furnish(alice)
    alice.init()
    bob.until_state("STATE_ACTIVE")
    settle([alice, bob], nodes=len(keys))
    return keys


def work(alices, bobs, scenes):
    """Everybody edits, in both sessions at once; one of each locks, adds a task and says something."""
    for number in range(10):
        for name, keys in scenes.items():
            alices[name].edit(keys["thing"], place=f"{name} {number} {time.time()}")
            bobs[name].edit(keys["scene"], frame=number, text=f"{name} {time.time()}")
    for name, keys in scenes.items():
        keys[f"new {time.time()}"] = bobs[name].add("Object", f"only in {name}", {"of": name})
        alices[name].ask("lock", uuids=[keys["mesh"]])
        bobs[name].until_owner(keys["mesh"], "alice")
        if not titles(kept(alices[name])[0]):
            Board(alices[name]).add(f"task of {name}")
            Board(bobs[name]).say(f"word of {name}")


def apart(daemon, alices, bobs, scenes):
    """Each session has what was done in it and nothing else; returns name -> nodes."""
    found = {}
    for name, keys in scenes.items():
        alice, bob = alices[name], bobs[name]
        found[name] = settle([alice, bob], nodes=len(keys))
        expect(set(found[name]), set(keys.values()), f"the nodes of {name}")
        expect(exported(daemon, name), set(keys.values()), f"the nodes in the export of {name}")
        expect(alice.node(keys["thing"])["place"].split()[0], name, "who has edited")
        expect(bob.node(keys["scene"])["text"].split()[0], name, "who has edited")
        for peer in (alice, bob):
            peer.until_users(*PEOPLE)
            tasks, chat = until_kept(peer, lambda tasks, chat: tasks and chat, "task and word")
            expect((titles(tasks), texts(chat)), ([f"task of {name}"], [f"word of {name}"]), f"the board of {name}")
    # A lock in one session does not come from, nor go with, one in the other.
    alices["film"].ask("unlock", uuids=[scenes["film"]["mesh"]])
    bobs["film"].until_owner(scenes["film"]["mesh"], "COMMON")
    time.sleep(0.3)
    expect(bobs["default"].owner(scenes["default"]["mesh"]), "alice", "who owns what was locked in the other session")
    for name in found:
        found[name] = set(found[name])
    return found


def a_further_session_is_made_by_whoever_may_log_in_and_by_nobody_else():
    daemon, doors = two_sessions(SERVER_PASSWORD="open sesame", MAX_SESSIONS=1)
    with daemon, Crew(daemon.folder) as crew:
        daemon.start()
        for version, says in VERSIONS.items():
            peer = crew.hire(version)
            expect(peer.ask("probe", port=doors["film"].port)["private"], True, "private")
            peer.connect(doors["film"], "mallory", password="guess")
            peer.until_gone("FAILED: wrong server password")
            peer.connect(doors["film"], "mallory", password="open sesame", version="0.8.99")
            peer.until_gone("FAILED: wrong client version")
            peer.connect(doors["film"], "mallory", password="open sesame", version=says)
            peer.until_gone("FAILED: there are 1 sessions already, which is the limit (MAX_SESSIONS)")
        expect(sessions_of(daemon), ["default"], "sessions that nobody could make")
        daemon.stop()
        daemon.settings["MAX_SESSIONS"] = 2
        daemon.start()
        alice = crew.hire("0.10.3").lobby(doors["film"], "alice", password="open sesame")
        expect(sessions_of(daemon), ["default", "film"], "sessions")
        keys = flows.furnish(alice)
        alice.init()
        expect(exported(daemon, "film"), set(keys.values()), "what the session has been given")
        done = daemon.run("sessions", "archive", "film")
        expect(done.returncode, 0, f"hotset sessions archive: {done.stdout}{done.stderr}")
        alice.until_gone("session archived: connect again")
        alice.lobby(doors["film"], "alice", password="open sesame")
        expect(exported(daemon, "film"), set(), "what is left of an archived session")


def all_doors_share_the_places_for_connections():
    daemon, doors = two_sessions(MAX_CONNECTIONS=9, MAX_CONNECTIONS_PER_IP=9)
    with daemon:
        daemon.start()
        here = [Raw(doors["default"].port, "tcp").login(f"user {number}") for number in range(2)]
        there = [Raw(doors["film"].port, "zmtp").login(f"user {number}") for number in range(2)]
        last = Channel(doors["film"].port, "tcp", COMMAND, b"the ninth client")
        expect(last.hangs_up(timeout=0.3), False, "whether the ninth connection is turned away")
        for name, door in doors.items():
            try:
                late = Channel(door.port, "zmtp", COMMAND, b"one too many 123")
                turned_away = late.hangs_up(timeout=2)
            except (Hungup, ConnectionError):
                turned_away = True
            expect(turned_away, True, f"whether the tenth connection is turned away at {name}")
        for raw in (*here, *there, last):
            raw.close()


SCENARIOS = [
    sessions_with_ports_of_their_own_know_nothing_of_each_other,
    a_further_session_is_made_by_whoever_may_log_in_and_by_nobody_else,
    all_doors_share_the_places_for_connections,
]
