"""Each test that takes `machine` runs on both emulators: SVM on QEMU and VMX on Bochs. A missing one is a failure, not a skip."""
import pytest


@pytest.fixture(params=['qemu', 'bochs'])
def machine(request):
    return request.param
