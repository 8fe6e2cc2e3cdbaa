"""Both transports of the Multi-User protocol by hand, and its objects: for clients that the library would not let us be.

Nothing here follows the rules by itself: a caller may send any bytes on any channel, and reads when it wants to.
"""

import io
import os
import pickle
import socket
import struct
import time
import uuid

COMMAND, DATA, TTL = b"C", b"D", b"T"
CHANNELS = (COMMAND, DATA, TTL)
# What the transports are called here, and the newest version that speaks each.
TRANSPORTS = {"zmtp": "0.9.10", "tcp": "0.10.2"}

COMMIT, NODE, DELETE, RIGHT, SNAPSHOT, SERVER_SNAPSHOT = 1, 2, 4, 5, 7, 8
AUTH, DISCONNECT, KICK, USERS, METADATA, INFO = 9, 10, 11, 12, 13, 14

GREETING = b"\xff" + b"\0" * 7 + b"\x01\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" * 32


class Hungup(Exception):
    """The other side closed the connection."""


class DataOnly(pickle.Unpickler):
    """What a server says must need nothing but data."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"asks for {module}.{name}")

    def persistent_load(self, identity):
        raise pickle.UnpicklingError(f"asks for the persistent id {identity!r}")


def load(data):
    return DataOnly(io.BytesIO(data)).load()


def dump(value):
    return pickle.dumps(value, protocol=4)


def node(key, data, owner="COMMON", uses=()):
    return [dump(NODE), key.encode(), owner.encode(), dump(list(uses)), dump({**data, "uuid": key})]


def renaming(name):
    """A delta that changes a node's name."""
    return dump({"values_changed": {"root['name']": {"new_value": name}}})


def command(number, data, owner="raw"):
    return [dump(number), owner.encode(), dump(data)]


def frame(transport, chunks):
    """One message as it is on the wire."""
    if transport == "tcp":
        return struct.pack("!I", len(chunks)) + b"".join(struct.pack("!I", len(chunk)) + chunk for chunk in chunks)
    out = []
    for index, chunk in enumerate(chunks):
        more = index + 1 < len(chunks)
        head = struct.pack("!BQ", 2 | more, len(chunk)) if len(chunk) > 255 else bytes([more, len(chunk)])
        out.append(head + chunk)
    return b"".join(out)


