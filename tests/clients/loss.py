"""The loss test: clients in several languages edit at full speed while the daemon is killed at random moments.

Then the judge compares what each client was promised (accepted) and saw with what the session holds: operations lost,
applied twice, and replicas that differ must all be 0. Prints its seed; `--seed` repeats the choices, not the timing.
"""

import argparse
import asyncio
import collections
import copy
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

from harness import HERE, LONG, Daemon, Report, binary, differences, short
from hotset_client import Client

NODES = 200
# Clients of the short list come in order, again and again, until there are enough.
LANGUAGES = [("rust", "json"), ("node", "binary"), ("python", "json"), ("rust", "binary"), ("node", "json"), ("python", "binary")]


class Worker:
    """A client process."""

    def __init__(self, number, options, folder, url, seed):
        self.language, self.format = LANGUAGES[number % len(LANGUAGES)]
        self.name = f"{self.language}-{self.format}-{number}"
        self.log = folder / f"{self.name}.log"
        ask = {"url": url, "name": self.name, "format": self.format, "seed": seed, "rate": options.rate, "nodes": NODES,
               "log": str(self.log), "large_every": options.clients}  # fmt: skip
        program = {"python": [sys.executable, HERE / "python" / "loss_worker.py"],
                   "node": ["node", HERE / "node" / "loss_worker.mjs"],
                   "rust": [binary(), "bench", "client"]}[self.language]  # fmt: skip
        self.command = [*map(str, program), json.dumps(ask)]

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(*self.command, stdin=-1, stdout=-1, limit=256 << 20)

    async def ask(self, *words, timeout=120):
        if self.process.returncode is not None:
            raise AssertionError(f"{self.name} died: {self.last_lines()}")
        self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())
        await self.process.stdin.drain()
        try:
            line = await asyncio.wait_for(self.process.stdout.readline(), timeout)
        except asyncio.TimeoutError:
            raise AssertionError(f"{self.name} did not answer {words}: {self.last_lines()}") from None
        if not line:
            raise AssertionError(f"{self.name} died: {self.last_lines()}")
        return json.loads(line)

    def last_lines(self):
        lines = [line for line in self.log.read_text().splitlines() if line[0] in "WXR!"]
        return short("\n".join(lines[-8:]))

    def freeze(self):
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGSTOP)

    def kill(self):
        if self.process.returncode is None:
            self.process.kill()


# --- the judge ---------------------------------------------------------------------------------------------------


class Evidence:
    """What all clients noted, and what the session held in the end."""

    def __init__(self):
        self.sent = set()  # (name, op)
        self.acked = {}  # (name, op) -> seq
        self.refused = collections.Counter()
        self.refused_ops = set()
        self.seen = {}  # name -> {seq: (author, op, changes)}
        self.blind = {}  # name -> [(after, before)]: what it was given as a whole state, not as events
        self.resumes = self.full_states = 0
        self.faults = []
        self.replicas = {}  # who -> dump
        self.marks = {}  # node -> (mark, list): what a fresh client found in the payloads

    def read(self, name, path):
        seen = self.seen[name] = {}
        blind, newest = self.blind.setdefault(name, []), 0
        for line in path.read_text().splitlines():
            word, *rest = line.split(" ", 4)
            if word == "S":
                self.sent.add((name, int(rest[0])))
            elif word == "A":
                key, seq = (name, int(rest[0])), int(rest[1])
                if self.acked.setdefault(key, seq) != seq:
                    self.faults.append(f"{key} was accepted as {self.acked[key]} and as {seq}")
            elif word == "R":
                self.refused[rest[1]] += 1
                self.refused_ops.add((name, int(rest[0])))
            elif word == "E":
                seq, event = int(rest[0]), (rest[1], int(rest[2]), rest[3])
                if seq > newest + 1:
                    blind.append((newest, seq))
                newest = max(newest, seq)
                if seen.setdefault(seq, event) != event:
                    self.faults.append(f"{name} saw {seq} as {short(seen[seq], 200)} and as {short(event, 200)}")
            elif word == "W":
                self.resumes += int(rest[0])
                self.full_states += 1 - int(rest[0])
            elif word == "!":
                self.faults.append(f"{name}: {line}")

    def is_unseen(self, seq):
        """Whether everybody was given a whole state across this event, which the replicas allow only then."""
        return all(any(after < seq < before for after, before in blind) for blind in self.blind.values())


