"""Commands about how good a model is: eval, regrade."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlpost.cli.app import app, interruptible
from rlpost.cli.text import regraded


@app.command("eval")
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Model directories (RUN_DIR/policy, or RUN_DIR), Hugging Face ids, or `tiny`.",
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
    id_column: Annotated[
        str | None,
        typer.Option(help="Column of --data that names the problem; a hash of its content without it."),
    ] = None,
    reward: Annotated[
        str | None, typer.Option(help="The verifier of --data: a file, or a shipped one such as gsm8k.")
    ] = None,
    template: Annotated[
        str,
        typer.Option(
            help="`chat` applies the model's chat template, `none` does not, `auto` where it has one."
        ),
    ] = "auto",
    samples: Annotated[int, typer.Option(help="Responses per problem: avg@k and pass@k up to this k.")] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="Without it, greedy for one sample and 1.0 for several.")
    ] = None,
    top_p: Annotated[float, typer.Option(help="Nucleus mass; 1 keeps all tokens.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Most probable tokens that are kept; 0 keeps all.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="Text that ends a response; may be given several times.")
    ] = None,
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
    engine: Annotated[str, typer.Option(help="What decodes: torch or vllm.")] = "torch",
    workers: Annotated[int, typer.Option(help="Engines that work side by side, as Ray actors.")] = 1,
    devices_per_worker: Annotated[
        int, typer.Option(help="Accelerators that one vLLM engine is divided over.")
    ] = 1,
    dtype: Annotated[
        str, typer.Option(help="Of the weights; `auto` is bfloat16 with an accelerator, else float32.")
    ] = "auto",
    slots: Annotated[
        int | None,
        typer.Option(help="Responses that one worker decodes at the same time; 64 for torch, 256 for vllm."),
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="A running Ray cluster for the workers; without it one of their own.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="URL of an OpenAI-compatible server that answers instead of an engine.")
    ] = None,
    endpoint_model: Annotated[
        str | None, typer.Option(help="The served model's name; MODEL without it.")
    ] = None,
    api_key_variable: Annotated[
        str | None, typer.Option(help="Environment variable that holds the server's key.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Requests sent to the server at the same time.")] = 32,
    chat: Annotated[
        bool, typer.Option("--chat", help="Send messages; the server applies its own chat template.")
    ] = False,
) -> None:
    """Evaluate models on benchmarks or on a file of your own, with error bars; every generation is kept.

    \b
    rlpost eval runs/quickstart-... --benchmarks math500,aime24 --data-dir data
    rlpost eval MODEL --data test.jsonl --prompt-column question --reward gsm8k --samples 8
    rlpost eval MODEL_A MODEL_B --benchmarks gsm8k,math500 --engine vllm --workers 4
    rlpost eval MODEL --benchmarks gsm8k --endpoint http://localhost:8000/v1
    """
    with interruptible("the same command with the same --output goes on where this one stopped"):
        from rlpost.benchmarking import EvalOptions, evaluate_models

        options = EvalOptions(
            data_dir=data_dir,
            data=data,
            prompt_column=prompt_column,
            answer_column=answer_column,
            id_column=id_column,
            reward=reward,
            template=template,
            samples=samples,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            stop=tuple(stop or ()),
            max_response_tokens=max_response_tokens,
            limit=limit,
            output=output,
            against=against,
            seed=seed,
            engine=engine,
            workers=workers,
            devices_per_worker=devices_per_worker,
            dtype=dtype,
            slots=slots,
            ray_address=ray_address,
            endpoint=endpoint,
            endpoint_model=endpoint_model,
            api_key_variable=api_key_variable,
            concurrency=concurrency,
            chat=chat,
        )
        evaluate_models(models, [name.strip() for name in benchmarks.split(",") if name.strip()], options)


@app.command()
def regrade(
    results_dir: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS_DIR", help="What `rlpost eval` wrote: one benchmark or model, or several."
        ),
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

    from rlpost.benchmarking import renew_pages
    from rlpost.evaluation import compare_results, comparison_table, regrade

    for results in (results_dir, against):
        if results is not None:
            typer.echo(regraded(regrade(results, reward=reward)))
            renew_pages(results)
    if against is not None:
        Console().print(comparison_table(compare_results(results_dir, against)))
