"""The benchmarks that `rlpost eval --benchmarks` knows by name, one record each."""

from __future__ import annotations

from rlpost.errors import UserError
from rlpost.evaluation.benchmark import BOXED, HASHES, LETTER, Benchmark, HubDataset, Published
from rlpost.evaluation.conversions import gpqa, olympiadbench, question_as_problem

NAMED = "the revision that public evaluation code pins, with this number of rows; its files were not compared"
R1_SETTINGS = "64 responses, temperature 0.6, top-p 0.95, at most 32,768 tokens"
R1_SOURCE = "deepseek-ai, model card of DeepSeek-R1-Distill-Qwen-7B"
DEEPSCALER_SETTINGS = "pass@1 averaged over 16 samples; temperature 0.6, top-p 0.95, 32,768 tokens"
DEEPSCALER_SOURCE = "agentica-org, model card of DeepScaleR-1.5B-Preview"

GSM8K = Benchmark(
    name="gsm8k",
    path="gsm8k/test.jsonl",
    prompt_column="question",
    answer_column="answer",
    reward="gsm8k",
    instruction=HASHES,
    problems=1319,
    hub=HubDataset(
        id="openai/gsm8k",
        revision="740312add88f781978c0658806c59bc2815b9866",
        subset="main",
        split="test",
        licence="MIT",
        checked=NAMED,
    ),
    published=(
        Published(
            model="Qwen2.5-Math-7B-Instruct",
            score=95.2,
            settings="zero-shot chain of thought, greedy",
            source="Qwen2.5-Math Technical Report (arXiv 2409.12122)",
        ),
    ),
    source="1,319 grade-school problems: openai/gsm8k, split test (Cobbe et al. 2021).",
)

MATH500 = Benchmark(
    name="math500",
    path="math500/test.jsonl",
    prompt_column="problem",
    answer_column="answer",
    reward="math_answer",
    instruction=BOXED,
    id_column="unique_id",
    problems=500,
    hub=HubDataset(
        id="HuggingFaceH4/MATH-500",
        revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        split="test",
        licence="not stated on the card; MATH itself is MIT",
        checked="a public record of its test.jsonl has the SHA-256 of the file that rlpost is tested with: "
        "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132",
    ),
    published=(Published("DeepSeek-R1-Distill-Qwen-7B", 92.8, R1_SETTINGS, R1_SOURCE),),
    source="500 problems of MATH: HuggingFaceH4/MATH-500 (Lightman et al. 2023).",
)

AIME24 = Benchmark(
    name="aime24",
    path="aime24/test.jsonl",
    prompt_column="problem",
    answer_column="answer",
    reward="math_answer",
    instruction=BOXED,
    id_column="id",
    problems=30,
    hub=HubDataset(
        id="HuggingFaceH4/aime_2024",
        revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        split="train",
        licence="not stated on the card; the problems are the Mathematical Association of America's",
        checked=NAMED,
    ),
    published=(Published("DeepSeek-R1-Distill-Qwen-7B", 55.5, R1_SETTINGS, R1_SOURCE),),
    source="30 problems of AIME I and II 2024; answers are integers from 0 to 999, such as 025.",
    remark="30 problems: even with many samples the 95 % interval is some 25 points wide.",
)

AIME25 = Benchmark(
    name="aime25",
    path="aime25/test.jsonl",
    prompt_column="problem",
    answer_column="answer",
    reward="math_answer",
    instruction=BOXED,
    id_column="id",
    problems=30,
    hub=HubDataset(
        id="math-ai/aime25",
        revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
        split="test",
        licence="Apache-2.0 by its card; the problems are the Mathematical Association of America's",
        checked=NAMED,
    ),
    published=(
        Published(
            model="DeepSeek-R1-Distill-Qwen-7B",
            score=39.0,
            settings="10 runs over all problems, standard error 1.25; the card names no sampling settings",
            source="mlfoundations-dev/DeepSeek-R1-Distill-Qwen-7B_eval_e3ef on the Hugging Face hub",
        ),
    ),
    source="30 problems of AIME I and II 2025; answers are integers from 0 to 999.",
    remark="30 problems: even with many samples the 95 % interval is some 25 points wide.",
)

