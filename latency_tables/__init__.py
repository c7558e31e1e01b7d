"""Measured latency tables that ship with hwprune, and the page on their format."""
