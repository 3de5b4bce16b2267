"""Stage report: the function is `components.report.stage.report`."""
