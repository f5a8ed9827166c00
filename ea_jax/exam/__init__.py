"""The exam: every table of the paper, and attacks, by one command each."""
