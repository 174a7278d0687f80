"""The `bulkhead` command: checks and compiles machine.toml, builds boxes and runs them on emulated machines."""
