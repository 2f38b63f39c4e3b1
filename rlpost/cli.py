"""The command line: parse, call, print. Whatever is heavy is imported by the command that needs it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from rlpost.cli_text import algorithm_table, regraded, remote_traceback, root_cause
from rlpost.errors import RlpostError, UserError

INTERRUPTED, TERMINATED = 130, 143
SPIN_COUNT = "20000"

app = typer.Typer(
    name="rlpost",
    help="Post-train language models with reinforcement learning.",
    epilog="Start here:  rlpost train configs/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A YAML recipe, such as configs/quickstart.yaml.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Keys to change, by dotted path: train.steps=20, stages.rl.train.learning_rate=1e-4, "
        "rewards=my_reward.py. Values are read as YAML.",
        show_default=False,
    ),
]
RunDir = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="A run directory, such as runs/quickstart-...")
]


def main() -> None:
    """Run the command line; errors become one message and an exit status, never a user's traceback."""
    # Torch's threads wait for each other by spinning, by default so long that one busy neighbour makes a
    # small model ten times slower. Read when torch is first imported; child processes inherit it.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    try:
        app()
    except RlpostError as error:
        print(f"{remote_traceback(error)}error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except Exception as error:
        traceback.print_exc()
        print(f"error: {root_cause(error)}", file=sys.stderr)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _rlpost(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from rlpost import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
def train(
    config: Config,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The run directory. Without it, a new one under `output` of the recipe, by name and time."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in --output, or with the newest run of this name, exactly where it was.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the resolved recipe and its plan; load and write nothing."),
    ] = False,
) -> None:
    """Train a model: every stage of a recipe, with evaluations before and after.

    \b
    rlpost train configs/quickstart.yaml
    rlpost train configs/gsm8k.yaml data.path=mine.jsonl rewards=my_reward.py train.steps=50
    rlpost train configs/quickstart.yaml --resume
    """
    from rlpost.config import dump_config, explain, load_config

    resolved = load_config(config, overrides or ())
    if dry_run:
        typer.echo(dump_config(resolved))
        typer.echo("\n".join(f"# {line}".rstrip() for line in explain(resolved).splitlines()))
        return
    arguments = [str(config), *(overrides or ()), *(["--output", str(output)] if output else [])]
    with _interruptible(f"resume with: {shlex.join(['rlpost', 'train', *arguments, '--resume'])}"):
        from rlpost.training import train

        train(resolved, output, resume)


@app.command("eval")
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model directory (RUN_DIR/policy), a Hugging Face id, or `tiny`."
        ),
    ],
    benchmarks: Annotated[
        str,
        typer.Option(
            help="Names or .yaml files, separated by commas: gsm8k, math500, aime24, aime25, amc23, minerva, "
            "olympiadbench, gpqa_diamond."
        ),
    ] = "",
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="The folder with the benchmarks' files. Without it `data`, and what is missing there is "
            "fetched from the Hugging Face hub."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A JSONL or parquet file of your own; needs --reward.")
    ] = None,
    prompt_column: Annotated[
        str | None, typer.Option(help="Column of --data that holds the problem; `prompt` without it.")
    ] = None,
    answer_column: Annotated[
        str | None, typer.Option(help="Column of --data that holds the answer; `answer` without it.")
    ] = None,
    reward: Annotated[
        str | None, typer.Option(help="The verifier of --data: a file, or a shipped one such as gsm8k.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Responses per problem: avg@k and pass@k up to this k.")] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="Without it, greedy for one sample and 1.0 for several.")
    ] = None,
    top_p: Annotated[float, typer.Option(help="Nucleus mass; 1 keeps all tokens.")] = 1.0,
    max_response_tokens: Annotated[int, typer.Option(help="Longer responses are cut, and counted.")] = 1024,
    limit: Annotated[int | None, typer.Option(help="Only the first problems of each file.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where results go; an interrupted evaluation there is continued.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Earlier results to compare with, problem by problem, with a paired test."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides every sample.")] = 0,
    slots: Annotated[int, typer.Option(help="Responses decoded at the same time.")] = 64,
) -> None:
    """Evaluate a model on benchmarks or on a file of your own, with error bars; every generation is kept.

    \b
    rlpost eval runs/quickstart-.../policy --benchmarks math500,aime24 --data-dir data
    rlpost eval MODEL --data test.jsonl --prompt-column question --reward gsm8k --samples 8
    """
    with _interruptible("the same command with the same --output goes on where this one stopped"):
        from rlpost.evaluation import evaluate_model

        evaluate_model(
            model,
            [name.strip() for name in benchmarks.split(",") if name.strip()],
            data_dir=data_dir,
            data=data,
            prompt_column=prompt_column,
            answer_column=answer_column,
            reward=reward,
            samples=samples,
            temperature=temperature,
            top_p=top_p,
            max_response_tokens=max_response_tokens,
            limit=limit,
            output=output,
            against=against,
            seed=seed,
            slots=slots,
        )


@app.command()
def regrade(
    results_dir: Annotated[
        Path,
        typer.Argument(metavar="RESULTS_DIR", help="What `rlpost eval` wrote: one benchmark, or several."),
    ],
    reward: Annotated[
        str | None, typer.Option(help="Another verifier, a file or a shipped one; it stays the results' own.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Other results: grade these again too, then compare both with a paired test."),
    ] = None,
) -> None:
    """Grade stored generations again, with the verifier as it is now. Needs no model and no GPU.

    \b
    rlpost regrade runs/eval
    rlpost regrade runs/eval --against runs/eval-base
    """
    from rich.console import Console

    from rlpost.evaluation import compare_results, comparison_table, regrade

    typer.echo(regraded(regrade(results_dir, reward=reward)))
    if against is not None:
        typer.echo(regraded(regrade(against, reward=reward)))
        Console().print(comparison_table(compare_results(results_dir, against)))


@app.command()
def score(
    reward: Annotated[
        str, typer.Argument(metavar="REWARD", help="A file, file.py:function, or a shipped one: gsm8k.")
    ],
    input: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT.jsonl", help="Rows with a `completion` and the columns the reward reads."
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="Write each row with its score here, as JSONL.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An extra argument of the reward function.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that score at the same time.")] = 2,
    deadline: Annotated[float, typer.Option(min=0.01, help="Seconds that one row may take.")] = 5.0,
) -> None:
    """Try a reward function on saved completions, in the same worker processes that training uses.

    \b
    rlpost score gsm8k completions.jsonl
    rlpost score my_reward.py completions.jsonl --output scored.jsonl
    """
    from rich.console import Console

    from rlpost.config.schema import RewardConfig, ScoringConfig
    from rlpost.scoring import render, score_file

    config = RewardConfig(function=reward, options=_options(option or []))
    report = score_file(config, input, output, ScoringConfig(workers=workers, deadline_s=deadline))
    render(report, Console())


