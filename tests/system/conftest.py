"""Each test that takes `machine` runs on both emulators: SVM on QEMU and VMX on Bochs. A missing one is a failure, not a skip."""
import pytest


@pytest.fixture(params=['qemu', 'bochs'])
def machine(request):
    return request.param


def pytest_collection_modifyitems(items):
    """What takes longest begins first, so that nobody waits for it at the end."""
    items.sort(key=lambda item: 'test_linux' not in item.nodeid)