def judge(evidence):
    """Returns the findings by kind; all lists empty means that every promise was kept."""
    found = {"lost": [], "twice": [], "different": [], "unanswered": [], "other": list(evidence.faults)}
    last = min(dump["seq"] for dump in evidence.replicas.values())
    whole = {}
    for name, seen in evidence.seen.items():
        for seq, event in seen.items():
            if seq > last:
                found["lost"].append(f"{name} saw event {seq}; the session ends at {last}")
            elif whole.setdefault(seq, event) != event:
                found["lost"].append(f"event {seq} is {short(event, 200)} for {name}, {short(whole[seq], 200)} for others")
    places = collections.defaultdict(list)
    for seq, (author, op, _) in whole.items():
        if op:
            places[(author, op)].append(seq)
    found["twice"] += [f"{key} was applied as {seqs}" for key, seqs in places.items() if len(seqs) > 1]
    for key, seq in evidence.acked.items():
        if seq > last or (places.get(key, [None])[0] != seq and not (seq not in whole and evidence.is_unseen(seq))):
            found["lost"].append(f"{key} was accepted as {seq}; the log has {whole.get(seq, 'nothing')} there")
        if key in evidence.refused_ops:
            found["other"].append(f"{key} was accepted and refused")
    unanswered = evidence.sent - evidence.acked.keys() - evidence.refused_ops
    found["unanswered"] += [f"{key} was never answered" for key in sorted(unanswered)]
    first = min(whole, default=0)
    missing = [seq for seq in range(first, last + 1) if seq not in whole and not evidence.is_unseen(seq)]
    if missing:
        found["other"].append(f"{len(missing)} events that no client saw, the first is {missing[0]}")
    (reference, wanted), *others = evidence.replicas.items()
    for name, dump in others:
        found["different"] += [f"{reference} / {name}{line}" for line in differences(wanted, dump)]
    found["lost"] += lost_in_the_state(whole, evidence)
    return found


def lost_in_the_state(whole, evidence):
    """Rebuilds from the log what every node should say, and compares with what it says."""
    expected, revision, said = {}, {}, []
    for seq in sorted(whole):
        for kind, node, mark in json.loads(whole[seq][2]):
            if kind == "put":
                expected[node] = [mark, []]
            elif kind == "merge" and node in expected:
                expected[node][0] = mark
            elif kind == "add" and node in expected:
                expected[node][1].append(mark)
            elif kind == "say":
                said.append(mark)
                continue
            revision[node] = seq
    lost = []
    dump = next(iter(evidence.replicas.values()))
    first, last = min(whole, default=0), max(whole, default=0)
    unseen_events = any(seq not in whole and evidence.is_unseen(seq) for seq in range(first, last))
    unseen = {node["id"] for node in dump["nodes"] if node["revision"] not in whole and evidence.is_unseen(node["revision"])}
    for node, (mark, items) in expected.items():
        if node in unseen:
            continue
        actual = evidence.marks.get(node)
        # What nobody saw as an event may have added to the list, too.
        if actual != (mark, items) and not (unseen_events and actual and actual[0] == mark and is_within(items, actual[1])):
            lost.append(f"node {node} should say {mark} {items}, says {short(actual, 300)}")
    for node in dump["nodes"]:
        if node["id"] not in unseen and node["revision"] != revision.get(node["id"], node["revision"]):
            lost.append(f"node {node['id']} has revision {node['revision']}, not {revision[node['id']]}")
    held = [message["text"] for message in dump["chat"]]
    if held and said[-len(held) :] != held:
        lost.append("the chat is not the newest messages of the log")
    return lost


