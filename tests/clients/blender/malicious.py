"""Pickles that no client of Multi-User ever sends: those that import, call, confuse, never end or grow without end.

`corpus()` gives them by name. Each is refused wherever a pickle may stand; those in `ONLY_OUTSIDE_DELTAS` hold what a
delta may hold, and nothing else may.
"""

import pickle
import struct

# What must never be looked up, whatever the opcode that asks.
NAMES = [
    ("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"), ("builtins", "eval"), ("builtins", "exec"),
    ("builtins", "__import__"), ("builtins", "getattr"), ("builtins", "object"), ("builtins", "type"), ("builtins", "open"),
    ("builtins", "bytearray"), ("builtins", "complex"), ("__builtin__", "eval"), ("__main__", "x"), ("sys", "modules"), ("importlib", "import_module"),
    ("functools", "partial"), ("operator", "attrgetter"), ("codecs", "decode"), ("pickle", "loads"), ("_pickle", "loads"),
    ("copyreg", "_reconstructor"), ("collections", "OrderedDict"), ("datetime", "datetime"), ("decimal", "Decimal"), ("uuid", "UUID"),
    ("numpy.core.multiarray", "_reconstruct"), ("replication.objects", "Node"), ("replication.server", "cli"), ("deepdiff.delta", "Delta"),
    ("deepdiff.helper", "Opcode.__class__"), ("builtins", "int.__class__.__base__"), ("builtins", "int\0"), ("builtins ", "int"), ("builtins", ""),
    ("", ""), ("deepdiff", "helper.Opcode"), ("ｂuiltins", "int"), ("x" * 300, "y"),
]  # fmt: skip
PROTO = b"\x80\x04"
ARGUMENT = b"\x8c\x04true"


def text(value):
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data if len(data) < 256 else b"X" + struct.pack("<I", len(data)) + data


def importers(module, name):
    """Every way to look a name up, and to call what is found."""
    line = f"{module}\n{name}\n".encode()
    stack = text(module) + text(name) + b"\x93"
    yield "GLOBAL", PROTO + b"c" + line + b"."
    yield "STACK_GLOBAL", PROTO + stack + b"."
    yield "STACK_GLOBAL from the memo", PROTO + text(module) + b"\x94" + text(name) + b"\x94" + b"00h\x00h\x01\x93."
    yield "GLOBAL REDUCE", PROTO + b"c" + line + ARGUMENT + b"\x85R."
    yield "STACK_GLOBAL REDUCE", PROTO + stack + ARGUMENT + b"\x85R."
    yield "INST", b"(S'true'\ni" + line + b"."
    yield "OBJ", b"(c" + line + b"S'true'\no."
    yield "NEWOBJ", PROTO + stack + ARGUMENT + b"\x85\x81."
    yield "NEWOBJ_EX", PROTO + stack + ARGUMENT + b"\x85}\x92."
    yield "BUILD", PROTO + stack + b")R}" + text("x") + ARGUMENT + b"sb."
    yield "inside data", PROTO + b"}" + text("type_id") + text("Mesh") + b"s" + text("a") + b"](K\x01" + stack + ARGUMENT + b"\x85Res."


