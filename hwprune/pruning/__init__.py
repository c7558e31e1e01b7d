"""Structured pruning: remove the channels of a plan, refit the weights that stay, save and load."""
