"""Training and inner distillation."""
