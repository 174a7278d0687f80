"""`box`: a whole kernel that has just booted on fakes. `machine`: the fakes with a kernel that has not started."""
import pytest
from hypothesis import HealthCheck

from tests import properties
from tests.unit.kernel import machine as machines

properties.install(max_examples=60, suppress_health_check=HealthCheck.all())

BOOTED = {}


def booted(prepare=None):
    """One boot per way to prepare the box; each use starts from the state right after it."""
    if prepare not in BOOTED:
        BOOTED[prepare] = machines.Booted(prepare)
    return BOOTED[prepare].fresh()


@pytest.fixture
def box():
    yield booted()
    machines.disconnect()


@pytest.fixture
def fresh():
    """Called by a property for each example: fresh(prepare) is a box that has just booted and been prepared by prepare(box)."""
    yield booted
    machines.disconnect()


@pytest.fixture
def make_machine():
    """make_machine(**options): fakes around a kernel that has not started; may be called again and again."""
    def make(**options):
        machines.PRISTINE.restore()
        return machines.Machine(**options)
    yield make
    machines.disconnect()
