"""What the scenarios share: the daemon as a child process, clients in other languages, and checks that are counted."""

import asyncio
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE / "python"))

SAMPLES = ROOT / "tests" / "fixtures" / "multi-user"
LONG = os.environ.get("HOTSET_LONG") == "1"


def binary():
    """The program under test: $HOTSET_BIN, or the release build."""
    named = os.environ.get("HOTSET_BIN")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = pathlib.Path(named) if named else target / "release" / "hotset"
    if not path.exists():
        sys.exit(f"{path} does not exist: cargo build --release")
    return str(path.resolve())


def free_ports(count=4):
    """Ports that nobody listens on; the first three are consecutive. Below those that the system hands out: a daemon
    that is down for a moment must find its own free again."""
    while True:
        first = random.randrange(10_000, 32_000)
        ports = [first + i for i in range(count)]
        sockets = []
        try:
            for port in ports:
                sockets.append(socket.socket())
                sockets[-1].bind(("127.0.0.1", port))
            return ports
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()


def clean_environment(**settings):
    """This process's environment without anything that would configure the daemon."""
    keep = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "USER")
    return {**{k: os.environ[k] for k in keep if k in os.environ}, **{k: str(v) for k, v in settings.items()}}


class Daemon:
    """`hotset serve` in a working directory of its own. Its data directory is `data` in there, unless told otherwise."""

    def __init__(self, folder=None, **settings):
        self.own_folder = folder is None
        self.folder = pathlib.Path(folder or tempfile.mkdtemp(prefix="hotset-test-"))
        self.data = self.folder / settings.pop("DATA_DIR", "data")
        ports = free_ports()
        self.http = int(settings.pop("HTTP_PORT", ports[3]))
        self.settings = {"PORT": ports[0], "HTTP_PORT": self.http, "DATA_DIR": self.data, **settings}
        self.settings = {k: v for k, v in self.settings.items() if v is not None}
        self.process = None
        self.log_path = self.folder / "hotset.log"
        self.log_from = 0
        self.prefix = []

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.http}/api/v1/sessions/default/ws"

    def environment(self):
        return clean_environment(**self.settings)

    def spawn(self, *arguments):
        self.log_from = self.log_path.stat().st_size if self.log_path.exists() else 0
        command = [*self.prefix, binary(), "serve", *arguments]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def start(self, *arguments, timeout=30):
        """Starts and waits until it is ready."""
        self.spawn(*arguments)
        self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout=30):
        self.wait_for(lambda: self.get("/readyz")[0] == 200, timeout, "ready")

    def wait_alive(self, timeout=30):
        """Waits until the daemon answers at all: one that serves nobody is alive and not ready."""
        self.wait_for(lambda: self.get("/livez")[0] == 200, timeout, "alive")

    def wait_for(self, condition, timeout, what):
        deadline = time.monotonic() + timeout
        while not condition():
            if self.process.poll() is not None:
                raise AssertionError(f"exited with {self.process.returncode} before it was {what}:\n{self.log()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not {what} within {timeout} s; /readyz: {self.get('/readyz')}\n{self.log()}")
            time.sleep(0.01)

    def get(self, path):
        """Status and text of one HTTP request; status 0 if nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except OSError:
            return 0, ""

    def log(self, whole=False):
        """What it has logged since its last start, without colours."""
        if not self.log_path.exists():
            return ""
        with open(self.log_path, "rb") as log:
            log.seek(0 if whole else self.log_from)
            return re.sub(r"\x1b\[[0-9;]*m", "", log.read().decode(errors="replace"))

    def wait_log(self, text, timeout=10, count=1):
        """Waits until a line with `text` has been logged `count` times since the start."""
        self.wait_for(lambda: self.log().count(text) >= count, timeout, f"logging {text!r}")

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout=35):
        """SIGTERM; returns the exit code and the seconds it took."""
        begin = time.monotonic()
        self.process.terminate()
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not stop within {timeout} s:\n{self.log()}") from None
        return code, time.monotonic() - begin

    def run(self, *arguments, timeout=60, input=None, environment=None):
        """Runs another command of the program in the same surroundings."""
        environment = environment or self.environment()
        return subprocess.run(
            [binary(), *map(str, arguments)],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            input=input,
            check=False,
        )

    def status(self, field):
        """A number of /proc/PID/status, for example VmRSS, in bytes or as it is."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        value = re.search(rf"^{field}:\s+(\d+)( kB)?", text, re.M)
        return int(value[1]) * (1024 if value[2] else 1)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.process and self.process.poll() is None:
            self.kill()
        if kind is None and self.own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif kind is not None:
            print(f"  kept for inspection: {self.folder}", file=sys.stderr)


