# Step 2: a virtual environment in .env for the tools, and the project's own package in it. Sourced by setup.sh.

# Not so when an upgrade of the system has put another Python in the place of the one that .env was made with.
python3_works() {
    [ -x "$env/bin/bulkhead" ] && [ -x "$env/bin/python3" ] && is_current "$env/python3.base" "$(python3_base)"
}

# Where .env is and which interpreter it stands on: with another of either, what is installed in it does not work.
python3_base() { echo "$root $(readlink -f "$env/bin/python3")"; }

# Print the interpreter to build on: Debian's own, or else the first on PATH that will do.
# The upper bound is that of the wheels in python3.txt.
find_python3() {
    local candidate
    for candidate in /usr/bin/python3 $(type -ap python3 python3.14 python3.13 python3.12 python3.11 || true); do
        "$candidate" -I -c 'import ensurepip, sys, venv
assert (3, 11) <= sys.version_info < (3, 15)
print(getattr(sys, "_base_executable", sys.executable))' 2>/dev/null && return
    done
    return 1
}

make_python3() {
    local base key
    base=$(find_python3) || fail "no Python 3.11 to 3.14 with venv was found: install Debian's python3-venv, or put one on PATH."
    key=$({ "$base" -VV; hash_of "$here/python3.sh" "$here/python3.txt" "$root/pyproject.toml"; } | sha256sum | cut -c 1-64)
    python3_works && is_current "$env/python3.stamp" "$key" && return

    say "making .env with $("$base" -V) ($base) for the tools"
    rm -f "$env/python3.stamp"
    python3_works || rm -rf "$env"/{bin,include,lib,lib64}
    quietly "a virtual environment could not be made in $env: remove that folder and try again." \
        "$base" -m venv "$env"
    quietly "the packages of tools/setup/python3.txt could not be installed: pip says why above. Does it reach its package index?" \
        "$env/bin/python3" -m pip install --disable-pip-version-check --require-hashes -r "$here/python3.txt"
    quietly "the project's own package (pyproject.toml) could not be installed into .env." \
        "$env/bin/python3" -m pip install --disable-pip-version-check --no-deps --no-index --no-build-isolation \
        --editable "$root"
    python3_base >"$env/python3.base"
    echo "$key" >"$env/python3.stamp"
}
