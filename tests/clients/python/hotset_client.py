"""A small client of Hotset's native protocol, after docs/native-protocol.md and nothing else.

It keeps a replica of the session, resumes after a lost connection and sends unanswered operations again. The replica's
`dump` is the same, byte for byte, as that of the JavaScript client, so replicas can be compared across languages.
"""

import asyncio
import base64
import collections
import hashlib
import json
import math
import struct

import websockets
from websockets.asyncio.client import connect

SUBPROTOCOLS = {"json": "hotset.v1.json", "binary": "hotset.v1.binary"}
MESSAGE_BYTES_MAX = 128 << 20


class Opaque:
    """A payload that is bytes with a media type, not JSON, and what was appended to them."""

    def __init__(self, data, media_type, deltas=()):
        self.data, self.media_type, self.deltas = data, media_type, list(deltas)


class Closed(Exception):
    """The connection is gone; says with which code and why."""

    def __init__(self, code, reason, errors=()):
        super().__init__(f"closed with {code} {reason!r} {list(errors)}")
        self.code, self.reason, self.errors = code, reason, list(errors)


# --- the two formats ---------------------------------------------------------------------------------------------


def carriers(message):
    """Those objects of a message that may carry a payload, in order of appearance."""
    yield message
    for key in ("operations", "changes", "nodes"):
        for entry in message.get(key) or ():
            yield entry


def take_bytes(carrier, name, blob, at):
    """Takes bytes that are there raw or as base64, one value or a list; returns them and the position behind them."""
    if f"{name}_base64" in carrier:
        found = carrier.pop(f"{name}_base64")
        texts = found if isinstance(found, list) else [found]
        read = [base64.b64decode(text, validate=True) for text in texts]
        return read if isinstance(found, list) else read[0], at
    if f"{name}_bytes" not in carrier:
        return None, at
    sizes = carrier.pop(f"{name}_bytes")
    cut = []
    for size in sizes if isinstance(sizes, list) else [sizes]:
        cut.append(blob[at : at + size])
        at += size
    if at > len(blob):
        raise ValueError("the frame ends before its payload")
    return cut if isinstance(sizes, list) else cut[0], at


def take_payload(carrier, blob, at):
    """Replaces the wire form of what a message carries by the payload itself; returns the position behind it."""
    as_base64 = "payload_base64" in carrier
    data, at = take_bytes(carrier, "payload", blob, at)
    deltas, at = take_bytes(carrier, "deltas", blob, at)
    if data is not None:
        media_type = carrier.pop("media_type", None)
        opaque = media_type or as_base64
        carrier["payload"] = Opaque(data, media_type, deltas or ()) if opaque else json.loads(data)
    for name in ("append", "base"):
        data, at = take_bytes(carrier, name, blob, at)
        if data is not None:
            carrier[name] = data
    return at


def decode(frame):
    """Reads a text or binary frame."""
    if isinstance(frame, str):
        message, blob = json.loads(frame), b""
    else:
        (size,) = struct.unpack_from("<I", frame)
        message, blob = json.loads(frame[4 : 4 + size]), frame[4 + size :]
    at = 0
    for carrier in carriers(message):
        at = take_payload(carrier, blob, at)
    if at != len(blob):
        raise ValueError(f"{len(blob) - at} bytes behind the last payload")
    return message


def encode(message, kind):
    """Writes a message as a text frame (`json`) or a binary frame (`binary`)."""
    blobs = []

    def wire(carrier):
        carrier = dict(carrier)
        payload = carrier.get("payload")
        if isinstance(payload, Opaque):
            del carrier["payload"]
            carrier["media_type"] = payload.media_type
            if kind == "binary":
                carrier["payload_bytes"] = len(payload.data)
                blobs.append(bytes(payload.data))
            else:
                carrier["payload_base64"] = base64.b64encode(payload.data).decode()
        elif "payload" in carrier and kind == "binary":
            del carrier["payload"]
            blobs.append(json.dumps(payload).encode())
            carrier["payload_bytes"] = len(blobs[-1])
        return carrier

    head = wire(message)
    if "operations" in head:
        head["operations"] = [wire(operation) for operation in head["operations"]]
    if kind == "json":
        return json.dumps(head)
    text = json.dumps(head).encode()
    return struct.pack("<I", len(text)) + text + b"".join(blobs)


# --- JSON patches ------------------------------------------------------------------------------------------------


def merge(target, patch):
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def patch(document, operations):
    """RFC 6902. Assumes that the server has accepted the patch, so that every path exists."""
    document = json.loads(json.dumps(document))
    for step in operations:
        name, path = step["op"], pointer(step["path"])
        if name == "test":
            continue
        if name in ("move", "copy"):
            value = look_up(document, pointer(step["from"]))
            value = json.loads(json.dumps(value))
            if name == "move":
                document = remove_at(document, pointer(step["from"]))
        else:
            value = step.get("value")
        if name == "remove":
            document = remove_at(document, path)
        else:
            document = put_at(document, path, value, insert=name != "replace")
    return document


