"""Page walks against a model written from the manual's tables, and the errors that a processor would report."""
from rpython.rlib.rarithmetic import r_uint

import pytest
from hypothesis import given, settings, strategies as st

from hypervisor.hw import task
from hypervisor.spec import cpu, exit, vcpu
from hypervisor.spec.exit import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE
from hypervisor.vmm.context import FAULT, OK
from hypervisor.vmm.fetch import NO_CODE
from hypervisor.vmm.ram import Ram
from tests.unit.vmm.rig import CODE_32, CODE_64, PML4, Rig

P, W, U, PS, NX = 1, 2, 4, 0x80, 1 << 63
GVA = 0x7f1234567abc
GVA_57 = 0xff237f1234567abc
TABLES = [PML4, 0x2000, 0x3000, 0x4000]
PML5 = 0x8000
PRESENT, WRITE, USER, RESERVED, FETCH, KEY = 1, 2, 4, 8, 16, 32


class Cache(object):
    rig = None


def rig():
    if Cache.rig is None or task.fake.kernel is not Cache.rig.box:
        Cache.rig = Rig()
    return Cache.rig


def walk(entries, access, user=False, cr0=cpu.CR0_WP, cr4=0, efer=cpu.EFER_NXE, flags=0, gva=GVA, pkru=0):
    """Put these entries, four or five, in place and walk. Returns (outcome, gpa or error code, CR2)."""
    r = rig()
    tables = [PML5] * (len(entries) - 4) + TABLES
    for table, shift, entry in zip(reversed(tables), (12, 21, 30, 39, 48), reversed(entries)):
        r.ram.store64(r_uint(table + 8 * (gva >> shift & 511)), r_uint(entry))
    r.segments(CODE_64, 0xc93 | (0x60 if user else 0))
    r.state.update(CR0=cpu.CR0_PE | cpu.CR0_PG | cr0, CR3=tables[0] | 0x18, CR4=cpu.CR4_PAE | cr4 | (cpu.CR4_LA57 if len(entries) == 5 else 0), EFER=cpu.EFER_LMA | cpu.EFER_LME | efer,
                   RFLAGS=2 | flags, PKRU=pkru)
    assert r.emulator.context.load()
    outcome = r.emulator.walker.walk(r_uint(gva), access)
    if outcome == OK:
        return OK, int(r.emulator.walker.gpa), None
    assert r.emulator.context.vector == cpu.VECTOR_PF
    return FAULT, int(r.emulator.context.error), r.box.state('CR2')


def model(entries, access, user, cr0, cr4, efer, flags, pkru=0, gva=GVA):
    """The same, as the manual's table "Page-Fault Error Code" and its rules for access rights say."""
    error = (WRITE if access == ACCESS_WRITE else 0) | (USER if user else 0)
    nx = bool(efer & cpu.EFER_NXE)
    if access == ACCESS_EXECUTE and (nx or cr4 & cpu.CR4_SMEP):
        error |= FETCH
    rights, no_execute = W | U, False
    for level, entry in zip(range(len(entries), 0, -1), entries):
        if not entry & P:
            return FAULT, error, gva
        large = entry & PS and level in (2, 3)
        bad = entry >> 40 & 0xfff or (entry & NX and not nx) or (level >= 4 and entry & PS)
        if large and entry & ((1 << (12 + 9 * (level - 1))) - 1) >> 13 << 13:
            bad = True
        if bad:
            return FAULT, error | PRESENT | RESERVED, gva
        rights &= entry
        no_execute = no_execute or bool(entry & NX)
        if large or level == 1:
            size = 1 << (12 + 9 * (level - 1))
            gpa = (entry & 0xffffff000) // size * size + gva % size
            break
    denied = False
    if access == ACCESS_EXECUTE:
        denied = no_execute or (user and not rights & U) or (not user and rights & U and cr4 & cpu.CR4_SMEP)
    elif user:
        denied = not rights & U or (access == ACCESS_WRITE and not rights & W)
    else:
        denied = (access == ACCESS_WRITE and not rights & W and cr0 & cpu.CR0_WP) or (
            rights & U and cr4 & cpu.CR4_SMAP and not flags & cpu.RFLAGS_AC)
    if cr4 & cpu.CR4_PKE and rights & U and access != ACCESS_EXECUTE:
        key = entry >> 59 & 15
        no_access, no_write = pkru >> 2 * key & 1, pkru >> 2 * key + 1 & 1
        if no_access or (no_write and access == ACCESS_WRITE and (user or cr0 & cpu.CR0_WP)):
            return FAULT, error | PRESENT | KEY, gva
    if denied:
        return FAULT, error | PRESENT, gva
    return OK, gpa, None


