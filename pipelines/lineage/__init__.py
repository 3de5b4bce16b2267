"""Lineage across runs: read records, DVC history and Kubeflow runs into one model, compare, show, export."""
