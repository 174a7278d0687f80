#!/usr/bin/env python3
"""Build the small guests, and say what each of them must do.

    tests/guests/build.py [NAME...]     builds what changed into build/guests/

GUESTS is the table: the system tests import it for images, command lines and expectations.
build/guests/NAME is what a loader takes; build/guests/NAME.elf is the same with symbols, for gdb.
"""
import fcntl
import hashlib
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMON = HERE / "common"
OUTPUT = HERE.parent.parent / "build" / "guests"

# How a guest ends, where it is not by an exit status.
HALTED = "halted"          # HLT and nothing can wake it
SPINNING = "spinning"      # never ends by itself
SHUTDOWN = "shutdown"      # triple fault
ANY = "any"                # ends somehow, and alone
RESET = "reset"            # asked for a restart, through 0xcf9 or the keyboard controller


@dataclass
class Run:
    """One way to start a guest, and what must come of it.

    cmdline: options for the guest (a loader may put the image's name in front).
    expect:  regular expressions; each must match (re.search) a console line, in this order,
             other lines may stand between.
    status:  exit status written to port 0xf4, or one of HALTED, SPINNING, SHUTDOWN, RESET, ANY.
    bare:    True when bare QEMU (TCG, a PC) must do the same; a Run of its own where it must not.
    bulkhead: False for a run that only makes sense on a bare PC.
    modules: (text, string) pairs: files handed over as multiboot modules.
    typed:   what to type on the console once the first expected line is there.
    reject:  regular expressions that no console line may match.
    """
    cmdline: str = ""
    expect: list = field(default_factory=list)
    status: object = 0
    bare: bool = True
    bulkhead: bool = True
    modules: list = field(default_factory=list)
    typed: str = ""
    reject: list = field(default_factory=list)
    memory: int = 64       # MiB; what the test gives it, any amount from 8 MiB will do
    vendor: str = ""       # "vmx" or "svm": under Bulkhead on that processor only; "": on both


@dataclass
class Guest:
    """kind: "flat" (at 0x7c00, real mode, 0000:7c00) or "multiboot" (version 1).
    bits: what its C runtime is compiled for: 16 (assembly only), 32 (ELF32),
    64 (ELF64 with the multiboot address fields, the "a.out kludge").
    processors: how many its machine has."""
    name: str
    kind: str
    bits: int
    sources: list
    runs: list
    about: str = ""
    processors: int = 1

    @property
    def image(self):
        return OUTPUT / self.name

    @property
    def elf(self):
        return OUTPUT / (self.name + ".elf")


def _sum(text):
    """The checksum that hello prints of a module's first 64 bytes."""
    total = 0
    for byte in text.encode()[:64]:
        total = (total * 31 + byte) & 0xffffffff
    return "%08x" % total


def _guest(name, bits, about, runs, *more):
    suffix = ".S" if bits == 16 else ".c"
    kind = "flat" if bits == 16 else "multiboot"
    return Guest(name, kind, bits, [name + suffix, *more], runs, about)


