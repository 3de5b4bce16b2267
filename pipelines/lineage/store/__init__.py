"""Lineage stores: records read from a folder or bucket, with an index on this machine."""
