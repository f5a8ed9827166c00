"""flux-tiny: the emoji world it knows, what asks about it, and its judge."""