def spoiled(spoilers, aligned, levels=4):
    """Entries that allow everything, except for what each (level, bit) of `spoilers` turns over. Level 0 is the highest."""
    entries = [target | P | W | U for target in [PML4] * (levels - 4) + [0x2000, 0x3000, 0x4000, 0x123000]]
    for level, bit in spoilers:
        entries[level] ^= bit
        if bit == PS and aligned:
            entries[level] = entries[level] & ~0x3fffe000 | (0x40000000 if level > levels - 4 else 0)
    return entries


@settings(max_examples=600)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([P, W, U, PS, NX, 1 << 41])), max_size=2, unique=True), st.booleans(),
       st.sampled_from([ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE]), st.booleans(), st.sampled_from([0, cpu.CR0_WP]),
       st.sampled_from([0, cpu.CR4_SMEP, cpu.CR4_SMAP, cpu.CR4_SMEP | cpu.CR4_SMAP]), st.sampled_from([0, cpu.EFER_NXE]),
       st.sampled_from([0, cpu.RFLAGS_AC]))
def test_a_walk_ends_as_the_manual_says(spoilers, aligned, access, user, cr0, cr4, efer, flags):
    entries = spoiled(spoilers, aligned)
    assert walk(entries, access, user, cr0, cr4, efer, flags) == model(entries, access, user, cr0, cr4, efer, flags)


@settings(max_examples=600)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([P, W, U, PS, NX, 1 << 41])), max_size=2, unique=True), st.booleans(),
       st.sampled_from([ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE]), st.booleans(), st.sampled_from([0, cpu.CR0_WP]),
       st.sampled_from([0, cpu.CR4_SMEP, cpu.CR4_SMAP, cpu.CR4_PKE]), st.sampled_from([0, 1 << 10, 1 << 11]), st.sampled_from([GVA, GVA_57, GVA | 1 << 55]))
def test_a_walk_of_five_levels_ends_as_the_manual_says(spoilers, aligned, access, user, cr0, cr4, pkru, gva):
    """Its tables are read by nine bits more of the address, and its top entries have rights like all others."""
    entries = spoiled(spoilers, aligned, 5)
    entries[4] |= 5 << 59
    assert walk(entries, access, user, cr0, cr4, gva=gva, pkru=pkru) == model(entries, access, user, cr0, cr4, cpu.EFER_NXE, 0, pkru, gva)


def test_the_fifth_level_is_there_only_with_la57():
    """Without it the same CR3 names a table of the fourth."""
    assert walk(spoiled([], False, 5), ACCESS_READ, gva=GVA_57) == (OK, 0x123abc, None)
    r = rig()
    r.state.update(CR4=cpu.CR4_PAE, CR3=PML4)
    assert r.emulator.context.load() and r.emulator.walker.walk(r_uint(GVA), ACCESS_READ) == OK
    r.state.update(CR4=cpu.CR4_PAE | cpu.CR4_LA57)
    assert r.emulator.context.load() and r.emulator.walker.walk(r_uint(GVA), ACCESS_READ) == FAULT


@pytest.mark.parametrize('gva, levels', [(0, 4), (1 << 46, 4), ((1 << 47) - 1, 4), (1 << 47, 5), (1 << 55, 5), ((1 << 56) - 1, 5), (1 << 56, 0), (1 << 57, 0), (1 << 63, 0),
                                         (0xfeffffffffffffff, 0), (0xff00000000000000, 5), (0xffff7fffffffffff, 5), (0xffff800000000000, 4), ((1 << 64) - 1, 4)])
def test_canonical_addresses(gva, levels):
    """levels: with how many and more. Source: Intel SDM Vol. 1, "Canonical Addressing"."""
    context = rig().emulator.context
    for has, cr4 in ((4, cpu.CR4_PAE), (5, cpu.CR4_PAE | cpu.CR4_LA57)):
        context.cr4 = r_uint(cr4)
        assert context.is_canonical(r_uint(gva)) == (levels != 0 and has >= levels)


keys = st.integers(0, 15)