def others():
    """What does harm, or what only other programs write, without a name."""
    good = pickle.dumps({"type_id": "Mesh", "a": [1, 2.5, "text", b"bytes", (1, 2, 3)], "b": {"c": None}}, protocol=4)
    yield "empty", b""
    yield "nothing but STOP", b"."
    yield "no STOP", good[:-1]
    yield "bytes after STOP", good + b"x"
    yield "two pickles", good + good
    yield "STOP with two values", PROTO + b"K\x01K\x02."
    yield "STOP on a mark", PROTO + b"(."
    for size in range(1, len(good) - 1, 4):
        yield f"cut after {size}", good[:size]
    for protocol in (0, 1, 2, 3, 5):
        yield f"protocol {protocol}", pickle.dumps({"a": [1, 1 << 70, 2.5, "text é"], "b": (True, None)}, protocol=protocol)
    for protocol in (6, 127, 255):
        yield f"protocol number {protocol}", bytes([0x80, protocol]) + good[2:]
    for name, code in {"EXT1": b"\x82\x01", "EXT2": b"\x83\x01\0", "EXT4": b"\x84\x01\0\0\0", "PERSID": b"Pid\n", "BINPERSID": text("os.system") + b"Q",
                       "BINPERSID of a tuple": b"K\x01\x85Q", "NEXT_BUFFER": b"\x97", "READONLY_BUFFER": b"\x97\x98",
                       "BYTEARRAY8": b"\x96" + struct.pack("<Q", 3) + b"abc", "INT": b"I1\n", "LONG": b"L1L\n", "STRING": b"S'x'\n",
                       "STRING with code": b"S'x'*9\n", "UNICODE": b"V\\u0041\n", "FLOAT": b"F1.5\n", "BINSTRING": b"T\x01\0\0\0x",
                       "SHORT_BINSTRING": b"U\x01x", "DUP": b"K\x012\x86", "REDUCE of nothing": b"))R", "BUILD of nothing": b"}}b",
                       "REDUCE of a text": ARGUMENT + b")R", "NEWOBJ of a number": b"K\x01)\x81", "opcode 0xff": b"\xff", "opcode 0": b"\0"}.items():  # fmt: skip
        yield name, PROTO + code + b"."
    # The memo.
    yield "BINGET of what is not there", PROTO + b"h\x05."
    yield "LONG_BINGET of what is not there", PROTO + b"j\xff\xff\xff\xff."
    yield "GET of what is not there", PROTO + b"g5\n."
    yield "a memo index without bound", PROTO + b"K\x01r\xff\xff\xff\xff."
    yield "PUT of a negative index", PROTO + b"K\x01p-1\n."
    yield "MEMOIZE of nothing", PROTO + b"\x94."
    yield "MEMOIZE of a mark", PROTO + b"(\x94K\x01l."
    yield "a list in itself", PROTO + b"]\x94h\x00a."
    yield "a dictionary in itself", PROTO + b"}\x94" + text("a") + b"h\x00s."
    yield "a billion lists", PROTO + b"]\x94" + b"".join(b"](" + b"h" + bytes([n]) * 1 + (b"h" + bytes([n])) * 9 + b"e\x94" for n in range(40)) + b"."
    yield "a billion texts", PROTO + text("x" * 200) + b"\x94" + b"".join(b"(" + (b"h" + bytes([n])) * 10 + b"t\x94" for n in range(30)) + b"."
    # Stack and structure.
    yield "POP of nothing", PROTO + b"0."
    yield "POP_MARK without a mark", PROTO + b"K\x011."
    yield "APPEND to a number", PROTO + b"K\x01K\x02a."
    yield "APPENDS to a text", PROTO + ARGUMENT + b"(K\x01e."
    yield "SETITEM on a list", PROTO + b"]K\x01K\x02s."
    yield "SETITEMS with a key too many", PROTO + b"}(K\x01K\x02K\x03u."
    yield "a list as a key", PROTO + b"}]K\x01s."
    yield "a dictionary in a set", PROTO + b"\x8f(}\x90."
    yield "ADDITEMS to a list", PROTO + b"](K\x01\x90."
    yield "TUPLE3 of two", PROTO + b"K\x01K\x02\x87."
    yield "a hundred thousand lists in each other", PROTO + b"]" * 100_000 + b"a" * 99_999 + b"."
    yield "a hundred thousand tuples in each other", PROTO + b")" + b"\x85" * 100_000 + b"."
    yield "a million marks", PROTO + b"(" * 1_000_000 + b"."
    # Lengths.
    for name, code in {"BINBYTES8": b"\x8e", "BINUNICODE8": b"\x8d", "BYTEARRAY8": b"\x96", "FRAME": b"\x95"}.items():
        for size in (1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1):
            yield f"{name} of {size}", PROTO + code + struct.pack("<Q", size) + b"x."
    yield "BINBYTES of 4 GiB", PROTO + b"B\xff\xff\xff\xffx."
    yield "BINUNICODE of 4 GiB", PROTO + b"X\xff\xff\xff\xffx."
    yield "LONG4 of 2 GiB", PROTO + b"\x8b\xff\xff\xff\x7fx."
    yield "LONG4 of less than nothing", PROTO + b"\x8b\xff\xff\xff\xffx."
    yield "a frame that ends too late", PROTO + b"\x95" + struct.pack("<Q", 99) + b"K\x01."
    yield "frames in each other", PROTO + b"\x95" + struct.pack("<Q", 12) + b"\x95" + struct.pack("<Q", 2) + b"K\x01."
    yield "a text that is no UTF-8", PROTO + b"\x8c\x02\xff\xfe."


def corpus():
    """(name, pickle) of each."""
    for module, name in NAMES:
        for way, data in importers(module, name):
            yield f"{way} {module[:20]}.{name}", data
    yield from others()


def of_deltas():
    """What deltas of deepdiff may hold, and only they; called or built, not even they."""
    integer = text("builtins") + text("int") + b"\x93"
    opcode = text("deepdiff.helper") + text("Opcode") + b"\x93"
    yield "a class", PROTO + integer + b"."
    yield "NoneType", PROTO + text("<<NoneType>>") + b"Q."
    yield "an Opcode", PROTO + opcode + b"(" + text("equal") + b"K\0K\1K\0K\1NNt\x81."
    yield "an OrderedDictPlus", PROTO + text("deepdiff.helper") + text("OrderedDictPlus") + b"\x93)R."


def misuses_of_deltas():
    """Names that a delta may hold, used as none does: refused there too."""
    integer = text("builtins") + text("int") + b"\x93"
    opcode = text("deepdiff.helper") + text("Opcode") + b"\x93"
    plus = text("deepdiff.helper") + text("OrderedDictPlus") + b"\x93"
    yield "int called", PROTO + integer + ARGUMENT + b"\x85R."
    yield "bytes called with a number", PROTO + text("builtins") + text("bytes") + b"\x93" + b"J\xff\xff\xff\x7f\x85R."
    yield "list made", PROTO + text("builtins") + text("list") + b"\x93)\x81."
    yield "int built", PROTO + integer + b"}" + text("x") + b"K\x01sb."
    yield "Opcode with one value", PROTO + opcode + b"K\x01\x85\x81."
    yield "Opcode called", PROTO + opcode + b"(" + text("equal") + b"K\0K\1K\0K\1NNtR."
    yield "OrderedDictPlus of something", PROTO + plus + b"K\x01\x85R."
    yield "OrderedDictPlus by NEWOBJ", PROTO + plus + b")\x81."
    yield "OrderedDictPlus built", PROTO + plus + b")R}b."
    yield "another persistent id", PROTO + text("<<type>>") + b"Q."
    yield "a persistent number", PROTO + b"K\x01Q."


if __name__ == "__main__":
    print(sum(1 for _ in corpus()), sum(1 for _ in of_deltas()), sum(1 for _ in misuses_of_deltas()))
