"""The command line: `kd-ray COMMAND CONFIG [key=value ...]`."""

import argparse
import difflib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kd_ray import __version__
from kd_ray.commands.registry import COMMANDS
from kd_ray.config.base import Section
from kd_ray.config.load import ConfigError, load, root_folder
from kd_ray.config.places import address_of

_LOOKS = ("check", "inspect", "selftest", "status")
"""Commands that look into configurations, or runs, of other commands."""

_HELP = {
    "prepare": "make manifests and tokens from a corpus, and check every row",
    "train": "train a model from references",
    "train-teachers": "train N models from one base and overrides, in parallel",
    "infer-teachers": "store the teachers' outputs (Parquet, through Ray Data)",
    "distill": "distil a student from teachers (local, store or pool)",
    "evaluate": "scores, sizes and speed of systems, with every hypothesis",
    "decode": "what one system hears or translates in a manifest or in audio files",
    "transcribe": "a manifest with a recogniser's transcripts",
    "translate": "a manifest with an expert's translations (sequence-level distillation)",
    "report": "one page with tables and plots from an evaluation and its runs",
    "compare": "two systems of an evaluation, utterance by utterance",
    "recipe": "commands one after another, as `make demo` runs them",
    "study": "systems times seeds: one file for each, and a table of means and deviations",
    "search": "many trainings over a space of settings, with early stopping, and the best of them",
    "replay": "a skipped update again: which utterances and parameters are not finite",
    "pool": "teachers that run by themselves, for any jobs: up, status, report, update, down, ...",
    "bench": "what a step, a rollout, a loss or the pool costs (`kd-ray bench step CONFIG`)",
    "check": "find problems of a configuration before anything starts",
    "inspect": "one utterance: reference, teachers, weights, choice, student",
    "selftest": "student = teacher gives a KL of 0 through local, store and pool",
    "status": "how runs are doing: state, progress, scores, faults (`kd-ray status RUN`)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 1 failed, 2 bad input)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    wrong = _wrong_word(arguments)
    if wrong is not None:
        _complain(wrong)
        return 2
    parsed = _parser().parse_args(arguments)
    level = logging.DEBUG if parsed.verbose else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("kd_ray").setLevel(level)
    try:
        with _ended_by_sigterm():
            return _run(parsed)
    except KeyboardInterrupt:
        _complain("interrupted; the same command goes on from its last checkpoint or finished part")
        return 130
    except (ValueError, OSError) as error:
        # What users can mend is a ValueError (or a file that cannot be read or written).
        if parsed.verbose:
            raise
        _complain(f"kd-ray {parsed.command}: {error}")
        return 2
    except RuntimeError as error:
        if parsed.verbose:
            raise
        _complain(f"kd-ray {parsed.command} failed: {error}")
        return 1


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """`ray job stop` sends SIGTERM: a run is to say in its folder that it was stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wrong_word(arguments: Sequence[str]) -> str | None:
    """What argparse would answer with a list of everything: a mistyped command, dashed keys."""
    names = [*COMMANDS, *_LOOKS]
    if arguments and not arguments[0].startswith("-") and arguments[0] not in names:
        near = difflib.get_close_matches(arguments[0], names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(names)}"
        return f"kd-ray: no such command: {arguments[0]!r}; {hint}"
    for argument in arguments[1:]:
        key = argument.removeprefix("--")
        if key != argument and "=" in key and not key.startswith(("split=", "student=")):
            return f"kd-ray: {argument}: overrides are written without dashes: {key}"
    return None


def _run(parsed: argparse.Namespace) -> int:
    root = root_folder()
    if parsed.command == "status":
        from kd_ray.commands.status import status

        status(
            parsed.run,
            root,
            as_json=parsed.json,
            watch=parsed.watch,
            stale_after_s=parsed.stale_after,
        )
        return 0
    config = _load(Path(parsed.config), parsed.overrides, root)
    if parsed.command == "check":
        if parsed.address is not None:
            os.environ["RAY_ADDRESS"] = parsed.address
        from kd_ray.commands.check import check

        return 0 if check(config, root).ok else 2
    if parsed.command == "inspect":
        from kd_ray.commands.inspect import inspect

        inspect(config, parsed.utterance, root, split=parsed.split, student=parsed.student)
        return 0
    if parsed.command == "selftest":
        from kd_ray.commands.selftest import selftest

        return 0 if selftest(config, root).ok else 1
    _expect(config, parsed.command, parsed.config, getattr(parsed, "what", None))
    if parsed.command == "pool":
        COMMANDS["pool"]()(
            config,
            root,
            parsed.action,
            force=parsed.force,
            replace=parsed.replace,
            as_json=parsed.json,
            watch=parsed.watch,
        )
        return 0
    COMMANDS[parsed.command]()(config, root)
    return 0


def _load(path: Path, overrides: Sequence[str], root: Path) -> Section:
    """A configuration lies beside the code: relative to the working folder, else to the root."""
    if not path.exists():
        path = root / path
        if address_of(path) is not None:
            from kd_ray.storage import fetch

            path = fetch(path)
    return load(path, overrides)


def _expect(config: Section, command: str, path: str, what: str | None) -> None:
    """The file must be one for this command, and for what `kd-ray bench` is to measure."""
    found = " ".join(getattr(config, key) for key in ("command", "what") if hasattr(config, key))
    asked = command if what is None else f"{command} {what}"
    if found != asked:
        raise ConfigError(
            f"{path} is a configuration for `kd-ray {found}`, not for `kd-ray {asked}`"
        )


def _complain(text: str) -> None:
    sys.stderr.write(text + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kd-ray",
        description="Distributed knowledge distillation for speech, on Ray.",
        epilog="Relative paths start at KD_RAY_ROOT (a folder, or an address such as "
        "s3://bucket/project), or at the folder of the command.",
    )
    parser.add_argument("--version", action="version", version=f"kd-ray {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in [*COMMANDS, *_LOOKS]:
        command = commands.add_parser(name, help=_HELP[name], description=_HELP[name])
        command.add_argument("-v", "--verbose", action="store_true", help="tracebacks, debug lines")
        if name == "bench":
            command.add_argument(
                "what",
                choices=["step", "rollouts", "sparse", "pool", "soak"],
                help="what is measured",
            )
        if name == "pool":
            command.add_argument(
                "action",
                choices=["up", "update", "status", "report", "drain", "down"],
                help="what is done",
            )
            command.add_argument(
                "--replace", action="store_true", help="up: new hosts beside those that run"
            )
            command.add_argument("--force", action="store_true", help="down: also while in use")
            command.add_argument("--json", action="store_true", help="status: as JSON")
            command.add_argument(
                "--watch",
                type=float,
                default=None,
                metavar="S",
                help="status: again every S seconds",
            )
        if name == "status":
            _add_status(command)
            continue
        if name == "check":
            command.add_argument(
                "--address",
                default=None,
                metavar="ADDRESS",
                help="a running cluster to compare with: auto, HOST:6379 or ray://HOST:10001 "
                "(default: RAY_ADDRESS)",
            )
        command.add_argument("config", metavar="CONFIG", help="YAML file")
        if name == "inspect":
            command.add_argument("utterance", metavar="ID", help="utterance id")
            command.add_argument("--split", default=None, help="manifest to look in")
            command.add_argument("--student", default=None, help="another run or checkpoint folder")
        command.add_argument(
            "overrides", nargs="*", metavar="key=value", help="e.g. training.epochs=3"
        )
    return parser


def _add_status(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "run",
        metavar="RUN",
        help="run folder or name, folder of runs, configuration (YAML) of runs, or target store",
    )
    command.add_argument("--json", action="store_true", help="one line of JSON")
    command.add_argument(
        "--watch",
        type=float,
        default=None,
        metavar="S",
        help="again every S seconds, until nothing more is to be expected",
    )
    command.add_argument(
        "--stale-after",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds without a sign of life after which a run is stale (default: 60)",
    )


if __name__ == "__main__":
    sys.exit(main())
