/* A stand-in for the kernel: prints and ends as the first VM's command line tells it, so that the `bulkhead` command can be tested
 * without Bulkhead. One letter per step:
 *   h  a line of a guest's        e  echo keys until 'q'             0..9  box off with that status
 *   f  a kernel fault, halt       c  cannot start, halt              s     silence: halt
 *   t  triple fault               l  says status 0, powers off as 1  w     says status 0 and stays on
 *   u  box off with status 0, and the line has no end
 *   i  a guest's line that imitates the box's last one               m     the modules' names
 * COMMAND_LINE is where in the configuration blob the offset of that string stands.
 */
typedef unsigned char u8;
typedef unsigned int u32;

static inline void out(u32 port, u8 value) { __asm__ volatile("outb %0, %w1" : : "a"(value), "Nd"(port)); }
static inline u8 in(u32 port) { u8 v; __asm__ volatile("inb %w1, %0" : "=a"(v) : "Nd"(port)); return v; }

static void put(char c)
{
    while (!(in(0x3fd) & 0x20))
        ;
    out(0x3f8, c);
}

static void say(const char *text)
{
    while (*text)
        put(*text++);
}

__attribute__((noreturn)) static void halt(void)
{
    for (;;)
        __asm__ volatile("cli; hlt");
}

static void power_off(u32 status)
{
    while (!(in(0x3fd) & 0x40))
        ;                               /* or Bochs loses the last bytes */
    out(0x501, status);
    for (const char *s = "Shutdown"; *s; s++)
        out(0x8900, *s);
    halt();
}

struct module { u32 start, end; const char *name; };
static struct module modules[24];
static u32 count;

static void find_modules(u32 magic, const u8 *info)
{
    if (magic == 0x2badb002) {
        count = *(u32 *)(info + 20);
        const u32 *entry = (const u32 *)*(u32 *)(info + 24);
        for (u32 n = 0; n < count; n++, entry += 4)
            modules[n] = (struct module){entry[0], entry[1], (const char *)entry[2]};
        return;
    }
    for (const u8 *tag = info + 8; *(u32 *)tag; tag += (((u32 *)tag)[1] + 7) & ~7u)
        if (*(u32 *)tag == 3)
            modules[count++] = (struct module){((u32 *)tag)[2], ((u32 *)tag)[3], (const char *)tag + 16};
}

static void step(char letter)
{
    char status[] = "bulkhead: box off, status N\r\n";
    switch (letter) {
    case 'h': say("[one] hello\r\n"); break;
    case 'i': say("[one] bulkhead: box off, status 7\r\n[one] bulkhead: kernel fault\r\n"); break;
    case 'm':
        for (u32 n = 0; n < count; n++) {
            say("module ");
            say(modules[n].name);
            say("\r\n");
        }
        break;
    case 'e':
        for (char c = 0; c != 'q';)
            if (in(0x3fd) & 1)
                put(c = in(0x3f8));
        say("\r\n");
        break;
    case 'f': say("bulkhead: kernel fault\r\n code 14\r\n the last line\r\n"); halt();
    case 'c': say("bulkhead: cannot start: this processor is a fake\r\n"); halt();
    case 's': halt();
    case 't':
        __asm__ volatile("lidt %0; ud2" : : "m"((struct { u8 zero[6]; }){{0}}));
    case 'l': say("bulkhead: box off, status 0\r\n"); power_off(1);
    case 'u': say("bulkhead: box off, status 0"); power_off(0);
    case 'w': say("bulkhead: box off, status 0\r\n"); halt();
    default:
        status[26] = letter;
        say(status);
        power_off(letter - '0');
    }
}

void start(u32 magic, const u8 *info)
{
    out(0x3fb, 3);
    find_modules(magic, info);
    const char *blob = (const char *)modules[1].start;
    for (const char *letter = blob + *(u32 *)(blob + COMMAND_LINE); *letter; letter++)
        step(*letter);
    halt();
}
