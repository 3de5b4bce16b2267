"""The command `mcm`: the stages, for people who do not want DVC. Nothing heavy is imported before it is needed."""

import importlib
import sys

COMMANDS = {
    "prepare": ("components.prepare_data.__main__", "images -> data set"),
    "train teacher": ("components.train_teacher.__main__", "data set -> diffusion teacher"),
    "train student": ("components.train_student.__main__", "teacher -> few-step student, by CD or CT"),
    "variance": ("components.estimate_variance.__main__", "teacher -> posterior variance for aDDIM"),
    "sample": ("components.sample.__main__", "teacher or student -> pictures"),
    "evaluate": ("components.evaluate.__main__", "teacher or student -> FID, KID, precision, recall"),
    "report": ("components.report.__main__", "everything -> one HTML page"),
}


def usage() -> str:
    """The help text of `mcm`."""
    rows = "\n".join(f"  {name:<14} {text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: mcm COMMAND [OPTIONS]\n\n"
        "Multistep Consistency Models: from images to a sampler of 1 to 8 evaluations.\n\n"
        f"{rows}\n\n`mcm COMMAND --help` lists its options. `dvc repro` runs them all."
    )


def main(argv: list[str] | None = None) -> None:
    """Entry point: the first argument names the command, the rest is the command's own."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("multistep-consistency"))
        return
    words = next((n for n in (2, 1) if " ".join(arguments[:n]) in COMMANDS), 0)
    if not words:
        from mcm.config import suggest

        name = " ".join(word for word in arguments[:2] if not word.startswith("-"))
        print(f"error: mcm has no command '{name}'; {suggest(name, list(COMMANDS))}", file=sys.stderr)
        sys.exit(2)
    importlib.import_module(COMMANDS[" ".join(arguments[:words])][0]).main(arguments[words:])


if __name__ == "__main__":
    main()
