"""Latency tables, the measurements in them, and budgets."""
