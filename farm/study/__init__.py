"""What the numbers say together: contrasts, agreement, rank correlation, over-optimization. Records in, records out."""