def is_within(some, all_of_them):
    """Whether all of `some` are there, in order."""
    rest = iter(all_of_them)
    return all(item in rest for item in some)


def prove_that_the_judge_bites(evidence):
    """Falsifies the evidence in every way that the test is about; each must be found."""

    def forget_seen(e):
        key, seq = next((key, seq) for key, seq in reversed(e.acked.items()))
        for seen in e.seen.values():
            seen.pop(seq, None)

    def other_author(e):
        seen = next(seen for seen in e.seen.values() if seen)
        seq = max(seen)
        seen[seq] = ("somebody", 1, seen[seq][2])

    def applied_again(e):
        key, seq = next(iter(e.acked.items()))
        newest = max(max(seen, default=0) for seen in e.seen.values())
        for seen in e.seen.values():
            seen[newest] = (*key, "[]")

    def end_early(e):
        for dump in e.replicas.values():
            dump["seq"] -= 1

    def old_mark(e):
        node = next(node for node, (mark, _) in e.marks.items() if mark)
        e.marks[node] = ("older", e.marks[node][1])

    def replica_differs(e):
        next(reversed(e.replicas.values()))["nodes"][0]["payload"] = "json of something else"

    def never_answered(e):
        e.sent.add((next(iter(e.seen)), 10**9))

    cases = {forget_seen: "lost", other_author: "lost", applied_again: "twice", end_early: "lost", old_mark: "lost",
             replica_differs: "different", never_answered: "unanswered"}  # fmt: skip
    for falsify, kind in cases.items():
        changed = copy.copy(evidence)
        changed.sent, changed.acked = set(evidence.sent), dict(evidence.acked)
        changed.seen = {name: dict(seen) for name, seen in evidence.seen.items()}
        changed.replicas, changed.marks = copy.deepcopy(evidence.replicas), dict(evidence.marks)
        falsify(changed)
        if not judge(changed)[kind]:
            raise AssertionError(f"the judge does not notice: {falsify.__name__}")


# --- the run -----------------------------------------------------------------------------------------------------


async def fill(url):
    """The nodes that everybody edits."""
    client = await Client(url, "filler").connect()
    for first in range(0, NODES, 50):
        puts = [{"do": "node.put", "id": f"n{n}", "kind": "small", "payload": {"mark": "", "list": []}}
                for n in range(first, first + 50)]  # fmt: skip
        answer = await client.batch(*puts)
        assert answer["type"] == "ack", answer
    await client.close()


async def kill_at_random(daemon, kills, chance, low, high):
    """kill -9 after random times, also while the daemon is still recovering."""
    for number in range(kills):
        await asyncio.sleep(chance.uniform(low, high) if LONG else low * (high / low) ** chance.random())
        if daemon.process.poll() is not None:
            raise AssertionError(f"the daemon ended by itself with {daemon.process.returncode}:\n{daemon.log()[-4000:]}")
        daemon.kill()
        daemon.spawn()
        if (number + 1) % 25 == 0:
            print(f"  {number + 1} kills", flush=True)


async def campaign(options, seed, kills, folder):
    """One data directory, one crew, many kills; returns the evidence."""
    chance = random.Random(seed)
    with Daemon(folder, SAVE_INTERVAL=2, MAX_BACKUPS=3, HISTORY_CAP="256MiB", HISTORY="60s") as daemon:
        daemon.start()
        await fill(daemon.url)
        workers = [Worker(n, options, folder, daemon.url, seed + n) for n in range(options.clients)]
        begin = time.monotonic()
        try:
            for worker in workers:
                await worker.start()
            await asyncio.sleep(2 if kills else 6)
            await kill_at_random(daemon, kills, chance, *options.every)
            daemon.wait_ready(60)
            seconds = time.monotonic() - begin
            evidence = await settle(daemon, workers)
        finally:
            for worker in workers:
                worker.kill()
        for worker in workers:
            evidence.read(worker.name, worker.log)
        compare_with_export(daemon, evidence)
    accepted = len(evidence.acked)
    print(f"  {kills} kills in {seconds:.0f} s; {accepted} operations accepted ({accepted / seconds:.0f}/s), "
          f"{sum(map(len, evidence.seen.values()))} events seen, {evidence.resumes} resumes, "
          f"{evidence.full_states} full states, refused: {dict(evidence.refused)}", flush=True)  # fmt: skip
    return evidence


