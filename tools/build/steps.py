"""Build steps that run only when something they depend on has changed.

A step's identity is its name; its state is one hash over its command and the content of its inputs, kept in OUT/manifest.json
after it succeeded.  Some inputs are known only afterwards (headers, imported modules): they are `discovered`, kept in the manifest, and
count the next time.  Time stamps decide nothing.
"""
import hashlib
import json
import os
import shlex
import subprocess
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ERROR_LINES = 60        # of a failing command's output, the last ones


class BuildError(Exception):
    """A step failed.  The message is complete: what was run, what it said."""


def files_below(folder, pattern):
    """Return the files under `folder` that match, in a fixed order; none when it does not exist."""
    return sorted(path for path in Path(folder).rglob(pattern) if '__pycache__' not in path.parts)


class Steps:
    """Runs steps and remembers the ones that succeeded.  count: how many really ran."""

    def __init__(self, out, force=False, report=print):
        Path(out).mkdir(parents=True, exist_ok=True)
        self.manifest = Path(out) / 'manifest.json'
        self.force, self.report, self.count = force, report, 0
        self.lock = threading.Lock()
        self.done = self.load()
        self.hashes = {}

    def load(self):
        try:
            return json.loads(self.manifest.read_text())
        except (OSError, ValueError):
            return {}

    def save(self):
        temporary = self.manifest.with_suffix('.new')
        temporary.write_text(json.dumps(self.done, indent=1, sort_keys=True))
        os.replace(temporary, self.manifest)

    # -- the two kinds of step

    def run(self, name, command, inputs, outputs, discovered=None):
        """Run a command.  discovered(): more inputs, asked after it succeeded."""
        words = [str(word) for word in command]

        def execute():
            finished = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace', cwd=ROOT)
            said = finished.stdout.rstrip()
            if finished.returncode:
                raise BuildError(f'{name} failed (status {finished.returncode})\n  {shlex.join(words)}\n{tail(said)}')
            if said:
                self.report(said)
        self.step(name, words, execute, inputs, outputs, discovered)

    def call(self, name, function, inputs, outputs):
        """Run a Python function, which raises BuildError when it fails."""
        def execute():
            try:
                function()
            except BuildError as error:
                raise BuildError(f'{name} failed\n{error}') from error
        self.step(name, [], execute, inputs, outputs, None)

    # -- shared

    def step(self, name, words, execute, inputs, outputs, discovered):
        if not self.force and self.is_current(name, words, inputs, outputs):
            return
        started = time.monotonic()
        self.state(words, inputs, [])       # as they are now: what is edited meanwhile must count as changed
        self.forget(name)                   # a failure may leave half a result
        execute()
        for path in outputs:
            self.hashes.pop(str(path), None)
            if not Path(path).exists():
                raise BuildError(f'{name} succeeded but made no {path}')
        found = sorted({str(path) for path in (discovered() if discovered else [])})
        with self.lock:
            self.done[name] = {'hash': self.state(words, inputs, found), 'discovered': found}
            self.save()
            self.count += 1
        self.report(f'  {name:36} {time.monotonic() - started:5.1f} s')

    def forget(self, name):
        with self.lock:
            if self.done.pop(name, None) is not None:
                self.save()

    def is_current(self, name, words, inputs, outputs):
        known = self.done.get(name)
        if known is None or not all(Path(path).exists() for path in outputs):
            return False
        return known['hash'] == self.state(words, inputs, known['discovered'])

    def state(self, words, inputs, found):
        """Return one hash over a command and its inputs' names and contents."""
        total = hashlib.sha256(json.dumps(words).encode())
        for path in sorted({str(path) for path in inputs} | set(found)):
            total.update(f'{path}\0{self.content(path)}\n'.encode())
        return total.hexdigest()

    def content(self, path):
        """Return the hash of a file's content; a missing file has a state of its own."""
        if path not in self.hashes:
            try:
                self.hashes[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            except OSError:
                self.hashes[path] = 'missing'
        return self.hashes[path]


def tail(text):
    """Return the end of a command's output, saying how much is left out."""
    lines = text.splitlines()
    left_out = len(lines) - ERROR_LINES
    return '\n'.join(([f'  ... {left_out} lines before these'] if left_out > 0 else []) + lines[-ERROR_LINES:])
