"""One set of weights for several budgets."""
