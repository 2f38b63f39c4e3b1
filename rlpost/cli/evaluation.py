"""Commands about how good a model is: eval, regrade."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlpost.cli.app import app, interruptible
from rlpost.cli.text import regraded


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
    with interruptible("the same command with the same --output goes on where this one stopped"):
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
