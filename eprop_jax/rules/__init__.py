"""The learning rules, one a file, by the paper's equations, and the feedback weights."""
