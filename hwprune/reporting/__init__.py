"""What a run has come to: a page, tables for a terminal, progress."""
