"""Evaluation: sample problems, keep every response, report numbers with error bars, grade again.

Importing this folder needs torch alone; transformers and datasets load when a model is evaluated.
"""

from rlpost.evaluation.benchmark import Benchmark
from rlpost.evaluation.benchmark_file import load_benchmark
from rlpost.evaluation.compare import Comparison, compare_pair, compare_results
from rlpost.evaluation.evaluate import EvaluationProgress, EvaluationSettings, evaluate
from rlpost.evaluation.intervals import Estimate, estimate
from rlpost.evaluation.library import BENCHMARKS, find_benchmark
from rlpost.evaluation.majority import majority_at_k
from rlpost.evaluation.manifest import checksum_of_weights, evaluation_manifest
from rlpost.evaluation.paired import PairedTest, paired_test
from rlpost.evaluation.regrade import RegradeReport, regrade
from rlpost.evaluation.results import EvaluationResult, load_result
from rlpost.evaluation.sample_source import SamplerSource, SampleSource
from rlpost.evaluation.statistics import average_at_k, pass_at_k
from rlpost.evaluation.tables import comparison_table, results_table

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Comparison",
    "Estimate",
    "EvaluationProgress",
    "EvaluationResult",
    "EvaluationSettings",
    "PairedTest",
    "RegradeReport",
    "SampleSource",
    "SamplerSource",
    "average_at_k",
    "checksum_of_weights",
    "compare_pair",
    "compare_results",
    "comparison_table",
    "estimate",
    "evaluate",
    "evaluation_manifest",
    "find_benchmark",
    "load_benchmark",
    "load_result",
    "majority_at_k",
    "paired_test",
    "pass_at_k",
    "regrade",
    "results_table",
]
