"""Files that are whole or absent, and data structures from JSON."""
