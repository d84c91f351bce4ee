"""ramp-edge: compile a language model for a device."""

__version__ = "0.1.0"
