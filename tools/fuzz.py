#!/usr/bin/env python3
"""Run the property tests of tests/unit and tests/tools with examples that no run has seen, two parts at a time, until the time is over.

    tools/fuzz.py MINUTES PYTHON2 PYTHON3

Each round has a seed. Prints each failure with the command that repeats it, and goes on with the others. Exit status 0 when all passed.
"""
import concurrent.futures
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import parts

STATEFUL = '.runTest'                # what every state machine's test is called
NO_TESTS = 5        # pytest's exit status for a part without properties


def run(python, part, seed, without):
    """without: names of tests that are left out. Returns the command, pytest's exit status and what it has printed."""
    command = [python, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', 'hypothesis', '--hypothesis-profile=fuzz', '--hypothesis-seed=%d' % seed, str(part)]
    known = ['-k', ' and '.join('not ' + name for name in sorted(without))] if without else []
    done = subprocess.run(command + known, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return ' '.join(command), done.returncode, done.stdout.decode('utf-8', 'replace')


def failed(output):
    """The names of the tests that a run's output tells of."""
    names = re.findall(r'^_{2,} (\S+?)(?:\[.*\])? _{2,}$', output, re.M)
    return set(name[:-len(STATEFUL)] if name.endswith(STATEFUL) else name.split('.')[-1] for name in names)


def main(minutes, python2, python3):
    wanted = [(python2, part) for part in parts.parts([Path('tests/unit')])] + [(python3, Path('tests/tools'))]
    end, rounds, seed, known = time.monotonic() + 60 * float(minutes), 0, random.randrange(1 << 32), set()
    broken = []
    with concurrent.futures.ThreadPoolExecutor(parts.AT_ONCE) as pool:
        while rounds == 0 or time.monotonic() < end:
            passed = 0
            for command, status, output in pool.map(lambda part: run(*part, seed, set(known)), wanted):
                passed += status == 0
                if status not in (0, NO_TESTS):
                    print('%s\nrepeat it with\n  %s\n' % (output, command), flush=True)
                    known |= failed(output)
                    broken.append(command)
                    if not failed(output):
                        sys.exit('pytest itself has failed')
            if not passed and not broken:
                sys.exit('there are no properties')
            rounds, seed = rounds + 1, seed + 1
            print('round %d, seed %d: %d parts passed' % (rounds, seed - 1, passed), flush=True)
    if broken:
        sys.exit('failed: %s; left out of the rounds that followed. To repeat it:\n  %s' % (', '.join(sorted(known)), '\n  '.join(broken)))
    print('%d rounds passed' % rounds)


if __name__ == '__main__':
    main(*sys.argv[1:])
