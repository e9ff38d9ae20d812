#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Sets up this checkout on Debian 12: installs the Debian packages that are missing and makes
# .venv, with the project in it. Whatever is done already is not done again.
#
#   ./setup.sh             what the program and the demonstration need
#   ./setup.sh --dev       and what tests, checks and benchmarks need
#   ./setup.sh --packages  only the Debian packages of the program itself, no .venv
#   ./setup.sh --deb       only what builds the Debian package, no .venv
#
# Exit code: 0 ready, 1 failed, 2 bad usage, 3 no network, 4 root is needed for the packages.
# Nothing outside .venv and Debian's own packages is changed.
set -eu

program="python3 python3-bpfcc python3-dbus-next python3-pyroute2 python3-uvloop
    linux-libc-dev dbus python3-h11 python3-cryptography python3-numpy"
checkout="python3-venv python3-wheel iproute2 nftables iperf3 tshark tcpdump ethtool procps"
package_tools="debhelper dh-python dpkg-dev python3"
tools="ca-certificates libcap2-bin openssl curl man-db
    gcc libc6-dev wireguard-go wireguard-tools systemd $package_tools"

# Debian's own Python, whatever stands first on PATH: it is the one that sees Debian's packages.
python=/usr/bin/python3

say() { echo "setup: $*" >&2; }
die() { code=$1; shift; say "$*"; exit "$code"; }

# The last thing a failed command complained about, out of its log.
complaint() { grep -E '^(E:|ERROR:|Error:|error:)' "$log" | tail -n 1 || tail -n 1 "$log"; }

# A failed step: told apart by its log, because no network is the user's to mend and the rest ours.
fail() {
    keep_log=yes
    if grep -Eqi 'resolv|could not connect|unable to connect|connection (timed out|refused)|network is unreachable|NewConnectionError|failed to fetch' "$log"
    then die 3 "cannot $1: a package server cannot be reached ($(complaint)); check the network and the settings of apt and pip; log: $log"
    fi
    die 1 "cannot $1: $(complaint); log: $log"
}

missing_packages() {
    # dpkg-query fails when it does not know one of the names; what it knows it prints all the same.
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
        sed -n 's/^installed //p') || true
    for package; do
        echo "$installed" | grep -Fqx "$package" || echo "$package"
    done
}

apt() {
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C.UTF-8 \
        apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" </dev/null >>"$log" 2>&1 9<&-
}

install_packages() {
    missing=$(missing_packages "$@" | tr '\n' ' ')
    missing=${missing% }
    [ -n "$missing" ] || return 0
    [ "$(id -u)" -eq 0 ] ||
        die 4 "Debian packages are missing and only root can install them; run: sudo apt-get install $missing"
    say "installing Debian packages: $missing"
    # A source of somebody else's that fails does not matter; whether ours are to be had, the
    # installation tells.
    apt update || true
    # shellcheck disable=SC2086  # a list of words
    apt install --no-install-recommends $missing || fail "install Debian packages"
}

# step NAME KEY COMMAND...: runs COMMAND unless it was done for the same KEY before.
step() {
    stamp=.venv/.setup/$1 key=$2
    shift 2
    [ "$(cat "$stamp" 2>/dev/null)" != "$key" ] || return 0
    rm -f "$stamp"
    "$@" || return
    echo "$key" >"$stamp"
}

make_venv() {
    say "making .venv with $python"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die 1 "Python 3.11 or newer is needed and $python is $("$python" -V); Debian 12 has it"
    # .setup stays while the rest is replaced: it marks a half-made .venv as ours.
    mkdir -p .venv/.setup
    rm -f .venv/.setup/*
    find .venv -mindepth 1 -maxdepth 1 ! -name .setup -exec rm -rf {} +
    "$python" -m venv --system-site-packages .venv >>"$log" 2>&1 || fail "make .venv"
}

pip_install() {
    # Constraints that somebody set for other work do not concern what is pinned by hash here.
    PIP_CONSTRAINT=/dev/null .venv/bin/python -m pip --quiet --no-input --disable-pip-version-check install \
        "$@" </dev/null >>"$log" 2>&1
}

install_project() {
    say "installing the project into .venv"
    # Its dependencies are Debian's, and Debian's setuptools builds it: no download.
    pip_install --no-deps --no-build-isolation --editable . || fail "install the project"
    .venv/bin/python -c 'import bcc, dbus_next, pyroute2, uvloop' >>"$log" 2>&1 ||
        fail "import the libraries that Debian's packages bring"
}

install_tools() {
    say "installing the test tools into .venv, pinned by hash"
    pip_install --no-deps --require-hashes --requirement requirements-dev.txt ||
        fail "install the test tools"
}

# A QUIC stack, in a folder of its own: what it needs is newer than what the programs are made for.
install_quic() {
    say "installing a QUIC stack into .venv/quic, pinned by hash"
    rm -rf .venv/quic
    pip_install --no-deps --require-hashes --target .venv/quic --requirement requirements-quic.txt ||
        fail "install the QUIC stack"
}

# Other programs that the tunnel is tested against, unpacked into a folder. Without them their tests
# are skipped, which only CI takes for a failure.
fetch_peers() {
    say "fetching the programs that the tunnel is tested against"
    apt update || true
    if ! sh tests/peers/fetch.sh >>"$log" 2>&1; then
        say "cannot fetch them: $(complaint); their tests will be skipped"
        return 1
    fi
}

key_of() { cat "$@" | sha256sum | cut -d ' ' -f 1; }

case "${1-}" in
'') packages="$program $checkout" ;;
--dev) packages="$program $checkout $tools" ;;
--packages) packages=$program ;;
--deb) packages=$package_tools ;;
-h | --help) sed -n '4,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) die 2 "unknown option '$1'; see ./setup.sh --help" ;;
esac
[ $# -le 1 ] || die 2 "one option at most; see ./setup.sh --help"

here=$(dirname "$0")
cd "$here"
for command in apt-get dpkg-query; do
    command -v "$command" >/dev/null ||
        die 1 "this is not Debian: there is no $command; Debian 12 or newer is needed"
done
[ ! -e .venv ] || [ -d .venv/.setup ] ||
    die 1 ".venv is there and was not made by setup.sh; move it away"

# One at a time: the demonstration and the tests may be started together. apt does not get the
# lock: a service that it starts would hold it for ever.
exec 9<.
flock 9
keep_log=
log=$(mktemp "${TMPDIR:-/tmp}/setup-log.XXXXXX")
trap '[ -n "$keep_log" ] || rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Settings of another environment that would lead pip or Python out of .venv.
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_USER VIRTUAL_ENV

# shellcheck disable=SC2086  # a list of words
install_packages $packages
case "${1-}" in --packages | --deb) exit 0 ;; esac
step venv "$(pwd) $(readlink -f "$python")" make_venv
step project "$(key_of pyproject.toml mimicd/__init__.py)" install_project
[ "${1-}" = --dev ] || exit 0
step tools "$(key_of requirements-dev.txt)" install_tools
step quic "$(key_of requirements-quic.txt)" install_quic
step peers "$(key_of tests/peers/fetch.sh)" fetch_peers || true
