"""Python 2.7's first import: what .env/bin/python2 set for this process alone is hidden from its children.

A Python 3 or a compiler that we start must see neither this Python's packages nor Debian 11's libraries; a child that is
started by sys.executable goes through .env/bin/python2 again and finds them anew.
"""
import os
import sys

sys.executable = os.environ.pop('BULKHEAD_PYTHON2', sys.executable)
for variable, before in (('PYTHONPATH', 'BULKHEAD_PYTHONPATH'), ('LD_LIBRARY_PATH', 'BULKHEAD_LIBRARIES')):
    value = os.environ.pop(before, '')
    if value:
        os.environ[variable] = value
    else:
        os.environ.pop(variable, None)
