"""A user-space network stack that filters a device's traffic on the device."""

__version__ = "0.1.0"
