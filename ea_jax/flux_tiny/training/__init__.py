"""How flux-tiny was made: its pictures, its training stages, the bars it was held to."""
