"""DVC's history as executions: locks of revisions and experiments, without DVC itself."""
