"""Stage evaluate: the function is `components.evaluate.stage.evaluate`."""
