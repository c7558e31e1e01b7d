"""The report of a run: its page, tables for the terminal, and progress."""