@settings(max_examples=600)
@given(keys, keys, st.booleans(), st.sampled_from([0, 1, 2, 3]), st.lists(keys, max_size=3), st.sampled_from([0, 1, 2, 3, -1]), st.sampled_from([ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE]),
       st.booleans(), st.sampled_from([0, cpu.CR0_WP]), st.sampled_from([0, cpu.CR4_PKE, cpu.CR4_PKE, cpu.CR4_PKE | cpu.CR4_SMAP]), st.sampled_from([0, W, U]))
def test_keys_guard_the_data_of_user_pages(key, above, large, denied, others, level, access, user, cr0, cr4, spoiled_bit):
    """The key is that of the entry that maps the page, whatever the levels above have there."""
    entries = spoiled([(level, spoiled_bit)] if spoiled_bit and level >= 0 else [], False)
    entries = [entry | above << 59 for entry in entries[:3]] + [entries[3] | key << 59]
    if large:
        entries[2] = entries[2] & ~0x1ff000 & ~(15 << 59) | PS | key << 59
    pkru = denied << 2 * key
    for other in others:
        if other != key:
            pkru |= 3 << 2 * other
    assert walk(entries, access, user, cr0, cr4, pkru=pkru) == model(entries, access, user, cr0, cr4, cpu.EFER_NXE, 0, pkru)


def test_pkru_is_fetched_only_where_it_counts():
    entries = spoiled([], False)
    for bits, cr4, access, wanted in ((0, cpu.CR4_PKE, ACCESS_READ, 1), (0, 0, ACCESS_READ, 0), (0, cpu.CR4_PKE, ACCESS_EXECUTE, 0), (U, cpu.CR4_PKE, ACCESS_READ, 0)):
        before = rig().box.reads.count(vcpu.GROUP_KEYS)
        assert walk(entries[:3] + [entries[3] & ~bits], access, cr4=cr4)[0] == OK
        assert rig().box.reads.count(vcpu.GROUP_KEYS) - before == wanted


def test_entries_beyond_the_memory_are_ones_and_therefore_reserved():
    entries = [0x2000 | P | W, 0x80000000 | P | W, 0, 0]
    assert walk(entries, ACCESS_READ) == (FAULT, PRESENT | RESERVED, GVA)


def paging_32(pde, pte, access, pse=cpu.CR4_PSE, user=False):
    r = rig()
    gva = 0xc0123abc
    r.ram.store32(r_uint(0x5000 + 4 * (gva >> 22)), r_uint(pde))
    r.ram.store32(r_uint(0x6000 + 4 * (gva >> 12 & 1023)), r_uint(pte))
    r.segments(CODE_32, 0xc93 | (0x60 if user else 0))
    r.state.update(CR0=cpu.CR0_PE | cpu.CR0_PG, CR3=0x5fff & ~0xfff | 0x18, CR4=pse, EFER=0, RFLAGS=2)
    assert r.emulator.context.load()
    outcome = r.emulator.walker.walk(r_uint(gva), access)
    return outcome, int(r.emulator.walker.gpa) if outcome == OK else int(r.emulator.context.error)


def test_32_bit_paging():
    assert paging_32(0x6000 | P | W, 0x77000 | P | W, ACCESS_WRITE) == (OK, 0x77abc)
    assert paging_32(0x6000 | P | W, 0x77000, ACCESS_WRITE) == (FAULT, WRITE)
    assert paging_32(0, 0, ACCESS_READ, user=True) == (FAULT, USER)
    assert paging_32(0x6000 | P | U, 0x77000 | P | W, ACCESS_READ, user=True) == (FAULT, PRESENT | USER)
    assert paging_32(0x6000 | P | W, 0x77000 | P | W | U, ACCESS_READ, user=True) == (FAULT, PRESENT | USER)     # both entries count
    assert paging_32(0x6000 | P | U, 0x77000 | P | W | U, ACCESS_WRITE, user=True) == (FAULT, PRESENT | WRITE | USER)
    assert paging_32(0x6000 | P | U | W, 0x77000 | P | U, ACCESS_WRITE, user=True) == (FAULT, PRESENT | WRITE | USER)
    assert paging_32(0x6000 | P | U | W, 0x77000 | P | U | W, ACCESS_WRITE, user=True) == (OK, 0x77abc)
    assert paging_32(0x800000 | P | PS, 0, ACCESS_READ) == (OK, 0x923abc)
    assert paging_32(0x800000 | 5 << 13 | P | PS, 0, ACCESS_READ) == (OK, 0x500923abc)            # PSE-36
    assert paging_32(0x800000 | 1 << 21 | P | PS, 0, ACCESS_READ) == (FAULT, PRESENT | RESERVED)
    assert paging_32(0x6000 | P | PS, 0x77000 | P, ACCESS_READ, pse=0) == (OK, 0x77abc)


