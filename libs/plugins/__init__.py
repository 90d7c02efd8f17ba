"""Plug-ins: tools written as one class each, found by entry point, served on the bus. See docs/plugins.md."""

from libs.plugins.plugin import ExternalPlugin, PluginContext, PluginDefinitionError, PluginError

__all__ = ["ExternalPlugin", "PluginContext", "PluginDefinitionError", "PluginError"]
