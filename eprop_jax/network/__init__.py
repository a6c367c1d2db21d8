"""What is simulated: the types, cells and read-outs, and the network run forward."""
