"""A run on paper: each training stage of a parameters file, on each number of devices, and settings that fit."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from components.runner import section
from components.students import student_config
from components.train_teacher.stage import TeacherConfig
from components.training import NetworkConfig
from mcm.config import suggest
from mcm.data.config import DataConfig
from mcm.errors import UserError
from mcm.methods.consistency import ConsistencyRecipe
from mcm.networks.presets import network_config
from mcm.planning.cost import PAPER, Stated, Work
from mcm.planning.devices import DEVICES, GIB, Device
from mcm.planning.memory import Setting, largest_micro_batch, memory
from mcm.training.config import TrainingConfig
from pipelines.machines import machines
from pipelines.profile import profiles

FEWEST = 4  # images of a micro-batch below which a device is mostly idle: other settings are tried first


@dataclass(frozen=True)
class Asked:
    """What the command line says; None leaves it to the parameters."""

    devices: tuple[int, ...]
    device: str = "h100"
    methods: tuple[str, ...] = ("teacher", "cd", "ct")
    student_steps: int | None = None
    batch: int | None = None
    parallel: Literal["ddp", "fsdp"] | None = None
    recompute: bool = False
    mfu: float | None = None
    price: float | None = None


@dataclass(frozen=True)
class Row:
    """One stage on one number of devices, with the settings that the plan is for."""

    stage: str
    devices: int
    parallel: str
    recompute: bool
    accumulate: int
    micro_batch: int
    memory: dict[str, int]  # bytes by part
    total: int  # bytes
    fits: bool
    as_given: bool  # whether these are the parameters' own settings
    largest_micro_batch: int
    iterations: int
    images: int
    flops: int
    hours: float
    cost: float | None  # dollars


@dataclass(frozen=True)
class Plan:
    """All rows, and what they assume."""

    device: str
    usable: float  # bytes of one device that may be filled
    peak: float  # FLOP/s
    mfu: float
    price: float | None
    profiles: list[str]
    paper: list[Stated]  # speeds that the paper states for this network
    rows: list[Row]


def plan(params: Mapping[str, Any], asked: Asked) -> Plan:
    """Plan the stages of `params`. UserError on numbers or names that make no plan."""
    device = _checked(asked)
    price = asked.price
    if price is None and device.accelerator:
        price = machines().accelerators[device.accelerator].price
    mfu = asked.mfu or device.mfu
    data, chosen = section(params, "data", DataConfig), section(params, "network", NetworkConfig)
    network = network_config(chosen.preset, data.resolution, data.channels or 3, dropout=chosen.dropout)
    rows, peak = [], 0.0
    for name in asked.methods:
        stage, config, method = _stage(params, name, asked.student_steps)
        bf16 = config.precision == "bf16"
        found = device.peak(bf16)
        if found is None:
            raise UserError(f"--device: no float32 peak is stated for {device.name}; set {name}'s precision to bf16")
        peak = found
        given = Setting(
            # How many classes there are, the data set says once it is prepared; a thousand add little.
            replace(network, num_classes=1000) if method == "guided" else network,
            method,
            asked.batch or config.batch_size,
            parallel=asked.parallel or config.parallel,
            accumulate=config.accumulate,
            recompute=asked.recompute or config.recompute,
            bf16=bf16,
            emas=len(config.emas),
            kind=device.kind,
        )
        for count in asked.devices:
            if given.batch % count:
                raise UserError(f"--devices: {count} devices do not divide a batch of {given.batch}; choose a divisor")
            setting = _fitting(replace(given, devices=count), device)
            work = Work(setting.network, method, config.iterations, given.batch, setting.recompute)
            hours = work.hours(count, peak, mfu)
            parts = memory(setting)
            rows.append(
                Row(
                    stage=stage,
                    devices=count,
                    parallel=setting.parallel if count > 1 else "-",
                    recompute=setting.recompute,
                    accumulate=setting.accumulate,
                    micro_batch=setting.images,
                    memory=parts,
                    total=sum(parts.values()),
                    fits=sum(parts.values()) <= device.usable,
                    as_given=setting == replace(given, devices=count),
                    largest_micro_batch=largest_micro_batch(setting, device.usable),
                    iterations=config.iterations,
                    images=config.iterations * given.batch,
                    flops=work.flops,
                    hours=hours,
                    cost=None if price is None else price * count * hours,
                )
            )
    paper = [stated for stated in PAPER if stated.preset == chosen.preset and stated.method in asked.methods]
    return Plan(device.name, device.usable, peak, mfu, price, _profiles(device), paper, rows)


def _checked(asked: Asked) -> Device:
    """The device asked for, once all numbers make sense."""
    if asked.device not in DEVICES:
        raise UserError(f"--device: '{asked.device}' is unknown; {suggest(asked.device, list(DEVICES))}")
    if min(asked.devices) < 1:
        raise UserError(f"--devices: {min(asked.devices)} is no number of devices; give 1 or more")
    if asked.batch is not None and asked.batch < 1:
        raise UserError(f"--batch: {asked.batch} is no batch; give 1 or more")
    if asked.mfu is not None and not 0 < asked.mfu <= 1:
        raise UserError(f"--mfu: {asked.mfu:g} is no share of a peak; give a number above 0, at most 1")
    if asked.price is not None and asked.price < 0:
        raise UserError(f"--price: {asked.price:g} dollars an hour is below 0; give what one device costs")
    return DEVICES[asked.device]


def _stage(
    params: Mapping[str, Any], name: str, student_steps: int | None
) -> tuple[str, TrainingConfig, Literal["diffusion", "ct", "cd", "guided"]]:
    """How the stage is called, its section, and its method as memory and FLOPs know it."""
    if name == "teacher":
        return name, section(params, "teacher", TeacherConfig), "diffusion"
    steps = student_steps or ((params.get("students") or {}).get("steps") or [1])[0]
    config = student_config(params, name, steps)
    guided = isinstance(config, ConsistencyRecipe) and config.guidance > 0
    return f"{name}-{steps}", config, "ct" if name == "ct" else "guided" if guided else "cd"


def _fitting(given: Setting, device: Device) -> Setting:
    """`given` if it fits; else the nearest settings that do, or the leanest of all.

    First the batch is split further, which costs next to nothing, then the state is shared by the devices, and only
    then are activations computed twice.
    """
    if given.fits_evenly and sum(memory(given).values()) <= device.usable:
        return given
    lean = given
    for fewest in (FEWEST, 1):
        for lean in _leaner(given):
            room = largest_micro_batch(replace(lean, accumulate=2), device.usable)
            for accumulate in _divisors(given.batch // given.devices):
                images = given.batch // (given.devices * accumulate)
                if fewest <= images <= room:
                    return replace(lean, accumulate=accumulate)
    return replace(lean, accumulate=given.batch // given.devices)


def _leaner(given: Setting) -> Iterator[Setting]:
    """The setting itself and leaner ones, the cheapest first."""
    modes: list[Literal["ddp", "fsdp"]] = ["ddp", "fsdp"] if given.parallel == "ddp" else ["fsdp"]
    for recompute in (False, True) if not given.recompute else (True,):
        for parallel in modes if given.devices > 1 else modes[:1]:
            yield replace(given, parallel=parallel, recompute=recompute)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _profiles(device: Device) -> list[str]:
    """The hardware profiles that train on such devices."""
    found = []
    for name, profile in profiles().items():
        on = profile.stage("train_teacher")
        if device.accelerator and on.accelerator == device.accelerator:
            found.append(f"{name} ({on.count * on.nodes})")
    return found


def show(planned: Plan) -> None:
    """The plan as one table a stage, a column for each number of devices."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(
        f"Memory of one {planned.device}, GiB: {planned.usable / GIB:.1f} may be filled. "
        f"Time: {planned.mfu:.0%} of {planned.peak / 1e12:g} TFLOP/s are assumed (--mfu).",
        highlight=False,
        soft_wrap=True,
    )
    for stage in dict.fromkeys(row.stage for row in planned.rows):
        rows = [row for row in planned.rows if row.stage == stage]
        table = Table("devices", *(str(row.devices) for row in rows), title=stage, min_width=60)
        for column in table.columns[1:]:
            column.justify = "right"
        for name in dict.fromkeys(part for row in rows for part in row.memory):
            table.add_row(name, *(f"{row.memory[name] / GIB:.2f}" if name in row.memory else "-" for row in rows))
        table.add_section()
        cells = [_cells(row) for row in rows]
        for name in cells[0]:
            table.add_row(name, *(cell[name] for cell in cells), end_section=name in ("fits", "largest micro-batch"))
        console.print(table)
    for line in _words(planned):
        console.print(line, highlight=False, soft_wrap=True)