GUESTS = [
    _guest("hello", 32, "greeting, multiboot information, processor", [
        Run("one=1 two", modules=[("first module", "alpha"), ("second", "beta gamma")], expect=[
            r"^hello: a multiboot guest",
            r'^command line: ".*one=1 two"',
            r"^map: 00000000 \+ 000\w+ type 1",
            r"^map: 00100000 \+ \w+ type 1",
            r'^module 0: 12 bytes, first bytes sum %s, ".*alpha"' % _sum("first module"),
            r'^module 1: 6 bytes, first bytes sum %s, ".*beta gamma"' % _sum("second"),
            r"^processor: ", r"^signature: ", r"^hello: done"]),
        Run("", bare=False, expect=[r'^hypervisor: "KVMKVMKVM', r'^hypervisor\'s own: "BulkheadBulk"', r"^hello: done"]),
    ]),
    _guest("hello_real", 16, "a boot sector in real mode", [
        Run(expect=[r"^hello_real: a flat guest", r"^hello_real: done$"])]),
    _guest("hello_pae", 32, "PAE paging", [
        Run(expect=[r"^hello_pae: 32-bit", r"^witness a11a5 through its alias a11a5$", r"^hello_pae: done$"])]),
    _guest("hello_long", 64, "64-bit code on its own page tables", [
        Run("long way", expect=[r"^hello_long: ", r'^command line: ".*long way"', r"^cr0 \w+ cr3 \w+ cr4 \w+ efer",
                                r"^sum d200000000$", r"^hello_long: done$"])]),
    _guest("modes", 16, "real, protected, 32-bit paging, PAE, long and real mode in one boot sector", [
        Run(expect=["^real mode$", "^protected mode$", "^32-bit paging$", "^PAE paging$", "^long mode$",
                    "^real mode again$"])]),
    _guest("ticker", 32, "numbered lines at a steady pace", [
        Run(expect=[r"^tick 1 of 20$", r"^tick 2 of 20$", r"^tick 20 of 20$"]),
        Run("lines=3 loops=0x10", expect=[r"^tick 1 of 3$", r"^tick 2 of 3$", r"^tick 3 of 3$"]),
    ]),
    _guest("spinner", 32, "spins with interrupts off", [
        Run(expect=[r"^spinner: spinning with interrupts off$"], status=SPINNING),
        Run("spin=1000000", expect=[r"^spinner: 1000000 turns", r"^spinner: done$"]),
    ]),
    _guest("contender", 64, "wants the processor and says how much it had", [
        Run("window=20", bare=False, expect=[r"^contender: ready", r"^contender: window \d+ had \d+ of \d+$"])],
        "common/irq.c", "common/irq_entry.S"),
    _guest("ticks", 64, "works while its local APIC's timer ticks", [
        Run("how=%d self=10" % how, bare=False, expect=[r"^ticks: ready$", r"^ticks: 100 ticks in \d+ us, ", r"^ticks: 1[01] interrupts of its own$"])
        for how in range(3)],
        "smp_start.S", "common/irq.c", "common/irq_entry.S"),
    _guest("flood", 64, "interrupts in all ways at once", [
        Run("rounds=2000", bare=False, expect=[r"^flood: \d+ ticks, ", r"^flood: 0 wrong$"], reject=[r"flood: wrong"]),
        Run("only=1", bare=False, expect=[r"^flood: 0 wrong$"], reject=[r"flood: wrong"])],
        "common/irq.c", "common/irq_entry.S"),
    _guest("triplefault", 32, "ends by shutdown", [
        Run(expect=[r"^triplefault: shutting down$"], reject=["still alive"], status=SHUTDOWN)]),
    _guest("exitcode", 32, "ends with the status of its command line", [
        Run("status=0", expect=[r"^exitcode: 0$"], status=0),
        Run("status=42", expect=[r"^exitcode: 42$"], status=42),
    ]),
    _guest("halter", 32, "HLT that nothing wakes", [
        Run(expect=[r"^halter: halting$"], reject=["woken"], status=HALTED)]),
    _guest("resetter", 32, "asks for a reset", [
        Run(expect=[r"^resetter: resetting$"], reject=["not reset"], status=RESET),
        Run("by=1", expect=[r"^resetter: resetting$"], reject=["not reset"], status=RESET),
    ]),
    _guest("memwalker", 32, "writes and verifies all its memory", [
        Run(expect=[r"^memwalker: \d+ KiB walked, checksum \w{8}, 0 errors$"]),
        Run("zero=1 from=0x200000 to=0x2000000", expect=[r"^memwalker: \d+ KiB fresh memory, 0 words not zero$", r", 0 errors$"]),
        Run("zero=1", bare=False, expect=[r"^memwalker: \d+ KiB fresh memory, 0 words not zero$", r", 0 errors$"]),
        # Seen to fail: SeaBIOS leaves data below the end of RAM.
        Run("zero=1 from=0x200000", bulkhead=False, status=1, expect=[r" [1-9]\d* words not zero$"]),
        Run("stride=4 rounds=2 seed=7", expect=[r", 0 errors$"]),
    ]),
    _guest("portprober", 32, "reads and writes every port", [
        Run("board=1", bare=False, expect=[r"^portprober: \d+ reads, 0 not all ones, 0 writes$"]),
        Run("out=1 board=1", bare=False, expect=[r"^portprober: \d+ reads, 0 not all ones, [1-9]\d+ writes$"]),
        Run("full=1 allow=100000", bare=False, expect=[r"^port \w+ width", r"^portprober: 196\d+ reads, [1-9]\d{1,2} not all ones"]),
        # A PC has devices of its own: the sweep ends well, and finds them.
        Run("full=1 allow=100000", bulkhead=False, expect=[r"^port \w+ width", r"^portprober: 196\d+ reads, [1-9]\d* not"]),
        Run("", bulkhead=False, status=1, expect=[r"^portprober: \d+ reads, [1-9]\d* not all ones, 0 writes$"]),
        Run("out=1 allow=100000", bulkhead=False, expect=[r"^portprober: .* [1-9]\d+ writes$"]),
    ]),
    _guest("msrprober", 64, "reads and writes every MSR", [
        Run(expect=[r"^msrprober: [1-9]\d* readable, \d+ #GP$", r"^msrprober: 0 surprises, done$"]),
        Run("write=1", expect=[r"^msrprober: [1-9]\d* readable", r"^msrprober: [1-9]\d* written back",
                               r"^msrprober: 0 surprises, done$"]),
        Run("full=1", expect=[r"^msrprober: 0 surprises, done$"]),
    ]),
    _guest("physsweeper", 64, "reads and writes its whole physical address space", [
        Run("board=1", bare=False, expect=[r"^physsweeper: \d+ physical", r" probes, 0 not unclaimed, 0 kept a write, [1-9]"]),
        Run("pc=1 unclaimed=0", bulkhead=False, expect=[r"^physsweeper: .* 0 not unclaimed, 0 kept a write, [1-9]"]),
        # Seen to fail: a PC's video memory and ROMs are not unclaimed.
        Run("unclaimed=0", bulkhead=False, status=1, expect=[r"^physsweeper: .* [1-9]\d* not unclaimed"]),
    ]),
    _guest("mmioforms", 64, "touches unclaimed memory with many instructions", [
        Run(bare=False, expect=[r"^mmioforms: plain moves", r"^mmioforms: \d+ forms, 0 errors$"]),
        # The same forms as on the bare PC, where unclaimed memory reads as zeros.
        Run("more=1 end=0x1000000", bare=False, expect=[r"^mmioforms: vectors$", r"^mmioforms: AVX$", r"^mmioforms: 394 forms, 0 errors$"],
            reject=[r" instead of "]),
        Run("more=1 end=0x4000000 unclaimed=0", bulkhead=False, expect=[r"^mmioforms: AVX$", r"^mmioforms: 394 forms, 0 errors$"]),
        # A hypervisor need not know every instruction: it may stop the VM with a sentence.
        Run("x87=1", bare=False, status=ANY, expect=[r"^mmioforms: plain moves"], reject=[r" instead of "]),
        Run("x87=1 unclaimed=0", bulkhead=False, expect=[r"^mmioforms: x87$", r"^mmioforms: \d+ forms, 0 errors$"]),
        # QEMU's VGA reads ones there until it is set up. And seen to fail:
        Run("at=0xa0000", status=ANY, expect=[r"^mmioforms: plain moves"], reject=[r" instead of "]),
        Run("at=0xa0000 unclaimed=0", bulkhead=False, status=1, expect=[r"^mmioforms: movq .* instead of "]),
    ]),
    _guest("faultmaker", 64, "provokes each exception", [
        Run(expect=[r"^#DE division by zero: ok$", r"^faultmaker: (2[89]|3[0-3]) right, [0-2] not raised, [0-3] deviant, 0 wrong$"],
            reject=[r"^#(?!AC|XM).*not raised"]),
        # Bochs delivers everything as the manual has it, QEMU's TCG does not.
        Run("strict=1", bare=False, vendor="vmx", expect=[r"^faultmaker: 33 right, 0 not raised, 0 deviant, 0 wrong$"]),
    ]),
    _guest("fpukeeper", 64, "guards a pattern in every register", [
        Run("seed=3", expect=[r"^fpukeeper: seed 3, XSAVE", r"^fpukeeper: seed 3, 0 registers changed$"]),
        Run("disturb=4", status=1, expect=[r"^fpukeeper: LSTAR is \w+, was \w+$", r" 1 registers changed$"]),
        Run("disturb=99", status=1, expect=[r"^fpukeeper: XMM7 byte", r" 1 registers changed$"]),
    ], "registers.S", "common/fpu.c"),
    _guest("stale", 64, "looks for somebody else's values in its registers", [
        Run(expect=[r"^stale: 0 registers hold something$"]),
        Run("gpr=1", bare=False, expect=[r"^stale: 0 registers hold something$"]),
        Run("dirty=1", status=1, expect=[r"^stale: r11 is", r"^stale: cr2 is 5ec7e7", r"^stale: dr2 is 5ec7e7",
                                         r"^stale: KERNEL_GS_BASE0 is", r"^stale: xmm5 is"]),
    ], "common/fpu.c"),
    _guest("badmode", 64, "asks for forbidden processor states", [
        Run(expect=[r"^badmode: [1-9]\d* refused, \d+ taken, 0 wrong$"]),
        Run("strict=1 risky=1 exit=1", bare=False, vendor="vmx", expect=[r"^badmode: \d+ refused, 0 taken, 0 wrong$"]),
        # Where the processor lets a forbidden state pass (QEMU's SVM does), the next entry fails and the VM
        # is stopped; where it does not, the guest ends by itself.
        Run("exit=1", status=ANY, expect=[]),
        Run("risky=1 exit=1", bare=False, status=ANY, expect=[]),
    ], "common/fpu.c"),
    # QEMU 7.2's TCG has no x2APIC, so a bare PC there cannot run it.
    _guest("localapic", 64, "its own interrupt controller: priorities, timer, interrupts to itself", [
        Run(bare=False, expect=[r"^localapic: 0 wrong$"], reject=[r"wrong: "])]),
    replace(_guest("pvipi", 64, "KVM's hypercall that sends an interrupt to many processors", [
        Run(bare=False, expect=[r"^pvipi: 19 checks, 0 wrong$"], reject=[r"WRONG"])],
        "smp_start.S", "common/report.c", "common/irq.c", "common/irq_entry.S"), processors=4),
    replace(_guest("storm", 64, "TLB shoot-downs of all processors at once", [
        Run("rounds=10", bare=False, expect=[r"^storm: [1-9]\d* plain interrupts, [1-9]", r"^storm: 4 processors, 10 shoot-downs each, 0 wrong$"])],
        "smp_start.S", "common/irq.c", "common/irq_entry.S"), processors=4),
    # Its moments are so many instructions: tests/system/test_clock.py runs it where they are counted.
    _guest("clocks", 64, "how far its clocks go while its TSC goes so far", []),
    _guest("echo", 32, "gives lines back in capitals", [
        Run(typed="hello\rsecond Line\nquit\n",
            expect=[r"^echo: ready$", r"^echo: HELLO$", r"^echo: SECOND LINE$", r"^echo: done$"])]),
    _guest("stringio", 64, "INS and OUTS across pages", [
        Run(expect=[r"^stringio: this text lies on two pages$", r"^stringio: 0 errors$"])]),
    _guest("bench", 64, "what each operation costs", [
        Run("samples=20", bare=False, expect=[r"^bench: nop minimum \d+ ", r"^bench: \d+ rows, tsc \d+$"])],
        "smp_start.S", "common/irq.c", "common/irq_entry.S", "common/pvh.c"),
]

