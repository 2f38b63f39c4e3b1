import pytest
from evaluation_parts import VERIFIER, SeededEngine, make_prompts

from rlpost.config.schema import RewardConfig, ScoringConfig
from rlpost.evaluation import EvaluationSettings, evaluate
from rlpost.evaluation.manifest import grading_manifest
from rlpost.rollout.engine import SamplingSettings


@pytest.fixture(scope="session")
def verifier(tmp_path_factory):
    path = tmp_path_factory.mktemp("verifier") / "boxed_digit.py"
    path.write_text(VERIFIER)
    return path


@pytest.fixture(scope="session")
def scoring():
    return ScoringConfig(workers=1)


@pytest.fixture(scope="session")
def scorer(verifier, scoring):
    from rlpost.scoring import Scorer

    with Scorer([RewardConfig(function=str(verifier))], scoring) as scorer:
        yield scorer


@pytest.fixture
def run(scorer, scoring, verifier, tmp_path):
    """Evaluates with defaults of which a test changes some by name."""

    def evaluate_with(
        engine=None,
        prompts=None,
        output=tmp_path / "out",
        reward=verifier,
        samples=4,
        temperature=1.0,
        max_failure_share=0.05,
        max_prompt_tokens=None,
        on_progress=None,
    ):
        manifest = {
            "model": {"init": "seeded", "version": 7},
            "grading": grading_manifest([RewardConfig(function=str(reward))], scoring),
        }
        settings = EvaluationSettings(
            samples, SamplingSettings(temperature), 0, max_failure_share, max_prompt_tokens
        )
        problems = make_prompts() if prompts is None else prompts
        source = engine or SeededEngine()
        return evaluate(problems, source, scorer, settings, output, manifest, on_progress)

    return evaluate_with