class RemoteError(Exception):
    """What an agent in another language says went wrong."""


class NodeAgent:
    """The JavaScript client in a Node process."""

    async def __aenter__(self):
        self.process = await asyncio.create_subprocess_exec(
            "node", str(HERE / "node" / "client.mjs"), stdin=-1, stdout=-1, limit=256 << 20
        )
        return self

    async def do(self, command, **fields):
        self.process.stdin.write(json.dumps({"command": command, **fields}).encode() + b"\n")
        await self.process.stdin.drain()
        line = await asyncio.wait_for(self.process.stdout.readline(), 60)
        return result_of(line)

    async def __aexit__(self, *_):
        self.process.kill()
        await self.process.wait()


def result_of(answer):
    answer = json.loads(answer)
    if "error" in answer:
        raise RemoteError(answer["error"])
    return answer["result"]


def chromium():
    """Debian's Chromium, or another one on the path."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    return None


class BrowserAgent:
    """The JavaScript client in a page of a headless Chromium, driven through the DevTools protocol."""

    def __init__(self):
        # Chosen early, because the daemon must know from which pages connections may come.
        self.page_port = free_ports(1)[0]

    async def __aenter__(self):
        self.profile = tempfile.mkdtemp(prefix="hotset-browser-")
        self.pages = await asyncio.start_server(self.serve, "127.0.0.1", self.page_port)
        # The browser tells its debugging port in a file; its own messages are of no interest.
        flags = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
            "--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-port=0"
        )
        self.process = await asyncio.create_subprocess_exec(
            chromium(), *flags.split(), f"--user-data-dir={self.profile}", "about:blank",
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.calls = 0
        await self.attach(await self.debugging_port())
        return self

    @property
    def origin(self):
        return f"http://127.0.0.1:{self.page_port}"

    async def serve(self, reader, writer):
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        except asyncio.IncompleteReadError:
            return writer.close()  # the browser opens more connections than it needs
        files = {"/client.html": ("browser/client.html", "text/html"),
                 "/hotset_client.mjs": ("node/hotset_client.mjs", "text/javascript")}  # fmt: skip
        if request in files:
            name, kind = files[request]
            body = (HERE / name).read_bytes()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n" % kind.encode())
        else:
            body = b""
            writer.write(b"HTTP/1.1 404 Not Found\r\n")
        writer.write(b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async def debugging_port(self):
        told = pathlib.Path(self.profile) / "DevToolsActivePort"
        for _ in range(600):
            if told.exists() and "\n" in (text := told.read_text()):
                return int(text.split("\n")[0])
            await asyncio.sleep(0.05)
        raise AssertionError("Chromium did not start within 30 s")

    async def attach(self, port):
        from websockets.asyncio.client import connect

        listing = await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/json/list", None, 10)
        page = next(target for target in json.load(listing) if target["type"] == "page")
        self.tools = await connect(page["webSocketDebuggerUrl"], max_size=256 << 20, proxy=None, ping_interval=None)
        await self.tool("Page.navigate", url=f"{self.origin}/client.html")
        for _ in range(200):
            found = await self.tool("Runtime.evaluate", expression="typeof window.handle")
            if found["result"].get("value") == "function":
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the page did not load")

    async def tool(self, method, **parameters):
        self.calls += 1
        await self.tools.send(json.dumps({"id": self.calls, "method": method, "params": parameters}))
        while True:
            answer = json.loads(await asyncio.wait_for(self.tools.recv(), 60))
            if answer.get("id") == self.calls:
                return answer["result"]

    async def do(self, command, **fields):
        argument = json.dumps(json.dumps({"command": command, **fields}))
        answer = await self.tool(
            "Runtime.evaluate", expression=f"window.handle({argument})", awaitPromise=True, returnByValue=True
        )
        return result_of(answer["result"]["value"])

    async def __aexit__(self, *_):
        await self.tools.close()
        os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        self.pages.close()
        shutil.rmtree(self.profile, ignore_errors=True)


class Report:
    """Counts what was checked. A failed scenario does not stop the others."""

    def __init__(self, title):
        self.title, self.passed, self.failed, self.skipped = title, 0, [], []

    def skip(self, name, why):
        self.skipped.append(name)
        print(f"skip {name}: {why}", flush=True)

    def run(self, name, scenario, *arguments):
        """Runs one scenario: a function, or a coroutine function."""
        begin = time.monotonic()
        try:
            outcome = scenario(*arguments)
            if asyncio.iscoroutine(outcome):
                asyncio.run(asyncio.wait_for(outcome, 3600 if LONG else 600))
        except BaseException as error:  # a scenario may also fail by SystemExit
            if isinstance(error, KeyboardInterrupt):
                raise
            self.failed.append(name)
            print(f"FAIL {name} ({time.monotonic() - begin:.1f} s)", flush=True)
            traceback.print_exc()
            return
        self.passed += 1
        print(f"ok   {name} ({time.monotonic() - begin:.1f} s)", flush=True)

    def finish(self):
        """Prints the totals, in the form that scripts/check reads, and leaves."""
        print(f"{self.title}: {self.passed} passed, {len(self.failed)} failed, {len(self.skipped)} skipped")
        for name in self.failed:
            print(f"  failed: {name}")
        sys.exit(1 if self.failed else 0)


def main(title, scenarios):
    """Runs the scenarios named on the command line, or all. Each is called as its function, with dashes."""
    wanted = sys.argv[1:]
    names = {scenario.__name__.replace("_", "-"): scenario for scenario in scenarios}
    if unknown := [name for name in wanted if name not in names]:
        sys.exit(f"no scenario {', '.join(unknown)}; there are: {' '.join(names)}")
    report = Report(title)
    for name, scenario in names.items():
        if not wanted or name in wanted:
            report.run(name, scenario)
    report.finish()


def expect(actual, wanted, what):
    """Fails with both values, unless they are equal."""
    if actual != wanted:
        raise AssertionError(f"{what}: expected {short(wanted)}, got {short(actual)}")


def short(value, most=2000):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def differences(left, right, path=""):
    """Where two dumps differ, at most ten places."""
    if type(left) is not type(right):
        return [f"{path}: {short(left, 200)} / {short(right, 200)}"]
    found = []
    if isinstance(left, dict):
        for key in sorted({*left, *right}):
            if key not in left or key not in right:
                found.append(f"{path}.{key}: only on the {'left' if key in left else 'right'}")
            else:
                found += differences(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, list):
        if len(left) != len(right):
            found.append(f"{path}: {len(left)} / {len(right)} entries")
        for index, (a, b) in enumerate(zip(left, right)):
            found += differences(a, b, f"{path}[{a.get('id', a.get('name', index)) if isinstance(a, dict) else index}]")
    elif left != right:
        found.append(f"{path}: {short(left, 200)} / {short(right, 200)}")
    return found[:10]


def expect_equal_dumps(dumps):
    """Fails and says where, unless all dumps (name -> dump) are equal."""
    (first, wanted), *others = dumps.items()
    for name, dump in others:
        if found := differences(wanted, dump):
            raise AssertionError(f"replicas of {first} and {name} differ:\n  " + "\n  ".join(found))
