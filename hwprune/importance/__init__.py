"""The importance of channels and of residual branches, by several criteria."""
