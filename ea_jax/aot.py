"""`python -m ea_jax.aot`, by its earlier name: see `ea_jax.costs.aot`."""

import sys

from ea_jax.costs.aot import main

if __name__ == "__main__":
    main(sys.argv[1:])
