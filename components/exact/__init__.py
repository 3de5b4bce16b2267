"""Methods and samplers on Gaussian mixtures, where truth is known: functions in `components.exact.stage`."""
