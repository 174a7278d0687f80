"""The string instructions: MOVS, CMPS, STOS, LODS, SCAS, INS, OUTS, with and without REP.

At most UNITS of a repeated instruction are done at once; then the guest executes it again with what is left, as after an
interrupt. Each unit checks all that may fault before it changes anything.
Source: Intel SDM Vol. 2B, "REP/REPE/REPZ/REPNE/REPNZ".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.spec import cpu
from hypervisor.spec.exit import ACCESS_READ, ACCESS_WRITE
from hypervisor.vmm import alu as a, decode as d, vcpu as v
from hypervisor.vmm.bus import BUSY
from hypervisor.vmm.context import FAULT, OK, mask

UNITS = 4096
DONE, AGAIN = OK, 4
ZERO, ONE = r_uint(0), r_uint(1)

INS, OUTS, MOVS, CMPS, STOS, LODS, SCAS = 0x6c, 0x6e, 0xa4, 0xa6, 0xaa, 0xac, 0xae      # the byte forms
REPNE = 0xf2


class Strings(object):
    def __init__(self, context, instruction, alu, bus, source, target):
        self.context = context
        self.instruction = instruction
        self.alu = alu
        self.bus = bus
        self.source = source            # DS:SI, or what overrides DS
        self.target = target            # ES:DI
        self.size = 1
        self.step = ONE                 # size or -size

    def knows(self, opcode):
        form = opcode & 0xfe
        return (form == INS or form == OUTS or form == MOVS or form == CMPS or form == STOS or form == LODS or
                form == SCAS)

    def execute(self):
        """Returns DONE, AGAIN (progress is made, the instruction is not finished) or FAULT (with the progress kept)."""
        i = self.instruction
        form = i.opcode & 0xfe
        self.size = i.operand_size if i.opcode & 1 else 1
        if form <= OUTS and self.size == 8:
            self.size = 4
        self.step = r_uint(self.size)
        if self.context.has_flag(cpu.RFLAGS_DF):
            self.step = r_uint(-self.size)
        if i.repeat == 0:
            return self._unit(form)
        return self._repeated(form)

    def _repeated(self, form):
        width = self.instruction.address_size
        for _ in range(UNITS):
            count = self.context.register(v.CX, width)
            if count == ZERO:
                return DONE
            outcome = self._unit(form)
            if outcome != DONE:
                return outcome
            self._set(v.CX, count - ONE)
            if (form == CMPS or form == SCAS) and self._stops():
                return DONE
        return AGAIN

    def _stops(self):
        equal = self.alu.flags & a.ZF != ZERO
        return equal == (self.instruction.repeat == REPNE)

    def _set(self, number, value):
        """SI, DI or CX in the address size."""
        width = self.instruction.address_size
        self.context.set_register(number, width, value & mask(width))

    def _advance(self, number):
        self._set(number, self.context.register(number, self.instruction.address_size) + self.step)

    def _locate_source(self):
        i = self.instruction
        segment = i.segment if i.segment != d.NONE else v.DS
        return self.source.locate(segment, self.context.register(v.SI, i.address_size), self.size, ACCESS_READ)

    def _locate_target(self, access):
        offset = self.context.register(v.DI, self.instruction.address_size)
        return self.target.locate(v.ES, offset, self.size, access)

    def _unit(self, form):
        """One element. DONE, AGAIN (the port's device is busy) or FAULT."""
        if form == MOVS:
            return self._move()
        if form == STOS:
            return self._store()
        if form == LODS:
            return self._load()
        if form == CMPS:
            return self._compare()
        if form == SCAS:
            return self._scan()
        return self._in() if form == INS else self._out()

    def _move(self):
        if self._locate_source() == FAULT or self._locate_target(ACCESS_WRITE) == FAULT:
            return FAULT
        self.target.store(self.source.load())
        self._advance(v.SI)
        self._advance(v.DI)
        return DONE

    def _store(self):
        if self._locate_target(ACCESS_WRITE) == FAULT:
            return FAULT
        self.target.store(self.context.register(v.AX, self.size))
        self._advance(v.DI)
        return DONE

    def _load(self):
        if self._locate_source() == FAULT:
            return FAULT
        self.context.set_register(v.AX, self.size, self.source.load())
        self._advance(v.SI)
        return DONE

    def _compare(self):
        if self._locate_source() == FAULT or self._locate_target(ACCESS_READ) == FAULT:
            return FAULT
        self.alu.sub(self.source.load(), self.target.load(), ZERO, self.size)
        self._advance(v.SI)
        self._advance(v.DI)
        return DONE

    def _scan(self):
        if self._locate_target(ACCESS_READ) == FAULT:
            return FAULT
        self.alu.sub(self.context.register(v.AX, self.size), self.target.load(), ZERO, self.size)
        self._advance(v.DI)
        return DONE

    def _port(self):
        return intmask(self.context.register(v.DX, 2))

    def _in(self):
        if self._locate_target(ACCESS_WRITE) == FAULT:
            return FAULT
        self.target.store(self.bus.port_in(self._port(), self.size))
        self._advance(v.DI)
        return DONE

    def _out(self):
        if self._locate_source() == FAULT:
            return FAULT
        if self.bus.port_out(self._port(), self.size, self.source.load()) == BUSY:
            return AGAIN
        self._advance(v.SI)
        return DONE
