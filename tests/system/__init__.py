# SPDX-License-Identifier: GPL-2.0-only
"""Checks on a machine with systemd, D-Bus and polkit: the package as its users meet it.

    python3 -m tests.system dist/mimicd_0.1.0_all.deb

installs the package, works with it under traffic, kills, restarts, reloads and upgrades it, purges
it, and prints a list of checks. As root, on a machine to be thrown away. `--reboot` first enables
what is looked at by `--rebooted` after the machine was started again.

Nothing but Debian's own Python is needed. Not collected by pytest: see test_package for what can
be shown without such a machine.
"""
