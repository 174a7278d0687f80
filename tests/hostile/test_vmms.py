"""VMMs that lie, trespass or never answer: each ends its own VM, in a sentence, and the neighbour finishes its work.

Promise 5. What the hostile VMM can do, and what must become of each variant, is in tests/hostile/vmms/table.py.
"""
import re
import subprocess
import sys

import pytest

from bulkhead.facts import ROOT
from hypervisor.spec import ending
from tests.hostile.vmms import table
from tests.system.box import config, run_box, vm

PER_BOX = 7
CASES = list(table.cases())
BOXES = [CASES[at:at + PER_BOX] for at in range(0, len(CASES), PER_BOX)]
WORK = ['tick %d of 6' % n for n in range(1, 7)]


@pytest.fixture(scope='session')
def program():
    """The hostile VMM, built like the honest one."""
    subprocess.run([sys.executable, str(ROOT / 'tools/build/build.py'), '--task-target', 'tests.hostile.vmms.target', 'vmm_hostile'],
                   cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return 'build/vmm_hostile.bin'


def words(code):
    """A regular expression for the sentence of an ending."""
    return re.escape(ending.WORDS[code]).replace('%d', r'-?\d+').replace('%x', '[0-9a-f]+') + '$'


@pytest.mark.parametrize('cases', BOXES, ids=lambda cases: '%s-%s..%s-%s' % (*cases[0][:2], *cases[-1][:2]))
def test_a_lying_vmm_ends_alone(cases, machine, program):
    vms = [vm('vm%d' % n, 'hello', memory='4M', vmm=program, command_line='%s=%d' % (kind, number)) for n, (kind, number, _, _) in enumerate(cases)]
    result = run_box(config(vm('neighbour', 'ticker', memory='4M', command_line='lines=6 loops=200000'), *vms), machine)
    assert result.lines['neighbour'] == WORK and result.table['neighbour'].how == 'exited with status 0', result
    wrong = []
    for n, (kind, number, what, endings) in enumerate(cases):
        how = result.table['vm%d' % n].how
        if not any(re.match(words(code), how) for code in endings):
            wrong.append('%s %d (%s): %s' % (kind, number, what, how))
    assert not wrong, '\n'.join(wrong) + '\n' + str(result)
