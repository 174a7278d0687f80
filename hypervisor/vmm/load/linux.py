"""Linux kernels (bzImage): what the setup header asks for, and where kernel, initrd, command line and boot_params go.

What lies below 640 KiB when the kernel starts: the GDT, boot_params (the "zero page"), page tables that map the first 4 GiB
to themselves, and the command line; the kernel is at its preferred address and the initrd as high as it may be.
Source: Linux, Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header", "Loading The Rest of The Kernel", "32-bit Boot
Protocol", "64-bit Boot Protocol"; Documentation/arch/x86/zero-page.rst.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.spec import boot as spec
from hypervisor.vmm import boot, ram as pc, space, state, vcpu as v
from hypervisor.vmm.load import memorymap, refusal

# The setup header: offsets in the image, and in boot_params as well.
SETUP_SECTS, SYSSIZE, BOOT_FLAG, JUMP, HEADER, VERSION = (r_uint(n) for n in (0x1f1, 0x1f4, 0x1fe, 0x201, 0x202, 0x206))
TYPE_OF_LOADER, LOADFLAGS, CODE32_START = (r_uint(n) for n in (0x210, 0x211, 0x214))
RAMDISK_IMAGE, RAMDISK_SIZE, CMD_LINE_PTR, INITRD_ADDR_MAX = (r_uint(n) for n in (0x218, 0x21c, 0x228, 0x22c))
KERNEL_ALIGNMENT, RELOCATABLE_KERNEL, XLOADFLAGS, CMDLINE_SIZE = (r_uint(n) for n in (0x230, 0x234, 0x236, 0x238))
PREF_ADDRESS, INIT_SIZE = r_uint(0x258), r_uint(0x260)
SETUP_FIRST, SETUP_MOST = SETUP_SECTS, r_uint(0x290)    # of boot_params that is the setup header's
# Further fields of boot_params.
ACPI_RSDP_ADDR, E820_ENTRIES, E820_TABLE = r_uint(0x70), r_uint(0x1e8), r_uint(0x2d0)
E820_BYTES = 20

BOOT_SIGNATURE, HDRS = r_uint(0xaa55), r_uint(0x53726448)
OLDEST, WITH_INIT_SIZE, WITH_XLOADFLAGS, WITH_RSDP = r_uint(0x206), r_uint(0x20a), r_uint(0x20c), r_uint(0x20e)
LOADED_HIGH = r_uint(1)                 # of loadflags
XLF_KERNEL_64 = r_uint(1)               # of xloadflags
LOADER_UNDEFINED = r_uint(0xff)         # type_of_loader: no number is assigned to us
SECTOR_SHIFT, PARAGRAPH_SHIFT = 9, 4
LAST_PARAGRAPH = r_uint(15)             # syssize is rounded up: so many bytes of it the file need not have
SECTS_DEFAULT = r_uint(4)               # what setup_sects 0 stands for
ENTRY_64 = r_uint(0x200)                # of the kernel, from its start
PAGE_MASK = r_uint(0xfff)
SMALLEST_ALIGNMENT, LARGEST_ALIGNMENT = r_uint(0x1000), r_uint(1 << 30)
ZERO, ONE = r_uint(0), r_uint(1)

# The low memory.
GDT = r_uint(0x6000)
BOOT_PARAMS = r_uint(0x7000)
TABLES = r_uint(0x8000)                 # PML4, PDPT, and one page directory per GiB
COMMAND_LINE = r_uint(0x20000)
BOOT_CS, BOOT_DS, GDT_LIMIT = 0x10, 0x18, r_uint(0x1f)
CODE_64, CODE_32, DATA = r_uint(0x00af9b000000ffff), r_uint(0x00cf9b000000ffff), r_uint(0x00cf93000000ffff)
GIGABYTES = 4
LARGE_PAGE_SHIFT = 21
PRESENT_WRITABLE, LARGE = r_uint(3), r_uint(1 << 7)


class Setup(object):
    """The setup header, as far as a loader needs it."""

    def __init__(self):
        self.version = ZERO
        self.end = ZERO                 # of the header, in image and boot_params
        self.offset = ZERO              # of the protected-mode kernel in the image
        self.size = ZERO                # of it
        self.wide = False               # has the 64-bit entry point
        self.start = ZERO               # where it is loaded
        self.room = ZERO                # what it needs from there on

    def read(self, image):
        """Returns a code of refusal.py."""
        if image.word16(BOOT_FLAG) != BOOT_SIGNATURE or image.word32(HEADER) != HDRS:
            return refusal.NOT_LINUX
        self.version = image.word16(VERSION)
        if self.version < OLDEST:
            return refusal.LINUX_TOO_OLD
        if image.word8(LOADFLAGS) & LOADED_HIGH == ZERO:
            return refusal.LINUX_LOW
        if image.word32(CODE32_START) == ZERO:
            return refusal.LINUX_REAL_MODE
        self.end = HEADER + image.word8(JUMP)
        if self.end < (INIT_SIZE if self.version >= WITH_INIT_SIZE else CMDLINE_SIZE) + r_uint(4):
            return refusal.LINUX_HEADER_SHORT
        if self.end > SETUP_MOST:
            self.end = SETUP_MOST
        code = self._read_kernel(image)
        if code == refusal.OK:
            code = self._choose_start(image)
        return code

    def _read_kernel(self, image):
        sectors = image.word8(SETUP_SECTS)
        self.offset = ((SECTS_DEFAULT if sectors == ZERO else sectors) + ONE) << SECTOR_SHIFT
        self.size = image.word32(SYSSIZE) << PARAGRAPH_SHIFT
        self.wide = self.version >= WITH_XLOADFLAGS and image.word16(XLOADFLAGS) & XLF_KERNEL_64 != ZERO
        if self.offset > image.size or self.size <= ENTRY_64:
            return refusal.LINUX_TRUNCATED
        left = image.size - self.offset
        if self.size > left:
            if self.size - left > LAST_PARAGRAPH:
                return refusal.LINUX_TRUNCATED
            self.size = left
        return refusal.OK

    def _choose_start(self, image):
        """The "kernel runtime start address" that boot.rst defines under init_size: a kernel put lower moves there anyway."""
        self.start, self.room = pc.HOLE_END, self.size
        if self.version >= WITH_INIT_SIZE:
            self.start = image.word64(PREF_ADDRESS)
            init_size = image.word32(INIT_SIZE)
            if init_size > self.room:
                self.room = init_size
        if image.word8(RELOCATABLE_KERNEL) == ZERO:
            return refusal.OK
        alignment = image.word32(KERNEL_ALIGNMENT)
        if alignment < SMALLEST_ALIGNMENT or alignment > LARGEST_ALIGNMENT or alignment & (alignment - ONE) != ZERO:
            return refusal.LINUX_BAD_ALIGNMENT
        if self.start < pc.HOLE_END:
            self.start = pc.HOLE_END
        if self.start <= r_uint(-1) - alignment:
            self.start = (self.start + alignment - ONE) & ~(alignment - ONE)
        return refusal.OK


class Linux(object):
    def __init__(self, ram, vcpu):
        self.ram = ram
        self.vcpu = vcpu
        self.setup = Setup()
        self.initrd = ZERO              # gpa; 0: none
        self.initrd_size = ZERO

    def load(self, image, rsdp):
        """rsdp: gpa of ACPI's root pointer, 0: none. Returns a code of refusal.py; the guest's memory was clear."""
        setup = self.setup
        code = setup.read(image)
        if code != refusal.OK:
            return code
        if setup.start < pc.HOLE_END or not self.ram.holds(setup.start, setup.room):
            return refusal.LINUX_NO_ROOM
        self.ram.copy_in(setup.start, image.address + setup.offset, setup.size)
        code = self._place_initrd(image)
        if code == refusal.OK:
            code = self._write_command_line(image)
        if code == refusal.OK:
            self._write_boot_params(image, rsdp)
            self._start()
        return code

    def _place_initrd(self, image):
        self.initrd = self.initrd_size = ZERO
        if boot.module_count() == 0:
            return refusal.OK
        if boot.module_count() > 1:
            return refusal.LINUX_MODULES
        size, end = boot.module_bytes(0), image.word32(INITRD_ADDR_MAX) + ONE
        if end > self.ram.size:
            end = self.ram.size
        if size > end:
            return refusal.LINUX_INITRD
        self.initrd, self.initrd_size = (end - size) & ~PAGE_MASK, size
        if self.initrd < self.setup.start + self.setup.room:
            return refusal.LINUX_INITRD
        self.ram.copy_in(self.initrd, space.module_address(0), size)
        return refusal.OK

    def _write_command_line(self, image):
        string, most, count = boot.number(spec.VMM['COMMAND_LINE_STRING']), intmask(image.word32(CMDLINE_SIZE)), 0
        byte = boot.string_byte(string)
        while byte != 0:
            if count >= most:
                return refusal.LINUX_COMMAND_LINE
            self.ram.store8(COMMAND_LINE + r_uint(count), r_uint(byte))
            count += 1
            byte = boot.string_byte(string + count)
        self.ram.store8(COMMAND_LINE + r_uint(count), ZERO)
        return refusal.OK

    def _write_boot_params(self, image, rsdp):
        """All that is not written here stays zero."""
        setup, ram = self.setup, self.ram
        ram.copy_in(BOOT_PARAMS + SETUP_FIRST, image.address + SETUP_FIRST, setup.end - SETUP_FIRST)
        ram.store8(BOOT_PARAMS + TYPE_OF_LOADER, LOADER_UNDEFINED)
        self._put32(CODE32_START, setup.start)
        self._put32(CMD_LINE_PTR, COMMAND_LINE)
        self._put32(RAMDISK_IMAGE, self.initrd)
        self._put32(RAMDISK_SIZE, self.initrd_size)
        if setup.version >= WITH_RSDP:
            ram.store64(BOOT_PARAMS + ACPI_RSDP_ADDR, rsdp)
        ram.store8(BOOT_PARAMS + E820_ENTRIES, r_uint(memorymap.COUNT))
        for n in range(memorymap.COUNT):
            at = BOOT_PARAMS + E820_TABLE + r_uint(n * E820_BYTES)
            ram.store64(at, memorymap.base(n))
            ram.store64(at + r_uint(8), memorymap.size(n, ram))
            ram.store32(at + r_uint(16), r_uint(memorymap.kind(n)))

    def _put32(self, field, value):
        self.ram.store32(BOOT_PARAMS + field, value)

    # The state.
    def _start(self):
        wide = self.setup.wide
        self.ram.store64(GDT + r_uint(BOOT_CS), CODE_64 if wide else CODE_32)
        self.ram.store64(GDT + r_uint(BOOT_DS), DATA)
        state.protected_mode(self.vcpu, self.setup.start + (ENTRY_64 if wide else ZERO))
        state.use_gdt(self.vcpu, GDT, GDT_LIMIT, BOOT_CS, BOOT_DS)
        self.vcpu.set_register(v.SI, BOOT_PARAMS)
        if wide:
            self._write_tables()
            state.use_long_mode(self.vcpu, TABLES)

    def _write_tables(self):
        """Map the first 4 GiB to themselves, by 2-MiB pages."""
        pdpt = TABLES + r_uint(0x1000)
        self.ram.store64(TABLES, pdpt | PRESENT_WRITABLE)
        for n in range(GIGABYTES):
            directory = pdpt + r_uint((n + 1) << 12)
            self.ram.store64(pdpt + r_uint(8 * n), directory | PRESENT_WRITABLE)
            for entry in range(512):
                page = r_uint(n * 512 + entry) << LARGE_PAGE_SHIFT
                self.ram.store64(directory + r_uint(8 * entry), page | LARGE | PRESENT_WRITABLE)
