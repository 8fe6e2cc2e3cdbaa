"""Tasks and chat, which the fork of the add-on keeps in each user's own metadata, and what the server makes of them."""

import json
import time

from board import KEEPER, Board, kept, texts, titles, until_kept
from crew import VERSIONS, Crew, Hotset, for_each, settle
from harness import differences, expect
from hotset_client import Client
from manners import running


def tasks_and_chat_outlive_their_author():
    def one(version):
        with Hotset(TIMEOUT="2s") as daemon, Crew(daemon.folder) as crew:
            daemon.start()
            (alice, bob), _ = running(crew, daemon, version, "0.10.3")
            board = Board(alice)
            board.add("T1", description="a table", assigned_to="bob", object_name="Cube", status="in_progress")
            board.say("hello")
            tasks, chat = until_kept(bob, lambda tasks, chat: tasks and chat, "task and message")
            ((_, task), (_, wanted)) = *tasks.items(), *board.tasks.items()
            expect(abs(task["created_at"] - wanted["created_at"]) < 0.01, True, "when the task was created")
            expect(task, {**wanted, "created_at": task["created_at"]}, "the task, every field of it")
            expect(chat, board.chat, "the message, every field of it")
            alice.leave()
            bob.until_users("bob")
            carol = crew.hire(version).join(daemon, "carol")
            expect(until_kept(carol, lambda tasks, chat: tasks and chat, "both"), (tasks, chat), "what somebody new sees")
            loaded = Board(carol).load()
            expect((loaded.tasks, loaded.chat), (tasks, chat), "what the panels show")
            keeper = carol.users()[KEEPER]
            expect((keeper["id"], keeper["admin"], type(keeper["latency"]), keeper["status"]), (KEEPER, False, int, 2), "the keeper's record")
            expect(sorted(carol.users())[-1], KEEPER, "the last in the list of users")
            daemon.kill()
            daemon.start()
            dave = crew.hire(version).join(daemon, "dave")
            expect(until_kept(dave, lambda tasks, chat: tasks and chat, "both"), (tasks, chat), "what somebody new sees after a restart")
            bob.until_gone()

    for_each(VERSIONS, one)


def a_stale_copy_takes_nothing_back():
    """View updates send the whole record again, as old as it is; and each publication sends what its author knew of others."""
    def one(version):
        with Hotset() as daemon, Crew(daemon.folder) as crew:
            daemon.start()
            (alice, bob), _ = running(crew, daemon, version, "0.10.3")
            a, b = Board(alice), Board(bob)
            first = a.add("T1")
            until_kept(alice, lambda tasks, _: titles(tasks) == ["T1"], "T1")
            old = {**a.record(), "tasks": json.dumps(a.tasks)}
            a.add("T2")
            a.say("one")
            a.move_view(old)
            bob.until(lambda about: "view_corners" in bob.unpack_users(about)["alice"]["metadata"], "seeing the view")
            until_kept(bob, lambda tasks, chat: titles(tasks) == ["T1", "T2"] and texts(chat) == ["one"], "T2 in spite of the view")
            b.load()
            a.change(first, status="done", description="finished")
            until_kept(bob, lambda tasks, _: tasks[first]["status"] == "done", "T1 done")
            # Bob loads only what is new to him: his T1 is still to do, and he publishes all he knows.
            b.load()
            expect(b.tasks[first]["status"], "todo", "the status that bob knows")
            b.add("T3")
            a.move_view(old)
            tasks, _ = until_kept(alice, lambda tasks, _: titles(tasks) == ["T1", "T2", "T3"], "T3")
            time.sleep(1.5)
            for peer in (alice, bob):
                tasks = kept(peer)[0]
                expect((tasks[first]["status"], tasks[first]["description"]), ("done", "finished"), f"T1 at {peer}")
            # What bob himself changes counts, and only that.
            b.change(first, assigned_to="bob")
            tasks, _ = until_kept(alice, lambda tasks, _: tasks[first]["assigned_to"] == "bob", "T1 assigned")
            expect((tasks[first]["status"], tasks[first]["description"]), ("done", "finished"), "the rest of T1")
            carol = crew.hire(version).join(daemon, "carol")
            expect(until_kept(carol, lambda tasks, _: len(tasks) == 3, "three tasks")[0], tasks, "what somebody new sees")

    for_each(VERSIONS, one)


