"""How Hypothesis looks for examples, in both Pythons: the same ones at each `make test`, others at each turn of `make fuzz`.

A gate that looks elsewhere each time turns red on a change that has nothing to do with it.
"""
from hypothesis import settings


def install(**more):
    """Settings of all properties of a folder, to be called by its conftest.py; `more` are further ones."""
    settings.register_profile('gate', derandomize=True, deadline=None, database=None, **more)
    settings.register_profile('fuzz', derandomize=False, deadline=None, database=None, print_blob=True, **more)
    settings.load_profile('gate')       # pytest's --hypothesis-profile comes after this
