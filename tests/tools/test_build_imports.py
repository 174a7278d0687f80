"""The rules of import hold for this source, and each is seen to fail on a source that breaks it."""
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools' / 'build'))

import imports  # noqa: E402


def findings(folder, path, source):
    file = folder / 'hypervisor' / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    return imports.check(folder)


def test_this_source_keeps_the_rules():
    assert imports.check(ROOT) == []


@pytest.mark.parametrize('path, source', [
    ('kernel/main.py', 'from hypervisor.kernel import arena\nfrom hypervisor.spec import status\nfrom hypervisor.hw import cpu\n'),
    ('kernel/main.py', 'from rpython.rlib.rarithmetic import r_uint\nimport struct\n'),
    ('vmm/target.py', 'from rpython.rtyper.lltypesystem import lltype\nENTRY = [lltype.Signed]\n'),
    ('hw/cpu.py', 'from rpython.rtyper.lltypesystem import lltype, rffi\nread = rffi.llexternal\n'),
    ('spec/vcpu.py', 'from __future__ import division\nfrom hypervisor.spec.layout import PAGE\nfrom . import layout\n'),
    ('lib/crc.py', 'from hypervisor.spec import layout\nfrom ..hw import memory\n'),
])
def test_lawful_source_passes(tmp_path, path, source):
    assert findings(tmp_path, path, source) == []


@pytest.mark.parametrize('path, source, line, words', [
    ('kernel/main.py', 'import os\nfrom hypervisor.vmm import platform\n', 2, 'never import one another'),
    ('kernel/main.py', 'from hypervisor import vmm\n', 1, 'never import one another'),
    ('kernel/main.py', 'from ..manager.table import rows\n', 1, 'never import one another'),
    ('kernel/deep/main.py', 'from ...vmm import bus\n', 1, 'never import one another'),
    ('vmm/main.py', 'def f():\n    import hypervisor.kernel.main\n', 2, 'never import one another'),
    ('manager/main.py', 'if True:\n    from hypervisor.vmm.bus import Bus\n', 2, 'never import one another'),
    ('spec/vcpu.py', 'import struct\n', 1, 'imports nothing but spec'),
    ('spec/vcpu.py', 'from rpython.rlib.rarithmetic import r_uint\n', 1, 'imports nothing but spec'),
    ('spec/vcpu.py', 'from hypervisor.lib import crc\n', 1, 'may import only spec'),
    ('lib/crc.py', 'from hypervisor.kernel.arena import arena\n', 1, 'may import only hw, lib, spec'),
    ('hw/cpu.py', 'from hypervisor.kernel.arena import arena\n', 1, 'may import only hw, spec'),
    ('lib/crc.py', 'from rpython.rtyper.lltypesystem import rffi\n', 1, 'outside hypervisor/hw'),
    ('kernel/main.py', 'from rpython.rtyper.lltypesystem import lltype\n', 1, 'outside hypervisor/hw'),
    ('vmm/target.py', 'from rpython.rtyper.lltypesystem import rffi\n', 1, 'uses rffi'),
    ('vmm/main.py', 'from hypervisor.hw.memory import rffi\n', 1, 'uses rffi'),
    ('vmm/main.py', 'from hypervisor.hw import memory\nx = memory.rffi.llexternal("f", [], None)\n', 2, 'uses llexternal'),
    ('kernel/main.py', 'from rpython.rlib.objectmodel import we_are_translated\n', 1, 'uses we_are_translated'),
    ('kernel/main.py', 'from rpython.rlib import objectmodel\nobjectmodel.we_are_translated()\n', 2, 'uses we_are_translated'),
    ('kernel/main.py', 'print "hello"\n', 1, 'both Python 2.7 and Python 3'),
    ('driver/disk.py', '', 1, 'no part of the design'),
])
def test_each_rule_is_seen_to_fail_with_file_and_line(tmp_path, path, source, line, words):
    found = findings(tmp_path, path, source)
    assert any(text.startswith(f'hypervisor/{path}:{line}: ') and words in text for text in found), found
