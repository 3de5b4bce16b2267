"""What a task on Kubeflow needs around its stage: typed artifacts, work done before, one node or several."""
