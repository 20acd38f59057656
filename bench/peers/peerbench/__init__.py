"""Whole programs that share and fetch files, measured against each other in one run."""
