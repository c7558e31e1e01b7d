"""What a network is for: loss, metrics and comparison of outputs, of built-in and own tasks."""
