"""Erases a concept: `python train.py --config configs/nudity.py[:variant]`; also `ea-jax erase`.

Started again with the same config, a run goes on where it was cut off.
"""

import sys

from ea_jax.erase import main

if __name__ == "__main__":
    main(sys.argv[1:], name=sys.argv[0])
