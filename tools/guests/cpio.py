"""Archives in cpio's "new ASCII" format (newc), as the Linux kernel unpacks them into its first root file system.

The same entries give the same bytes: owners are root, times are zero, inode numbers count from 1.
Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""
import stat

MAGIC = b'070701'
BLOCK = 512
TRAILER = 'TRAILER!!!'


class Archive:
    """Entries in the order in which they are added. A folder must be added before what lies in it."""

    def __init__(self):
        self.parts = []
        self.names = set()

    def folder(self, name, mode=0o755):
        self._add(name, stat.S_IFDIR | mode, links=2)

    def file(self, name, data, mode=0o644):
        self._add(name, stat.S_IFREG | mode, data)

    def link(self, name, target):
        """A symbolic link."""
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name, major, minor, mode=0o600):
        """A character device."""
        self._add(name, stat.S_IFCHR | mode, device=(major, minor))

    def bytes(self):
        """The whole archive, with its end."""
        body = b''.join(self.parts) + _entry(TRAILER, 0, 0, 1, b'', (0, 0))
        return body + bytes(-len(body) % BLOCK)

    def _add(self, name, mode, data=b'', links=1, device=(0, 0)):
        name = name.strip('/')
        above = name.rpartition('/')[0]
        if not name or name in self.names or (above and above not in self.names):
            raise ValueError('%r is there already, or its folder is not' % name)
        self.names.add(name)
        self.parts.append(_entry(name, len(self.names), mode, links, data, device))


def _entry(name, inode, mode, links, data, device):
    """Header, name and data, each padded to a multiple of four bytes."""
    encoded = name.encode() + b'\0'
    fields = [inode, mode, 0, 0, links, 0, len(data), 0, 0, device[0], device[1], len(encoded), 0]
    head = MAGIC + b''.join(b'%08X' % field for field in fields) + encoded
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
