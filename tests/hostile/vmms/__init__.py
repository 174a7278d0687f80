"""A VMM that lies, for the hostile tests: one more ring-3 program, built with all of the honest one's code.

    .env/bin/python3 tools/build/build.py --task-target tests.hostile.vmms.target vmm_hostile

table.py says what it can do, how the guest's command line chooses that, and how its VM must end.
"""
