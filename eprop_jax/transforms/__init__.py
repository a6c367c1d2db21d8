"""From one rule to another: the same gradient, kept narrower, or on many devices."""
