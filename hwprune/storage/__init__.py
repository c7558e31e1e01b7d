"""Write files atomically, and restore data structures from JSON."""