class Channel:
    """One connection, greeted."""

    def __init__(self, port, transport, role, identity, buffer=None, timeout=10):
        self.transport, self.role, self.pending, self.chunks = transport, role, bytearray(), []
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", port + (CHANNELS.index(role) if transport == "zmtp" else 0)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if transport == "tcp":
            self.raw(struct.pack("!I", len(identity)) + identity + role)
        else:
            self.raw(GREETING)
            self.exactly(64)
            properties = b"\x0bSocket-Type\0\0\0\x06DEALER\x08Identity" + struct.pack("!I", len(identity)) + identity
            self.raw(b"\x04" + bytes([6 + len(properties)]) + b"\x05READY" + properties)
            if self.part(time.monotonic() + timeout)[0] != 4:
                raise AssertionError("the server's READY is missing")

    def part(self, deadline):
        """One frame of ZMTP: its flags and its body."""
        flags = self.exactly(1, deadline)[0]
        size = struct.unpack("!Q", self.exactly(8, deadline))[0] if flags & 2 else self.exactly(1, deadline)[0]
        return flags, self.exactly(size, deadline)

    def raw(self, data):
        self.socket.sendall(data)

    def send(self, chunks):
        self.raw(frame(self.transport, chunks))

    def fill(self, wait):
        self.socket.settimeout(wait)
        try:
            got = self.socket.recv(1 << 20)
        except (ConnectionError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise Hungup(str(error)) from None
        if not got:
            raise Hungup("end of file")
        self.pending += got

    def exactly(self, size, deadline=None):
        deadline = deadline or time.monotonic() + 10
        while len(self.pending) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.fill(left)
        taken = bytes(self.pending[:size])
        del self.pending[:size]
        return taken

    def receive(self, timeout=10):
        """The next message as chunks. A timeout may cut a message only if the server sends none in parts."""
        deadline = time.monotonic() + timeout
        if self.transport == "tcp":
            (count,) = struct.unpack("!I", self.exactly(4, deadline))
            return [self.exactly(struct.unpack("!I", self.exactly(4, deadline))[0], deadline) for _ in range(count)]
        while True:
            flags, body = self.part(deadline)
            if flags & 4:
                continue  # what the sockets say to each other
            self.chunks.append(body)
            if not flags & 1:
                chunks, self.chunks = self.chunks, []
                return chunks

    def hangs_up(self, timeout=10):
        """Whether the server closes within the time, whatever else it says before."""
        deadline = time.monotonic() + timeout
        try:
            while (left := deadline - time.monotonic()) > 0:
                self.fill(left)
                self.pending.clear()
        except Hungup:
            return True
        except TimeoutError:
            pass
        return False

    def close(self):
        self.socket.close()


class Raw:
    """A client without rules, with up to three channels."""

    def __init__(self, port, transport, identity=None, roles=(COMMAND, DATA), **options):
        self.port, self.transport = port, transport
        self.identity = identity or uuid.uuid4().bytes
        self.options = options
        self.channels = {role: Channel(port, transport, role, self.identity, **options) for role in roles}

    def __getitem__(self, role):
        return self.channels[role]

    def open(self, role, **options):
        self.channels[role] = Channel(self.port, self.transport, role, self.identity, **{**self.options, **options})
        if role == TTL:
            self[TTL].send([b"INIT"])
        return self.channels[role]

    def say(self, number, data, owner="raw"):
        self[COMMAND].send(command(number, data, owner))

    def put(self, key, data, **options):
        self[DATA].send(node(key, data, **options))

    def hear(self, *numbers, timeout=10, where=lambda data: True):
        """The data of the next command of one of these numbers."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            number, _, data = self[COMMAND].receive(left)[:3]
            if load(number) in numbers and where(data := load(data)):
                return data
        raise TimeoutError(f"none of {numbers} within {timeout} s")

    def auth(self, name, password="", admin=None, version=None):
        """Asks to be let in; returns the answer."""
        self.name = name
        self.say(AUTH, {"AUTH_TYPE": "ADMIN" if admin else "CLIENT", "AUTH_ID": name, "S_PWD": password, "A_PWD": admin,
                        "VERSION": version or TRANSPORTS[self.transport]}, owner=name)  # fmt: skip
        return self.hear(AUTH)

    def login(self, name, **options):
        answer = self.auth(name, **options)
        if "FAILED" in answer:
            raise AssertionError(f"{name} was refused: {answer}")
        return self

    def join(self, name, waits=None, **options):
        """Logs in and takes all nodes; returns them as key -> data. `waits` gets the seconds to each answer."""
        self.login(name, **options)
        self.say(SNAPSHOT, {"STATE": "REQUEST_INIT"})
        catalog = self.hear(SNAPSHOT)["CATALOG"]
        nodes = {}
        for key in reversed(catalog):
            asked = time.monotonic()
            self.say(SNAPSHOT, {"STATE": "GET", "ID": key})
            chunks = self.hear(SNAPSHOT)["DATA"]
            if waits is not None:
                waits.append(time.monotonic() - asked)
            if chunks != b"removed":
                nodes[key] = load(chunks[4])
        self.say(SNAPSHOT, {"STATE": "DONE"})
        return nodes

    def init(self, name, nodes, **options):
        """Logs in and begins the session with these nodes, each a list of chunks."""
        self.login(name, **options)
        self.say(SERVER_SNAPSHOT, {"STATE": "INIT", "SIZE": len(nodes), "NODES": [chunks[1].decode() for chunks in nodes]})
        answer = self.hear(SERVER_SNAPSHOT)["STATE"]
        if answer != "ACCEPTED":
            raise AssertionError(f"init: {answer}")
        for chunks in nodes:
            self.say(SERVER_SNAPSHOT, {"STATE": "SET", "DATA": chunks})
        self.say(SERVER_SNAPSHOT, {"STATE": "END"})
        self.hear(SERVER_SNAPSHOT, where=lambda data: data["STATE"] == "DONE")
        return self

    def close(self):
        for channel in self.channels.values():
            channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def small_node(number=0, size=64, kind="Mesh"):
    """The chunks of a new node with about `size` bytes of content."""
    key = str(uuid.uuid4())
    return node(key, {"name": f"node {number}", "content": os.urandom(size), "type_id": kind})
