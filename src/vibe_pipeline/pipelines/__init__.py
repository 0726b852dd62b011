"""Wiring only: thin nodes and lists of them."""
