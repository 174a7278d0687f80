#!/usr/bin/env python3
"""Run the property tests of tests/unit and tests/tools with examples that no run has seen, two parts at a time, until the time is over.

    tools/fuzz.py MINUTES PYTHON2 PYTHON3

Each round has a seed. Ends at the first failure, and prints the command that repeats it. Exit status 0 when all passed.
"""
import concurrent.futures
import random
import subprocess
import sys
import time
from pathlib import Path

import parts

NO_TESTS = 5        # pytest's exit status for a part without properties


def run(python, part, seed):
    command = [python, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider', '-m', 'hypothesis', '--hypothesis-profile=fuzz',
               '--hypothesis-seed=%d' % seed, str(part)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return ' '.join(command), done.returncode, done.stdout.decode('utf-8', 'replace')


def main(minutes, python2, python3):
    wanted = [(python2, part) for part in parts.parts([Path('tests/unit')])] + [(python3, Path('tests/tools'))]
    end, rounds, seed = time.monotonic() + 60 * float(minutes), 0, random.randrange(1 << 32)
    with concurrent.futures.ThreadPoolExecutor(parts.AT_ONCE) as pool:
        while time.monotonic() < end:
            found = 0
            for command, status, output in pool.map(lambda part: run(*part, seed), wanted):
                if status not in (0, NO_TESTS):
                    sys.exit('%s\n%s: repeat with\n  %s' % (output, 'round %d' % (rounds + 1), command))
                found += status == 0
            if not found:
                sys.exit('there are no properties')
            rounds, seed = rounds + 1, seed + 1
            print('round %d, seed %d: %d parts passed' % (rounds, seed - 1, found), flush=True)
    print('%d rounds passed' % rounds)


if __name__ == '__main__':
    main(*sys.argv[1:])
