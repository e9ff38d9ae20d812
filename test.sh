#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Sets up what tests need, then runs them: format, lint and types first (they are tests too),
# then unit tests, then those that need root. Options go to pytest: ./test.sh -k name -m 'not slow'
cd "$(dirname "$0")" || exit 1
./setup.sh --dev || exit
# What takes long is left out; `./test.sh -m slow` runs it.
exec .venv/bin/python -m pytest -m 'not slow' "$@"
