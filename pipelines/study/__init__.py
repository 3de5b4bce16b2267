"""Studies: tables of methods x steps x seeds under one budget, from one YAML file to one page."""
