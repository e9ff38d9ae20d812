#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Sets up what tests need, then runs them: format, lint and types first (they are tests too),
# then unit tests, then those that need root. Options go to pytest: ./test.sh -k name -m 'not slow'
cd "$(dirname "$0")" || exit 1
./setup.sh --dev || exit
# What takes long is left out; `./test.sh -m slow` runs it.
# Two at a time, file by file: most of them wait for something. For --pdb or -s: -n 0
exec .venv/bin/python -m pytest -m 'not slow' -n 2 --dist loadfile "$@"
