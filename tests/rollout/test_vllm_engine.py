"""The vLLM engine against the contract, against the torch engine, and when its processes fail."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from engine_contract import CONTRACT, Subject, finish, requests, tokens
from test_torch_engine import peaked, slow_processed_logprobs

from rlpost.config.schema import ModelConfig, TinyModelConfig, VLLMConfig
from rlpost.errors import ConfigError, EngineLostError, RolloutError, WeightTransferError
from rlpost.models import load_model, load_tokenizer
from rlpost.rollout import SampleRequest, SamplingSettings, TorchEngine, VLLMEngine
from rlpost.weights import WeightBundle, policy_tensors, verify_receipt

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
]


def model_config(*, tied: bool) -> ModelConfig:
    tiny = TinyModelConfig(
        hidden_size=32, layers=2, heads=1, intermediate_size=32, max_positions=320, tie_embeddings=tied
    )
    return ModelConfig(init="tiny", tiny=tiny, dtype="float32")


def bundle(version: int, seed: int, *, tied: bool = True) -> WeightBundle:
    return WeightBundle.of(version, policy_tensors(peaked(load_model(model_config(tied=tied)), seed)))


def start(*, tied: bool = True, threads: int | None = 1, **options: object) -> VLLMEngine:
    return VLLMEngine(
        model_config(tied=tied), VLLMConfig(kv_cache_gib=0.25, **options), slots=64, threads=threads
    )


@pytest.fixture(scope="module")
def shared():
    engine = start()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def untied():
    """Another engine; the last test that uses it ends it."""
    engine = start(tied=False)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared):
    """As good as new: version -1, but with weights to sample from."""
    shared.abort()
    shared.wake()
    shared.load_weights(bundle(-1, 0))
    return shared


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
def test_the_vllm_engine_keeps_the_contract(clause, engine):
    # On a CPU vLLM caches prefixes in blocks of 128 tokens.
    clause(Subject(engine, bundle, cached_prompt=280))


def assert_logprobs_agree(engine: VLLMEngine, *, tied: bool) -> None:
    """64 samples of the vLLM engine, before and after 20 updates, read by the torch engine."""
    config = model_config(tied=tied)
    reader = TorchEngine(load_model(config), load_tokenizer(config))
    wanted = requests(64, max_tokens=24)
    for version in range(21):
        sent = bundle(version, version, tied=tied)
        verify_receipt(sent, engine.load_weights(sent))
        if version not in (0, 20):
            continue
        reader.load_weights(sent)
        samples = engine.generate(wanted)
        sequences = [r.prompt_token_ids + s.token_ids for r, s in zip(wanted, samples, strict=True)]
        ours, theirs = engine.probe(sequences), reader.probe(sequences)
        for request, sample, a, b in zip(wanted, samples, ours, theirs, strict=True):
            assert a == pytest.approx(b, abs=1e-4)
            assert sample.logprobs == pytest.approx(b[len(request.prompt_token_ids) - 1 :], abs=1e-4)


def test_logprobs_are_the_torch_engines_before_and_after_updates_with_tied_embeddings(engine):
    assert_logprobs_agree(engine, tied=True)


def test_logprobs_are_the_torch_engines_before_and_after_updates_with_untied_embeddings(untied):
    with pytest.raises(RolloutError, match="has no weights"):
        untied.generate(requests())
    assert_logprobs_agree(untied, tied=False)


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(temperature=0.7, max_tokens=12),
        SamplingSettings(top_p=0.6, max_tokens=12),
        SamplingSettings(top_k=5, max_tokens=12),
        SamplingSettings(temperature=1.3, top_k=20, top_p=0.5, max_tokens=12),
    ],
)
def test_logprobs_are_of_the_processed_distribution(engine, settings):
    model = peaked(load_model(model_config(tied=True)), 0)
    wanted = [SampleRequest(f"r{i}", (70 + i, 90), i, settings) for i in range(8)]
    for request, sample in zip(wanted, engine.generate(wanted), strict=True):
        sequence = request.prompt_token_ids + sample.token_ids
        with torch.inference_mode():
            rows = model(input_ids=torch.tensor([sequence])).logits[0, 1:-1].tolist()
        expected = [
            slow_processed_logprobs(row, settings)[token]
            for row, token in zip(rows, sample.token_ids, strict=True)
        ]
        assert sample.logprobs == pytest.approx(expected, abs=1e-4)


def test_mixed_settings_in_one_batch_change_no_sample(engine):
    kinds = [{"temperature": 0.0}, {"top_k": 3}, {"stop": ("a", "zz")}, {"top_p": 0.4, "temperature": 2.0}]
    wanted = [r for k, kind in enumerate(kinds) for r in requests(6, max_tokens=5 + 4 * k, **kind)]
    wanted = [SampleRequest(f"m{i}", *(r.prompt_token_ids, r.seed, r.settings)) for i, r in enumerate(wanted)]
    together = tokens(engine.generate(wanted))
    assert tokens([engine.generate([request])[0] for request in wanted]) == together


def test_requests_that_the_model_cannot_serve_are_refused_by_name(engine):
    with pytest.raises(ConfigError, match="at this temperature"):
        engine.generate(requests(1, temperature=0.001))
    for prompt, error, message in (
        ((), RolloutError, "empty prompt"),
        ((261,), RolloutError, "does not have"),
        ((65,) * 314, ConfigError, "do not fit into the model's positions"),
    ):
        with pytest.raises(error, match=message):
            engine.generate([SampleRequest("r", prompt, 0, SamplingSettings(max_tokens=9))])
    with pytest.raises(RolloutError, match="at most 319"):
        engine.probe([(65,) * 320])
    assert engine.probe([(65,), (65, 66)])[0] == ()


def test_a_tensor_of_another_shape_is_named_and_nothing_is_sent(engine):
    tensors = dict(bundle(1, 1).tensors)
    tensors["model.norm.weight"] = torch.ones(16)
    before = tokens(engine.generate(requests()))
    with pytest.raises(WeightTransferError, match=r"model\.norm\.weight"):
        engine.load_weights(WeightBundle.of(1, tensors))
    assert tokens(engine.generate(requests())) == before


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    """A model with more embeddings than the tokenizer has tokens, and two ids that end a response."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("padded")
    architecture = load_model(model_config(tied=False)).config
    architecture.vocab_size = 299
    model = peaked(AutoModelForCausalLM.from_config(architecture), 0)
    model.generation_config.eos_token_id = [2, 7]
    model.save_pretrained(folder)
    load_tokenizer(model_config(tied=False)).save_pretrained(folder)
    return ModelConfig(init=str(folder), dtype="float32")


