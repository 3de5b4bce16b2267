"""`mcm plan`: memory per device, time and cost of a training run, before it starts."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from components.runner import command

PRESETS = Path(__file__).parents[2] / "presets"
METHODS = ("teacher", "cd", "ct")


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm plan", description="Memory per device, time and cost of training, from the network's real shapes."
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", help="a file of presets/ by its name, such as imagenet64_large")
    source.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters (default: params.yaml)")
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 64, 256], metavar="N", help="numbers of devices")
    parser.add_argument("--device", default="h100", help="which device (default: h100)")
    parser.add_argument("--method", choices=(*METHODS, "all"), default="all", help="which networks (default: all)")
    parser.add_argument("--student-steps", type=int, metavar="S", help="which student (default: the first of steps)")
    parser.add_argument("--batch", type=int, help="global batch, instead of the parameters'")
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), help="instead of the parameters'")
    parser.add_argument("--recompute", action="store_true", help="compute activations again instead of keeping them")
    parser.add_argument("--mfu", type=float, help="share of the device's peak that training reaches (default: 0.4)")
    parser.add_argument("--price", type=float, help="dollars for one device an hour, instead of machines.yaml's")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    args = parser.parse_args(argv)
    from components.runner import read_params
    from mcm.config import suggest
    from mcm.errors import UserError
    from pipelines.plan import Asked, plan, show

    path = args.params
    if args.preset:
        path = PRESETS / f"{args.preset}.yaml"
        known = sorted(file.stem for file in PRESETS.glob("*.yaml"))
        if args.preset not in known:
            raise UserError(f"--preset: '{args.preset}' is unknown; {suggest(args.preset, known)}")
    asked = Asked(
        devices=tuple(args.devices),
        device=args.device,
        methods=METHODS if args.method == "all" else (args.method,),
        student_steps=args.student_steps,
        batch=args.batch,
        parallel=args.parallel,
        recompute=args.recompute,
        mfu=args.mfu,
        price=args.price,
    )
    planned = plan(read_params(path), asked)
    if args.json:
        print(json.dumps(asdict(planned), indent=2))
    else:
        show(planned)


if __name__ == "__main__":
    main()
