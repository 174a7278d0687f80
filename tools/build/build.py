"""Build Bulkhead's programs: prove, translate, compile, link, check.   (Python 3.11)

    .env/bin/python3 tools/build/build.py                  kernel, vmm and manager, as far as they exist
    .env/bin/python3 tools/build/build.py kernel           one of them
    .env/bin/python3 tools/build/build.py --task-target tests.hostile.vmms.target vmm_hostile
                                                           one more ring-3 program: build/vmm_hostile.bin
    --force builds everything anew.

Results: build/NAME.elf, and for ring-3 programs build/NAME.bin (see hypervisor/spec/program.py).  A step runs only when its command
or the content of one of its inputs has changed since it last succeeded (build/manifest.json); with nothing to do this ends
within a second.  A failing step prints its command and its error; the exit status is then 1.
"""
import argparse
import concurrent.futures
import fcntl
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.dont_write_bytecode = True      # hypervisor/ is Python 2's; leave no __pycache__ in it
sys.path.insert(0, str(Path(__file__).resolve().parent))

from steps import ROOT, BuildError, Steps, files_below  # noqa: E402

GCC = 'gcc'
GCC_FLAGS = [
    '-std=gnu11', '-O2', '-g', '-ffreestanding', '-nostdinc', '-mno-red-zone', '-mgeneral-regs-only', '-fno-pic', '-fno-pie',
    '-fno-stack-protector', '-fno-asynchronous-unwind-tables', '-fwrapv', '-fno-strict-aliasing',
    '-fno-delete-null-pointer-checks',      # address 0 is an address; without this gcc emits ud2
    '-fcf-protection=none', '-ffunction-sections', '-fdata-sections', '-fno-ident',
    '-DRPY_ASSERT',                         # asserts and list indexes are checked, and end in a panic
]
OWN_FLAGS = ['-Wall', '-Wextra', '-Werror']                 # for what people wrote
GENERATED_FLAGS = ['-w']                                    # for what the translator wrote
# For the functions that a guest's exit comes to first (boot/kernel/guest.h): these registers stay the guest's. And no answer is computed where
# a branch that is never taken does: an unlikely one costs the likely ones an instruction or two each.
FEW_REGISTERS = ['-ffixed-r8', '-ffixed-r9', '-ffixed-r10', '-ffixed-r11', '-fno-if-conversion', '-fno-if-conversion2', '-fno-ssa-phiopt']
LINK_FLAGS = ['-nostdlib', '-static', '--gc-sections', '--orphan-handling=error', '--fatal-warnings', '-z', 'max-page-size=4096',
              '-z', 'noexecstack', '--build-id=none']


@dataclass(frozen=True)
class Program:
    """One program to build.  target: the module that declares it; boot: folder of its .S, .c and .h; ring: 0 or 3."""
    name: str
    target: str
    ring: int
    boot: Path
    script: Path

    @property
    def code_model(self):
        return ['-mcmodel=kernel'] if self.ring == 0 else []


def kernel_program():
    return Program('kernel', 'hypervisor.kernel.target', 0, ROOT / 'boot' / 'kernel', ROOT / 'linker' / 'kernel.ld')


def task_program(name, target=None):
    return Program(name, target or f'hypervisor.{name}.target', 3, ROOT / 'boot' / 'task', ROOT / 'linker' / 'task.ld')


