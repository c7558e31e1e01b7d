"""What each operator does to channels: one rule an operator."""
