"""`mcm pipeline profiles`: the hardware profiles, and what each stage gets."""

import argparse
import json

from components.runner import command


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="mcm pipeline profiles", description="List hardware profiles.")
    parser.add_argument("name", nargs="?", help="a profile, or the path of one's own: what each stage gets")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    args = parser.parse_args(argv)
    from pipelines.profile import load_profile, profiles

    if args.name is None:
        found = profiles()
        if args.json:
            print(json.dumps([profile.resolved() for profile in found.values()], indent=2))
            return
        width = max(map(len, found))
        print(
            "\n".join(f"{name:<{width}}  {profile.image:<4}  {profile.description}" for name, profile in found.items())
        )
        return
    profile = load_profile(args.name)
    if args.json:
        print(json.dumps(profile.resolved(), indent=2))
        return
    print(f"{profile.name}: {profile.description}\nimage: {profile.image}\n")
    header = ("stage", "accelerator", "nodes", "cpu", "memory", "/dev/shm", "spot")
    rows = [header]
    for stage, on in profile.hardware.items():
        devices = f"{on.count} x {on.accelerator}" if on.accelerator else "-"
        nodes = f"{on.nodes} ({on.launcher})" if on.launcher else str(on.nodes)
        cpu = f"{on.cpu_request} to {on.cpu_limit}" if on.cpu_limit else on.cpu_request
        rows.append((stage, devices, nodes, cpu, on.memory, on.shm or "-", "yes" if on.spot else "no"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
