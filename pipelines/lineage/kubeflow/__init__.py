"""Runs of a Kubeflow server as graphs."""
