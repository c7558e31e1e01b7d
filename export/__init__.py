"""Export pruned networks to deployment runtimes and verify them there."""
