"""`mcm lineage verify`: whether a checkpoint's bytes are those that its statement lists."""

import argparse
from pathlib import Path

from components.runner import command
from mcm.errors import UserError


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm lineage verify",
        description="Check every byte of a checkpoint against its statement, and the statement's signature. Exit "
        "status 2 and one line for the first file that differs.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="its folder, or a gs:// prefix")
    parser.add_argument(
        "statement",
        type=Path,
        metavar="STATEMENT",
        help="what `mcm lineage export --format slsa` wrote: FILE, or its FILE.sig",
    )
    parser.add_argument("--key", type=Path, metavar="PUBLIC", help="the signer's public key (PEM, EC)")
    args = parser.parse_args(argv)
    from mcm.artifacts import folder_md5
    from pipelines.lineage.export.checkpoint import compare, digests, local
    from pipelines.lineage.export.names import needs_extra
    from pipelines.lineage.export.signing import PublicKey
    from pipelines.lineage.export.statements import read

    with needs_extra(), local(args.checkpoint) as folder:
        key = PublicKey(args.key) if args.key else None
        claim = read(args.statement, key)
        compare(args.checkpoint, claim.files, digests(folder))
        if claim.folder is not None and folder_md5(folder) != claim.folder:
            raise UserError(
                f"{args.statement}: lists these files, but another folder ({claim.folder}); do not trust it"
            )
        if claim.bundle and key is not None:
            key.check_folder(folder, args.statement)
    about = [f"{len(claim.files)} files as stated"]
    origin = {"stage": claim.stage, "run": claim.run, "commit": claim.commit, "image": claim.image}
    about += [f"{name} {value}" for name, value in origin.items() if value]
    about.append(f"signed by {args.key}" if key else "the statement is not signed")
    print(f"{args.checkpoint}: {', '.join(about)}")


if __name__ == "__main__":
    main()
