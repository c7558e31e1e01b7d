"""How much each channel and each residual branch matters."""
