"""Runs the shell commands of README.md, so that they keep working.

Every fence ```sh there has an HTML comment above it that says what to do with it:

    <!-- run -->            run to its end, in order, all in one fresh copy of the repository; must succeed
    <!-- serve -->          start in the background and wait for /readyz; stopped before the next one and at the end
    <!-- static: why -->    only check the syntax; say why it cannot be run here

In other documents (docs/*.md) fences without a comment are left alone.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request

from harness import ROOT, Report, binary, clean_environment, expect

FENCE = re.compile(r"(?:<!-- *(?P<how>.*?) *-->\s*\n)?(?P<indent> *)```(?:sh|bash|console)\n(?P<code>.*?)\n *```", re.S)


def fences(text):
    """(line, how, code) of every shell fence."""
    for found in FENCE.finditer(text):
        code = "\n".join(line.removeprefix(found["indent"]) for line in found["code"].split("\n"))
        yield text.count("\n", 0, found.start("code")) + 1, found["how"], code


def extracting_works():
    text = "a\n<!-- run -->\n```sh\none\n```\n\n```sh\ntwo\n```\n<!-- static: far away -->\n\n  ```bash\n  three\n  ```\n```json\n{}\n```\n"
    found = [(how, code) for _, how, code in fences(text)]
    expect(found, [("run", "one"), (None, "two"), ("static: far away", "three")], "fences")


class Copy:
    """The repository's files, as a clone would have them, with this machine's build."""

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hotset-readme-"))
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.folder / name)
        self.take_build()
        self.environment = clean_environment()
        self.environment["PATH"] = f"{self.folder / 'no-cargo'}:{self.environment['PATH']}"
        self.server = None
        return self

    def take_build(self):
        """The program is there already; building it again in another folder would take minutes and show nothing new."""
        (self.folder / "target" / "release").mkdir(parents=True)
        (self.folder / "target" / "release" / "hotset").symlink_to(binary())
        cargo = self.folder / "no-cargo" / "cargo"
        cargo.parent.mkdir()
        cargo.write_text("#!/bin/sh\ncase $1 in build) exit 0 ;; *) echo \"no cargo $1 here\" >&2; exit 1 ;; esac\n")
        cargo.chmod(0o755)

    def shell(self, code, **options):
        return subprocess.Popen(["bash", "-e", "-o", "pipefail", "-c", code], cwd=self.folder, env=self.environment,
                                stdin=subprocess.DEVNULL, text=True, **options)  # fmt: skip

    def run(self, code):
        process = self.shell(code, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = process.communicate(timeout=600)
        expect(process.returncode, 0, f"exit code of:\n{code}\n--- output:\n{output}\n---")

    def serve(self, code):
        self.stop()
        log = open(self.folder / "serve.log", "wb")
        self.server = self.shell(code, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen("http://localhost:8080/readyz", timeout=2):
                    return
            except OSError:
                text = (self.folder / "serve.log").read_text()
                expect(self.server.poll(), None, f"the server is running; its log:\n{text}")
                expect(time.monotonic() < end, True, f"ready within 60 s; the log:\n{text}")
                time.sleep(0.05)

    def stop(self):
        if self.server and self.server.poll() is None:
            os.killpg(self.server.pid, signal.SIGTERM)
            self.server.wait(30)
        self.server = None

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


def scripts_run_needs_no_configuration():
    with Copy() as copy:
        copy.serve("scripts/run")
        copy.run("curl -fs localhost:8080/readyz")
        log = (copy.folder / "serve.log").read_text()
        for words in ("Hotset 0.", "data", "8080", "first run", "Auto-save enabled (interval: 120s)"):
            expect(words in log, True, f"{words!r} in the first lines of the log:\n{log}")
        expect((copy.folder / "data").is_dir(), True, "the data directory")
        copy.serve("scripts/run --save-interval 60")
        log = (copy.folder / "serve.log").read_text()
        expect("Auto-save enabled (interval: 60s)" in log, True, f"arguments are passed on:\n{log}")


def check_syntax(code):
    done = subprocess.run(["bash", "-n", "-c", code], capture_output=True, text=True, check=False)
    expect(done.returncode, 0, f"syntax of:\n{code}\n{done.stderr}")


def main():
    report = Report("readme")
    report.run("extracting works", extracting_works)
    report.run("scripts/run needs no configuration", scripts_run_needs_no_configuration)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        with Copy() as copy:
            for line, how, code in fences(page.read_text()):
                name = f"{page.name} line {line}"
                if how == "run":
                    report.run(name, copy.run, code)
                elif how == "serve":
                    report.run(name, copy.serve, code)
                elif how and re.fullmatch(r"static: .+", how):
                    report.run(f"{name} (syntax)", check_syntax, code)
                elif page.name == "README.md":
                    report.run(name, expect, how, "run, serve or static: why", "the comment above the fence")
    report.finish()


if __name__ == "__main__":
    main()
