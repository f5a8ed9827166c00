"""Settings of the test process; fixtures live in the tests that own them."""

from __future__ import annotations

import os
from pathlib import Path

# Compiled programs are kept between test runs, also those of programs the tests start.
_CACHE = Path(__file__).parent.parent / ".cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# No test may reach for a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jax

# Sharding is tested on devices that are slices of this CPU; programs that tests start see one.
jax.config.update("jax_num_cpu_devices", 8)
