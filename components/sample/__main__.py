"""`mcm sample`, or `python -m components.sample`."""

import argparse
from pathlib import Path

from components.places import location, places
from components.runner import command


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="mcm sample", description="Make pictures with a teacher or a student.")
    parser.add_argument(
        "--checkpoint", type=location, required=True, help="folder made by train teacher or train student"
    )
    parser.add_argument("--steps", type=int, help="sampler steps (default: the student's own, or 64 for a teacher)")
    parser.add_argument("--num", type=int, default=64, help="number of images")
    parser.add_argument("--seed", type=int, default=0, help="image k of a seed has the same noise in every sampler")
    parser.add_argument(
        "--out", type=location, default=Path("samples.png"), help="a picture (one grid) or a folder (PNGs)"
    )
    samplers = "ddim, addim, addim_inner, ddpm, noise_ddim, heun or consistency"
    parser.add_argument("--sampler", default="ddim", help=samplers)
    parser.add_argument("--grid", default="uniform", help="times: uniform on the noise schedule, or karras")
    parser.add_argument("--guidance", type=float, default=0.0, help="x_cond + g (x_cond - x_uncond)")
    parser.add_argument("--variance", type=location, help="folder made by variance; default is the analytic x_var")
    parser.add_argument("--ema", help="which weights, e.g. ema_0.999 or weights (default: the first EMA)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--bf16", action="store_true", help="run the network in bf16")
    args = parser.parse_args(argv)

    from components.sample.stage import sample_pictures
    from mcm.model import KIND, VERSION, read_config
    from mcm.samplers import SamplerConfig

    with places() as local:
        checkpoint = local.fetch(args.checkpoint)
        variance = local.fetch(args.variance) if args.variance else None
        student_steps = read_config(checkpoint, KIND, VERSION).get("student_steps")
        values = {
            "name": args.sampler,
            "steps": args.steps if args.steps is not None else student_steps or 64,
            "grid": args.grid,
            "guidance": args.guidance,
            "x_var": "table" if variance else "analytic",
            # A student's x_hat stands for where its step lands, and may lie outside the range of pixels on the way.
            "clip": not student_steps,
        }
        sampler = SamplerConfig.parse(values, "sampler")
        out = local.out(args.out)
        made = sample_pictures(
            checkpoint, sampler, args.num, args.seed, out, args.ema, variance, args.batch_size, args.bf16
        )
    print(made.replace(str(out), str(args.out), 1))


if __name__ == "__main__":
    main()
