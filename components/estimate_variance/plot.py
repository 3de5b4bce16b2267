"""The plot of x_var(t): measured with two standard errors, and the analytic form."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from mcm.variance import XVarTable


def plot(table: XVarTable, path: Path) -> None:
    """Write a PNG whose bytes depend on the table alone."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    low = (table.x_var - 2 * table.standard_error).clip(min=table.x_var.min() / 10)
    axes.fill_between(table.t, low, table.x_var + 2 * table.standard_error, alpha=0.25, color="#0072B2", lw=0)
    axes.plot(table.t, table.x_var, color="#0072B2", label="measured, with 2 standard errors")
    axes.plot(table.t, table.analytic, color="#D55E00", ls="--", label="analytic, 0.1 / (2 + SNR)")
    axes.set(xlabel="t", ylabel="$x_{var}$ per dimension", yscale="log", xlim=(0, 1))
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
