"""From a network to its channel graph: walk over the operators, merge labels, prove the groups."""