def pointer(text):
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def look_up(document, path):
    for part in path:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def put_at(document, path, value, insert):
    if not path:
        return value
    parent, last = look_up(document, path[:-1]), path[-1]
    if not isinstance(parent, list):
        parent[last] = value
    elif last == "-":
        parent.append(value)
    elif insert:
        parent.insert(int(last), value)
    else:
        parent[int(last)] = value
    return document


def remove_at(document, path):
    if not path:
        return None
    parent, last = look_up(document, path[:-1]), path[-1]
    del parent[int(last) if isinstance(parent, list) else last]
    return document


# --- the replica -------------------------------------------------------------------------------------------------


def fingerprint(payload):
    """A hash of what a payload means: the same in every language, however numbers and keys are written."""
    if isinstance(payload, Opaque):
        layers = [hashlib.sha256(layer).hexdigest() for layer in (payload.data, *payload.deltas)]
        return " ".join([payload.media_type, *layers])
    parts = []

    def write(value):
        if value is None:
            parts.append(b"n")
        elif value is True or value is False:
            parts.append(b"t" if value else b"f")
        elif isinstance(value, str):
            text = value.encode("utf-8", "replace")
            parts.append(b"s%d:" % len(text) + text)
        elif isinstance(value, (int, float)):
            try:
                number = float(value)
            except OverflowError:
                number = math.copysign(math.inf, value)
            parts.append(b"d" + struct.pack(">d", number or 0.0))
        elif isinstance(value, list):
            parts.append(b"[")
            for item in value:
                write(item)
            parts.append(b"]")
        else:
            parts.append(b"{")
            for key in sorted(value):
                write(key)
                write(value[key])
            parts.append(b"}")

    write(payload)
    return "json " + hashlib.sha256(b"".join(parts)).hexdigest()


NODE_DEFAULTS = {"name": "", "parent": None, "order": None, "dependencies": [], "owner": None, "payload": None}
TASK_DEFAULTS = {"description": "", "assignee": "", "status": "todo", "node": None}


