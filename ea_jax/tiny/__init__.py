"""flux-tiny: the emoji world it knows, its training, its judge."""
