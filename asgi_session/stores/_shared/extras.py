"""Packages that only some stores need: imported when such a store is made, named when they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from asgi_session.errors import ConfigurationError


def need(module: str, *, store: str, extra: str, others: tuple[str, ...] = ()) -> Any:
    """Import a module that an extra of this package brings.

    Args:
        module: its dotted name.
        store: the class that needs it, for the error.
        extra: the extra's name.
        others: further extras that bring it, each with something else.

    Raises:
        ConfigurationError: it is not installed; the message holds the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name
    if missing is None or missing.partition(".")[0] != module.partition(".")[0]:
        what = f"{module} needs {missing}, which is"  # a broken installation, or a driver's own driver
    else:
        what = f"{store} needs the package {missing.partition('.')[0]}, which is"
    also = f" (or {', '.join(f'[{other}]' for other in others)})" if others else ""
    raise ConfigurationError(f"{what} not installed. Install it: pip install 'asgi-session[{extra}]'{also}")
