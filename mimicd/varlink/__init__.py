# SPDX-License-Identifier: GPL-2.0-only
"""The varlink edge of the daemon, for places without a bus: JSON messages over a Unix socket.

`names` and `wire` are pure, and the client shares them. See https://varlink.org.
"""