# Guests that check a PC against the manuals. They have no runs here: tests/system/test_conformance.py compares what they report
# on a bare PC with what they report under Bulkhead.
TRAP32 = ("common/report.c", "common/trap32.c", "common/trap_entry32.S")
IRQ = ("common/report.c", "common/irq.c", "common/irq_entry.S", "common/board.c")
CONFORMANCE = [
    _guest("pc", 64, "the board: PIC, PIT, RTC, COM1, ACPI, PCI", [], *IRQ),
    _guest("pcapic", 64, "its APICs, NMI and interrupt shadows", [], *IRQ),
    _guest("exceptions", 64, "single steps, breakpoints, gates, IRET, SYSCALL, SYSENTER", [], *IRQ),
    _guest("paging", 64, "4-level page tables: bits, rights, error codes, SMEP, SMAP, keys", [], "common/report.c"),
    _guest("descriptors", 64, "segments, gates, system descriptors, far transfers, compatibility mode", [], "common/report.c"),
    _guest("protected", 32, "32-bit protected mode: exceptions, segments, gates, virtual-8086 mode", [], *TRAP32),
    _guest("tasks", 32, "task switches by TSS and task gates", [], *TRAP32),
    _guest("paging32", 32, "32-bit and PAE paging, and from mode to mode", [], *TRAP32),
    _guest("state", 64, "control registers, FPU and XSAVE, MSRs", [], "common/report.c"),
    replace(_guest("smp", 64, "a second processor: INIT, STARTUP, IPIs, NMI", [], "smp_start.S", *IRQ), processors=2),
]
GUESTS += CONFORMANCE

