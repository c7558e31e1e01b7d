"""One network of several widths: nested plans, sorted channels, shared weights."""
