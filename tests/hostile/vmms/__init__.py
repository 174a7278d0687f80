"""VMM programs that lie, for the hostile tests. Each is built as one more ring-3 program:

    .env/bin/python3 tools/build/build.py --task-target tests.hostile.vmms.NAME.target vmm_NAME

table.py says what each does, which variants the guest's command line chooses, and how its VM must end.
"""