async def settle(daemon, workers):
    """Stops the senders, waits for every answer, and collects all replicas and a fresh one."""
    evidence = Evidence()
    await asyncio.gather(*(worker.ask("stop") for worker in workers))
    fresh = await Client(daemon.url, "fresh", "binary").connect(timeout=120)
    newest = fresh.replica.seq
    for worker in workers:
        await worker.ask("reach", newest)
    evidence.replicas["fresh"] = fresh.replica.dump()
    for worker, dump in zip(workers, await asyncio.gather(*(worker.ask("dump") for worker in workers))):
        evidence.replicas[worker.name] = dump
    for key, node in fresh.replica.nodes.items():
        payload = node["payload"]
        if isinstance(payload, dict):
            evidence.marks[key] = (payload["mark"], payload["list"])
        else:
            evidence.marks[key] = (payload.media_type, [])
    for worker in workers:
        worker.freeze()  # nobody is to see the others leave: that is after the end
    for worker in workers:
        worker.kill()
    await fresh.drop()
    return evidence


def compare_with_export(daemon, evidence):
    """What the directory holds after a stop and a start, as another command sees it."""
    code, _ = daemon.stop(60)
    assert code == 0, f"exit code {code} after SIGTERM:\n{daemon.log()[-4000:]}"
    daemon.start(timeout=60)
    exported = daemon.run("export", "--json", timeout=300)
    assert exported.returncode == 0, f"export: {exported.stderr}"
    daemon.kill()
    state = json.loads(exported.stdout)
    revisions = {node["id"]: node["revision"] for node in state["nodes"]}
    wanted = {node["id"]: node["revision"] for node in evidence.replicas["fresh"]["nodes"]}
    if revisions != wanted:
        evidence.faults.append(f"the export differs: {differences(wanted, revisions)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000 if LONG else 50)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rate", type=float, default=200, help="operations per second of each client")
    parser.add_argument("--every", type=float, nargs=2, default=(0.2, 5.0), help="seconds between kills")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    options = parser.parse_args()
    report = Report("loss")
    totals = collections.Counter()

    async def one(number, seed, kills):
        print(f"seed {seed}: {kills} kills, {options.clients} clients at {options.rate:.0f} operations/s", flush=True)
        folder = pathlib.Path(tempfile.mkdtemp(prefix="hotset-loss-"))
        evidence = await campaign(options, seed, kills, folder)
        found = judge(evidence)
        for kind, findings in found.items():
            totals[kind] += len(findings)
            for finding in findings[:10]:
                print(f"  {kind}: {finding}", flush=True)
        assert not any(found.values()), f"seed {seed}, kept in {folder}: " + ", ".join(f"{k} {len(v)}" for k, v in found.items())
        shutil.rmtree(folder)
        if number == 0:
            prove_that_the_judge_bites(evidence)

    for number, first in enumerate(range(0, max(options.kills, 1), 50)):
        kills = min(options.kills - first, 50)
        report.run(f"kills {first + 1} to {first + kills}", one, number, options.seed + number * 100, kills)
    print(f"loss: {options.kills} kills; lost {totals['lost']}, applied twice {totals['twice']}, "
          f"different replicas {totals['different']}, unanswered {totals['unanswered']}, other {totals['other']}")  # fmt: skip
    report.finish()


if __name__ == "__main__":
    main()
