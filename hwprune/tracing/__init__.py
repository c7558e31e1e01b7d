"""From a network to its channel graph."""