class Replica:
    """What the client believes the session to be."""

    def __init__(self):
        self.clear()

    def clear(self):
        self.seq = 0
        self.nodes, self.tasks, self.members, self.settings, self.chat = {}, {}, {}, {}, []

    def load(self, part):
        """Takes one `state` message. A state may also come later, to a reader who has fallen too far behind."""
        if part.get("first"):
            self.clear()
        for node in part.get("nodes") or ():
            self.nodes[node["id"]] = {**NODE_DEFAULTS, **node}
        for task in part.get("tasks") or ():
            self.tasks[task["id"]] = {**TASK_DEFAULTS, **task}
        for member in part.get("members") or ():
            self.members[member["name"]] = {"metadata": {}, **member}
        for setting in part.get("settings") or ():
            self.settings[setting["key"]] = setting["value"]
        self.chat.extend(part.get("chat") or ())
        if part.get("last"):
            self.seq = part["seq"]

    def apply(self, event):
        """Takes one `event` message."""
        if event["seq"] != self.seq + 1 and not any(c["do"] == "session.restore" for c in event["changes"]):
            raise ValueError(f"event {event['seq']} after {self.seq}: a gap")
        self.seq = event["seq"]
        for change in event["changes"]:
            getattr(self, "on_" + change["do"].replace(".", "_"))(change, event)

    def on_node_put(self, change, event):
        node = {key: change[key] for key in ("id", "kind", *NODE_DEFAULTS) if key in change}
        owner = self.nodes.get(change["id"], {}).get("owner")
        self.nodes[change["id"]] = {**NODE_DEFAULTS, **node, "owner": owner, "revision": event["seq"]}

    def on_node_patch(self, change, event):
        node = self.nodes[change["id"]]
        node.update(change.get("set") or {})
        if "merge" in change:
            node["payload"] = merge(node["payload"], change["merge"])
        elif "patch" in change:
            node["payload"] = patch(node["payload"], change["patch"])
        elif "append" in change:
            old = node["payload"]
            node["payload"] = Opaque(old.data, old.media_type, [*old.deltas, change["append"]])
        elif "payload" in change:
            node["payload"] = change["payload"]
        node["revision"] = event["seq"]

    def on_node_fold(self, change, event):
        """The payload means what it meant, so the revision stays."""
        node = self.nodes[change["id"]]
        old = node["payload"]
        if len(old.deltas) < change["deltas"]:
            raise ValueError(f"{change['deltas']} deltas are folded, and there are {len(old.deltas)}")
        node["payload"] = Opaque(change["base"], old.media_type, old.deltas[change["deltas"] :])

    def on_node_remove(self, change, event):
        for node in change["ids"]:
            del self.nodes[node]

    def on_node_lock(self, change, event):
        self.nodes[change["id"]]["owner"] = change["owner"]

    def on_node_unlock(self, change, event):
        for node in change["ids"]:
            self.nodes[node]["owner"] = None

    def on_task_put(self, change, event):
        old = self.tasks.get(change["id"], {"author": event["author"], "created": event["at"]})
        task = {key: change[key] for key in ("id", "title", *TASK_DEFAULTS) if key in change}
        kept = {"author": old["author"], "created": old["created"], "updated": event["at"], "revision": event["seq"]}
        self.tasks[change["id"]] = {**TASK_DEFAULTS, **task, **kept}

    def on_task_patch(self, change, event):
        self.tasks[change["id"]].update({**change["set"], "updated": event["at"], "revision": event["seq"]})

    def on_task_remove(self, change, event):
        del self.tasks[change["id"]]

    def on_chat_post(self, change, event):
        said = {"id": change["id"], "kind": change.get("kind", "text"), "text": change["text"]}
        self.chat.append({**said, "author": event["author"], "at": event["at"]})

    def on_member_join(self, change, event):
        member = self.members.setdefault(change["name"], {"name": change["name"], "metadata": {}})
        member.update(role=change["role"], online=True)

    def on_member_leave(self, change, event):
        self.members[change["name"]]["online"] = False

    def on_member_set(self, change, event):
        member = self.members[event["author"]]
        member["metadata"] = merge(member["metadata"], change["metadata"])

    def on_session_set(self, change, event):
        if change["value"] is None:
            self.settings.pop(change["key"], None)
        else:
            self.settings[change["key"]] = change["value"]

    def on_session_restore(self, change, event):
        for node in self.nodes.values():
            node["owner"] = None
        for member in self.members.values():
            member["online"] = False

    def on_session_clear(self, change, event):
        self.nodes.clear()
        self.tasks.clear()
        self.chat.clear()
        self.settings.clear()

    def dump(self):
        """The whole state in a form that is equal for equal states; payloads as fingerprints."""
        nodes = []
        for key in sorted(self.nodes):
            node = self.nodes[key]
            entry = {k: node[k] for k in ("id", "kind", "name", "parent", "dependencies", "owner", "revision")}
            order = node["order"]
            entry["order"] = None if order is None else fingerprint(order)
            entry["payload"] = fingerprint(node["payload"])
            nodes.append(entry)
        task_keys = ("id", "title", "author", "created", "updated", "revision", *TASK_DEFAULTS)
        tasks = [{k: self.tasks[key][k] for k in task_keys} for key in sorted(self.tasks)]
        chat = [{k: said[k] for k in ("id", "kind", "text", "author", "at")} for said in self.chat]
        members = []
        for name in sorted(self.members):
            member = self.members[name]
            role = member["role"] if member["online"] else None
            entry = {"name": name, "role": role, "online": member["online"]}
            members.append({**entry, "metadata": fingerprint(member["metadata"])})
        settings = [{"key": key, "value": fingerprint(self.settings[key])} for key in sorted(self.settings)]
        state = {"nodes": nodes, "tasks": tasks, "chat": chat, "members": members, "settings": settings}
        return {"seq": self.seq, **state}


# --- the connection ----------------------------------------------------------------------------------------------


