"""The verbs of `mcm study`, a file each."""
