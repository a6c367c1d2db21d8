"""Models of other libraries, brought here and taken back. Each file imports its library when it is
called, and not before: `from eprop_jax.interop import flax_nnx`."""
