/* A user-space monitor for KVM, as small as can be: it runs one of the bench's multiboot guests, gives it a COM1 to print on, and answers
 * every other port and address with ones. The local APIC is KVM's own.
 *
 *     monitor IMAGE COMMAND_LINE      exits with the guest's status; 100 and a sentence if something goes wrong
 *
 * What the guest prints comes out with "[bench] " before each line, as Bulkhead's manager would print it.
 * Source: Linux, Documentation/virt/kvm/api.rst; Multiboot Specification 0.6.96. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MEMORY = 16 << 20, INFO = 0x9000, COMMAND_LINE = 0x9100, COMMAND_LINE_BYTES = 1024 };
enum { COM1 = 0x3f8, LCR = 3, LSR = 5, SCRATCH = 7, DLAB = 0x80, LSR_EMPTY = 0x60, PORT_EXIT = 0xf4 };
enum { MULTIBOOT_HEADER = 0x1badb002, MULTIBOOT_MAGIC = 0x2badb002, HAS_ADDRESSES = 1 << 16, HEADER_WITHIN = 8192 };
enum { INFO_MEMORY = 1, INFO_COMMAND_LINE = 4 };
enum { LEAF_1_ECX_X2APIC = 1 << 21, LEAF_1_ECX_TSC_DEADLINE = 1 << 24 };
enum { FAILED = 100, MOST_LEAVES = 128 };

static uint8_t *memory;
static uint8_t registers[8];            /* COM1's, as they were written */

static void fail(const char *what, ...)
{
    va_list more;
    va_start(more, what);
    fputs("monitor: ", stdout);
    vprintf(what, more);
    va_end(more);
    puts("");
    exit(FAILED);
}

static long ask(int of, unsigned long what, void *argument, const char *name)
{
    long answer = ioctl(of, what, argument);
    if (answer < 0)
        fail("KVM refuses %s", name);
    return answer;
}
#define ASK(of, what, argument) ask(of, what, (void *)(argument), #what)

struct header { uint32_t magic, flags, checksum, header, load, load_end, bss_end, entry; };

/* Put the image where its header wants it. Returns the entry point. */
static uint32_t load(const char *path)
{
    static uint8_t file[8 << 20];
    int fd = open(path, O_RDONLY);
    long size = fd < 0 ? -1 : read(fd, file, sizeof file);
    if (size < (long)HEADER_WITHIN)
        fail("%s cannot be read", path);
    for (uint32_t at = 0; at < HEADER_WITHIN; at += 4) {
        struct header *h = (struct header *)(file + at);
        if (h->magic != MULTIBOOT_HEADER || h->magic + h->flags + h->checksum || !(h->flags & HAS_ADDRESSES))
            continue;
        uint32_t from = at - (h->header - h->load), bytes = h->load_end ? h->load_end - h->load : size - from;
        if (from + bytes > size || h->bss_end > MEMORY)
            fail("%s does not fit", path);
        memcpy(memory + h->load, file + from, bytes);
        return h->entry;
    }
    fail("%s has no multiboot header with addresses", path);
    return 0;
}

static void tell(const char *command_line)
{
    uint32_t *info = (uint32_t *)(memory + INFO);
    info[0] = INFO_MEMORY | INFO_COMMAND_LINE;
    info[1] = 640;
    info[2] = (MEMORY >> 10) - 1024;
    info[4] = COMMAND_LINE;
    strncpy((char *)memory + COMMAND_LINE, command_line, COMMAND_LINE_BYTES - 1);
}

/* All that KVM supports; x2APIC and its timer's deadlines are its own work and need asking for. */
static void set_cpuid(int kvm, int vcpu)
{
    struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 leaves[MOST_LEAVES]; } all = { .head.nent = MOST_LEAVES };
    ASK(kvm, KVM_GET_SUPPORTED_CPUID, &all);
    for (uint32_t n = 0; n < all.head.nent; n++)
        if (all.leaves[n].function == 1)
            all.leaves[n].ecx |= LEAF_1_ECX_X2APIC | LEAF_1_ECX_TSC_DEADLINE;
    ASK(vcpu, KVM_SET_CPUID2, &all);
}

/* As the Multiboot specification has it: protected mode, flat, no paging. */
static void set_registers(int vcpu, uint32_t entry)
{
    struct kvm_sregs s;
    struct kvm_regs r = { .rip = entry, .rflags = 2, .rax = MULTIBOOT_MAGIC, .rbx = INFO };
    struct kvm_segment code = { .limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1 }, data = code;
    data.selector = 16;
    data.type = 3;
    ASK(vcpu, KVM_GET_SREGS, &s);
    s.cs = code;
    s.ds = s.es = s.fs = s.gs = s.ss = data;
    s.cr0 = 0x11;
    ASK(vcpu, KVM_SET_SREGS, &s);
    ASK(vcpu, KVM_SET_REGS, &r);
}

static void print(char c)
{
    static char line[256];
    static unsigned count;
    if (c == '\r')
        return;
    if (c != '\n' && count < sizeof line) {
        line[count++] = c;
        return;
    }
    printf("[bench] %.*s\n", (int)count, line);
    fflush(stdout);
    count = 0;
}

static void out(uint16_t port, uint8_t value)
{
    if (port == PORT_EXIT)
        exit(value);
    if (port == COM1 && !(registers[LCR] & DLAB))
        print(value);
    if (port >= COM1 && port < COM1 + 8)
        registers[port - COM1] = value;
}

static uint8_t in(uint16_t port)
{
    if (port == COM1 + LSR)
        return LSR_EMPTY;
    return port >= COM1 && port < COM1 + 8 ? registers[port - COM1] : 0xff;
}

static void handle(struct kvm_run *run)
{
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        for (uint32_t n = 0; n < run->io.size * run->io.count; n++)
            if (run->io.direction == KVM_EXIT_IO_OUT)
                out(run->io.port + n % run->io.size, data[n]);
            else
                data[n] = in(run->io.port + n % run->io.size);
        break;
    case KVM_EXIT_MMIO:
        if (!run->mmio.is_write)
            memset(run->mmio.data, 0xff, sizeof run->mmio.data);
        break;
    default:
        fail("exit %u, which a bench guest should not cause", run->exit_reason);
    }
}

int main(int count, char **arguments)
{
    if (count != 3)
        fail("monitor IMAGE COMMAND_LINE");
    int kvm = open("/dev/kvm", O_RDWR);
    if (kvm < 0)
        fail("there is no /dev/kvm");
    int vm = ASK(kvm, KVM_CREATE_VM, 0);
    memory = mmap(0, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    struct kvm_userspace_memory_region region = { .memory_size = MEMORY, .userspace_addr = (uintptr_t)memory };
    ASK(vm, KVM_SET_USER_MEMORY_REGION, &region);
    ASK(vm, KVM_CREATE_IRQCHIP, 0);
    int vcpu = ASK(vm, KVM_CREATE_VCPU, 0);
    struct kvm_run *run = mmap(0, ASK(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    set_cpuid(kvm, vcpu);
    tell(arguments[2]);
    set_registers(vcpu, load(arguments[1]));
    for (;;) {
        ASK(vcpu, KVM_RUN, 0);
        handle(run);
    }
}
