"""The program behind `mcm sample`: the function is `components.sample.stage.sample_pictures`."""