BY_NAME = {guest.name: guest for guest in GUESTS}

CFLAGS = ["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-ffreestanding", "-fno-pic", "-no-pie",
          "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none",
          "-fno-strict-aliasing", "-mgeneral-regs-only", "-mno-red-zone", "-I", str(COMMON),
          # memset and memcpy are written here: GCC must not make them call themselves.
          "-fno-tree-loop-distribute-patterns"]
LDFLAGS = ["-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,-z,max-page-size=0x1000",
           "-Wl,-z,noexecstack", "-Wl,--no-warn-rwx-segments"]
RUNTIME = {16: [], 32: ["start32.S"], 64: ["start64.S", "trap_entry.S", "trap.c"]}
RUNTIME_C = ["uart.c", "print.c", "option.c", "memory.c", "leave.c"]


def _sources(guest):
    common = RUNTIME[guest.bits] + (RUNTIME_C if guest.bits > 16 else [])
    return [COMMON / name for name in common] + [HERE / name for name in guest.sources]


def _link_command(guest):
    script = "flat.ld" if guest.bits == 16 else "guest.ld"
    width = "-m64" if guest.bits == 64 else "-m32"
    return ["gcc", width, *CFLAGS, *LDFLAGS, "-Wl,-T," + str(COMMON / script),
            *map(str, _sources(guest)), "-o", str(guest.elf)]


