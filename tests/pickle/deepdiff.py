"""Applies deltas with the real deepdiff, for the tests in this folder.

Reads records from stdin: the pickles of a base, of a delta, and of what we made of them (nothing, if we refused). Prints
one line of JSON: the version of the library, and for each record the same as ours says: `equal`, `different`, or the
exception. Lengths are 4 bytes, big-endian.
"""

import json
import logging
import pickle
import struct
import sys

import deepdiff


def same(one, other):
    """Equal, types included; the order of a dict does not count."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        keys = set(map(repr, one)) == set(map(repr, other))
        return keys and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or one != one


def records(stream):
    while head := stream.read(4):
        parts = [stream.read(*struct.unpack(">I", head))]
        for _ in range(2):
            parts.append(stream.read(*struct.unpack(">I", stream.read(4))))
        yield parts


def verdict(base, delta, ours):
    try:
        result = pickle.loads(base) + deepdiff.Delta(delta)
    except Exception as error:
        return "equal" if not ours else f"{type(error).__name__}: {error}"
    if not ours:
        return "refused"
    return "equal" if same(pickle.loads(ours), result) else f"different: {result!r}"


if __name__ == "__main__":
    logging.disable()
    verdicts = [verdict(*record) for record in records(sys.stdin.buffer)]
    print(json.dumps({"version": deepdiff.__version__, "verdicts": verdicts}))
