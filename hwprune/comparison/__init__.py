"""Comparison of networks whose latencies are measured by turns."""
