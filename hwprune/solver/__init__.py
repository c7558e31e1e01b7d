"""Choose the widths: the program, its solution, and the loop that measures it."""
