import sys
from tests.system.box import Box, load
from tests.system import test_smp as t
from tests.system.shells import Guests
machine = sys.argv[1]
text = open('machines/two-linux.toml').read()
for name, count, cpus in (('port', 2, '[0, 1]'), ('starboard', 4, '[1, 0]')):
    text = text.replace('name = "%s"\n' % name, 'name = "%s"\nvcpus = %d\ncpus = %s\n' % (name, count, cpus))
text = text.replace('[box]\n', '[box]\ncpus = 2\n')
t.two_guests = lambda: load(text)
print(text[:600])
try:
    t.check_two_guests(machine)
finally:
    pass
print('OK')
