"""Finding plug-ins: those that installed packages name (entry points `callbus.plugins`), and `module:Class`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from libs.plugins.plugin import ExternalPlugin, PluginDefinitionError

GROUP = "callbus.plugins"
Plugin = ExternalPlugin[Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Plug-ins ready to be served, and one sentence for each that cannot be."""

    plugins: tuple[Plugin, ...]
    problems: tuple[str, ...]


def installed() -> dict[str, EntryPoint]:
    """Entry points by name. The name is what a setting lists; usually it is the tool's."""
    return {point.name: point for point in entry_points(group=GROUP)}


def load(wanted: Iterable[str]) -> Loaded:
    """Load plug-ins by the name of their entry point, or as `module:Class`; `*` means all that are installed.

    A package that cannot be imported costs its own plug-ins only.
    """
    known = installed()
    names = list(dict.fromkeys(name for each in wanted for name in (sorted(known) if each == "*" else [each])))
    plugins: dict[str, Plugin] = {}
    problems = []
    for name in names:
        try:
            plugin = _instance(name, known)
            if plugin.name in plugins:
                raise PluginDefinitionError(f"there are two plug-ins named {plugin.name!r}")
            plugins[plugin.name] = plugin
        except Exception as error:  # noqa: BLE001  somebody else's module: whatever it raises on import
            problems.append(f"plug-in {name}: {error or type(error).__name__}")
    return Loaded(tuple(plugins.values()), tuple(problems))


def _instance(name: str, known: dict[str, EntryPoint]) -> Plugin:
    if name in known:
        found = known[name].load()
    elif ":" in name:
        module, _, attribute = name.partition(":")
        found = getattr(import_module(module), attribute)
    else:
        installed_names = ", ".join(sorted(known)) or "none"
        raise PluginDefinitionError(f"is not installed (entry points {GROUP}: {installed_names}); or use module:Class")
    if not (isinstance(found, type) and issubclass(found, ExternalPlugin)):
        raise PluginDefinitionError("is not a class derived from ExternalPlugin")
    found.describe()
    return found()