def _image_command(guest):
    how = ["-O", "binary"] if guest.kind == "flat" else ["--strip-all"]
    return ["objcopy", *how, str(guest.elf), str(guest.image)]


def _digest(guest):
    """A fingerprint of everything the image is made from."""
    digest = hashlib.sha256(repr(_link_command(guest) + _image_command(guest)).encode())
    for path in sorted(set(_sources(guest)) | set(COMMON.iterdir())):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def build(guest):
    """Build one guest where its sources changed.  Returns True when it was built.

    Raises subprocess.CalledProcessError when a tool refuses (it has said why).
    Tests that run side by side may all call this: one at a time gets in."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with open(OUTPUT / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build(guest)


def _build(guest):
    stamp = OUTPUT / (guest.name + ".stamp")
    digest = _digest(guest)
    if guest.image.exists() and stamp.exists() and stamp.read_text() == digest:
        return False
    stamp.unlink(missing_ok=True)
    subprocess.run(_link_command(guest), check=True)
    subprocess.run(_image_command(guest), check=True)
    stamp.write_text(digest)
    return True


def main(names):
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        print("no such guest: %s; there are %s" % (", ".join(unknown), ", ".join(BY_NAME)), file=sys.stderr)
        return 2
    for name in names or BY_NAME:
        try:
            if build(BY_NAME[name]):
                print("guest", name)
        except subprocess.CalledProcessError:
            print("guest %s: not built" % name, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
