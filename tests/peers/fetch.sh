#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Fetches the programs that the tunnel is tested against into a folder, with what they need:
#     tests/peers/fetch.sh [FOLDER]      (default: tests/peers/.tree)
# Packages are downloaded and unpacked, never installed, so no service is set up or started and
# nothing outside the folder changes. Run it again to fetch only what is missing.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
tree=${1:-${KAMINARI_PEERS:-$here/.tree}}
peers="shadowsocks-libev v2ray nginx haproxy stunnel4 chromium-headless-shell"

mkdir -p "$tree/.packages"
cd "$tree/.packages"

# What each peer needs that is not on this machine: apt knows, and installs nothing here.
apt-get install --simulate --no-install-recommends $peers |
    sed -n 's/^Inst \([^ ]*\).*/\1/p' >wanted
# A peer that is installed already is not listed; its own package is wanted all the same.
for peer in $peers; do
    grep -qx "$peer" wanted || printf '%s\n' "$peer" >>wanted
done

while read -r package; do
    [ -e "$package.unpacked" ] && continue
    printf 'fetching %s\n' "$package"
    rm -f "$package"_*.deb
    apt-get -q -q -o APT::Sandbox::User=root download "$package"
    dpkg-deb --extract "$package"_*.deb "$tree"
    rm -f "$package"_*.deb
    : >"$package.unpacked"
done <wanted
printf 'the peers are in %s\n' "$tree"
