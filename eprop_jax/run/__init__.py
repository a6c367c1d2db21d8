"""What is done with a rule: sequences, streams, training, checkpoints, comparisons."""
