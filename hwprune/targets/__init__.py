"""Targets: devices with a runtime, one file each, behind the protocol in ``base.py``."""
