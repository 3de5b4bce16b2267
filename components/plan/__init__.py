"""plan on Kubeflow Pipelines: what `matrix` is in dvc.yaml."""