def test_pae_paging():
    r = rig()
    gva = 0xc0123abc
    r.ram.store64(r_uint(0x5020 + 8 * 3), r_uint(0x6000 | P))
    r.ram.store64(r_uint(0x6000 + 8 * (gva >> 21 & 511)), r_uint(0x7000 | P | W))
    r.ram.store64(r_uint(0x7000 + 8 * (gva >> 12 & 511)), r_uint(0x1234567000 | P | W))
    r.segments(CODE_32)
    r.state.update(CR0=cpu.CR0_PE | cpu.CR0_PG, CR3=0x5020, CR4=cpu.CR4_PAE, EFER=0, RFLAGS=2)
    assert r.emulator.context.load()
    assert r.emulator.walker.walk(r_uint(gva), ACCESS_WRITE) == OK and int(r.emulator.walker.gpa) == 0x1234567abc
    r.ram.store64(r_uint(0x7000 + 8 * (gva >> 12 & 511)), r_uint(1 << 55 | 0x1234567000 | P | W))
    assert r.emulator.walker.walk(r_uint(gva), ACCESS_READ) == FAULT and int(r.emulator.context.error) == PRESENT | RESERVED
    r.ram.store64(r_uint(0x5020 + 8 * 3), r_uint(0x6000 | P | W))
    assert r.emulator.walker.walk(r_uint(gva), ACCESS_READ) == FAULT and int(r.emulator.context.error) == PRESENT | RESERVED


MEMORY_SIZES = [0xa0000, 0x100000, 0x101000, 0x400000, 0x400800]


@pytest.mark.parametrize('size', MEMORY_SIZES)
@pytest.mark.parametrize('firmware', [False, True])
def test_a_page_is_memory_when_all_of_it_is(size, firmware):
    ram = Ram()
    ram.set_size(r_uint(size))
    ram.use_firmware(firmware)
    for page in [0, 0x9f000, 0xa0000, 0xbf000, 0xc0000, 0xff000, 0x100000, 0x101000, size & ~0xfff, (size & ~0xfff) - 0x1000, 0xfee00000, 1 << 40, (1 << 64) - 0x1000]:
        for at in (0, 0x7f8, 0xfff):
            assert ram.has_page(r_uint(page + at)) == ram.holds(r_uint(page), r_uint(0x1000)), (hex(page), at)


@pytest.mark.parametrize('start, memory, outcome', [(0x3ff000, True, OK), (0x3ff000 + 0xff1, True, OK), (0x3ff000 + 0xff2, True, FAULT), (0x400000, False, NO_CODE),
                                                    (0x9f000 + 0xff1, True, OK), (0xb0000, False, NO_CODE)])
def test_an_instruction_is_fetched_from_where_it_lies(start, memory, outcome):
    """Up to the page's last byte, below and above the hole; the next page is not there."""
    r = Rig()
    r.long_mode()
    r.map_page(0x800000, start & ~0xfff)
    r.state.update(RIP=0x800000 | start & 0xfff)
    here = min(15, 0x1000 - (start & 0xfff))
    if memory:
        r.put(start, bytearray(range(0x51, 0x51 + here)))
    r.box.exit(exit.IO)
    assert r.emulator.context.load() and r.emulator.fetcher.fetch() == outcome
    assert r.emulator.code.count == (here if memory else 0)
    assert [r.emulator.code.byte(n) for n in range(here)] == (list(range(0x51, 0x51 + here)) if memory else [0] * here)


def test_what_was_fetched_before_is_not_fetched():
    r = Rig()
    r.long_mode()
    r.put(0x9000, bytearray([0x90] * 16))
    r.box.exit(exit.IO)
    assert r.emulator.context.load() and r.emulator.fetcher.fetch() == OK
    r.put(0x9000, bytearray(range(16)))
    assert r.emulator.fetcher.fetch() == OK and [r.emulator.code.byte(n) for n in range(15)] == list(range(15))
