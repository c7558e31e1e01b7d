"""One rule for each operator: how the labels of its output follow from those of its inputs."""
