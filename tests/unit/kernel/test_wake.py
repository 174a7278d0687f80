"""Who sleeps in a HLT and takes what comes at once gets it without a request. What comes of it is what comes of a request."""
from hypothesis import example, given, strategies as st
from rpython.rlib.rarithmetic import r_uint

import pytest

from hypervisor.kernel import interrupts
from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.svm_exit import processor
from hypervisor.kernel.switch import switcher
from hypervisor.spec import lapic
from tests.unit.kernel.test_answers import VM
from tests.unit.kernel.test_guest_exits import running
from tests.unit.kernel.vm import block_of

IF = 1 << 9
ON, OFF, EXTINT = 0x1ff, 0xff, 4
TIMER, OTHER = 0x41, 0x52


def sleeping(box, state):
    vcpu, block = compartments[VM].vcpus[0], block_of(box, VM)
    apic = vcpu.apic
    block.set('RFLAGS', 2 | (0 if state.get('deaf') else IF))
    block.set('V_INTR', block.get('V_INTR') & ~0xf | state.get('tpr', 0) >> 4)      # whoever changes the one writes the other
    vcpu.halted, vcpu.ready, vcpu.attention, vcpu.deaf = not state.get('awake'), bool(state.get('awake')), False, bool(state.get('deaf'))
    vcpu.event = r_uint(state.get('event', 0))
    apic.svr, apic.tpr, apic.nmi, apic.extint = r_uint(state.get('svr', ON)), r_uint(state.get('tpr', 0)), bool(state.get('nmi')), bool(state.get('extint'))
    apic.lvt[EXTINT] = r_uint(lapic.EXTINT << 8)
    for name, words in (('irr', apic.irr), ('isr', apic.isr), ('tmr', apic.tmr)):
        for vector in state.get(name, []):
            words[vector >> 6] |= r_uint(1 << (vector & 63))
    return vcpu, block


def outcome(box, state, vector, by_request):
    """What can be seen of it: whether it is awake, its next event, its APIC, and the windows that are open at its entry."""
    running(box)
    vcpu, block = sleeping(box, state)
    switcher.lends = by_request
    vcpu.request_edge(vector)
    at_once = not vcpu.attention
    enters = interrupts.prepare(vcpu) if vcpu.attention and vcpu.ready else True
    apic = vcpu.apic
    seen = (vcpu.halted, vcpu.ready, vcpu.attention, enters, int(vcpu.event), map(int, apic.irr), map(int, apic.isr), map(int, apic.tmr), int(apic.esr_pending),
            apic.nmi, vcpu.exit_kind if not enters else None, block.get('V_INTR'), block.get('INTERCEPT_1'))
    return seen, at_once


vectors = st.one_of(st.sampled_from([0, 15, 16, TIMER, OTHER, 255]), st.integers(0, 255))
few = st.lists(st.integers(16, 255), max_size=2)
states = st.fixed_dictionaries({'deaf': st.booleans(), 'event': st.sampled_from([0, 0, 0, 0x80000030]), 'svr': st.sampled_from([ON, ON, OFF]), 'awake': st.booleans(),
                                'tpr': st.sampled_from([0, 0, 0x30, 0x41, 0xff]), 'nmi': st.booleans(), 'extint': st.booleans(), 'irr': few, 'isr': few, 'tmr': few})


@given(state=states, vector=vectors, emulated=st.booleans())
@example(state={}, vector=TIMER, emulated=False)
@example(state={}, vector=TIMER, emulated=True)
@example(state={'tmr': [TIMER]}, vector=TIMER, emulated=False)
@example(state={'tpr': 0x40}, vector=TIMER, emulated=False)
@example(state={'tpr': 0x3f}, vector=TIMER, emulated=False)
@example(state={'isr': [OTHER]}, vector=TIMER, emulated=False)
@example(state={'irr': [OTHER]}, vector=TIMER, emulated=False)
@example(state={'irr': [TIMER], 'tpr': 0x50}, vector=OTHER, emulated=False)
@example(state={'nmi': True}, vector=TIMER, emulated=False)
@example(state={'extint': True}, vector=TIMER, emulated=False)
@example(state={'event': 0x80000030}, vector=TIMER, emulated=False)
@example(state={'deaf': True}, vector=TIMER, emulated=False)
@example(state={'svr': OFF}, vector=TIMER, emulated=False)
@example(state={'awake': True}, vector=TIMER, emulated=False)
@example(state={}, vector=15, emulated=False)
def test_a_sleeper_is_where_a_request_would_have_brought_it(fresh, state, vector, emulated):
    seen = []
    for by_request in (False, True):
        box = fresh()
        processor.delivers_twice = emulated
        seen.append(outcome(box, state, vector, by_request)[0])
    assert seen[0] == seen[1]


@pytest.mark.parametrize('state, at_once', [
    ({}, True), ({'tpr': 0x30}, True), ({'tpr': 0x40}, False), ({'isr': [OTHER]}, False), ({'irr': [OTHER], 'tpr': 0x60}, False), ({'nmi': True}, False),
    ({'extint': True}, False), ({'event': 0x80000030}, False), ({'deaf': True}, False), ({'svr': OFF}, False), ({'awake': True}, False)])
def test_who_gets_it_at_once(fresh, state, at_once):
    seen, was_at_once = outcome(fresh(), state, TIMER, False)
    assert was_at_once == at_once
    if at_once:
        assert seen[:3] == (False, True, False) and seen[4] == 0x80000000 | TIMER


def test_where_an_apic_may_be_lent_there_is_a_request(fresh):
    assert outcome(fresh(), {}, TIMER, True)[1] is False
