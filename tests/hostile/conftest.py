from tests.system.conftest import machine       # noqa: F401  each hostile test runs on both emulators as well
