"""The two most telling rows of the long matrix (tests/matrix): interrupts without x2APIC, and without any APIC."""
import pytest

from tests.matrix.test_matrix import ROWS, run_row


@pytest.mark.parametrize('name', ['xapic', 'pic'])
def test_linux_checks_itself_with_older_interrupt_controllers(name):
    run_row(next(row for row in ROWS if row.name == name), 'qemu')
