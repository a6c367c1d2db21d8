"""What turns a network and a choice of paths into a gradient."""
