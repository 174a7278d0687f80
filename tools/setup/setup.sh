#!/bin/bash
# Make everything that the build and the tests need: `make setup`, and every other target first.
#
#   1. the Debian packages of debian.txt that are missing (packages.sh)
#   2. .env/bin/python3, bulkhead, pytest: the tools' own Python 3 (python3.sh)
#   3. .env/bin/python2: Python 2.7 with the translator (python2.sh)
#
# Each step keeps a stamp, a hash of what it was made from, and is done again only when that changes. A run that finds all in
# place takes a few hundredths of a second, prints nothing and touches no network.

set -euo pipefail
umask 022
export LC_ALL=C.UTF-8            # one order of file names, one language of messages

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
env=$root/.env
log=$env/setup.log

# Whatever the caller's shell says about Python is not meant for ours.
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_USER PIP_PREFIX PIP_REQUIRE_VIRTUALENV

say() { echo "setup: $*"; }

fail() {
    say "$*" >&2
    exit 1
}

# Run a command quietly; when it fails, show the end of what it said, and then our own sentence.
# $1: the sentence.  $2...: the command.
quietly() {
    local sentence=$1
    shift
    if ! "$@" </dev/null >"$log" 2>&1; then
        tail -n 15 "$log" | sed 's/^/    /' >&2
        fail "$sentence"
    fi
}

# The hash of the checkout's place (what is made knows its absolute path) and of the named files' contents.
hash_of() { { echo "$root"; cat "$@"; } | sha256sum | cut -c 1-64; }

is_current() { [ "$(cat "$1" 2>/dev/null)" = "$2" ]; }

source "$here/packages.sh"
source "$here/python3.sh"
source "$here/python2.sh"

everything=$(hash_of "$here"/*.sh "$here"/*.txt "$here"/*.py "$root/pyproject.toml")

all_in_place() {
    is_current "$env/ready" "$everything" && python3_works && python2_works && [ -z "$(missing_packages)" ]
}

all_in_place && exit 0

mkdir -p "$env"
exec 9>"$env/lock"
flock 9                             # somebody else's set-up of this checkout may be running: wait, then look again
all_in_place && exit 0

install_packages
make_python3
make_python2
echo "$everything" >"$env/ready"
say "ready."
