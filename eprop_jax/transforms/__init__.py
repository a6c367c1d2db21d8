"""Rule to rule: the same gradient, kept narrower, held back for a reward, or on many devices."""
