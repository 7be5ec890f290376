"""How fast the operators are: `seqbench kernels` times every backend, and peers that are installed, after a check."""
