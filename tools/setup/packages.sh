# Step 1: the Debian packages of debian.txt. Sourced by setup.sh.

# Print each missing line of debian.txt, without its comment.
# One dpkg-query for all: this runs before every `make`.
missing_packages() {
    [ "${BULKHEAD_PACKAGES:-}" = present ] && return
    local wanted installed
    wanted=$(sed -e 's/#.*//' -e '/^ *$/d' "$here/debian.txt")
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null | sed -n 's/^installed //p') || true
    awk 'NR == FNR { have[$1] = 1; next } !($1 in have)' <(echo "$installed") <(echo "$wanted")
}

install_packages() {
    [ "$(uname -m)" = x86_64 ] ||
        fail "this is a $(uname -m) machine: Bulkhead is built on x86-64 Linux only."
    local missing as_root=()
    missing=$(missing_packages | xargs)
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null ||
        fail "no apt-get here: install what these Debian packages hold with this system's own package manager, then run" \
             "\`BULKHEAD_PACKAGES=present make setup\`: $missing"

    local by_hand="apt-get update && apt-get install --no-install-recommends $missing"
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null ||
            fail "Debian packages are missing, and only root can install them. Run this as root, then run make again: $by_hand"
        if ! sudo -n true 2>/dev/null && ! { : </dev/tty; } 2>/dev/null; then
            fail "Debian packages are missing, and sudo wants a password but there is no terminal to ask on." \
                 "Run this as root, then run make again: $by_hand"
        fi
        as_root=(sudo)
    fi
    say "installing the missing Debian packages${as_root[0]:+ with sudo, which may ask for your password}: $missing"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)
    # Old package lists may still do, so a failing update alone stops nothing.
    "${as_root[@]}" "${apt[@]}" update </dev/null >"$log" 2>&1 ||
        say "apt-get update failed; trying with the package lists that are here."
    # shellcheck disable=SC2086  # the names are words
    quietly "the Debian packages could not be installed (apt-get's own lines are above). Mend that, or run as root: $by_hand" \
        "${as_root[@]}" "${apt[@]}" install --no-install-recommends $missing
}
