"""The command `mcm`: the stages, the pipeline on a cluster, lineage. Nothing heavy is imported before it is needed."""

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
    "plan": ("pipelines.commands.plan", "memory, hours and cost of a training on N devices"),
    "study list": ("pipelines.study.commands.list", "all studies: rows done, time left"),
    "study run": ("pipelines.study.commands.run", "make what is missing of a study, and its page"),
    "study page": ("pipelines.study.commands.page", "the page of a study again, from what is done"),
    "pipeline run": ("pipelines.commands.run", "the whole graph on this machine, by KFP's local runner"),
    "pipeline compile": ("pipelines.commands.compile", "the graph as YAML for a cluster"),
    "pipeline submit": ("pipelines.commands.submit", "check, then start a run on a cluster"),
    "pipeline status": ("pipelines.commands.status", "the stages of a run, as a live table"),
    "pipeline wait": ("pipelines.commands.wait", "wait for a run; the exit status says how it ended"),
    "pipeline logs": ("pipelines.commands.logs", "what a stage of a run printed"),
    "pipeline cancel": ("pipelines.commands.cancel", "end a run"),
    "pipeline resume": ("pipelines.commands.resume", "go on with a run that failed"),
    "pipeline schedule": ("pipelines.commands.schedule", "runs by the clock"),
    "pipeline profiles": ("pipelines.commands.profiles", "hardware profiles, and what each stage gets"),
    "pipeline images": ("pipelines.commands.images", "images by digest: check, build, push"),
    "pipeline components": ("pipelines.commands.components", "READMEs and component.yaml of the stages"),
    "lineage show": ("pipelines.lineage.commands.show", "what a run is made of; who made or used an artifact"),
    "lineage diff": ("pipelines.lineage.commands.diff", "what changed between two runs, and which cause came first"),
    "lineage log": ("pipelines.lineage.commands.log", "all runs, with their figures"),
    "lineage adopt": ("pipelines.lineage.commands.adopt", "take a cluster's run home, as a DVC experiment"),
    "lineage export": ("pipelines.lineage.commands.export", "OpenLineage, W3C PROV, or an in-toto statement"),
    "lineage verify": ("pipelines.lineage.commands.verify", "a checkpoint's bytes against its statement"),
}


def usage(group: str = "") -> str:
    """The help text of `mcm`, or of the commands whose first word is `group`."""
    listed = {name: text for name, (_, text) in COMMANDS.items() if name.startswith(group)}
    rows = "\n".join(f"  {name:<20} {text}" for name, text in listed.items())
    return (
        f"usage: mcm {group}COMMAND [OPTIONS]\n\n"
        "Multistep Consistency Models: from images to a sampler of 1 to 8 evaluations.\n\n"
        f"{rows}\n\n`mcm COMMAND --help` lists its options. `dvc repro` runs all stages."
    )


def main(argv: list[str] | None = None) -> None:
    """Entry point: the first argument names the command, the rest is the command's own."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    group = f"{arguments[0]} "
    if arguments[1:] in ([], ["-h"], ["--help"]) and any(name.startswith(group) for name in COMMANDS):
        print(usage(group))
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
