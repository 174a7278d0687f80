"""A megabyte printed by a guest and a megabyte typed at one, as tests/system/test_linux.py does with less of it.

On QEMU each takes some five minutes, on Bochs more than ten. Nothing is typed there, because its
serial line has no flow control: what the guest does not keep up with is lost in the line's own FIFO.
"""
import pytest

from tests.system.shells import paste_much, print_much, shells

SECONDS, ANSWER_SECONDS = 7200, 3600            # on a loaded machine it has taken four times as long
MUCH = 1 << 20


@pytest.mark.parametrize('machine', ['qemu', 'bochs'])
def test_a_megabyte_is_printed_and_nothing_lost(machine):
    with shells(machine, SECONDS, ANSWER_SECONDS) as guests:
        print_much(guests, MUCH)


@pytest.mark.parametrize('mode', ['crtscts', '-crtscts'])
def test_a_megabyte_is_typed_and_nothing_lost(mode):
    with shells('qemu', SECONDS, ANSWER_SECONDS) as guests:
        paste_much(guests, mode, 'true', MUCH)
