# SPDX-License-Identifier: GPL-2.0-only
"""What is used of pyroute2, and how it is imported.

pyroute2's own __init__ imports all that it has, a database and a web server among it: 9 MB that
the daemon would carry for good. So the package is entered here as an empty one, under which its
modules are found. Another MB is unittest, which it imports for its own tests: instead of the
module that does so there is what that offers to everybody else, a class that adds nothing. A
release in which that does not work is imported as it is.
"""

import importlib.machinery
import importlib.util
import sys
import types

_PACKAGE = "pyroute2"
_LAB = "pyroute2.lab"


def _enter_package() -> None:
    spec = importlib.util.find_spec(_PACKAGE)
    if _PACKAGE in sys.modules or spec is None or spec.submodule_search_locations is None:
        return
    package = types.ModuleType(_PACKAGE)
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = importlib.machinery.ModuleSpec(_PACKAGE, None, is_package=True)
    sys.modules[_PACKAGE] = package
    sys.modules[_LAB] = lab = types.ModuleType(_LAB)
    lab.__dict__["LAB_API"] = type("LAB_API", (), {})
    try:
        import pyroute2.iproute.linux  # noqa: F401
    except (ImportError, AttributeError, TypeError):
        for name in [name for name in sys.modules if name.split(".")[0] == _PACKAGE]:
            del sys.modules[name]


_enter_package()

from pyroute2.iproute.linux import IPRoute  # noqa: E402
from pyroute2.netlink.exceptions import NetlinkError  # noqa: E402

__all__ = ["IPRoute", "NetlinkError"]
