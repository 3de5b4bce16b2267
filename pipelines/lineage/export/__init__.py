"""Lineage in other people's formats: OpenLineage events, W3C PROV, in-toto/SLSA provenance with signatures."""
