"""`mcm pipeline schedule`: runs that come again, and the list of them."""

import argparse
import json
import re
from typing import Any

from components.runner import command
from mcm.errors import UserError
from pipelines.client import add_connection

UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm pipeline schedule",
        description="Make a recurring run: one at a time, and what was missed is not made up for. The same options as "
        "submit say what runs.",
    )
    when = parser.add_mutually_exclusive_group(required=True)
    when.add_argument(
        "--cron", metavar="EXPRESSION", help="six fields, seconds first: '0 0 3 * * 1' is Monday, 03:00 UTC"
    )
    when.add_argument("--every", metavar="TIME", help="interval, such as 90min, 12h or 7d")
    when.add_argument("--list", action="store_true", help="the schedules that are there")
    for verb in ("enable", "disable", "delete"):
        when.add_argument(f"--{verb}", metavar="ID", help=f"{verb} a schedule, by id or name")
    parser.add_argument("--start-disabled", action="store_true", help="make it, and let it wait for --enable")
    from pipelines.submission import add_request

    add_request(parser)
    add_connection(parser)
    args = parser.parse_args(argv)
    if args.list:
        _list(args)
        return
    for verb in ("enable", "disable", "delete"):
        if getattr(args, verb):
            _change(args, verb, getattr(args, verb))
            return
    _make(args)


def _make(args: argparse.Namespace) -> None:
    trigger = {"cron": cron(args.cron)} if args.cron else {"interval_second": str(seconds(args.every))}
    from pipelines.submission import checked, send_first, submission

    ready = checked(args)
    if args.check:
        return
    import kfp_server_api as api

    from pipelines import runs
    from pipelines.client import Connection, options

    connection = Connection(options(args))
    send_first(args, ready)
    made = runs.create_schedule(
        connection,
        submission(args, ready),
        api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(**trigger))
        if args.cron
        else api.V2beta1Trigger(periodic_schedule=api.V2beta1PeriodicSchedule(**trigger)),
        enabled=not args.start_disabled,
    )
    print(json.dumps(_told(made), indent=2) if args.json else _line(made))


def _list(args: argparse.Namespace) -> None:
    from pipelines import runs
    from pipelines.client import Connection, options

    found = runs.schedules(Connection(options(args)))
    if args.json:
        print(json.dumps([_told(entry) for entry in found], indent=2))
    else:
        print("\n".join(_line(entry) for entry in found) or "no schedules")


def _change(args: argparse.Namespace, verb: str, schedule: str) -> None:
    from pipelines import runs
    from pipelines.client import Connection, options

    connection = Connection(options(args))
    schedule_id = runs.find_schedule(connection, schedule)
    runs.change_schedule(connection, schedule_id, verb)
    done = f"{verb}d"
    print(json.dumps({"recurring_run_id": schedule_id, "done": done}) if args.json else f"{schedule_id}: {done}")


def cron(expression: str) -> str:
    """A cron expression as KFP takes it: with seconds, so six fields. Five are a minute's mistake."""
    fields = expression.split()
    if len(fields) == 5:
        raise UserError(f"--cron '{expression}': KFP has seconds in front; write '0 {expression}'")
    if len(fields) != 6 or not all(re.fullmatch(r"[\w*/,?-]+", field) for field in fields):
        raise UserError(
            f"--cron '{expression}': not six fields of seconds, minutes, hours, day, month, day of the week"
        )
    return " ".join(fields)


def seconds(interval: str) -> int:
    """`90min`, `12h`, `7d` in seconds; a bare number is seconds."""
    match = re.fullmatch(r"(\d+)\s*([a-z]*)", interval.strip().lower())
    unit = UNITS.get(match[2] or "s") if match else None
    if not match or not unit or not int(match[1]):
        raise UserError(f"--every {interval}: not a time; write for example 90min, 12h or 7d")
    return int(match[1]) * unit


def _told(entry: Any) -> dict[str, Any]:
    trigger = entry.trigger
    return {
        "recurring_run_id": entry.recurring_run_id,
        "name": entry.display_name,
        "status": entry.status or entry.mode,
        "cron": trigger.cron_schedule.cron if trigger and trigger.cron_schedule else None,
        "every_seconds": int(trigger.periodic_schedule.interval_second)
        if trigger and trigger.periodic_schedule and trigger.periodic_schedule.interval_second
        else None,
        "max_concurrency": int(entry.max_concurrency or 0),
        "catch_up": not entry.no_catchup,
    }


def _line(entry: Any) -> str:
    told = _told(entry)
    when = told["cron"] or f"every {told['every_seconds']} s"
    return f"{told['recurring_run_id']}  {told['status']}  {when}  {told['name']}"


if __name__ == "__main__":
    main()
