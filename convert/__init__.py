"""Names and layouts: checkpoint files <-> pytrees, as plain mappings over {name: array}.

Knows no model code: a caller hands in the abstract tree that a file has to fill.
"""
