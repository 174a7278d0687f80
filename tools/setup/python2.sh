# Step 3: .env/bin/python2, a Python 2.7 with the translator beside it. Sourced by setup.sh.
#
# The interpreter is one that is installed, or one that pyenv made, or else Debian 11's, unpacked into .env/debian11.
# Its packages lie in .env/python2: nothing is ever written into the interpreter's own folders.

python2_works() { [ -x "$env/bin/python2" ] && [ -x "$(cat "$env/python2.base" 2>/dev/null)" ]; }

# Print the path of Python 2.7 itself (not of a shim) when $1 is one that can do the work.
# ctypes: the translator's tests call C with it.  ssl, zlib: pip.
is_python2() {
    "$1" -c 'import sys, ctypes, ssl, zlib
assert sys.version_info[:2] == (2, 7) and sys.maxsize > 2 ** 32
assert not hasattr(sys, "pypy_version_info")
print(sys.executable)' 2>/dev/null
}

find_python2() {
    local candidate
    for candidate in $(type -ap python2.7 || true) \
                     "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7*/bin/python2.7 "$HOME"/.pyenv/versions/2.7*/bin/python2.7; do
        [ -x "$candidate" ] && is_python2 "$candidate" && return
    done
    return 1
}

# Where the machine's own apt gets Debian from. When that no longer carries Debian 11, the project's archive of old
# releases does: a host of the same domain.
debian_mirrors() {
    [ -n "${BULKHEAD_DEBIAN11_MIRROR:-}" ] && echo "$BULKHEAD_DEBIAN11_MIRROR" && return
    apt-get indextargets --format '$(REPO_URI)' | grep -v -- '-security/*$' | sort -u |
        while read -r mirror; do
            echo "$mirror"
            sed -nE 's#//([^/]+\.)?(debian\.org/)#//archive.\2#p' <<<"$mirror"
        done
}

# Write the configuration of a private apt: own sources, lists and cache, the machine's own proxy and certificates.
# $1: its folder.  $2: the mirror.
configure_apt() {
    rm -rf "$1"
    mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
    : >"$1/status"
    echo "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $2 bullseye main" >"$1/sources.list"
    cat >"$1/apt.conf" <<EOF
Dir::Etc::SourceList "$1/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State::Lists "$1/lists";
Dir::State::Status "$1/status";
Dir::Cache "$1/cache";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::AllowInsecureRepositories "false";
APT::Get::AllowUnauthenticated "false";
APT::Update::Error-Mode "any";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
EOF
}

# Download the packages of debian11.txt into the current folder.  $1: the private apt's folder.
# apt checks the signed lists; the hashes of debian11.txt are checked on top.
download_debian11() {
    local name version sum
    apt-get -c "$1/apt.conf" -q update || return
    while read -r name version sum; do
        apt-get -c "$1/apt.conf" -q download "$name=$version" || return
        echo "$sum  $(echo "${name}_"*.deb)" | sha256sum -c - || return
    done < <(grep -v '^#' "$here/debian11.txt")
}

