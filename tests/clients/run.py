"""A real Blender scene, served to clients in three languages: everybody sees the same, whatever happens to the daemon."""

import asyncio
import copy
import signal

from harness import SAMPLES, BrowserAgent, Daemon, NodeAgent, RemoteError, chromium, expect, expect_equal_dumps, main
from hotset_client import Client, Opaque, encode


class Local:
    """The Python client behind the same commands as the agents of the other languages."""

    async def __aenter__(self):
        return self

    async def do(self, command, **fields):
        if command == "new":
            fields.pop("firstOp", None)
            self.client = Client(**fields)
            await self.client.connect()
        elif command == "connect":
            await self.client.connect(**fields)
        elif command == "op":
            return await self.client.answer({"type": "op", **revive(fields["operation"])})
        elif command == "batch":
            return await self.client.batch(*map(revive, fields["operations"]))
        elif command == "reach":
            await self.client.reach(fields["seq"])
        elif command == "dump":
            return self.client.replica.dump()
        elif command == "send":
            await self.client.send(fields["message"])
        elif command in ("drop", "close"):
            await getattr(self.client, command)()
        client = self.client
        return {
            "resumed": client.resumed,
            "seq": client.replica.seq,
            "presence": client.presence,
            "statesTaken": client.states_taken,
        }

    async def __aexit__(self, *_):
        await self.client.drop()


def revive(operation):
    operation = dict(operation)
    if "opaque_base64" in operation:
        import base64

        data = base64.b64decode(operation.pop("opaque_base64"))
        operation["payload"] = Opaque(data, operation.pop("media_type"))
    return operation


class Crew:
    """One client of each language and format, joined to the same session."""

    def __init__(self):
        makers = {"python-json": Local, "python-binary": Local, "node-json": NodeAgent, "node-binary": NodeAgent,
                  "browser-json": BrowserAgent, "browser-binary": BrowserAgent}  # fmt: skip
        self.agents = {name: make() for name, make in makers.items()}
        self.origins = ",".join(agent.origin for agent in self.agents.values() if isinstance(agent, BrowserAgent))

    async def __aenter__(self):
        for agent in self.agents.values():
            await agent.__aenter__()
        return self

    async def join(self, daemon):
        self.daemon = daemon
        for name, agent in self.agents.items():
            await agent.do("new", url=daemon.url, name=name, format=name.split("-")[1])

    async def op(self, who, do, **fields):
        return await self.agents[who].do("op", operation={"do": do, **fields})

    async def accepted(self, who, do, **fields):
        answer = await self.op(who, do, **fields)
        expect(answer["type"], "ack", f"{do} {fields} by {who} gave {answer}")
        return answer["seq"]

    async def refused(self, code, who, do, **fields):
        answer = await self.op(who, do, **fields)
        expect((answer["type"], answer.get("code")), ("reject", code), f"{do} {fields} by {who} gave {answer}")

    async def dumps(self):
        """The replicas of all, when all have taken in the same."""
        newest = max([(await agent.do("dump"))["seq"] for agent in self.agents.values()])
        for agent in self.agents.values():
            await agent.do("reach", seq=newest)
        return {name: await agent.do("dump") for name, agent in self.agents.items()}

    async def agree(self):
        """Fails unless all replicas are equal; returns what they hold."""
        dumps = await self.dumps()
        expect_equal_dumps(dumps)
        return dumps["python-json"]

    async def __aexit__(self, *_):
        for agent in self.agents.values():
            await agent.__aexit__()


def lasting(dump):
    """What of a dump survives a crash unchanged: all but who is online."""
    dump = copy.deepcopy(dump)
    members = [{"name": member["name"], "metadata": member["metadata"]} for member in dump["members"]]
    return {**{kind: dump[kind] for kind in ("nodes", "tasks", "chat", "settings")}, "members": members}


