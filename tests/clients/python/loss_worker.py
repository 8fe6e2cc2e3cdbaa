"""One client of the loss test: sends operations at a steady rate, reconnects for ever, and logs what it was promised.

Its argument is a JSON object; see loss.py. Log lines, each written at once: `S op` sent, `A op seq` accepted, `R op code`
refused, `E seq author op changes` seen, `W resumed seq` joined.
"""

import asyncio
import json
import os
import random
import sys
import time

from hotset_client import Client, Closed, Opaque

ask = json.loads(sys.argv[1])
chance = random.Random(ask["seed"])
log = os.open(ask["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
LARGE_BYTES = 5 << 20


def note(*words):
    os.write(log, (" ".join(map(str, words)) + "\n").encode())


def outline(change):
    """What the judge needs to know of one change: kind, node, and the mark of the operation that made it."""
    do = change["do"]
    if do == "node.put":
        payload = change["payload"]
        return ["put", change["id"], payload.media_type if isinstance(payload, Opaque) else payload["mark"]]
    if do == "node.patch":
        if "merge" in change:
            return ["merge", change["id"], change["merge"]["mark"]]
        return ["add", change["id"], change["patch"][0]["value"]]
    if do == "chat.post":
        return ["say", change["id"], change["text"]]
    return [do, "", ""]


def operation(mark, large):
    node = f"n{chance.randrange(ask['nodes'])}"
    if large:
        node = f"large{chance.randrange(4)}"
        if ask["format"] == "binary":
            return {"type": "op", "do": "node.put", "id": node, "kind": "large",
                    "payload": Opaque(chance.randbytes(LARGE_BYTES), f"mark/{mark}")}  # fmt: skip
        return {"type": "op", "do": "node.put", "id": node, "kind": "large",
                "payload": {"mark": mark, "list": [], "pad": chance.randbytes(LARGE_BYTES // 2).hex()}}  # fmt: skip
    pad = "x" * min(20_000, int(chance.lognormvariate(6.9, 0.7)))
    put = {"do": "node.put", "id": node, "kind": "small", "payload": {"mark": mark, "list": [], "pad": pad}}
    kind = chance.random()
    if kind < 0.60:
        return {"type": "op", **put}
    if kind < 0.80:
        return {"type": "op", "do": "node.patch", "id": node, "merge": {"mark": mark, "extra": pad[:100]}}
    if kind < 0.90:
        return {"type": "op", "do": "node.patch", "id": node, "patch": [{"op": "add", "path": "/list/-", "value": mark}]}
    if kind < 0.95:
        return {"type": "op", "do": "chat.post", "text": mark}
    other = {"do": "node.put", "id": f"n{chance.randrange(ask['nodes'])}", "kind": "small"}
    return {"type": "batch", "operations": [put, {**other, "payload": {"mark": mark, "list": []}}]}


class Worker:
    def __init__(self):
        self.client = Client(ask["url"], ask["name"], ask["format"])
        self.client.on_event = self.saw
        self.client.on_answer = self.answered
        self.sending = True
        self.wanted = True

    def saw(self, event):
        note("E", event["seq"], event["author"], event.get("op") or 0, json.dumps([outline(c) for c in event["changes"]], separators=(",", ":")))

    def answered(self, message):
        if message["type"] == "ack":
            note("A", message["op"], message["seq"])
        else:
            note("R", message["op"], message["code"])

    async def stay_connected(self):
        while self.wanted:
            try:
                await self.client.connect(timeout=20)
                note("W", int(self.client.resumed), self.client.welcome["seq"])
                await asyncio.wait({self.client.reader})
                self.client.reader.result()
            except ValueError:
                raise  # the server broke the protocol
            except (OSError, Closed, asyncio.TimeoutError, Exception) as error:
                note("X", type(error).__name__, error)
                await self.client.drop()
            await asyncio.sleep(0.02 + 0.05 * chance.random())

    async def send(self):
        begin, sent, next_large = time.monotonic(), 0, time.monotonic() + ask["large_every"] * chance.random()
        while self.sending:
            now = time.monotonic()
            due = int((now - begin) * ask["rate"])
            if not self.client.connected or not self.client.complete.is_set() or len(self.client.pending) > 400:
                begin, sent, due = now, 0, 0
            for _ in range(min(due - sent, 50)):
                large = now >= next_large
                if large:
                    next_large = now + ask["large_every"]
                op = self.client.next_op
                message = operation(f"{ask['name']}:{op}", large)
                note("S", op)
                _, future = await self.client.start(message)
                future.add_done_callback(lambda done: done.cancelled() or done.exception())
                sent += 1
            await asyncio.sleep(0.01)

    async def obey(self):
        """Answers the driver's commands, one JSON line each."""
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            command = line.split()
            if command[0] == "stop":
                self.sending = False
                while self.client.pending or not self.client.connected:
                    await asyncio.sleep(0.02)
                answer = self.client.replica.seq
            elif command[0] == "reach":
                await self.client.reach(int(command[1]), 60)
                answer = self.client.replica.seq
            elif command[0] == "dump":
                answer = self.client.replica.dump()
            else:
                break
            print(json.dumps(answer), flush=True)
        self.wanted = self.sending = False
        await self.client.drop()


async def main():
    worker = Worker()
    tasks = {asyncio.create_task(part) for part in (worker.stay_connected(), worker.send(), worker.obey())}
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        if task.exception():
            note("!", repr(task.exception()))
            raise task.exception()


asyncio.run(main())