# Unpack Debian 11's Python 2.7 into .env/debian11 and print its path.
unpack_debian11() {
    local folder=$env/debian11 mirror package stamp
    stamp=$(hash_of "$here/debian11.txt")
    if is_current "$folder/stamp" "$stamp"; then
        echo "$folder/usr/bin/python2.7"
        return
    fi
    say "no Python 2.7 is installed: unpacking Debian 11's into .env/debian11" >&2
    for mirror in $(debian_mirrors); do
        configure_apt "$env/debian11.apt" "$mirror"
        rm -rf "$folder.new" && mkdir -p "$folder.new/deb"
        (cd "$folder.new/deb" && download_debian11 "$env/debian11.apt") </dev/null >>"$log" 2>&1 || continue
        for package in "$folder.new"/deb/*.deb; do
            dpkg -x "$package" "$folder.new" || return
        done
        rm -rf "$folder" "$folder.new/deb" "$env/debian11.apt"
        echo "$stamp" >"$folder.new/stamp"
        mv "$folder.new" "$folder"
        echo "$folder/usr/bin/python2.7"
        return
    done
    return 1
}

# The script .env/bin/python2.  $1: the interpreter.
# Its variables are for this one process: sitecustomize.py takes them out of what its children see.
write_python2() {
    local libraries=
    case $1 in
        "$env"/debian11/*) libraries=$env/debian11/usr/lib/x86_64-linux-gnu ;;
    esac
    cat >"$env/bin/python2.new" <<EOF
#!/bin/sh
# Made by tools/setup/python2.sh: Python 2.7 with the translator.
export BULKHEAD_PYTHON2='$env/bin/python2' BULKHEAD_PYTHONPATH="\$PYTHONPATH" BULKHEAD_LIBRARIES="\$LD_LIBRARY_PATH"
export PYTHONPATH='$env/python2'"\${PYTHONPATH:+:\$PYTHONPATH}" PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1
export PYPY_USESSION_DIR="\${PYPY_USESSION_DIR:-$root/build/usession}"
${libraries:+export LD_LIBRARY_PATH='$libraries'"\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"}
mkdir -p "\$PYPY_USESSION_DIR"
exec '$1' "\$@"
EOF
    chmod +x "$env/bin/python2.new"
    mv "$env/bin/python2.new" "$env/bin/python2"
}

# Install python2.txt into .env/python2, with a pip of its own.  $1: the interpreter.
install_python2_packages() {
    local pip=$env/python2-pip wheel stamp libraries=
    stamp="$1 $(hash_of "$here/python2.txt" "$here/python2-pip.txt")"
    is_current "$env/python2/stamp" "$stamp" && return
    case $1 in
        "$env"/debian11/*) libraries=$env/debian11/usr/lib/x86_64-linux-gnu ;;
    esac
    rm -rf "$pip" "$env/python2.new"
    quietly "Python 2.7's pip could not be downloaded: pip says why above. Does it reach its package index?" \
        "$env/bin/python3" -m pip download --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --python-version 2.7 --implementation py --abi none --platform any -d "$pip" -r "$here/python2-pip.txt"
    for wheel in "$pip"/*.whl; do           # unpacked: setuptools cannot read its own files from inside a wheel
        "$env/bin/python3" -m zipfile -e "$wheel" "$pip"
    done
    quietly "the packages of tools/setup/python2.txt could not be installed: pip says why above. Does it reach its package index?" \
        env PYTHONPATH="$pip" PYTHONNOUSERSITE=1 LD_LIBRARY_PATH="$libraries" PIP_NO_PYTHON_VERSION_WARNING=1 \
        "$1" -m pip install --disable-pip-version-check --no-deps --no-build-isolation --require-hashes \
        --target "$env/python2.new" -r "$here/python2.txt"
    # The translator looks for its own repository at each start, and warns when there is none: tell it its version.
    printf 'tag: release-0.2.1\nnode: 000000000000\n' >"$env/python2.new/.hg_archival.txt"
    echo "$stamp" >"$env/python2.new/stamp"
    rm -rf "$env/python2"
    mv "$env/python2.new" "$env/python2"
}

make_python2() {
    local key base
    key=$(hash_of "$here"/python2* "$here"/debian11.txt "$here"/sitecustomize.py)
    python2_works && is_current "$env/python2.stamp" "$key" && return

    rm -f "$env/python2.stamp"
    if ! base=$(find_python2); then
        : >"$log"
        base=$(unpack_debian11) || {
            grep -E '^[EW]: |NO_PUBKEY|FAILED' "$log" | sed 's/^/    /' >&2
            fail "Debian 11's Python 2.7 could not be had (the lines above say why): name a mirror that carries Debian 11" \
                 "in BULKHEAD_DEBIAN11_MIRROR, or install a Python 2.7 of your own (pyenv install 2.7.18)."
        }
    fi
    say "making .env/bin/python2 with $base"
    install_python2_packages "$base"
    cp "$here/sitecustomize.py" "$env/python2/"
    write_python2 "$base"
    "$env/bin/python2" -c 'import ctypes, hypothesis, pytest, rpython.translator.translator' ||
        fail ".env/bin/python2 does not run the translator (its own lines are above)."
    echo "$base" >"$env/python2.base"
    echo "$key" >"$env/python2.stamp"
}