async def edit_everything(crew):
    """Every operation, by clients of every language."""
    root = (await crew.agree())["nodes"][0]["id"]
    put = await crew.accepted("python-json", "node.put", id="chair", kind="mesh", name="Chair", parent=root,
                              order=1.5, dependencies=[root, "not yet"], payload={"legs": 4, "list": [1], "é": "ü😀"})  # fmt: skip
    await crew.accepted("node-binary", "node.patch", id="chair", merge={"legs": None, "seat": {"w": 0.1, "h": 1e300}})
    await crew.accepted("browser-json", "node.patch", id="chair", patch=[
        {"op": "test", "path": "/list/0", "value": 1}, {"op": "add", "path": "/list/0", "value": [None, True]},
        {"op": "copy", "from": "/seat", "path": "/back"}, {"op": "move", "from": "/list/1", "path": "/list/-"},
        {"op": "replace", "path": "/seat/w", "value": -2}])  # fmt: skip
    await crew.refused("invalid", "node-json", "node.patch", id="chair", patch=[{"op": "test", "path": "/list", "value": 0}])
    await crew.refused("revision_conflict", "browser-binary", "node.patch", id="chair", set={"name": "no"}, if_revision=put)
    await crew.refused("revision_conflict", "node-json", "node.put", id="chair", kind="mesh", if_revision=0)
    await crew.accepted("python-binary", "node.put", id="new", kind="mesh", if_revision=0, parent="chair")
    await crew.accepted("browser-binary", "node.patch", id="chair", set={"name": "Stool", "parent": None, "order": None})
    await crew.refused("circle", "python-json", "node.patch", id="chair", set={"parent": "new"})
    for number, who in enumerate(crew.agents):
        media = {"media_type": "application/octet-stream", "opaque_base64": "AAECAwD/" * (number + 1)}
        await crew.accepted(who, "node.put", id=f"opaque of {who}", kind="image", **media)
        await crew.accepted(who, "node.put", id=f"json of {who}", kind="data", payload=[number, 1.5, "x", {"b": [], "a": {}}])
        await crew.accepted(who, "chat.post", text=f"hello from {who}")
        await crew.accepted(who, "member.set", metadata={"color": [number, 0.5], "tool": {"name": "brush"}})
    await crew.refused("not_json", "node-json", "node.patch", id="opaque of node-json", merge={"a": 1})
    await crew.accepted("node-binary", "member.set", metadata={"tool": {"name": None, "size": 3}})
    await locks(crew)
    await tasks_and_batches(crew)
    await crew.refused("has_children", "node-json", "node.remove", id="chair")
    await crew.accepted("node-json", "node.remove", id="chair", recursive=True)
    await crew.refused("not_found", "browser-json", "node.patch", id="new", set={"name": "gone"})
    await crew.refused("bad_message", "python-json", "node.fly", id="chair")
    return await crew.agree()


async def locks(crew):
    await crew.accepted("node-json", "node.lock", id="json of node-json")
    await crew.refused("locked", "browser-json", "node.put", id="json of node-json", kind="data")
    await crew.refused("locked", "python-binary", "node.remove", id="json of node-json")
    await crew.accepted("node-json", "node.patch", id="json of node-json", payload={"mine": True})
    await crew.accepted("browser-binary", "node.lock", id="json of browser-binary")
    await crew.accepted("browser-binary", "node.unlock", id="json of browser-binary")
    await crew.accepted("python-json", "node.patch", id="json of browser-binary", merge=7)


async def tasks_and_batches(crew):
    await crew.accepted("browser-json", "task.put", id="t1", title="Paint it", description="red", node="chair")
    await crew.accepted("python-binary", "task.patch", id="t1", set={"status": "in_progress", "assignee": "node-json"})
    await crew.accepted("node-json", "task.put", id="t2", title="Throw away")
    await crew.accepted("node-binary", "task.remove", id="t2")
    await crew.accepted("python-json", "chat.post", text="https://example.org/", kind="link", id="a link")
    await crew.accepted("node-json", "chat.post", text="let a = 1;\n", kind="code")
    await crew.refused("exists", "browser-json", "chat.post", text="again", id="a link")
    batch = [
        {"do": "node.put", "id": "b1", "kind": "k", "payload": {"n": 1}},
        {"do": "node.put", "id": "b2", "kind": "k", "parent": "b1", "media_type": "a/b", "opaque_base64": "AAA="},
        {"do": "node.patch", "id": "b1", "merge": {"n": 2}},
        {"do": "chat.post", "text": "batched"},
        {"do": "task.put", "id": "t3", "title": "From a batch"},
    ]
    for who in ("python-binary", "node-binary", "browser-binary", "python-json", "browser-json"):
        answer = await crew.agents[who].do("batch", operations=batch)
        expect(answer["type"], "ack", f"batch by {who}: {answer}")
    before = await crew.agree()
    answer = await crew.agents["node-binary"].do("batch", operations=[*batch, {"do": "node.lock", "id": "nowhere"}])
    expect((answer["type"], answer["code"]), ("reject", "not_found"), "a batch with a bad operation")
    expect((await crew.agree())["nodes"], before["nodes"], "the scene after a refused batch")


