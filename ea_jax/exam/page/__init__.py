"""The report: what is read from folders, how it is drawn, and what a reader is told."""
