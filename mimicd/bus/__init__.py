# SPDX-License-Identifier: GPL-2.0-only
"""The D-Bus edge of the daemon: bus messages in, `core.manager.Manager` calls out, and back.

`names`, `frames`, `encode` and `interfaces` need no library; `connection` and the modules above
it import dbus_next.
"""

import sys

# dbus_next loads GLib wherever it is installed: 4 MB in memory that nothing here uses.
sys.modules.setdefault("gi", None)  # type: ignore[arg-type]
