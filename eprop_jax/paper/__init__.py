"""The paper, executed: its sums over paths, its hybrids, its graph and its taxonomy."""
