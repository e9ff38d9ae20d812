#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Sets up what the program needs, then shows the main job on real traffic between network
# namespaces that it makes and removes. Exit code 1 if one of its checks failed.
cd "$(dirname "$0")" || exit 1
./setup.sh || exit
exec .venv/bin/python -m tests.demo "$@"
