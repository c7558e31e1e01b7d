"""From a plan to a pruned network on disk."""
