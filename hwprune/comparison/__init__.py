"""Networks measured beside each other."""
