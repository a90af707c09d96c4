#!/bin/sh
# Sets up what `make demo` and `make test` run in.
#
#   setup.sh install VENV EXTRAS   a virtual environment with the package and these extras
#   setup.sh system                the system programs that the interop tests drive
#
# As root on a Debian-like system what is missing is installed; elsewhere the line that would do it is printed.
set -eu

say() { printf '%s\n' "$*"; }

can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

apt_install() {
    [ -n "${apt_updated:-}" ] || DEBIAN_FRONTEND=noninteractive apt-get -qq update
    apt_updated=yes
    # shellcheck disable=SC2086  # one argument for each package
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $1 >/dev/null
}

find_python() {
    for name in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
}

make_venv() {
    python=$(find_python)
    if [ -z "$python" ] && can_install; then
        say "setup: installing python3"
        apt_install "python3 python3-venv"
        python=$(find_python)
    fi
    if [ -z "$python" ]; then
        say "setup: Python 3.11 or newer is needed (looked for python3, python3.14 ... python3.11). Try:" >&2
        say "    sudo apt-get install python3 python3-venv" >&2
        exit 1
    fi
    # Debian splits venv's pip out of the interpreter's package, so ask before trying.
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        if can_install; then
            say "setup: installing $package"
            apt_install "$package"
        else
            say "setup: this Python cannot make virtual environments. Run:" >&2
            say "    sudo apt-get install $package" >&2
            exit 1
        fi
    fi
    say "setup: creating $1 with $python"
    "$python" -m venv "$1"
}

install_package() {
    venv=$1
    extras=$2
    # An environment without pip is one whose creation was cut short.
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        rm -rf "$venv"
        make_venv "$venv"
    fi
    missing=$(missing_for_native "$venv/bin/python")
    if [ -n "$missing" ] && can_install; then
        say "setup: installing$missing for the native codec"
        apt_install "$missing" || say "setup: they could not be installed"
    fi
    say "setup: installing netstack[$extras] into $venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
    codec=$("$venv/bin/python" -c 'from netstack.codec import load; print(type(load()).__name__)')
    if [ "$codec" = NativeCodec ]; then
        say "setup: native codec built"
    else
        say "setup: no native codec (a C compiler and Python's headers are needed): the pure one is used, slower. For it:"
        say "    sudo apt-get install gcc libc6-dev python3-dev && make build"
    fi
}

# What a native build by this Python lacks.
missing_for_native() {
    command -v cc >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 || printf ' gcc libc6-dev'
    "$1" -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
        printf ' python3-dev'
}

# program=package,package: what the interop tests start, and what native builds need.
PROGRAMS="ip=iproute2 ping=iputils-ping dig=dnsutils curl=curl dnsmasq=dnsmasq-base nft=nftables sysctl=procps tshark=tshark
unshare=util-linux clang=clang,libclang-rt-dev"

install_system() {
    missing=
    for pair in $PROGRAMS; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%=*}" >/dev/null 2>&1 || missing="$missing $(echo "${pair#*=}" | tr , ' ')"
    done
    [ -n "$missing" ] || return 0
    if can_install; then
        say "setup: installing$missing"
        # One unknown name must not keep the others out; the test that wants it will say what it misses.
        apt_install "$missing" || for package in $missing; do
            apt_install "$package" || say "setup: $package could not be installed"
        done
    else
        say "setup: tests will be skipped for want of programs, each saying so; for them, run:"
        say "    sudo apt-get install --no-install-recommends$missing"
    fi
}

case "${1:-}" in
    install) install_package "$2" "$3" ;;
    system) install_system ;;
    *) sed -n '2,7p' "$0"; exit 2 ;;
esac