def deleted_tasks_stay_deleted():
    def one(version):
        with Hotset() as daemon, Crew(daemon.folder) as crew:
            daemon.start()
            (alice, bob), _ = running(crew, daemon, version, "0.10.3")
            a, b = Board(alice), Board(bob)
            gone, stays = a.add("gone"), a.add("stays")
            until_kept(bob, lambda tasks, _: len(tasks) == 2, "two tasks")
            b.load()
            a.remove(gone)
            until_kept(bob, lambda tasks, _: list(tasks) == [stays], "one task")
            b.add("of bob")  # and with it again the one that is gone
            until_kept(alice, lambda tasks, _: titles(tasks) == ["of bob", "stays"], "nothing that was gone")
            # Who never loaded a task does not delete it by not naming it.
            carol = crew.hire(version).join(daemon, "carol")
            Board(carol).add("of carol")
            until_kept(alice, lambda tasks, _: titles(tasks) == ["of bob", "of carol", "stays"], "all three")
            daemon.kill()
            daemon.start()
            dave = crew.hire(version).join(daemon, "dave")
            d = Board(dave)
            d.tasks = dict(b.tasks)  # an old file that still holds what is gone
            d.add("of dave")
            until_kept(dave, lambda tasks, _: titles(tasks) == ["of bob", "of carol", "of dave", "stays"], "nothing that was gone, after a restart")

    for_each(VERSIONS, one)


def a_burst_of_messages_is_kept_whole():
    """Each publication carries the last ten messages; thirty at once are all there, in order, once."""
    def one(version):
        with Hotset() as daemon, Crew(daemon.folder) as crew:
            daemon.start()
            (alice, bob), _ = running(crew, daemon, version, "0.10.3")
            a, b = Board(alice), Board(bob)
            for number in range(30):
                a.say(f"a {number}")
                b.say(f"```b {number}```", msg_type="code", metadata={"code": f"b {number}"})
            wanted = sorted(a.chat + b.chat, key=lambda message: message["timestamp"])
            _, chat = until_kept(bob, lambda _, chat: len(chat) >= min(60, len(wanted)), "all messages")
            expect(differences(wanted, chat), [], "the chat")
            b.load()
            b.say("again")
            until_kept(alice, lambda _, chat: texts(chat) == [*texts(wanted), "again"], "each message once")

    for_each(VERSIONS, one)


def nonsense_in_metadata_harms_nobody():
    with Hotset() as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        (alice, bob), keys = running(crew, daemon, "0.9.10", "0.10.3")
        a = Board(alice)
        a.add("T1")
        until_kept(bob, lambda tasks, _: titles(tasks) == ["T1"], "T1")
        long = json.dumps({"k": {"id": "k", "title": "t" * (1 << 20)}})
        for wrong in (7, None, "", "{", "[]", "null", '{"x": 1}', '{"x": {"title": 5}}', "[" * 10_000, long, b"{}", {"a": 1}):
            bob.metadata(tasks=wrong)
            bob.metadata(chat_messages=wrong)
            bob.metadata(**{"tasks": wrong, "color": (1, 2, 3, 4)})
        bob.metadata(selected_objects={"x"}, scene_current="Scene")
        alice.until(lambda about: alice.unpack_users(about)["bob"]["metadata"].get("scene_current") == "Scene", "seeing metadata")
        expect("T1" in titles(kept(alice)[0]), True, "T1 is still there")
        settle([alice, bob], nodes=len(keys))
        for peer in (alice, bob):
            expect(peer.ask("about")["state"], "STATE_ACTIVE", f"{peer}")


