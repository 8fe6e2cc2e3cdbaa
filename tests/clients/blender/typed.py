"""Python values as JSON that keeps their types; standard library only, because every environment of the peers imports it.

null, true, false, "str", {"i": "int"}, {"f": "float in hexadecimal"}, {"b": "bytes in hexadecimal"}, [list], {"tu": [tuple]},
{"s": [set]}, {"d": [[key, value], ...]}. Dictionaries and sets are sorted: two equal values give the same JSON.
"""

import json


def pack(value):
    """A Python value as what `json` can write."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return {"i": str(value)}
    if isinstance(value, float):
        return {"f": value.hex()}
    if isinstance(value, (bytes, bytearray)):
        return {"b": bytes(value).hex()}
    if isinstance(value, list):
        return [pack(item) for item in value]
    if isinstance(value, tuple):
        return {"tu": [pack(item) for item in value]}
    if isinstance(value, (set, frozenset)):
        return {"s": sorted((pack(item) for item in value), key=json.dumps)}
    if isinstance(value, dict):
        return {"d": sorted(([pack(key), pack(item)] for key, item in value.items()), key=lambda pair: json.dumps(pair[0]))}
    return {"?": f"{type(value).__name__}: {value!r}"}


def unpack(value):
    """What `pack` was given."""
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    simple = {"i": int, "f": float.fromhex, "b": bytes.fromhex}
    if kind in simple:
        return simple[kind](inner)
    items = inner if kind == "d" else [unpack(item) for item in inner]
    if kind == "tu":
        return tuple(items)
    if kind == "s":
        return set(items)
    if kind == "d":
        return {unpack(key): unpack(item) for key, item in items}
    raise ValueError(f"no type {kind}")