async def settings(crew, daemon):
    """An admin sets them, everybody sees them, and what is the server's stays the server's."""
    await crew.refused("forbidden", "browser-json", "session.set", key="theme", value=1)
    await crew.refused("reserved", "node-binary", "session.set", key="multi-user.initialised", value=True)
    blender = {"media_type": "application/vnd.multi-user.node+pickle", "opaque_base64": "gAR9Lg=="}
    await crew.refused("reserved", "python-binary", "node.put", id="forged", kind="Mesh", **blender)
    batch = [{"do": "chat.post", "text": "and"}, {"do": "node.put", "id": "forged", "kind": "Mesh", **blender}]
    answer = await crew.agents["browser-binary"].do("batch", operations=batch)
    expect((answer["type"], answer.get("code")), ("reject", "reserved"), "a batch with a reserved media type")
    datablock = next(node["id"] for node in (await crew.agree())["nodes"] if "vnd.multi-user" in node["payload"])
    await crew.refused("blender_payload", "node-json", "node.patch", id=datablock, merge={"a": 1})
    token = (daemon.data / "admin_token").read_text().strip()
    admin = Client(daemon.url, "an admin", "binary", token=token)
    await admin.connect()
    for fields in ({"key": "theme", "value": {"dark": [1.5, "é"]}}, {"key": "view", "value": 0}, {"key": "view"}):
        answer = await admin.op("session.set", **fields)
        expect(answer["type"], "ack", f"session.set of an admin: {answer}")
    answer = await admin.op("session.set", key="multi-user.initialised", value=True)
    expect((answer["type"], answer.get("code")), ("reject", "reserved"), "a setting of the server, by an admin")
    expect(admin.replica.settings, {"theme": {"dark": [1.5, "é"]}}, "settings")
    await admin.close()
    expect([setting["key"] for setting in (await crew.agree())["settings"]], ["theme"], "settings that everybody sees")


async def presence(crew):
    await crew.agents["node-json"].do("send", message={"type": "presence", "data": {"camera": [1, 2, 3]}})
    for who in ("python-json", "browser-binary"):
        for _ in range(200):
            about = await crew.agents[who].do("about")
            if "node-json" in about["presence"]:
                break
            await asyncio.sleep(0.01)
        expect(about["presence"].get("node-json"), {"camera": [1, 2, 3]}, f"presence at {who}")


async def late_joiner(crew, format):
    """Somebody new sees what everybody sees; returns nothing, leaves again."""
    late = Client(crew.daemon.url, f"late {format}", format)
    await late.connect()
    await late.reach((await crew.agree())["seq"])
    expect_equal_dumps({"the crew": await crew.agree(), "late joiner": late.replica.dump()})
    await late.close()


async def crash_and_resume(crew):
    """kill -9, with unanswered operations on the way; everybody resumes, and nothing is lost or done twice."""
    before = lasting(await crew.agree())
    crew.daemon.kill()
    for agent in crew.agents.values():
        await agent.do("drop")
    crew.daemon.start()
    for who, agent in crew.agents.items():
        about = await agent.do("connect")
        expect(about["resumed"], True, f"{who} resumes after kill -9")
        expect(about["statesTaken"], 1, f"states taken by {who}")
    expect_equal_dumps({"before": before, "after kill -9": lasting(await crew.agree())})
    await crew.accepted("browser-json", "node.put", id="after", kind="k", payload="the crash")
    await crew.agree()


async def scene(sample, nodes):
    crew = Crew()
    with Daemon(ALLOWED_ORIGINS=crew.origins) as daemon:
        imported = daemon.run("import", SAMPLES / sample)
        expect(imported.returncode, 0, f"import of {sample}: {imported.stdout} {imported.stderr}")
        daemon.start()
        async with crew:
            await crew.join(daemon)
            first = await crew.agree()
            expect(len(first["nodes"]), nodes, f"nodes of {sample}")
            if any(node["payload"] == first["nodes"][0]["payload"] for node in first["nodes"][1:]):
                raise AssertionError("different datablocks have the same content")
            await edit_everything(crew)
            await settings(crew, daemon)
            await presence(crew)
            await late_joiner(crew, "json")
            await crash_and_resume(crew)
            await late_joiner(crew, "binary")
            last = lasting(await crew.agree())
        code, seconds = daemon.stop()
        expect(code, 0, "exit code after SIGTERM")
        daemon.start()
        fresh = Client(daemon.url, "fresh", "binary")
        await fresh.connect()
        dump = lasting(fresh.replica.dump())
        # Locks end with their owners, and "fresh" has not been here before.
        for node in last["nodes"]:
            node["owner"] = None
        dump["members"] = [member for member in dump["members"] if member["name"] != "fresh"]
        expect_equal_dumps({"before": last, "after a restart": dump})
        await fresh.close()


async def real_scene_from_the_add_on():
    await scene("blender_repository.db", 24)


async def real_scene_from_the_old_server():
    await scene("session_snapshot.pkl", 21)