async def one_session_two_worlds():
    """What Blender does is seen by native clients, and the other way round."""
    with Hotset() as daemon, Crew(daemon.folder) as crew:
        daemon.start()
        (alice, bob), keys = running(crew, daemon, "0.9.10", "0.10.3")
        native = await Client(daemon.url, "native").connect()
        try:
            await both_ways(daemon, alice, bob, native, keys)
        finally:
            await native.close()


async def both_ways(daemon, alice, bob, native, keys):
    nodes = native.replica.nodes
    expect(set(nodes), set(keys.values()), "the nodes of the native client")
    for name, kind in (("mesh", "Mesh"), ("thing", "Object"), ("scene", "Scene"), ("image", "Image")):
        expect(nodes[keys[name]]["kind"], kind, f"kind of {name}")
        expect(nodes[keys[name]]["name"], alice.node(keys[name])["name"], f"name of {name}")
    expect(set(nodes[keys["thing"]]["dependencies"]), {keys["mesh"], keys["material"]}, "dependencies")
    # Locks, both ways.
    answer = await native.op("node.lock", id=keys["mesh"])
    expect(answer["type"], "ack", f"{answer}")
    alice.until_owner(keys["mesh"], "native")
    bob.ask("lock", uuids=[keys["thing"]])
    alice.until_owner(keys["thing"], "bob")
    answer = await native.op("node.lock", id=keys["thing"])
    expect((answer["type"], answer.get("code")), ("reject", "locked"), "a lock of what Blender has locked")
    answer = await native.op("node.patch", id=keys["image"], merge={"x": 1})
    expect(answer["type"], "reject", f"a native patch of a node of Blender: {answer}")
    # Tasks and chat, both ways.
    answer = await native.op("task.put", id="native task", title="of the other world", assignee="alice")
    expect(answer["type"], "ack", f"{answer}")
    answer = await native.op("chat.post", text="hello Blender")
    tasks, chat = until_kept(alice, lambda tasks, chat: tasks and chat, "the native client's task and message")
    expect(titles(tasks), ["of the other world"], "tasks")
    expect((chat[-1]["username"], chat[-1]["message"]), ("native", "hello Blender"), "the message")
    a = Board(alice).load()
    key = a.add("of Blender", assigned_to="native")
    a.say("hello native")
    a.change("native task", status="done")
    until_kept(bob, lambda tasks, chat: len(tasks) == 2 and len(chat) == 2 and tasks["native task"]["status"] == "done", "both of each")
    # An edit in Blender is an event there, a deletion is one here.
    bob.edit(keys["thing"], location=[9.0])
    answer = await native.op("node.unlock", id=keys["mesh"])
    await native.reach(answer["seq"])
    alice.until_owner(keys["mesh"], "COMMON")
    answer = await native.op("node.remove", id=keys["file"])
    expect(answer["type"], "ack", f"{answer}")
    alice.until(lambda _: keys["file"] not in alice.nodes(), "seeing what the native client has removed")
    answer = await native.op("node.put", id="not for Blender", kind="data", payload={"json": 1})
    expect(answer["type"], "ack", f"{answer}")
    await native.reach(answer["seq"])
    expect(native.replica.tasks["native task"]["status"], "done", "status of the task")
    expect(native.replica.tasks[key]["title"], "of Blender", "title of the task")
    members = {member["name"] for member in native.replica.dump()["members"]}
    expect({"alice", "bob", "native"} <= members, True, f"members {members}")
    expect("native" in alice.users(), True, "the native client in Blender's list")
    fresh = await Client(daemon.url, "fresh").connect()
    expect(fresh.replica.dump()["nodes"], native.replica.dump()["nodes"], "the nodes of somebody new")
    await fresh.close()
    for peer in (alice, bob):
        peer.check()


SCENARIOS = [
    tasks_and_chat_outlive_their_author, a_stale_copy_takes_nothing_back, deleted_tasks_stay_deleted,
    a_burst_of_messages_is_kept_whole, nonsense_in_metadata_harms_nobody, one_session_two_worlds,
]  # fmt: skip
