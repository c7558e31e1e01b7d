"""Slim networks: one set of weights for several budgets."""
