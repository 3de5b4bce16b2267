"""The verbs of `mcm lineage`, a file each."""
