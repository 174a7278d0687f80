"""VMMs that lie, trespass or never answer: each ends its own VM, in a sentence, and the neighbour finishes its work.

Promise 5. The programs and what must become of each variant are in tests/hostile/vmms/table.py.
"""
import re
import subprocess
import sys

import pytest

from bulkhead.facts import BUILD, ROOT
from hypervisor.spec import ending
from tests.hostile.vmms import table
from tests.system.box import config, run_box, vm

PER_BOX = 7
CASES = list(table.cases())
BOXES = [CASES[at:at + PER_BOX] for at in range(0, len(CASES), PER_BOX)]
WORK = ['tick %d of 6' % n for n in range(1, 7)]


@pytest.fixture(scope='session')
def programs():
    """The hostile programs, built like any VMM."""
    command = [sys.executable, str(ROOT / 'tools/build/build.py')]
    for name in sorted({case[0] for case in CASES}):
        command += ['--task-target', 'tests.hostile.vmms.%s.target' % name, 'vmm_' + name]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return BUILD


def words(code):
    """A regular expression for the sentence of an ending."""
    return re.escape(ending.WORDS[code]).replace('%d', r'-?\d+').replace('%x', '[0-9a-f]+') + '$'


@pytest.mark.parametrize('cases', BOXES, ids=lambda cases: '%s-%s..%s-%s' % (cases[0][0], cases[0][2], cases[-1][0], cases[-1][2]))
def test_a_lying_vmm_ends_alone(cases, machine, programs):
    vms = [vm('vm%d' % n, 'hello', memory='4M', vmm='build/vmm_%s.bin' % name, command_line='%s=%d' % (option, number) if option else '')
           for n, (name, option, number, _, _) in enumerate(cases)]
    result = run_box(config(vm('neighbour', 'ticker', memory='4M', command_line='lines=6 loops=200000'), *vms), machine)
    assert result.lines['neighbour'] == WORK and result.table['neighbour'].how == 'exited with status 0', result
    wrong = []
    for n, (name, _, number, what, endings) in enumerate(cases):
        how = result.table['vm%d' % n].how
        if not any(re.match(words(code), how) for code in endings):
            wrong.append('%s %d (%s): %s' % (name, number, what, how))
    assert not wrong, '\n'.join(wrong) + '\n' + str(result)
