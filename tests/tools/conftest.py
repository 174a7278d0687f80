"""For all tests of the host's tools."""
from tests import properties

properties.install()
