"""The command line, and the setups that it knows by name."""
