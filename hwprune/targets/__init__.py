"""Targets: a device with a runtime, behind one small protocol, one file each."""
