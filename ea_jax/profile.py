"""`python -m ea_jax.profile`, by its earlier name: see `ea_jax.costs.breakdown`."""

import sys

from ea_jax.costs.breakdown import main

if __name__ == "__main__":
    main(sys.argv[1:])
