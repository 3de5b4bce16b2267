"""conclude on Kubeflow Pipelines: the exit handler."""