class Client:
    """One client program: survives lost connections as long as the object lives."""

    def __init__(self, url, name, format="json", password=None, token=None, role=None, first_op=1):
        self.url, self.name, self.format = url, name, format
        self.password, self.token, self.role = password, token, role
        self.replica = Replica()
        self.client = self.branch = self.run = None
        self.next_op = first_op
        self.pending = collections.OrderedDict()  # op -> (frame, future)
        self.welcome, self.resumed = None, False
        self.presence, self.saved, self.health, self.errors = {}, [], [], []
        self.socket = self.reader = None
        self.open = False  # operations may be sent as they come
        self.complete = asyncio.Event()  # the replica is whole and current as of the last welcome
        self.moved = asyncio.Condition()
        self.on_event = self.on_answer = lambda message: None
        self.states_taken = self.resumes = 0

    async def connect(self, resume=True, timeout=30):
        """Connects, joins, and returns when the replica is whole. Unanswered operations are sent again."""
        self.complete.clear()
        self.open = False
        self.socket = await connect(
            self.url,
            subprotocols=[SUBPROTOCOLS[self.format]],
            max_size=MESSAGE_BYTES_MAX,
            compression=None,
            open_timeout=timeout,
            ping_interval=None,
            proxy=None,
            close_timeout=2,
        )
        hello = {"type": "hello", "name": self.name}
        for key in ("password", "token", "role", "client"):
            if getattr(self, key) is not None:
                hello[key] = getattr(self, key)
        if resume and self.run and self.replica.seq:
            hello["resume"] = {"branch": self.branch, "run": self.run, "seq": self.replica.seq, "op": self.next_op - 1}
        await self.socket.send(encode(hello, self.format))
        self.reader = asyncio.create_task(self.read())
        done = asyncio.create_task(self.complete.wait())
        await asyncio.wait({done, self.reader}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        done.cancel()
        if not self.complete.is_set():
            if not self.reader.done():
                await self.drop()
                raise Closed(None, f"no whole state within {timeout} s", self.errors)
            self.reader.result()
            raise Closed(self.socket.close_code, self.socket.close_reason, self.errors)
        await self.resend()
        return self

    async def resend(self):
        """Sends what has no answer yet, oldest first; operations started meanwhile wait for their turn."""
        last = 0
        while waiting := [(op, frame) for op, (frame, _) in self.pending.items() if op > last]:
            for last, frame in waiting:
                await self.socket.send(frame)
        self.open = True

    async def read(self):
        try:
            async for frame in self.socket:
                self.take(decode(frame))
                async with self.moved:
                    self.moved.notify_all()
        except websockets.ConnectionClosed:
            pass
        except Exception as error:  # the server broke the protocol, or this client is wrong: everybody waiting must know
            for _, future in self.pending.values():
                if not future.done():
                    future.set_exception(error)
            raise
        finally:
            async with self.moved:
                self.moved.notify_all()

    def take(self, message):
        kind = message["type"]
        if kind == "event":
            self.replica.apply(message)
            self.on_event(message)
            self.settle()
        elif kind in ("ack", "reject"):
            _, future = self.pending.pop(message["op"], (None, None))
            self.on_answer(message)
            if future and not future.done():
                future.set_result(message)
        elif kind == "welcome":
            self.welcome, self.resumed = message, message["resumed"]
            self.client, self.branch, self.run = message["client"], message["branch"], message["run"]
            if self.resumed:
                self.resumes += 1
            else:
                self.replica.clear()
            self.settle()
        elif kind == "state":
            self.replica.load(message)
            if message.get("last"):
                self.states_taken += 1
                self.settle()
        elif kind == "presence":
            self.presence[message["name"]] = message["data"]
        elif kind == "error":
            self.errors.append(message)
        elif kind == "saved":
            self.saved.append(message)
        elif kind == "health":
            self.health.append(message)
        elif kind not in ("pong", "closing"):
            raise ValueError(f"unknown message {kind}")

    def settle(self):
        """The replica is current once it has reached what the welcome announced."""
        if self.replica.seq and self.replica.seq >= self.welcome["seq"]:
            self.complete.set()

    @property
    def connected(self):
        return self.reader is not None and not self.reader.done()

    async def send(self, message):
        """Sends any message, as it is."""
        await self.socket.send(encode(message, self.format))

    async def start(self, message):
        """Sends an operation or a batch; returns its number and the future of its answer."""
        op, self.next_op = self.next_op, self.next_op + 1
        frame = encode({**message, "op": op}, self.format)
        future = asyncio.get_running_loop().create_future()
        self.pending[op] = (frame, future)
        try:
            if self.open:
                await self.socket.send(frame)
        except websockets.ConnectionClosed:
            self.open = False  # it stays pending and is sent again
        return op, future

    async def answer(self, message, timeout=30):
        """Sends an operation or a batch and waits for `ack` or `reject`, also across a reconnect."""
        _, future = await self.start(message)
        return await asyncio.wait_for(future, timeout)

    async def op(self, do, timeout=30, **fields):
        return await self.answer({"type": "op", "do": do, **fields}, timeout)

    async def batch(self, *operations, timeout=30):
        return await self.answer({"type": "batch", "operations": list(operations)}, timeout)

    async def reach(self, seq, timeout=30):
        """Waits until the replica has taken in `seq`."""

        async def wait():
            async with self.moved:
                await self.moved.wait_for(lambda: self.replica.seq >= seq or not self.connected)

        await asyncio.wait_for(wait(), timeout)
        if self.replica.seq < seq:
            if self.reader.done():
                self.reader.result()
            raise Closed(self.socket.close_code, f"at {self.replica.seq}, before {seq}", self.errors)

    async def drop(self):
        """Loses the connection without a word, as a broken cable would."""
        if self.socket:
            self.socket.transport.abort()
        if self.reader:
            await asyncio.wait({self.reader}, timeout=5)

    async def close(self):
        """Leaves."""
        if self.socket:
            await self.socket.close()
        if self.reader:
            await asyncio.wait({self.reader}, timeout=5)
