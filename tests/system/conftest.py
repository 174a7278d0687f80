"""Each test that takes `machine` runs on both emulators: SVM on QEMU and VMX on Bochs. A missing one is a failure, not a skip."""
import re

import pytest
from xdist.scheduler import LoadScopeScheduling

FIRST = 'test_linux|test_bench|test_vmms'
TOGETHER = ['tests/bench', 'tests/hostile/test_vmms.py']         # one worker's: what they build first, they have in common
SHARED_BOOT = re.compile(r'test_linux\.py::(?!test_without_a_keyboard)\w+\[(\w+)\]$')


@pytest.fixture(params=['qemu', 'bochs'])
def machine(request):
    return request.param


def pytest_collection_modifyitems(items):
    """What takes longest begins first, so that nobody waits for it at the end."""
    items.sort(key=lambda item: not re.search(FIRST, item.nodeid))


class SharedBoots(LoadScopeScheduling):
    """Tests of one boot go to one worker, those with something in common too; all others wherever there is room."""

    def _split_scope(self, nodeid):
        shared = SHARED_BOOT.search(nodeid)
        if shared:
            return 'linux-' + shared[1]
        return next((each for each in TOGETHER if nodeid.startswith(each)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """xdist's own groups (--dist loadgroup) are none with pytest 9: its suffix on a node's id is not seen there."""
    return SharedBoots(config, log)
