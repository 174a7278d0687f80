#!/usr/bin/env python3
"""Run pytest over several folders, each in a process of its own, two at a time.

The parts of tests/unit put different doubles under the same modules, so they must not meet in one process.

    tools/parts.py PYTHON CACHE FOLDER...

Prints each part's output when it has ended, and a last line with the parts that failed. Exit status 0 when all passed.
"""
import concurrent.futures
import subprocess
import sys
from pathlib import Path

AT_ONCE = 2


def run(python, cache, folder):
    command = [python, '-m', 'pytest', '-q', '-o', 'cache_dir=%s-%s' % (cache, folder.name), str(folder)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return folder, done.returncode, done.stdout.decode('utf-8', 'replace')


def parts(folders):
    """Every subfolder that holds tests, and the folder's own test files one by one; the big ones first."""
    found = []
    for folder in folders:
        found += [each for each in folder.iterdir() if each.is_dir() and any(each.rglob('test_*.py'))]
        found += list(folder.glob('test_*.py'))
    return sorted(found, key=lambda part: (part.is_file(), -sum(file.stat().st_size for file in part.rglob('test_*.py')), part.name))


def main(python, cache, *folders):
    wanted = parts([Path(folder) for folder in folders])
    if not wanted:
        sys.exit('%s: no tests there' % ', '.join(folders))
    failed = []
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for task in concurrent.futures.as_completed([pool.submit(run, python, cache, part) for part in wanted]):
            part, status, output = task.result()
            print('== %s\n%s' % (part, output), flush=True)
            if status:
                failed.append(str(part))
    if failed:
        sys.exit('failed: ' + ', '.join(sorted(failed)))
    print('all %d parts passed' % len(wanted))


if __name__ == '__main__':
    main(*sys.argv[1:])
