"""The guests must be right before they accuse the hypervisor.

Each run of tests/guests/build.py's table that is marked `bare` happens on bare QEMU (TCG), with no
hypervisor below it, and must show what the table expects.
"""
import importlib.util
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 30               # far more than any run needs


def _load_table():
    spec = importlib.util.spec_from_file_location("guests_build", ROOT / "tests" / "guests" / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


table = _load_table()
RUNS = [pytest.param(guest, run, id=("%s %s" % (guest.name, run.cmdline)).strip().replace(" ", ","))
        for guest in table.GUESTS for run in guest.runs if run.bare]


def qemu_command(guest, run, directory):
    """The bare QEMU that runs one line of the table."""
    command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", str(run.memory), "-no-reboot",
               "-display", "none", "-monitor", "none", "-serial", "stdio", "-net", "none",
               "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    if guest.kind == "flat":
        return command + ["-drive", "if=floppy,format=raw,file=%s" % guest.image]
    command += ["-kernel", str(guest.image), "-append", run.cmdline]
    modules = []
    for number, (text, string) in enumerate(run.modules):
        path = directory / ("module%d" % number)
        path.write_text(text)
        modules.append("%s %s" % (path, string))
    return command + (["-initrd", ",".join(modules)] if modules else [])


class Console:
    """QEMU's serial port: lines as they come, until a deadline."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        self.text = ""
        self.deadline = time.monotonic() + SECONDS

    def read_until(self, done):
        """Collect text until done(self.text), the end of the process, or the deadline."""
        while not done(self.text) and time.monotonic() < self.deadline:
            if select.select([self.process.stdout], [], [], 0.1)[0]:
                data = self.process.stdout.read1(65536)
                if not data:
                    return
                self.text += data.decode("latin-1").replace("\r", "")

    def type(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def lines(self):
        return self.text.split("\n")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def check_lines(run, lines):
    """Every expected line, in order; none that is rejected."""
    rest = iter(lines)
    for pattern in run.expect:
        assert any(re.search(pattern, line) for line in rest), \
            "no line like %r (in this order) in:\n%s" % (pattern, "\n".join(lines))
    for pattern in run.reject:
        assert not [line for line in lines if re.search(pattern, line)]


def check_end(run, console):
    """Compare how QEMU ended with the table; isa-debug-exit makes (status << 1) | 1 of a status."""
    if run.status in (table.HALTED, table.SPINNING):
        time.sleep(0.3)
        assert console.process.poll() is None, "QEMU ended; the guest should never do that"
        return
    console.read_until(lambda text: False)
    assert time.monotonic() < console.deadline, "not ended after %d s:\n%s" % (SECONDS, console.text)
    if run.status == table.ANY:
        return
    expected = 0 if run.status in (table.SHUTDOWN, table.RESET) else (run.status << 1 | 1) & 0xff
    assert console.process.wait() == expected, console.text


@pytest.mark.parametrize("guest, run", RUNS)
def test_guest_keeps_its_promise_on_a_bare_pc(guest, run, tmp_path):
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("qemu-system-x86_64 is not installed")
    table.build(guest)
    console = Console(qemu_command(guest, run, tmp_path))
    try:
        if run.expect:
            console.read_until(re.compile(run.expect[0], re.MULTILINE).search)
        if run.typed:
            console.type(run.typed)
        check_end(run, console)
        console.read_until(lambda text: run.status in (table.HALTED, table.SPINNING))
        check_lines(run, console.lines())
    finally:
        console.close()


def test_unchanged_guests_are_not_built_again():
    for guest in table.GUESTS:
        table.build(guest)
    assert not [guest.name for guest in table.GUESTS if table.build(guest)]


def test_flat_images_are_boot_sectors():
    for guest in table.GUESTS:
        if guest.kind == "flat":
            table.build(guest)
            image = guest.image.read_bytes()
            assert len(image) == 512 and image[510:] == b"\x55\xaa"


def test_every_guest_source_is_in_the_table():
    here = ROOT / "tests" / "guests"
    listed = {name for guest in table.GUESTS for name in guest.sources if "/" not in name}
    assert {path.name for path in here.iterdir() if path.suffix in (".c", ".S")} == listed
