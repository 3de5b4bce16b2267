"""Stage estimate_variance: the function is `components.estimate_variance.stage.estimate_variance`."""
