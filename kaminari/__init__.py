# SPDX-License-Identifier: GPL-2.0-only
"""A tunnel: TCP or UDP carried inside TCP, TLS, WebSocket, or WebSocket over TLS."""

__version__ = "0.1.0"