class Builder:
    """Builds programs into one folder.  Public: prepare() once, then build(program) for each."""

    def __init__(self, out, force=False, python2=None, report=print):
        self.out = Path(out)
        self.steps = Steps(self.out, force, report)
        self.python2 = Path(python2 or ROOT / '.env' / 'bin' / 'python2')

    # -- what all programs share

    def prepare(self):
        """Prove the rules of import and make build/gen/spec.h."""
        self.prove_imports()
        self.make_header()

    def prove_imports(self):
        sources = files_below(ROOT / 'hypervisor', '*.py')

        def run():
            import imports
            findings = imports.check(ROOT)
            if findings:
                raise BuildError('\n'.join(findings))
        self.steps.call('imports', run, inputs=sources + [tool('imports.py')], outputs=[])

    def make_header(self):
        header = self.out / 'gen' / 'spec.h'

        def run():
            import headers
            try:
                headers.write(header)
            except headers.HeaderError as error:
                raise BuildError(str(error)) from error
        self.steps.call('spec.h', run, inputs=files_below(ROOT / 'hypervisor' / 'spec', '*.py') + [tool('headers.py')], outputs=[header])

    # -- one program

    def build(self, program):
        """Build `program`.  Returns the ELF's path; raises BuildError."""
        folder = self.out / program.name
        folder.mkdir(parents=True, exist_ok=True)
        facts = self.translate(program, folder)
        objects = [self.compile(program, source, folder, facts['include']) for source in self.sources(program, folder)]
        elf = self.link(program, objects, folder)
        self.prove_elf(program, elf, objects)
        if program.ring == 3:
            self.flatten(elf)
        else:
            self.strip(elf)
        return elf

    def translate(self, program, folder):
        """Make the program's C.  Its inputs are the Python files that the last translation imported."""
        generated, facts = folder / 'c' / f'{program.name}.c', folder / 'c' / f'{program.name}.json'
        if not self.python2.exists():
            raise BuildError(f'{self.python2} is missing: run `make setup` first')
        if not target_file(program.target).exists():
            raise BuildError(f'no module {program.target} ({target_file(program.target).relative_to(ROOT)} is missing)')
        command = [self.python2, tool('translate.py'), program.name, generated.parent, '--target', program.target]
        few = [folder / 'c' / f'{program.name}.few.c'] if program.ring == 0 else []
        always = [target_file(program.target), tool('translate.py'), tool('position.py'), tool('proofs.py')]
        self.steps.run(f'translate {program.name}', command, inputs=always, outputs=[generated, facts, *few],
                       discovered=lambda: [ROOT / name for name in read_json(facts)['inputs']])
        return read_json(facts)

    def sources(self, program, folder):
        """Return the C and assembly files of `program`: generated, the runtime, its boot folder."""
        own = files_below(program.boot, '*.S') + files_below(program.boot, '*.c')
        if not own:
            raise BuildError(f'no .S and no .c in {program.boot.relative_to(ROOT)}')
        generated = ['.c', '.few.c'] if program.ring == 0 else ['.c']
        return [folder / 'c' / (program.name + suffix) for suffix in generated] + [ROOT / 'boot' / 'runtime.c'] + own

    def compile(self, program, source, folder, rpython_include):
        """Compile or assemble one file.  Returns the object."""
        generated = source.parent == folder / 'c'
        kind = 'c' if generated else 'boot' if source.parent == program.boot else 'runtime'
        result = folder / f'{kind}-{source.name}.o'
        dependencies = result.with_suffix('.d')
        boot = ROOT / 'boot'
        places = [folder / 'c', program.boot, boot, boot / 'hw', boot / 'include', self.out / 'gen', rpython_include]
        includes = [f'-I{place}' for place in places[:-1]] + ['-isystem', places[-1]]
        command = [GCC, *GCC_FLAGS, *program.code_model, *(GENERATED_FLAGS if generated else OWN_FLAGS),
                   *(FEW_REGISTERS if source.name.endswith('.few.c') else []), *includes,
                   '-DBULKHEAD_PROGRAM="' + program.name + '"', '-MD', '-MF', dependencies, '-c', source, '-o', result]
        self.steps.run(f'compile {program.name}/{source.name}', command, inputs=[source], outputs=[result],
                       discovered=lambda: read_dependencies(dependencies))
        return result

    def link(self, program, objects, folder):
        script, elf = folder / 'link.ld', self.out / f'{program.name}.elf'
        if not program.script.exists():
            raise BuildError(f'{program.script.relative_to(ROOT)} is missing')
        preprocess = [GCC, '-E', '-P', '-undef', '-nostdinc', '-x', 'c', f'-I{self.out / "gen"}', '-I', program.script.parent,
                      program.script, '-o', script]
        self.steps.run(f'script {program.name}', preprocess, inputs=files_below(ROOT / 'linker', '*.ld') + [self.out / 'gen' / 'spec.h'],
                       outputs=[script])
        command = ['ld', *LINK_FLAGS, '-T', script, '-Map', folder / 'link.map', '-o', elf, *objects]
        self.steps.run(f'link {program.name}', command, inputs=[script, *objects], outputs=[elf])
        return elf

    def prove_elf(self, program, elf, objects):
        def run():
            import elfcheck
            findings = elfcheck.check(elf, program.ring, objects)
            if findings:
                raise BuildError('\n'.join(findings))
        self.steps.call(f'check {program.name}', run, inputs=[elf, *objects, tool('elfcheck.py')], outputs=[])

    def flatten(self, elf):
        image = elf.with_suffix('.bin')
        self.steps.run(f'image {elf.stem}', ['objcopy', '-O', 'binary', elf, image], inputs=[elf], outputs=[image])

    def strip(self, elf):
        """What a boot loader reads: without the debugging information, which is six times as long as all else."""
        image = elf.with_suffix('.boot.elf')
        self.steps.run(f'image {elf.stem}', ['objcopy', '--strip-debug', elf, image], inputs=[elf], outputs=[image])