AMC23 = Benchmark(
    name="amc23",
    path="amc23/test.jsonl",
    prompt_column="problem",
    answer_column="answer",
    reward="math_answer",
    instruction=BOXED,
    id_column="id",
    problems=40,
    hub=HubDataset(
        id="math-ai/amc23",
        revision="80815d37005feb82cd7f8fbc6901d5d3eff43057",
        split="test",
        licence="not stated on the card; the problems are the Mathematical Association of America's",
        checked=NAMED,
    ),
    convert=question_as_problem,
    published=(Published("DeepScaleR-1.5B-Preview", 73.6, DEEPSCALER_SETTINGS, DEEPSCALER_SOURCE),),
    source="40 problems of AMC 12 2023, changed to have one number as the answer, such as 27.0.",
    remark="Some reports use 83 problems of AMC 12 2022 and 2023 under a similar name.",
)

MINERVA = Benchmark(
    name="minerva",
    path="minerva/test.jsonl",
    prompt_column="problem",
    answer_column="answer",
    reward="math_answer",
    instruction=BOXED,
    problems=272,
    hub=HubDataset(
        id="math-ai/minervamath",
        revision="ee46ddc498933b1977577953250ca5c66be64f96",
        split="test",
        licence="not stated on the card; the problems are from MIT OpenCourseWare",
        checked=NAMED,
    ),
    convert=question_as_problem,
    published=(Published("DeepScaleR-1.5B-Preview", 30.2, DEEPSCALER_SETTINGS, DEEPSCALER_SOURCE),),
    source="272 problems of university courses in science: OCWCourses (Lewkowycz et al. 2022).",
    remark="Some graders allow numbers to be off by up to 1 %; math_answer does not, and scores lower there.",
)

OLYMPIADBENCH = Benchmark(
    name="olympiadbench",
    path="olympiadbench/test.jsonl",
    prompt_column="problem",
    answer_column="answer",
    reward="math_answer",
    instruction=BOXED,
    id_column="id",
    problems=674,
    hub=HubDataset(
        id="math-ai/olympiadbench",
        revision="4faaf1e6ec17d11a4218a9bf4c049ecaf954dd84",
        split="test",
        licence="not stated in this copy; Hothan/OlympiadBench is Apache-2.0",
        checked=NAMED,
    ),
    convert=olympiadbench,
    published=(Published("DeepScaleR-1.5B-Preview", 50.0, DEEPSCALER_SETTINGS, DEEPSCALER_SOURCE),),
    source="674 open-ended text-only competition problems in English: OE_TO_maths_en_COMP of OlympiadBench "
    "(He et al. 2024).",
    remark="As commonly reported, all answer types count: the column answer_type tells Numerical from "
    "Expression, Tuple and Interval. The tolerances in its column error are not applied.",
)

GPQA_DIAMOND = Benchmark(
    name="gpqa_diamond",
    path="gpqa_diamond/test.jsonl",
    prompt_column="problem",
    answer_column="answer",
    reward="multiple_choice",
    instruction=LETTER,
    id_column="id",
    problems=198,
    hub=HubDataset(
        id="Idavidrein/gpqa",
        revision="633f5ee89ab8ad4522a9f850766b73f62147ffdd",
        subset="gpqa_diamond",
        split="train",
        licence="CC BY 4.0, behind a form: its terms ask not to publish the questions, which "
        "generations.jsonl holds",
        checked=NAMED,
    ),
    convert=gpqa,
    published=(Published("DeepSeek-R1-Distill-Qwen-7B", 49.1, R1_SETTINGS, R1_SOURCE),),
    source="198 multiple-choice questions by experts: GPQA, subset diamond (Rein et al. 2023).",
    remark="Guessing scores 25 %. The order of the options follows from the question's text.",
)

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (GSM8K, MATH500, AIME24, AIME25, AMC23, MINERVA, OLYMPIADBENCH, GPQA_DIAMOND)
}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        UserError: there is none; the message lists all.
    """
    if name not in BENCHMARKS:
        raise UserError(
            f"unknown benchmark {name!r}",
            where="--benchmarks",
            needed=f"one or more of {', '.join(BENCHMARKS)}, or the path of a benchmark's .yaml file",
            remedy="for a file of your own, use --data with --prompt-column, --answer-column and --reward",
        )
    return BENCHMARKS[name]
