"""The page of `mcm lineage diff --html`: two graphs drawn as one, in a single file that loads nothing."""
