"""Deliveries per second of the server's processor time, and joins: the Python servers and Hotset, in turns, in one run.

The receivers speak the wire with as little work as possible, because they share the machine with the server. Prints
Markdown. Figures from a busy machine are worth little: close everything else.

    .venv/bin/python tests/clients/blender_bench.py [--rounds 3] [--seconds 8] [--receivers 32] [--sizes 1000 65500]
"""

import argparse
import pathlib
import select
import statistics
import sys
import threading
import time
import uuid

from harness import HERE

sys.path.insert(0, str(HERE / "blender"))

import wire
from crew import Crew, Hotset, PythonServer

KEYS = 50
WINDOW = 64
CHUNK = 1 << 20
# How long a joiner is left alone: more than a join takes.
UNASKED = 1.0
# What is compared: how a row is called, its server, its transport.
SERVERS = {
    "python 0.9.10": (lambda: PythonServer("0.9.10"), "zmtp"),
    "hotset, ZMTP": (lambda: Hotset(OPS_PER_SECOND=0), "zmtp"),
    "python 0.10.3": (lambda: PythonServer("0.10.3"), "tcp"),
    "hotset, TCP": (lambda: Hotset(OPS_PER_SECOND=0), "tcp"),
}
LIBRARY = {"zmtp": "0.9.10", "tcp": "0.10.3"}


class Stream:
    """One data channel that only counts bytes: all messages of a run are of one size."""

    def __init__(self, raw):
        self.socket = raw[wire.DATA].socket
        self.socket.setblocking(False)
        self.bytes = 0

    def drain(self, buffer):
        while True:
            try:
                got = self.socket.recv_into(buffer)
            except BlockingIOError:
                return
            if not got:
                raise AssertionError("the server hung up on a receiver")
            self.bytes += got
            if got < len(buffer):
                return


class Field:
    """A sender and its receivers, all in one loop."""

    def __init__(self, server, transport, receivers, size):
        self.transport, self.buffer = transport, bytearray(CHUNK)
        keys = [str(uuid.uuid4()) for _ in range(KEYS)]
        nodes = [wire.node(key, {"type_id": "Image", "filling": bytes(size)}) for key in keys]
        self.frames = [wire.frame(transport, chunks) for chunks in nodes]
        self.sender = self.client(server.port)
        self.sender.init("sender", nodes)
        self.raws = [self.sender]
        for number in range(receivers):
            self.raws.append(self.client(server.port))
            self.raws[-1].join(f"receiver {number}")
        self.epoll, self.others, self.streams = select.epoll(), {}, {}
        self.size = self.size_of_a_delivery()
        for raw in self.raws:
            raw.open(wire.TTL)
            for role in (wire.COMMAND, wire.TTL):
                self.others[raw[role].socket.fileno()] = (raw, role)
                raw[role].socket.setblocking(False)
        for raw in self.raws[1:]:
            self.streams[raw[wire.DATA].socket.fileno()] = Stream(raw)
        for number in (*self.others, *self.streams):
            self.epoll.register(number, select.EPOLLIN)
        self.sending = self.sender[wire.DATA].socket
        self.sending.setblocking(False)
        self.sent, self.unsent = 0, memoryview(b"")

    def client(self, port):
        return wire.Raw(port, self.transport, timeout=30)

    def size_of_a_delivery(self):
        """Servers may say the same in other words than the sender did: the first message tells how long theirs are."""
        self.sender[wire.DATA].raw(self.frames[0])
        (size,) = {len(wire.frame(self.transport, raw[wire.DATA].receive(30))) for raw in self.raws[1:]}
        return size

    def turn(self, more=True):
        """Sends what the window allows, takes what has arrived."""
        while self.unsent or (more and self.sent - self.least() < WINDOW):
            if not self.unsent:
                self.unsent = memoryview(self.frames[self.sent % KEYS])
                self.sent += 1
            try:
                self.unsent = self.unsent[self.sending.send(self.unsent) :]
            except BlockingIOError:
                break
        for number, _ in self.epoll.poll(0.01):
            if number in self.streams:
                self.streams[number].drain(self.buffer)
            else:
                self.answer(*self.others[number])

    def answer(self, raw, role):
        try:
            got = raw[role].socket.recv_into(self.buffer)
        except BlockingIOError:
            return
        if not got:
            raise AssertionError("the server hung up")
        if role == wire.TTL:
            raw[wire.TTL].raw(wire.frame(self.transport, [b"PONG"]))

    def least(self):
        return min(stream.bytes for stream in self.streams.values()) // self.size

    def delivered(self):
        return sum(stream.bytes for stream in self.streams.values()) / self.size

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()

    def finish(self):
        """Waits for what is on the way; returns how many deliveries never came."""
        end = time.monotonic() + 20
        while self.least() < self.sent and time.monotonic() < end:
            self.turn(more=False)
        return self.sent * len(self.streams) - self.delivered()

    def close(self):
        for raw in self.raws:
            raw.close()


