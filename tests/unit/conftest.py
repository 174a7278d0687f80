"""For all parts of the unit tests, each of which runs in a process of its own."""
from tests import properties
from tests.unit import quick

quick.install()
properties.install()
