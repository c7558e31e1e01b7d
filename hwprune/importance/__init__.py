"""What channels are worth beside gradients alone, and how their work is handed on."""
