"""The verbs of `mcm pipeline`, one module each, with `main(argv)`."""
