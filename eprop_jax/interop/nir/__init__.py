"""NIR, the neuromorphic intermediate representation (Pedersen et al. 2024, Nature Communications 15,
8122): graphs of neurons and maps, by which simulators and chips exchange networks.

Times are NIR's, in seconds. `import nir`, the package, happens where a file is read or a graph made.
"""

from eprop_jax.interop.nir.reading import read
from eprop_jax.interop.nir.writing import write

__all__ = ["read", "write"]
