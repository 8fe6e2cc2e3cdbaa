"""Asks CPython about pickles, for the tests in this folder. Only the standard library is used.

    differential.py corpus    writes pickles of assorted plain data to stdout, each with its length before it
    differential.py check     reads records from stdin: policy (1 byte), pickle, rewritten pickle (or nothing);
                              loads each with an Unpickler that records and refuses what is not listed, and compares

Lengths are 4 bytes, big-endian. `check` prints one summary line of JSON.
"""

import io
import json
import marshal
import pickle
import pickletools
import resource
import struct
import sys

DATA, LEGACY, DELTA = 0, 1, 2


class Stub:
    """Stands for a listed class: takes whatever it is given, does nothing."""

    def __new__(cls, *arguments):
        return object.__new__(cls)

    def __init__(self, *arguments):
        pass

    def __setitem__(self, key, value):
        pass


LISTED = {
    DATA: set(),
    LEGACY: {("replication.repository", "GraphObjectStore"), ("replication.objects", "Node")},
    DELTA: {("builtins", name) for name in "int float bool str bytes list tuple dict set".split()}
    | {("deepdiff.helper", "Opcode"), ("deepdiff.helper", "OrderedDictPlus")},
}
NEVER = {"GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"}
CLASSES = {"STACK_GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "BINPERSID"}


class Refused(Exception):
    pass


class Recording:
    def find_class(self, module, name):
        if (module, name) in LISTED[self.policy]:
            return Stub
        self.asked.append(f"{module} {name}")
        raise Refused

    def persistent_load(self, pid):
        if self.policy == DELTA and pid == "<<NoneType>>":
            return None
        self.asked.append(f"persistent {pid!r}")
        raise Refused


class Fast(Recording, pickle.Unpickler):
    pass


class Plain(Recording, pickle._Unpickler):
    pass


def load(kind, policy, data):
    unpickler = kind(io.BytesIO(data))
    unpickler.policy, unpickler.asked = policy, []
    try:
        return unpickler.load(), None, unpickler.asked
    except Refused:
        return None, None, unpickler.asked
    except Exception as error:
        return None, f"{type(error).__name__}: {error}", unpickler.asked


def same(one, other):
    """Equal, types and order of keys included."""
    try:
        return marshal.dumps(one, 2) == marshal.dumps(other, 2)
    except TypeError:
        return canonical(one) == canonical(other)


def canonical(value):
    kind = type(value).__name__
    if isinstance(value, float):
        return kind, struct.pack(">d", value)
    if isinstance(value, dict):
        return kind, [(canonical(key), canonical(part)) for key, part in value.items()]
    if isinstance(value, (set, frozenset)):
        return kind, sorted(repr(canonical(part)) for part in value)
    if isinstance(value, (list, tuple)):
        return kind, [canonical(part) for part in value]
    return kind, value


def records(stream):
    while head := stream.read(1):
        parts = []
        for _ in range(2):
            (length,) = struct.unpack(">I", stream.read(4))
            parts.append(stream.read(length))
        yield head[0], parts[0], parts[1]


def check():
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    result = {"checked": 0, "asked": [], "failed": [], "different": [], "opcodes": []}

    def note(kind, index, policy, data, what):
        if len(result[kind]) < 5:
            result[kind].append(f"record {index}, policy {policy}: {what}: {data[:200].hex()}")

    for index, (policy, data, rewritten) in enumerate(records(sys.stdin.buffer)):
        result["checked"] += 1
        value, failure, asked = load(Fast, policy, data)
        if asked:
            note("asked", index, policy, data, asked)
        if failure:
            note("failed", index, policy, data, failure)
        if rewritten and not failure:
            again, failure, asked = load(Fast, DATA, rewritten)
            if failure or asked or not same(value, again):
                note("different", index, policy, data, f"rewritten {rewritten[:200].hex()} {failure} {asked}")
        if index % 50 == 0:
            _, failure, asked = load(Plain, policy, data)
            if asked:
                note("asked", index, policy, data, asked)
            names = {opcode.name for opcode, _, _ in pickletools.genops(data)}
            forbidden = names & (NEVER if policy else NEVER | CLASSES)
            if forbidden:
                note("opcodes", index, policy, data, sorted(forbidden))
    print(json.dumps(result))


def plain_values():
    shared = [1, 2, "shared"]
    yield from (None, 0, 1, -1, 255, 256, 65535, 65536, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63), 2**63)
    yield from (-(2**63) - 1, 2**64, 2**1000, -(2**1000), 2**2030, -(2**2030), 127, 128, -128, -129, 32767, -32768)
    yield from (0.0, -0.0, 1.5, 1e300, 5e-324, float("inf"), float("-inf"), float("nan"))
    yield from ("", "a", "ä€𐍈", "x" * 255, "x" * 256, "y" * 70000, "nul\0 and \n", "'\"\\")
    yield from ([], [1], [[]], list(range(3000)), (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), tuple(range(2000)))
    yield from ({}, {"a": 1}, {i: str(i) for i in range(2500)}, {1: "a", "1": "b", (1, 2): [3]}, {None: 0.5})
    yield [shared, shared, {"again": shared}, (shared, shared)]
    yield {"type_id": "Mesh", "name": "Cube", "co": [[0.0, 1.0, -1.0]] * 8, "uuid": "2b744424-de2e-4c26-8a6a-f7d4d50b8b0a"}
    yield [{"name": f"key{i}", "value": i * 0.25, "kind": "BEZIER"} for i in range(300)]
    nested = "core"
    for depth in range(30):
        nested = [nested] if depth % 3 == 0 else (nested, depth) if depth % 3 == 1 else {"in": nested}
    yield nested


def newer_values():
    """What protocols 1 and 2 can only write with the help of a class or of text opcodes."""
    yield from (True, False, {True: False}, [True, False, None])
    yield from (b"", b"raw", bytes(range(256)), b"z" * 70000, {"co": b"\0" * 4096, "n": 1024})
    yield from (set(), {1}, {1, "two", 3.0, (4, 5)}, frozenset(), frozenset({1, 2}), {frozenset({1}): {"s", "t"}})
    yield {"selected_objects": {"45859f6b-03dc-4991-90d3-d58799cb877c"}, "color": (0.1, 0.2, 0.3, 1)}
    blob = b"shared bytes" * 10
    yield [blob, blob, {"blob": blob}]


def corpus():
    def give(value, protocol):
        data = pickle.dumps(value, protocol)
        sys.stdout.buffer.write(struct.pack(">I", len(data)) + data)

    for value in plain_values():
        for protocol in range(1, 6):
            if protocol == 1 and isinstance(value, int) and not -(2**31) <= value < 2**31:
                continue  # written as decimal text
            give(value, protocol)
    for value in newer_values():
        for protocol in (4, 5):
            give(value, protocol)


if __name__ == "__main__":
    {"corpus": corpus, "check": check}[sys.argv[1]]()