async def resent_operations_are_applied_once():
    with Daemon() as daemon:
        daemon.start()
        alice, bob = Client(daemon.url, "alice"), Client(daemon.url, "bob", "binary")
        await alice.connect()
        await bob.connect()
        await alice.op("node.put", id="list", kind="k", payload=[])
        add = {"type": "op", "do": "node.patch", "id": "list", "patch": [{"op": "add", "path": "/-", "value": 1}]}
        for crash in (False, True):
            first = [await future for future in [(await alice.start(add))[1] for _ in range(50)]]
            # As if no answer had come: all are sent again, under their old numbers.
            for op in range(alice.next_op - 50, alice.next_op):
                alice.pending[op] = (encode({**add, "op": op}, alice.format), asyncio.get_running_loop().create_future())
            waiting = [future for _, future in alice.pending.values()]
            await alice.drop()
            if crash:
                daemon.kill()
                daemon.start()
                await bob.connect()
            await alice.connect()
            answers = [await asyncio.wait_for(future, 30) for future in waiting]
            expect(answers, first, "answers to operations sent again")
            await bob.reach(answers[-1]["seq"])
            expect(len(bob.replica.nodes["list"]["payload"]), 100 if crash else 50, "times the operations were applied")
        expect(alice.replica.nodes, bob.replica.nodes, "replicas")
        await alice.drop()
        await bob.drop()


async def resume_gives_only_what_was_missed():
    with Daemon() as daemon:
        daemon.start()
        alice, bob = Client(daemon.url, "alice"), Client(daemon.url, "bob", "binary")
        await alice.connect()
        await bob.connect()
        await bob.drop()
        for number in range(300):
            await alice.start({"type": "op", "do": "node.put", "id": f"n{number}", "kind": "k", "payload": "x" * 900})
        await alice.op("chat.post", text="come back")
        seen = []
        bob.on_event = lambda event: seen.append(event["seq"])
        await bob.connect()
        expect(bob.resumed, True, "resumed")
        await bob.reach(alice.replica.seq)
        await alice.reach(bob.replica.seq)
        expect(len(seen), len(set(seen)), "no event twice")
        expect(bob.states_taken, 1, "states taken")
        expect_equal_dumps({"alice": alice.replica.dump(), "bob": bob.replica.dump()})
        # A token of a future, or of another branch, is not a resume.
        for field, value in (("run", "0" * 32), ("branch", "f" * 32), ("seq", 10**9)):
            await bob.drop()
            kept = bob.replica.seq
            if field == "seq":
                bob.replica.seq = value
            else:
                setattr(bob, field, value)
            await bob.connect()
            expect(bob.resumed, False, f"resumed with a wrong {field}")
            if bob.replica.seq < kept:
                raise AssertionError("the state went back")
        await alice.reach(bob.replica.seq)
        await bob.reach(alice.replica.seq)
        expect_equal_dumps({"alice": alice.replica.dump(), "bob": bob.replica.dump()})
        await alice.close()
        await bob.close()


async def a_reader_who_falls_far_behind_begins_anew():
    """Who stops reading falls off the tail; the state that comes instead of events replaces what was known."""
    with Daemon() as daemon:
        daemon.start()
        writer = await Client(daemon.url, "writer", "binary").connect()
        for format in ("json", "binary"):
            async with NodeAgent() as reader:
                await reader.do("new", url=daemon.url, name=f"reader-{format}", format=format)
                for number in range(3):
                    await writer.op("chat.post", text=f"{format} {number}")
                await reader.do("reach", seq=writer.replica.seq)
                before = await reader.do("about")
                reader.process.send_signal(signal.SIGSTOP)
                for number in range(50):
                    answer = await writer.op("node.put", id=f"n{number % 5}", kind="k", payload=f"{number}" * 500_000)
                    expect(answer["type"], "ack", f"{answer}")
                reader.process.send_signal(signal.SIGCONT)
                await reader.do("reach", seq=writer.replica.seq)
                after = await reader.do("about")
                expect(after["statesTaken"], before["statesTaken"] + 1, "it was given a state, on the same connection")
                # Its own coming was the last thing that the writer saw of it.
                expect_equal_dumps({"writer": writer.replica.dump(), "reader": await reader.do("dump")})
        await writer.close()


async def pages_of_other_origins_may_not_connect():
    with Daemon() as daemon:
        daemon.start()
        async with BrowserAgent() as stranger:
            try:
                await stranger.do("new", url=daemon.url, name="stranger")
            except RemoteError as error:
                expect("1006" in str(error), True, f"refused: {error}")
            else:
                raise AssertionError("a page of another origin was let in")


if __name__ == "__main__":
    if not chromium():
        raise SystemExit("no Chromium: apt-get install chromium")
    main("clients", [real_scene_from_the_add_on, real_scene_from_the_old_server,
                     resent_operations_are_applied_once, resume_gives_only_what_was_missed, a_reader_who_falls_far_behind_begins_anew,
                     pages_of_other_origins_may_not_connect])  # fmt: skip