def resident(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024


def measure(open_server, transport, receivers, size, seconds):
    """One run; returns the figures of its row."""
    with open_server() as server:
        if isinstance(server, Hotset):
            server.start()
        field = Field(server, transport, receivers, size)
        field.run(min(1.0, seconds))
        before, cpu, begin = field.delivered(), server.cpu_seconds(), time.monotonic()
        field.run(seconds)
        done, cpu, took = field.delivered() - before, server.cpu_seconds() - cpu, time.monotonic() - begin
        row = {"per cpu s": done / cpu, "per s": done / took, "cpu %": 100 * cpu / took, "rss": resident(server.process.pid)}
        row["lost"] = field.finish()
        field.close()
        return row


def joins(open_server, transport, count, nodes=200):
    """Joins of the library one after another, from its login until it has all nodes: of each the seconds, and how many
    turns of its loop that took, in each of which it takes one message. And milliseconds from a request for a node to the
    answer, at the socket of a client that does nothing else."""
    with open_server() as server, Crew(server.folder) as crew:
        if isinstance(server, Hotset):
            server.start()
        author = wire.Raw(server.port, transport)
        author.init("author", [wire.small_node(number, 1000) for number in range(nodes)])
        peer, rows = crew.hire(LIBRARY[transport]), []
        for number in range(count):
            begin = len(peer.ask("about")["events"])
            peer.connect(server, f"joiner {number}")
            # Questions would cost the joiner time.
            time.sleep(UNASKED)
            peer.until_state("STATE_ACTIVE")
            events = peer.ask("about", events_from=begin)["events"]
            connect, active = (next(event for event in events if event["event"] == kind) for kind in ("connect", "active"))
            rows.append({"seconds": active["at"] - connect["at"], "turns": active["tick"] - connect["tick"]})
            if len(peer.ask("owners")) != nodes:
                raise AssertionError(f"{len(peer.ask('owners'))} nodes, not {nodes}")
            peer.leave()
        reader, answers = wire.Raw(server.port, transport), []
        reader.join("reader", waits=answers)
        for raw in (author, reader):
            raw.close()
        return rows, [1000 * seconds for seconds in answers]


LARGE = 14_000_000
COMMITS = 200


def percentiles(seconds):
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2] * 1000, ordered[-1 - len(ordered) // 100] * 1000


def waits(open_server, transport):
    """How long a lock takes, alone and beside somebody who pushes 14 MB nodes; and what changes of large nodes cost."""
    with open_server() as server:
        if isinstance(server, Hotset):
            server.start()
        nodes = [wire.small_node(0, size) for size in (64, 1000, LARGE)]
        small, middle, large = (chunks[1].decode() for chunks in nodes)
        flood = wire.Raw(server.port, transport, timeout=120)
        flood.init("flood", nodes)
        asker, reader = (wire.Raw(server.port, transport, timeout=120) for _ in range(2))
        asker.join("asker")
        reader.join("reader")
        row = {"idle": percentiles([ask(asker, small) for _ in range(200)])}
        row["middle"] = commits(server, flood, reader, middle)
        row["large"] = commits(server, flood, reader, large)
        done = threading.Event()
        threads = [threading.Thread(target=drain, args=(raw[wire.DATA], done), daemon=True) for raw in (reader, asker)]
        threads.append(threading.Thread(target=push, args=(flood, nodes[2], done), daemon=True))
        for thread in threads:
            thread.start()
        times = []
        while not done.is_set():
            times.append(ask(asker, small))
        row["flooded"] = percentiles(times)
        for thread in threads:
            thread.join()
        for raw in (flood, asker, reader):
            raw.close()
        return row


def ask(raw, key):
    """Locks a node and waits for the echo."""
    begin = time.monotonic()
    raw.say(wire.RIGHT, {"uuid": [key], "owner": raw.name})
    raw.hear(wire.RIGHT, timeout=60)
    return time.monotonic() - begin


def commits(server, author, reader, key):
    """(median, 99th percentile) of milliseconds to the reader, and milliseconds of the server's processor for each."""
    times, cpu = [], server.cpu_seconds()
    for number in range(COMMITS):
        begin = time.monotonic()
        author[wire.DATA].send([wire.dump(wire.COMMIT), key.encode(), wire.dump([]), wire.renaming(f"{number}" + "x" * 1000)])
        reader[wire.DATA].receive(60)
        times.append(time.monotonic() - begin)
        time.sleep(0.005)
    return *percentiles(times), 1000 * (server.cpu_seconds() - cpu) / COMMITS


def push(raw, chunks, done, count=10):
    for _ in range(count):
        raw[wire.DATA].send(chunks)
    time.sleep(1)
    done.set()


def drain(channel, done):
    channel.socket.settimeout(0.1)
    while not done.is_set():
        try:
            channel.socket.recv(CHUNK)
        except TimeoutError:
            pass


def report_joins(times):
    print("\nMedian (quartiles; least-most)\n")
    print("| join of 200 nodes | joins | seconds | turns of the client's loop | ms to the answer for one node |\n|---|---|---|---|---|")
    for name, (rows, answers) in times.items():
        cells = [wide_spread([row[key] for row in rows], digits) for key, digits in (("seconds", 3), ("turns", 0))]
        print(f"| {name}, library {LIBRARY[SERVERS[name][1]]} | {len(rows)} | {cells[0]} | {cells[1]} | {wide_spread(answers, 2)} |")


def wide_spread(values, digits):
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f}; {min(values):.{digits}f}-{max(values):.{digits}f})"


