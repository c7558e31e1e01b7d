"""Training, inner distillation and evaluation."""
