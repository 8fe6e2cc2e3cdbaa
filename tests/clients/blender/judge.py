"""The judge of the loss tests: each peer edits nodes of its own and notes what it saw of the others'.

Each edit of a node carries a mark, "NAME NUMBER", that only grows. Promised is what another client has received; lost is
what was promised and is not there: a node whose mark is older than one that somebody has seen.
"""

import collections
import pathlib

import typed
from crew import PeerError
from harness import short


class Diary:
    """One peer that edits by itself."""

    def __init__(self, peer, path, nodes):
        self.peer, self.path, self.nodes, self.count, self.rate = peer, pathlib.Path(path), nodes, 0, None

    def begin(self, rate):
        self.rate = rate
        self.peer.ask("load", log=str(self.path), rate=rate, seed=len(self.peer.name), nodes=self.nodes, count=self.count)

    def end(self):
        self.rate = None
        self.count = max(self.count, self.peer.ask("load_end"))

    def come_back(self, daemon):
        """Joins again if it has been disconnected; returns how many times it had to."""
        if self.peer.ask("about")["state"] == "STATE_ACTIVE":
            return 0
        rate = self.rate
        self.end()
        self.peer.until(lambda about: about["state"] in ("STATE_INITIAL", "STATE_ACTIVE"), "gone or back")
        if self.peer.ask("about")["state"] == "STATE_INITIAL":
            self.peer.join(daemon, self.peer.name)
        if rate:
            self.begin(rate)
        return 1

    def own_marks(self):
        return {key: number_of(data) for key, data in marks(self.peer, self.nodes).items()}

    def expect_own_work(self):
        """On the author's own screen is his newest edit."""
        sent = collections.defaultdict(int)
        shown = self.own_marks()
        for word, key, mark in entries(self.path):
            if word == "S":
                sent[key] = int(mark.rsplit(" ", 1)[1])
        old = {key: (shown.get(key), number) for key, number in sent.items() if (shown.get(key) or 0) < number - 60}
        if old:
            raise AssertionError(f"{self.peer} sees older versions of its own nodes: {old}")


def entries(path):
    for line in path.read_text().splitlines():
        word, key, mark = line.split(" ", 2)
        yield word, key, mark


def number_of(mark):
    return int(mark.rsplit(" ", 1)[1]) if mark else 0


def marks(peer, keys):
    found = {}
    for key, node in peer.nodes(keys).items():
        found[key] = typed.unpack(node["data"]).get("mark", "")
    return found


def judge(diaries, held):
    """Compares what was seen with `held`, node -> mark; returns the losses and the counts."""
    newest, seen, sent = {}, 0, 0
    for diary in diaries:
        for word, key, mark in entries(diary.path):
            if word == "E":
                seen += 1
                if number_of(mark) >= newest.get(key, (0, ""))[0]:
                    newest[key] = number_of(mark), diary.peer.name
            else:
                sent += word == "S"
    lost = [f"{who} has seen edit {number} of {key}, which says {held.get(key)!r}"
            for key, (number, who) in newest.items() if number_of(held.get(key, "")) < number]  # fmt: skip
    return {"lost": lost, "seen": seen, "sent": sent, "newest": newest}


def expect_nothing_lost(diaries, witness):
    diaries = list(diaries)
    held = marks(witness, [key for diary in diaries for key in diary.nodes])
    found = judge(diaries, held)
    if found["lost"] or not found["seen"]:
        raise AssertionError(f"{len(found['lost'])} lost, {found['seen']} seen: " + short("\n  ".join(found["lost"])))
    return found


def expect_that_the_judge_bites(diaries, witness):
    """An older mark and a missing node must be found."""
    held = marks(witness, [key for diary in diaries for key in diary.nodes])
    found = judge(diaries, held)
    key, (number, _) = max(found["newest"].items(), key=lambda item: item[1][0])
    for wrong in ({**held, key: f"x {number - 1}"}, {other: mark for other, mark in held.items() if other != key}):
        if len(judge(diaries, wrong)["lost"]) != 1:
            raise PeerError("the judge does not notice a loss")
