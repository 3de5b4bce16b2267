"""Lineage: what a stage's execution writes about itself, and where."""