def tool(name):
    return Path(__file__).resolve().parent / name


def target_file(module):
    return ROOT / (module.replace('.', '/') + '.py')


def read_json(path):
    import json
    return json.loads(Path(path).read_text())


def read_dependencies(path):
    """Return the files that gcc -MD listed."""
    words = Path(path).read_text().replace('\\\n', ' ').split()
    return [Path(word) for word in words[1:]]


def chosen_programs(arguments):
    """Return the programs that the command line asks for."""
    known = {'kernel': kernel_program(), 'vmm': task_program('vmm'), 'manager': task_program('manager')}
    for name in arguments.programs:
        if name not in known:
            raise BuildError(f'no program {name!r}: there are {", ".join(known)}')
    extra = [task_program(name, target) for target, name in arguments.task_target or []]
    for program in extra:
        if program.name in known:
            raise BuildError(f'--task-target: {program.name!r} is the name of a program of the hypervisor; choose another')
    names = arguments.programs or ([] if extra else list(known))
    return [known[name] for name in names] + extra


def parse_arguments():
    parser = argparse.ArgumentParser(description="Build Bulkhead's programs.")
    parser.add_argument('programs', nargs='*', metavar='PROGRAM', help='kernel, vmm, manager (default: all three)')
    parser.add_argument('--task-target', nargs=2, action='append', metavar=('MODULE', 'NAME'),
                        help='also build this ring-3 program: build/NAME.bin (alone: only this one)')
    parser.add_argument('--out', default=ROOT / 'build', help='folder of the results')
    parser.add_argument('--force', action='store_true', help='run every step')
    parser.add_argument('--jobs', type=int, default=2, help='programs built at the same time')
    return parser.parse_args()


def build_all(builder, programs, jobs):
    """Build the programs side by side.  Returns the messages of those that failed."""
    failures = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(builder.build, program): program for program in programs}
        for done in concurrent.futures.as_completed(waiting):
            try:
                done.result()
            except BuildError as error:
                failures.append(f'{waiting[done].name}: {error}')
    return failures


def take(lock):
    """Wait until no other build writes to the same folder."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print('build: another build is running: waiting for it to end', flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def main():
    arguments = parse_arguments()
    out = Path(arguments.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with open(out / '.lock', 'w') as lock:
        take(lock)
        started = time.monotonic()
        try:
            programs = chosen_programs(arguments)
            builder = Builder(out, arguments.force, report=lambda line: print(line, flush=True))
            builder.prepare()
            failures = build_all(builder, programs, arguments.jobs)
        except BuildError as error:
            failures = [str(error)]
    for failure in failures:
        print(f'build: {failure}', file=sys.stderr)
    if failures:
        return 1
    names = ', '.join(program.name for program in programs)
    print(f'build: {names}: {builder.steps.count} steps, {time.monotonic() - started:.1f} s')
    return 0


if __name__ == '__main__':
    sys.exit(main())