def test_a_padded_vocabulary_is_never_sampled_and_every_eos_id_ends_a_response(padded):
    engine = VLLMEngine(padded, VLLMConfig(max_model_len=64, kv_cache_gib=0.25), slots=64, threads=1)
    try:
        model, known = load_model(padded), len(load_tokenizer(padded))
        assert known < 299
        engine.load_weights(WeightBundle.of(0, policy_tensors(model)))
        settings = SamplingSettings(temperature=2.0, max_tokens=30)
        wanted = [SampleRequest(f"r{i}", (70 + i,), i, settings) for i in range(64)]
        samples = engine.generate(wanted)
        for request, sample in zip(wanted[:8], samples, strict=False):
            sequence = torch.tensor([request.prompt_token_ids + sample.token_ids])
            with torch.inference_mode():
                rows = (model(input_ids=sequence).logits[0, :-1, :known] / 2).log_softmax(-1)
            expected = rows.gather(-1, sequence[0, 1:, None])[:, 0].tolist()
            assert sample.logprobs == pytest.approx(expected, abs=1e-4)
        assert max(token for sample in samples for token in sample.token_ids) < known
        assert {s.token_ids[-1] for s in samples if s.finish_reason == "eos"} == {2, 7}
        assert not any({2, 7} & set(sample.token_ids[:-1]) for sample in samples)
        with pytest.raises(ConfigError, match="do not fit"):
            engine.generate([SampleRequest("long", (70,) * 60, 0, settings)])
    finally:
        engine.close()


def wait_until(condition, seconds: float = 30.0) -> bool:
    """Look until `condition()` holds; False when it does not within `seconds`."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def processes_below(pid: int) -> set[int]:
    """The ids of all descendants of a process."""
    direct: set[int] = set()
    with suppress(OSError):  # it has ended
        direct.update(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return direct.union(*(processes_below(p) for p in direct)) if direct else set()


def gone(pid: int) -> bool:
    """Whether a process ended; one that nobody has waited for yet counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_an_engine_that_stands_still_fails_the_call_and_leaves_no_process(untied, monkeypatch):
    engine = untied
    engine_process = engine.processes()[0]
    below = processes_below(engine_process)
    engine.load_weights(bundle(0, 0, tied=False))
    # Only now is the deadline short: on a busy machine a transfer may take longer.
    monkeypatch.setattr(engine, "_options", engine._options.model_copy(update={"stall_deadline_s": 3.0}))
    engine.add(requests())
    os.kill(engine_process, signal.SIGSTOP)
    with pytest.raises(EngineLostError, match="made no progress"):
        finish(engine)
    engine.abort()
    assert engine.unfinished == 0
    with pytest.raises(EngineLostError, match="made no progress"):
        engine.generate(requests())
    with pytest.raises(EngineLostError, match="made no progress"):
        engine.check()
    assert wait_until(lambda: all(gone(p) for p in (engine_process, *below)))


def test_an_engine_leaves_no_name_in_shared_memory(shared):
    def named() -> list[str]:
        pids = [pid for process in shared.processes() for pid in (process, *processes_below(process))]
        mapped = []
        for pid in pids:
            with suppress(OSError):  # it has ended
                mapped += re.findall(r"/dev/shm/(\S+)", Path(f"/proc/{pid}/maps").read_text())
        return [name for name in mapped if Path("/dev/shm", name).exists()]

    assert wait_until(lambda: named() == []), named()


OWNER = """\
import os, sys, time
sys.path.insert(0, sys.argv[1])
from test_vllm_engine import start

if __name__ == "__main__":
    waits = sys.argv[2] == "wait"
    engine = start(threads=None if waits else 1)
    print(engine.processes()[0], flush=True)
    if waits:
        time.sleep(600)
"""


@pytest.mark.parametrize("end", ["exit", "wait"], ids=["exits", "is_killed"])
def test_no_process_of_the_engine_outlives_its_owner(end, tmp_path):
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    command = [sys.executable, script, str(Path(__file__).parent), end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        try:
            engine_process = int(owner.stdout.readline())
            below = processes_below(engine_process)
            # Where vLLM is to bind threads itself, the model has a process of its own.
            assert bool(below) == (end == "wait")
            if end == "exit":
                assert owner.wait(timeout=60) == 0
        finally:
            owner.kill()
    assert wait_until(lambda: all(gone(p) for p in (engine_process, *below)))
