"""Clients that break the rules: each gets a documented answer, and the daemon neither dies nor grows nor slows down."""

import asyncio
import base64
import json
import os
import random
import socket
import struct
import time

from harness import LONG, Daemon, expect, main
from hotset_client import Client, Closed

MIB = 1 << 20
TEXT, BINARY, CLOSE, PING, PONG, MORE = 1, 2, 8, 9, 10, 0


class Raw:
    """A WebSocket without rules: writes whatever frames it is told to."""

    def __init__(self, daemon, format="json", session="default"):
        self.socket = socket.create_connection(("127.0.0.1", daemon.http), timeout=30)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /api/v1/sessions/{session}/ws HTTP/1.1\r\nHost: localhost:{daemon.http}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: hotset.v1.{format}\r\n\r\n".encode()
        )
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self.fill()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        self.status = int(head.split()[1])

    def fill(self):
        got = self.socket.recv(1 << 20)
        if not got:
            raise EOFError
        self.buffer += got

    def take(self, size):
        while len(self.buffer) < size:
            self.fill()
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def frame(self, opcode, data=b"", fin=True, declare=None, masked=True, reserved=0):
        size = len(data) if declare is None else declare
        head = bytes([(0x80 if fin else 0) | reserved | opcode])
        mark = 0x80 if masked else 0
        if size < 126:
            head += bytes([mark | size])
        elif size < 1 << 16:
            head += bytes([mark | 126]) + struct.pack(">H", size)
        else:
            head += bytes([mark | 127]) + struct.pack(">Q", size)
        # A mask of zeros is a mask, and saves the work.
        self.socket.sendall(head + (b"\0\0\0\0" if masked else b"") + data)

    def say(self, message):
        self.frame(TEXT, message.encode() if isinstance(message, str) else json.dumps(message).encode())

    def receive(self):
        """The next message as (opcode, data); pings are skipped."""
        while True:
            first, second = self.take(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack(">H", self.take(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self.take(8))
            data = self.take(size)
            if first & 0x0F not in (PING, PONG):
                return first & 0x0F, data

    def until(self, *kinds):
        """The next JSON message of one of these types."""
        while True:
            opcode, data = self.receive()
            if opcode == CLOSE:
                raise Closed(struct.unpack(">H", data[:2])[0] if data else None, data[2:].decode())
            if opcode == TEXT and (message := json.loads(data))["type"] in kinds:
                return message

    def hello(self, name=None, **fields):
        self.say({"type": "hello", "name": name or f"mallory {random.randrange(10**9)}", **fields})
        self.until("welcome")
        while not self.until("state")["last"]:
            pass
        return self

    def close_code(self, timeout=20):
        """Reads until the server closes; the code, or `gone` if it just hangs up."""
        self.socket.settimeout(timeout)
        try:
            while True:
                opcode, data = self.receive()
                if opcode == CLOSE:
                    return struct.unpack(">H", data[:2])[0] if data else None
        except (EOFError, ConnectionError):
            return "gone"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


class Watch:
    """A daemon with a witness: afterwards it must be alive, small, and still answering the witness."""

    def __init__(self, growth=96 * MIB, **settings):
        self.daemon, self.growth = Daemon(**settings), growth
        self.password = settings.get("SERVER_PASSWORD")

    async def __aenter__(self):
        self.daemon.__enter__()
        self.daemon.start()
        self.witness = await Client(self.daemon.url, "witness", password=self.password).connect()
        await self.witness.op("node.put", id="precious", kind="k", payload="kept")
        self.before = self.daemon.status("VmRSS")
        return self.daemon

    async def __aexit__(self, kind, *rest):
        try:
            if kind is None:
                begin = time.monotonic()
                answer = await self.witness.op("node.put", id="after", kind="k")
                expect(answer["type"], "ack", "the witness still works")
                expect(time.monotonic() - begin < 1, True, "the witness is answered at once")
                expect(self.witness.replica.nodes["precious"]["payload"], "kept", "the precious node")
                expect("panicked" in self.daemon.log(), False, f"panic: {self.daemon.log()[-3000:]}")
                growth = self.daemon.status("VmRSS") - self.before
                print(f"  memory grew by {growth / MIB:.1f} MiB")
                expect(growth < self.growth, True, f"memory grew by {growth / MIB:.1f} MiB")
                await self.witness.drop()
        finally:
            self.daemon.__exit__(kind, *rest)


async def oversize():
    async with Watch() as daemon:
        for declared in (65 * MIB, 1 << 40, (1 << 63) - 1, 1 << 63):
            with Raw(daemon).hello(f"m{declared}") as raw:
                raw.frame(TEXT, b"{", declare=declared)
                expect(raw.close_code() in (1009, 1002), True, f"a frame that declares {declared} bytes")
        for declared in (65 * 1024 + 1, 1 << 40):
            with Raw(daemon) as raw:
                raw.frame(TEXT, b"{", declare=declared)
                expect(raw.close_code(), 1009, f"{declared} bytes before hello")
        with Raw(daemon).hello() as raw:
            raw.frame(TEXT, b"x" * MIB, fin=False)
            try:
                for _ in range(70):
                    raw.frame(MORE, b"x" * MIB, fin=False)
            except (BrokenPipeError, ConnectionResetError):
                pass
            expect(raw.close_code() in (1009, "gone"), True, "70 MiB in parts")
        # Many who declare much and send little cost little.
        crowd = [Raw(daemon).hello(f"c{n}") for n in range(100)]
        for raw in crowd:
            raw.frame(BINARY, b"\0" * 1000, declare=63 * MIB)
        await asyncio.sleep(0.5)
        expect(daemon.status("VmRSS") < 300 * MIB, True, "memory with 100 unfinished messages of 63 MiB")
        for raw in crowd:
            raw.socket.close()


async def fragmented():
    async with Watch() as daemon:
        with Raw(daemon).hello() as raw:
            text = json.dumps({"type": "op", "op": 1, "do": "chat.post", "text": "in pieces"}).encode()
            raw.frame(TEXT, text[:1], fin=False)
            for at in range(1, len(text)):
                raw.frame(MORE, text[at : at + 1], fin=at == len(text) - 1)
                raw.frame(PING, b"between") if at % 40 == 0 else None
            expect(raw.until("ack", "reject")["type"], "ack", "one byte per frame")
        cases = {"a continuation of nothing": lambda raw: raw.frame(MORE, b"x"),
                 "a message within a message": lambda raw: (raw.frame(TEXT, b"{", fin=False), raw.frame(TEXT, b"{}")),
                 "a ping in parts": lambda raw: raw.frame(PING, b"x", fin=False),
                 "a long ping": lambda raw: raw.frame(PING, b"x" * 126),
                 "a reserved opcode": lambda raw: raw.frame(3, b"x"),
                 "a reserved bit": lambda raw: raw.frame(TEXT, b"{}", reserved=0x40),
                 "an unmasked frame": lambda raw: raw.frame(TEXT, b"{}", masked=False)}  # fmt: skip
        for what, act in cases.items():
            with Raw(daemon).hello(what) as raw:
                act(raw)
                expect(raw.close_code(), 1002, what)


async def not_utf_8():
    async with Watch() as daemon:
        for bad in (b"\xff\xfe", b'{"type":"ping","id":"\xc3\x28"}', b"\xed\xa0\x80"):
            with Raw(daemon).hello() as raw:
                raw.frame(TEXT, bad)
                expect(raw.close_code(), 1007, f"{bad}")
        with Raw(daemon, "binary") as raw:
            header = b'{"type":"hello","name":"\xff"}'
            raw.frame(BINARY, struct.pack("<I", len(header)) + header)
            expect(raw.close_code() in (1007, 1008), True, "a binary hello that is not UTF-8")
        with Raw(daemon, "binary") as raw:
            raw.frame(BINARY, struct.pack("<I", 0xFFFFFFFF) + b"{}")
            expect(raw.close_code(), 1008, "a header longer than its frame")


async def deeply_nested():
    async with Watch() as daemon:
        with Raw(daemon).hello() as raw:
            op = 0
            for depth, kinds in ((60, {"ack"}), (70, {"reject"}), (1000, {"reject"}), (100_000, {"reject"}), (5_000_000, {"reject"})):
                op += 1
                for opening, closing in (("[", "]"), ('{"a":', "}")):
                    op += 1
                    payload = opening * depth + "1" + closing * depth
                    raw.say(f'{{"type":"op","op":{op},"do":"node.put","id":"deep","kind":"k","payload":{payload}}}')
                    answer = raw.until("ack", "reject", "error")
                    expect(answer["type"] in kinds | ({"error"} if depth > 70 else set()), True, f"depth {depth}: {answer}")
        with Raw(daemon).hello() as raw:
            # A merge must not build what a put may not hold.
            raw.say({"type": "op", "op": 1, "do": "node.put", "id": "grow", "kind": "k", "payload": {}})
            raw.until("ack")
            nested = 1
            for _ in range(40):
                nested = {"a": nested}
            raw.say({"type": "op", "op": 2, "do": "node.patch", "id": "grow", "merge": nested})
            raw.until("ack")
            path = "/a" * 39
            raw.say({"type": "op", "op": 3, "do": "node.patch", "id": "grow",
                     "patch": [{"op": "copy", "from": "", "path": path}]})  # fmt: skip
            expect(raw.until("ack", "reject")["type"], "reject", "a copy of itself into its depth")
            with Raw(daemon) as other:
                other.say('{"type":"hello","name":"x","resume":' + "[" * 60_000 + "]" * 60_000 + "}")
                expect(other.close_code() in (1008, 1009), True, "a deep hello")


async def wrong_types():
    async with Watch() as daemon:
        wrong = [
            "null", "[]", "7", '"hello"', "{}", "{", '{"type":7}', '{"type":"fly"}', '{"type":"hello","name":"again"}',
            '{"type":"op"}', '{"type":"op","op":"1","do":"chat.post","text":"x"}',
            '{"type":"op","op":1.5,"do":"chat.post","text":"x"}', '{"type":"op","op":-1,"do":"chat.post","text":"x"}',
            '{"type":"op","op":0,"do":"chat.post","text":"x"}',
            '{"type":"op","op":9007199254740992,"do":"chat.post","text":"x"}',
            '{"type":"op","op":5,"do":7}', '{"type":"op","op":5,"do":"node.put"}',
            '{"type":"op","op":5,"do":"node.put","id":7,"kind":"k"}',
            '{"type":"op","op":5,"do":"node.put","id":"","kind":"k"}',
            '{"type":"op","op":5,"do":"node.put","id":"a","kind":["k"]}',
            '{"type":"op","op":5,"do":"node.put","id":"a","kind":"k","order":"first"}',
            '{"type":"op","op":5,"do":"node.put","id":"a","kind":"k","order":1e999}',
            '{"type":"op","op":5,"do":"node.put","id":"a","kind":"k","dependencies":"b"}',
            '{"type":"op","op":5,"do":"node.put","id":"a","kind":"k","payload_base64":"!","media_type":"a/b"}',
            '{"type":"op","op":5,"do":"node.put","id":"a","kind":"k","payload_base64":"AAAA"}',
            '{"type":"op","op":5,"do":"node.put","id":"a","kind":"k","payload_bytes":3}',
            '{"type":"op","op":5,"do":"node.put","id":"a","kind":"k","if_revision":"x"}',
            '{"type":"op","op":5,"do":"node.patch","id":"precious","merge":1,"patch":[]}',
            '{"type":"op","op":5,"do":"node.patch","id":"precious","patch":{"op":"add"}}',
            '{"type":"op","op":5,"do":"node.patch","id":"precious","patch":[{"op":"fly","path":""}]}',
            '{"type":"op","op":5,"do":"node.patch","id":"precious","set":{"name":7}}',
            '{"type":"op","op":5,"do":"task.put","id":"t","title":"x","status":"never"}',
            '{"type":"op","op":5,"do":"chat.post","text":""}', '{"type":"op","op":5,"do":"chat.post","text":7}',
            '{"type":"op","op":5,"do":"member.set","metadata":[]}', '{"type":"batch","op":5}',
            '{"type":"batch","op":5,"operations":[]}', '{"type":"batch","op":5,"operations":[7]}',
            '{"type":"batch","op":5,"operations":[{"do":"session.save"}]}', '{"type":"presence"}',
            json.dumps({"type": "op", "op": 5, "do": "node.put", "id": "x" * 129, "kind": "k"}),
            json.dumps({"type": "op", "op": 5, "do": "node.put", "id": "a\u0000b", "kind": "k"}),
            json.dumps({"type": "op", "op": 5, "do": "chat.post", "text": "x" * 17_000}),
            json.dumps({"type": "op", "op": 5, "do": "task.put", "id": "t", "title": "x" * 300}),
            json.dumps({"type": "presence", "data": "x" * 17_000}),
        ]  # fmt: skip
        silent = []
        for number, text in enumerate(wrong):
            with Raw(daemon).hello(f"w{number}") as raw:
                raw.say(text)
                raw.say('{"type":"ping","id":"end"}')
                try:
                    raw.socket.settimeout(3)
                    answer = raw.until("error", "reject", "ack", "pong")
                    if answer["type"] == "pong":  # the session's answer may come after the door's
                        answer = raw.until("error", "reject", "ack")
                except TimeoutError:
                    answer = {"type": "nothing"}
                except Closed as closed:
                    answer = {"type": "closed", "code": closed.code}
                if answer["type"] not in ("error", "reject"):
                    silent.append(f"{text[:100]} gave {answer}")
        expect(silent, [], "answers to wrong messages")
        with Raw(daemon).hello() as raw:
            for _ in range(12):
                raw.say("{}")
            expect(raw.close_code(), 1008, "twelve bad messages")
        with Raw(daemon, "binary") as raw:
            raw.say({"type": "hello", "name": "x"})
            expect(raw.close_code(5) in (1002, 1003, 1008), True, "text frames on the binary protocol")


async def out_of_order():
    async with Watch() as daemon:
        with Raw(daemon).hello() as raw:
            answers = {}
            for op in (5, 5, 4, 7, 6, 8):
                raw.say({"type": "op", "op": op, "do": "chat.post", "text": f"number {op}"})
                answer = raw.until("ack", "reject")
                answers.setdefault(op, []).append(answer.get("code", "ack"))
            expect(answers, {5: ["ack", "op_out_of_order"], 4: ["op_out_of_order"], 7: ["ack"],
                             6: ["op_out_of_order"], 8: ["ack"]}, "answers")  # fmt: skip
        # Older than what is remembered: nobody can tell whether it was applied.
        client = await Client(daemon.url, "old", first_op=10).connect()
        for first in range(0, 1200, 300):
            await asyncio.gather(*[(await client.start({"type": "op", "do": "member.set", "metadata": {}}))[1]
                                   for _ in range(first, first + 300)])  # fmt: skip
        await client.drop()
        client.next_op = 3
        await client.connect()
        answer = await client.op("chat.post", text="very late")
        expect((answer["type"], answer.get("code")), ("reject", "op_expired"), "a very old number")
        await client.close()


async def unauthenticated():
    async with Watch(SERVER_PASSWORD="correct horse", ADMIN_PASSWORD="battery staple") as daemon:
        with Raw(daemon) as raw:
            raw.say({"type": "op", "op": 1, "do": "chat.post", "text": "let me in"})
            expect(raw.close_code() in (1008, 4401), True, "an operation before hello")
        with Raw(daemon, session="nowhere") as raw:
            raw.say({"type": "hello", "name": "guest", "password": "correct horse"})
            expect(raw.close_code(), 4401, "an unknown session")
        with Raw(daemon).hello("viewer", password="correct horse", role="viewer") as raw:
            raw.say({"type": "op", "op": 1, "do": "node.remove", "id": "precious"})
            expect(raw.until("ack", "reject").get("code"), "forbidden", "a viewer's edit")
            raw.say({"type": "op", "op": 2, "do": "chat.post", "text": "nice"})
            expect(raw.until("ack", "reject")["type"], "ack", "a viewer's chat")
        for name in ("", "~hotset", "x" * 65, "a\nb", "witness"):
            with Raw(daemon) as raw:
                raw.say({"type": "hello", "name": name, "password": "correct horse"})
                expect(raw.close_code() in (4409, 1008), True, f"the name {name!r}")
        with Raw(daemon).hello("boss", password="battery staple") as raw:
            raw.say({"type": "op", "op": 1, "do": "node.put", "id": "by the boss", "kind": "k"})
            expect(raw.until("ack", "reject")["type"], "ack", "an admin's edit")
        # Wrong passwords last: after a few, even the right one has to wait.
        for fields in ({}, {"password": "wrong"}, {"password": ""}, {"token": "wrong"}, {"password": "correct horse "},
                       {"password": "correct horse", "role": "admin"}):  # fmt: skip
            with Raw(daemon) as raw:
                raw.say({"type": "hello", "name": "guest", **fields})
                expect(raw.close_code(), 4401, f"hello with {fields}")
        with Raw(daemon) as raw:
            for _ in range(20):
                with Raw(daemon) as again:
                    again.say({"type": "hello", "name": "guest", "password": "guess"})
                    again.close_code()
            raw.say({"type": "hello", "name": "guest", "password": "correct horse"})
            expect(raw.until("error", "welcome").get("code"), "too_many_attempts", "the right password after many wrong ones")


async def silent_ones():
    async with Watch(TIMEOUT=1500) as daemon:
        begin = time.monotonic()
        with Raw(daemon) as raw:
            code = raw.close_code(30)
            took = time.monotonic() - begin
            expect(code, 4408, "without a hello")
            expect(took < 12, True, f"closed after {took:.1f} s")
        # Connections that never finish their request, and such that are no HTTP at all.
        slow = [socket.create_connection(("127.0.0.1", daemon.http)) for _ in range(50)]
        for each in slow:
            each.sendall(b"GET / HTTP/1.1\r\nHost: ")
        for garbage in (os.urandom(5000), b"\x16\x03\x01" + os.urandom(300), b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
                        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"):  # fmt: skip
            with socket.create_connection(("127.0.0.1", daemon.http), timeout=10) as other:
                try:
                    other.sendall(garbage)
                    other.recv(100)
                except (ConnectionError, TimeoutError):
                    pass
        expect(daemon.get("/livez")[0], 200, "/livez meanwhile")
        for each in slow:
            each.close()


async def flooding():
    async with Watch(OPS_PER_SECOND=100, OPS_BURST=300, MAX_CONNECTIONS_PER_IP=40) as daemon:
        with Raw(daemon).hello() as raw:
            try:
                for _ in range(200_000):
                    raw.frame(PING, b"flood")
            except (BrokenPipeError, ConnectionResetError):
                pass
            expect(raw.close_code() in (1008, "gone"), True, "a flood of pings")
        with Raw(daemon).hello() as raw:
            for op in range(1, 1001):
                raw.say({"type": "op", "op": op, "do": "chat.post", "text": "x"})
            codes = {}
            for _ in range(1000):
                answer = raw.until("ack", "reject")
                code = answer.get("code", "ack")
                codes[code] = codes.get(code, 0) + 1
            expect(codes.keys() <= {"ack", "rate_limited", "too_many_pending"}, True, f"answers {codes}")
            expect(codes.get("rate_limited", 0) > 0, True, f"limited: {codes}")
            expect(200 <= codes["ack"] <= 700, True, f"accepted: {codes}")
        with Raw(daemon).hello() as raw:
            for number in range(20_000):
                raw.say({"type": "presence", "data": {"cursor": number, "pad": "p" * 500}})
            raw.say({"type": "ping", "id": 1})
            raw.until("pong", "error")
        crowd = []
        for number in range(60):
            try:
                crowd.append(Raw(daemon))
            except (ConnectionError, EOFError, OSError):
                break
        refused = len(crowd) < 60 or any(raw.status != 101 for raw in crowd)
        expect(refused, True, "connections beyond MAX_CONNECTIONS_PER_IP")
        for raw in crowd:
            raw.socket.close()
        await asyncio.sleep(0.5)


async def stops_reading():
    """A member that stops reading costs no growing memory and delays nobody."""
    async with Watch(growth=400 * MIB) as daemon:
        sleepers = [Raw(daemon, format).hello(f"sleeper {n}") if format == "json" else None
                    for n, format in enumerate(["json"] * 4)]  # fmt: skip
        writer = await Client(daemon.url, "writer", "binary").connect()
        sizes, waits = [], []
        for round_number in range(4):
            begin = time.monotonic()
            while time.monotonic() - begin < (20 if LONG else 3):
                sent = time.monotonic()
                key = f"n{random.randrange(100)}"
                answer = await writer.op("node.put", id=key, kind="k", payload="w" * 100_000)
                expect(answer["type"], "ack", f"{answer}")
                waits.append(time.monotonic() - sent)
            sizes.append(daemon.status("VmRSS") / MIB)
        waits.sort()
        print(f"  {len(waits)} edits of 100 KB; median {waits[len(waits) // 2] * 1000:.1f} ms, "
              f"p99 {waits[len(waits) * 99 // 100] * 1000:.1f} ms; memory {[round(size) for size in sizes]} MiB")  # fmt: skip
        expect(sizes[-1] < sizes[1] + 60, True, f"memory {sizes} MiB")
        expect(waits[len(waits) * 99 // 100] < 0.25, True, "99 of 100 edits within 250 ms")
        if LONG:
            for raw in sleepers:
                expect(raw.close_code(30) in (1013, "gone"), True, "a reader without progress for 60 s")
        for raw in sleepers:
            raw.socket.close()
        await writer.close()


if __name__ == "__main__":
    main("hostile", [oversize, fragmented, not_utf_8, deeply_nested, wrong_types, out_of_order, unauthenticated,
                     silent_ones, flooding, stops_reading])  # fmt: skip