def spread(values, digits=0):
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--receivers", type=int, default=32)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 65_500])
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS), metavar="NAME")
    parser.add_argument("--joins", type=int, default=5)
    parser.add_argument("--no-waits", action="store_true")
    options = parser.parse_args()
    rows = {(size, name): [] for size in options.sizes for name in options.servers}
    times = {name: ([], []) for name in options.servers}
    for number in range(options.rounds):
        for size, name in rows:
            row = measure(*SERVERS[name], options.receivers, size, options.seconds)
            rows[(size, name)].append(row)
            print(f"round {number + 1}: {size} bytes, {name}: {row}", file=sys.stderr, flush=True)
        for name in options.servers if options.joins else ():
            for all_times, some in zip(times[name], joins(*SERVERS[name], options.joins)):
                all_times += some
    if options.rounds:
        report(options, rows, times)
    if not options.no_waits:
        report_waits({name: waits(*SERVERS[name]) for name in options.servers})


def report_waits(rows):
    print("\nMilliseconds, median / 99th percentile; for commits also the server's processor time of each\n")
    print("| server | lock, alone | lock beside 10 nodes of 14 MB | commit on 1 KB | commit on 14 MB |\n|---|---|---|---|---|")
    for name, row in rows.items():
        pair = {key: " / ".join(f"{value:.1f}" for value in row[key][:2]) for key in row}
        cost = {key: f"{pair[key]}, {row[key][2]:.2f} ms CPU" for key in ("middle", "large")}
        print(f"| {name} | {pair['idle']} | {pair['flooded']} | {cost['middle']} | {cost['large']} |")


def report(options, rows, times):
    if rows:
        report_deliveries(options, rows)
    if options.joins:
        report_joins(times)


def report_deliveries(options, rows):
    print(f"{options.receivers} receivers, medians of {options.rounds} runs of {options.seconds:.0f} s (least-most)\n")
    print("| bytes | server | deliveries per CPU second | against Python | deliveries/s | CPU % | RSS MiB | lost |")
    print("|---|---|---|---|---|---|---|---|")
    python = {}
    for (size, name), runs in rows.items():
        efficiency = statistics.median(run["per cpu s"] for run in runs)
        transport = SERVERS[name][1]
        if name.startswith("python"):
            python[(size, transport)] = efficiency
        against = f"{efficiency / python[(size, transport)]:.2f} ×" if (size, transport) in python else ""
        cells = [spread([run[key] for run in runs]) for key in ("per cpu s", "per s", "cpu %", "rss")]
        print(f"| {size:,} | {name} | {cells[0]} | {against} | {cells[1]} | {cells[2]} | {cells[3]} | {max(run['lost'] for run in runs):.0f} |")


if __name__ == "__main__":
    main()