@app.command()
def explain(config: Config, overrides: Overrides = None) -> None:
    """Say in words what a recipe does: sizes with their arithmetic, the objective, the schedule."""
    from rlpost.config import explain, load_config

    typer.echo(explain(load_config(config, overrides or ())))


@app.command()
def algorithms(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One row, with parts, formulas and source.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The table of algorithms, or one row of it."""
    typer.echo(algorithm_table(name, as_json))


@app.command()
def compare(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG|KEY=VALUE",
            help="Recipes, and keys to change in all of them. Without --arms every recipe is one arm, "
            "with it one task.",
            show_default=False,
        ),
    ],
    arms: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="YAML, arm name to `algorithm`: every task is trained with every arm."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each arm; intervals are over them.")] = 3,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Trainings at the same time; the number of cores without it.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The directory; a comparison there is continued. Without it a new one under runs/."
        ),
    ] = None,
    deadline_s: Annotated[
        float, typer.Option(min=1.0, help="Seconds that one training may take; past them it is killed.")
    ] = 3600.0,
    different_budgets: Annotated[
        bool, typer.Option("--different-budgets", help="Compare arms of unequal budget all the same.")
    ] = False,
) -> None:
    """Train several arms with the same budget over several seeds, and write one report.

    \b
    rlpost compare grpo.yaml rloo.yaml --seeds 5
    rlpost compare configs/quickstart.yaml --arms configs/lab/arms.yaml stages.rl.train.steps=100
    """
    from rlpost.comparison import compare

    overrides = [text for text in arguments if "=" in text and not Path(text).exists()]
    recipes = [Path(text) for text in arguments if text not in overrides]
    with _interruptible("the same command goes on where this one stopped, with --output as printed above"):
        compare(
            recipes,
            overrides,
            arms_file=arms,
            seeds=seeds,
            jobs=jobs,
            output=output,
            deadline_s=deadline_s,
            different_budgets=different_budgets,
        )


@app.command()
def replay(
    run_dir: RunDir,
    step: Annotated[int, typer.Option(min=1, help="The step whose saved rollouts are learned from again.")],
) -> None:
    """Run the learner on a step's saved rollouts, with no engine: the same loss, for finding out why."""
    from rlpost.training import replay

    typer.echo(json.dumps(replay(run_dir, step), indent=2))


@app.command()
def report(run_dir: RunDir) -> None:
    """Write one self-contained HTML page about a run."""
    from rlpost.monitor import write_report

    typer.echo(write_report(run_dir))


@app.command()
def doctor(
    output: Annotated[Path, typer.Option(help="The directory that runs would be written to.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare packages and machine with what rlpost is tested with; status 1 where it cannot work."""
    from rlpost import doctor

    checks = doctor.examine(output)
    typer.echo(doctor.as_json(checks) if as_json else doctor.as_text(checks))
    if doctor.fails(checks):
        raise typer.Exit(1)


class _Terminated(BaseException):
    """SIGTERM, raised where it came so that everything is ended in order; no `except Exception` takes it."""


@contextmanager
def _interruptible(advice: str) -> Iterator[None]:
    """On Ctrl-C and on SIGTERM, end with status 130 or 143 and say how to go on."""

    from rlpost.training import stopping

    def terminate(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stopping.ask_to_stop(error := _Terminated())
        raise error

    def interrupt(number: int, frame: object) -> None:
        stopping.ask_to_stop(error := KeyboardInterrupt())
        raise error

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    # A script's background job is started deaf to Ctrl-C, and is to stay so.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        print(f"\ninterrupted; {advice}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except _Terminated:
        print(f"\nended by SIGTERM; {advice}", file=sys.stderr)
        raise typer.Exit(TERMINATED) from None
    finally:
        stopping.forget()
        for number, handler in before.items():
            signal.signal(number, handler)


def _options(pairs: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs as keyword arguments; values are read as YAML."""
    from rlpost.config.yaml_text import parse_value

    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UserError("an option is not of the form NAME=VALUE", where=f"--option {pair}")
        options[name] = parse_value(value)
    return options


if __name__ == "__main__":
    main()
