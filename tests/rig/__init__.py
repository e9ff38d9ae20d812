# SPDX-License-Identifier: GPL-2.0-only
"""The network test rig: namespaces, traffic, captures, a scripted peer, the daemon under test.

Plain importable modules without pytest, so that tests and the demonstration share them.
Everything needs root. Traffic stays in the namespaces the rig itself makes.
"""