def _cells(row: Row) -> dict[str, str]:
    """A column of a stage's table, below the parts of the memory."""
    return {
        "all": f"{row.total / GIB:.2f}",
        "fits": "yes" if row.fits else "NO",
        "parallel": row.parallel,
        "recompute": "yes" if row.recompute else "no",
        "accumulate": str(row.accumulate),
        "micro-batch": str(row.micro_batch),
        "largest micro-batch": str(row.largest_micro_batch),
        "iterations": f"{row.iterations:,}",
        "images": f"{row.images:.3g}",
        "FLOPs": f"{row.flops:.3g}",
        "hours": f"{row.hours:,.1f}",
        "days": f"{row.hours / 24:,.1f}",
        "device hours": f"{row.hours * row.devices:,.0f}",
        "dollars": "-" if row.cost is None else f"{row.cost:,.0f}",
    }


def _words(planned: Plan) -> Iterator[str]:
    """What the tables do not say."""
    for stated in planned.paper:
        yield (
            f"The paper's own speed, {stated.method}: {stated.steps_per_second:g} steps/s on {stated.chips} TPU v5e, "
            f"is {stated.mfu:.0%} of their peak."
        )
    if planned.price is None:
        yield f"No price known for {planned.device}; give --price."
    else:
        yield f"Price: ${planned.price:g} for one {planned.device} an hour; check it, or give --price."
    for row in planned.rows:
        where = "teacher" if row.stage == "teacher" else f"students.{row.stage}"
        mode = f"parallel: {row.parallel}, " if row.devices > 1 else ""
        settings = f"{{{mode}accumulate: {row.accumulate}, recompute: {str(row.recompute).lower()}}}"
        if not row.fits:
            yield f"{row.stage} on {row.devices}: nothing fits; even {settings} is too much. Take larger devices."
        elif not row.as_given:
            yield f"{row.stage} on {row.devices}: the parameters' settings do not fit; set {where}: {settings}"
    if planned.profiles:
        yield f"Hardware profiles with such devices (how many): {', '.join(planned.profiles)}"
