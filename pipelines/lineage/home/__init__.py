"""Runs from a cluster to this machine, and what this machine has to a cluster."""
