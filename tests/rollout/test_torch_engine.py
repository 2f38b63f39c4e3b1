import gc
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_contract import CONTRACT, PROMPTS, Subject, requests, tokens

from rlpost.config.schema import ModelConfig, TinyModelConfig
from rlpost.errors import ConfigError, RolloutError, WeightTransferError
from rlpost.models import load_model, load_tokenizer
from rlpost.rollout import SampleRequest, SamplingSettings, TorchEngine
from rlpost.rollout.sampling import uniform
from rlpost.weights import WeightBundle, policy_tensors

CONFIG = ModelConfig(
    init="tiny",
    tiny=TinyModelConfig(hidden_size=32, layers=2, heads=4, intermediate_size=32, max_positions=96),
)
TOKENIZER = load_tokenizer(CONFIG)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def peaked(model, seed=0, std=0.25):
    """Weights far from uniform, so that a wrong mask or position shows in the log-probs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=std, generator=generator)
    return model


def engine(slots=64, seed=0, config=CONFIG):
    return TorchEngine(peaked(load_model(config), seed), TOKENIZER, slots=slots)


def bundle(version, seed):
    return WeightBundle.of(version, policy_tensors(peaked(load_model(CONFIG), seed)))


def ragged_requests(n=40):
    """Prompts and limits of many lengths, some prompts shared, settings mixed."""
    kinds = [
        SamplingSettings(),
        SamplingSettings(temperature=0.7, top_p=0.8),
        SamplingSettings(temperature=0.0),
        SamplingSettings(temperature=1.5, top_k=5),
        SamplingSettings(top_k=20, top_p=0.5),
        SamplingSettings(stop=("a", "zz")),
    ]
    return [
        SampleRequest(
            f"r{i}",
            tuple(5 + (7 * j * (i // 3) + i // 3) % 250 for j in range(1 + (i // 3) % 17)),
            i,
            replace(kinds[i % 6], max_tokens=1 + 5 * i % 43),
        )
        for i in range(n)
    ]


@pytest.mark.parametrize(("slots", "many"), [(2, 12), (64, 80)])
@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
def test_the_torch_engine_keeps_the_contract(clause, slots, many):
    clause(Subject(engine(slots), bundle, many=many))


def test_slot_count_order_and_company_change_no_sample():
    wanted = ragged_requests()
    reference = {s.id: s for s in engine(64).generate(wanted)}
    assert len({len(s.token_ids) for s in reference.values()}) > 10
    for slots, order in ((1, wanted), (3, wanted[::-1]), (7, wanted[::2] + wanted[1::2]), (64, wanted[5:20])):
        for sample in engine(slots).generate(order):
            assert sample.token_ids == reference[sample.id].token_ids
            assert sample.finish_reason == reference[sample.id].finish_reason
            assert sample.logprobs == pytest.approx(reference[sample.id].logprobs, abs=1e-4)


def slow_processed_logprobs(logits, settings):
    """Temperature, top-k, top-p in plain Python over one row of logits."""
    if settings.temperature == 0:
        return log_softmax(logits)
    scores = [x / settings.temperature for x in logits]
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    if settings.top_k:
        ranked = ranked[: settings.top_k]
    mass = dict(zip(ranked, (math.exp(x) for x in log_softmax([scores[i] for i in ranked])), strict=True))
    kept, total = [], 0.0
    for i in ranked:
        if settings.top_p == 1 or total < settings.top_p:
            kept.append(i)
        total += mass[i]
    inside = dict(zip(kept, log_softmax([scores[i] for i in kept]), strict=True))
    return [inside.get(i, -math.inf) for i in range(len(scores))]


def slow_draw(logprobs, request, position):
    """The first token whose cumulative probability exceeds the uniform number of (seed, position)."""
    if request.settings.temperature == 0:
        return logprobs.index(max(logprobs))
    u = uniform(np.array([request.seed], np.uint64), np.array([position]))[0]
    total = 0.0
    for token, logprob in enumerate(logprobs):
        total += math.exp(logprob)
        if total > u:
            return token
    raise AssertionError("the probabilities do not reach the uniform number")


def log_softmax(scores):
    top = max(scores)
    norm = top + math.log(sum(math.exp(x - top) for x in scores))
    return [x - norm for x in scores]


def test_tokens_and_logprobs_equal_an_independent_full_forward_for_every_setting():
    subject, model = engine(5), peaked(load_model(CONFIG))
    wanted = ragged_requests()
    for request, sample in zip(wanted, subject.generate(wanted), strict=True):
        ids = torch.tensor([request.prompt_token_ids + sample.token_ids])
        with torch.no_grad():
            logits = model(ids).logits[0, len(request.prompt_token_ids) - 1 : -1].tolist()
        for position, (row, token) in enumerate(zip(logits, sample.token_ids, strict=True)):
            expected = slow_processed_logprobs(row, request.settings)
            assert sample.logprobs[position] == pytest.approx(expected[token], abs=1e-4)
            assert token == slow_draw(expected, request, position)


def test_samples_follow_the_models_distribution():
    model = peaked(load_model(CONFIG))
    prompt = PROMPTS[0]
    wanted = [SampleRequest(str(i), prompt, i * 7919, SamplingSettings(max_tokens=1)) for i in range(4000)]
    drawn = [s.token_ids[0] for s in TorchEngine(model, TOKENIZER, slots=500).generate(wanted)]
    with torch.no_grad():
        p = model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1)
    common = (p > 0.005).nonzero()[:, 0].tolist()
    observed = [drawn.count(t) for t in common]
    expected = [4000 * float(p[t]) for t in common]
    observed.append(4000 - sum(observed))
    expected.append(4000 - sum(expected))
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    freedom = len(common)
    assert freedom > 20
    # Six standard deviations of the chi-square distribution; the seeds are fixed.
    assert statistic < freedom + 6 * math.sqrt(2 * freedom)


def test_every_configured_eos_id_ends_a_response():
    model = peaked(load_model(CONFIG))
    model.generation_config.eos_token_id = [90, 91, 92, 93, 94]
    samples = TorchEngine(model, TOKENIZER).generate(requests(60, max_tokens=80))
    ended = [s for s in samples if s.finish_reason == "eos"]
    assert len({s.token_ids[-1] for s in ended}) > 2
    for sample in samples:
        endings = [i for i, t in enumerate(sample.token_ids) if t in (2, 90, 91, 92, 93, 94)]
        assert endings == ([len(sample.token_ids) - 1] if sample.finish_reason == "eos" else [])


def test_text_has_no_special_tokens():
    for sample in engine().generate(requests(30, max_tokens=40)):
        visible = [t for t in sample.token_ids if t >= 5]
        assert sample.text == TOKENIZER.decode(visible)


def test_padded_vocabulary_entries_are_never_sampled_and_carry_no_mass():
    from transformers import Qwen2ForCausalLM

    config = load_model(CONFIG).config
    config.vocab_size = 320
    model = peaked(Qwen2ForCausalLM(config).eval())
    samples = TorchEngine(model, TOKENIZER).generate(requests(40, max_tokens=20))
    assert max(t for s in samples for t in s.token_ids) <= 260
    with torch.no_grad():
        logits = model(torch.tensor([PROMPTS[0]])).logits[0, -1, :261]
    first = samples[0]
    assert first.logprobs[0] == pytest.approx(float(logits.log_softmax(-1)[first.token_ids[0]]), abs=1e-4)


@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        (SampleRequest("p", (), 0, SamplingSettings()), RolloutError, ["empty prompt", "'p'"]),
        (
            SampleRequest("p", (5, 999), 0, SamplingSettings(max_tokens=1)),
            RolloutError,
            ["5 to 999", "0 to 260"],
        ),
        (
            SampleRequest("p", (5,) * 40, 0, SamplingSettings(max_tokens=57)),
            ConfigError,
            [
                "40 prompt tokens + 57",
                "= 97",
                "at most 96",
                "rollout.max_response_tokens",
                "model.tiny.max_positions",
            ],
        ),
        (
            SampleRequest("p", (5,), 0, SamplingSettings(top_p=0.0, max_tokens=1)),
            ConfigError,
            ["top_p", "0.0"],
        ),
        (SampleRequest("p", (5,), 0, SamplingSettings(stop=("",), max_tokens=1)), ConfigError, ["stop"]),
        (SampleRequest("p", (5,), 0, SamplingSettings(max_tokens=0)), ConfigError, ["max_tokens"]),
        (
            SampleRequest("p", (5,), 0, SamplingSettings(temperature=-1.0)),
            ConfigError,
            ["temperature", "-1.0"],
        ),
    ],
)
def test_requests_that_cannot_be_served_are_refused_before_sampling(request_, kind, words):
    with pytest.raises(kind) as caught:
        engine().generate([request_])
    for word in words:
        assert word in str(caught.value)


def test_a_request_that_exactly_fits_the_positions_is_served():
    settings = SamplingSettings(max_tokens=56)
    samples = engine().generate([SampleRequest(str(i), (5,) * 40, i, settings) for i in range(8)])
    assert any(len(s.token_ids) == 56 for s in samples)


def test_non_finite_weights_are_reported_not_sampled_from():
    subject = engine()
    broken = {k: v.clone() for k, v in bundle(1, 1).tensors.items()}
    broken["model.norm.weight"][3] = math.nan
    subject.load_weights(WeightBundle.of(1, broken))
    with pytest.raises(RolloutError, match="not finite"):
        subject.generate(requests(3))


def test_a_tensor_of_another_dtype_or_shape_is_refused_and_nothing_is_copied():
    subject = engine()
    subject.load_weights(bundle(0, 1))
    before = tokens(subject.generate(requests()))
    tensors = dict(bundle(1, 2).tensors)
    name = "model.norm.weight"
    for wrong in (tensors[name].double(), tensors[name][:8]):
        with pytest.raises(WeightTransferError, match=name):
            subject.load_weights(WeightBundle.of(1, {**tensors, name: wrong}))
    assert subject.version == 0
    assert tokens(subject.generate(requests())) == before


class CountingEngine(TorchEngine):
    """Notes the shape of every forward pass."""

    shapes = ()

    def next_logits(self, token_BT, position_BT, cache, mask=None):
        self.shapes = (*self.shapes, tuple(token_BT.shape))
        return super().next_logits(token_BT, position_BT, cache, mask)


def counted(wanted, slots):
    subject = CountingEngine(peaked(load_model(CONFIG)), TOKENIZER, slots=slots)
    subject.shapes = ()
    samples = subject.generate(wanted)
    decoded = [b for b, t in subject.shapes if t == 1]
    prefilled = [shape for shape in subject.shapes if shape[1] > 1]
    return samples, decoded, prefilled


def test_slots_stay_full_while_requests_wait_and_no_finished_row_is_computed():
    wanted = [replace(r, prompt_token_ids=(*r.prompt_token_ids, 7, 7)) for r in ragged_requests(50)]
    samples, decoded, _ = counted(wanted, slots=8)
    assert sum(decoded) == sum(len(s.token_ids) for s in samples)
    assert decoded == sorted(decoded, reverse=True)
    assert decoded[0] == 8 and decoded[-1] >= 1
    assert len(decoded) - decoded.count(8) <= max(len(s.token_ids) for s in samples)


def test_requests_that_may_run_longest_start_first():
    wanted = [SampleRequest(str(k), PROMPTS[0], k, SamplingSettings(max_tokens=1)) for k in range(20)]
    wanted.append(SampleRequest("long", PROMPTS[2], 3, SamplingSettings(max_tokens=20)))
    samples, decoded, _ = counted(wanted, slots=2)
    assert len(samples[-1].token_ids) == 20
    assert len(decoded) == 20


def test_the_keys_and_values_of_a_batch_are_gone_when_it_is_over_without_waiting_for_the_garbage_collector():
    made = engine(slots=4)
    gc.disable()
    try:
        made.add(ragged_requests(8))
        made.step()
        running = weakref.ref(made._decoder)
        while made.unfinished:
            made.step()
        assert running() is None
        made.add(ragged_requests(8))
        made.step()
        running = weakref.ref(made._decoder)
        made.abort()
        assert running() is None
    finally:
        gc.enable()


def test_the_samples_of_one_prompt_share_one_prefill():
    settings = SamplingSettings(max_tokens=5)
    wanted = [SampleRequest(f"{p}{k}", PROMPTS[p], k, settings) for k in range(9) for p in range(3)]
    _, _, prefilled = counted(wanted, slots=4)
    assert prefilled == [(3, 6)]


def test_storage_growth_and_small_prefills_change_no_sample(monkeypatch):
    wanted = ragged_requests()
    reference = tokens(engine(6).generate(wanted))
    monkeypatch.setattr("rlpost.rollout.decoder.FIRST_COLUMNS", 1)
    monkeypatch.setattr("rlpost.rollout.waiting.PREFILL_TOKENS", 20)
    short = [replace(r, prompt_token_ids=r.prompt_token_ids[:2]) for r in wanted]
    _, _, prefilled = counted(wanted, slots=6)
    assert len(prefilled) > 5 and all(b == 1 or b * (t + 1) <= 20 for b, t in prefilled)
    assert tokens(engine(6).generate(wanted)) == reference
    grown = tokens(engine(6).generate(short))
    monkeypatch.setattr("rlpost.rollout.decoder.FIRST_COLUMNS", 64)
    assert tokens(engine(6).generate(short)) == grown


def test_an_engine_in_bfloat16_samples_close_to_its_own_full_forward():
    subject = engine(3, config=CONFIG.model_copy(update={"dtype": "bfloat16"}))
    wanted = [replace(r, settings=SamplingSettings(max_tokens=12)) for r in ragged_requests(12)]
    gaps = []
    for request, sample in zip(wanted, subject.generate(wanted), strict=True):
        probed = subject.probe([request.prompt_token_ids + sample.token_ids])[0]
        pairs = zip(sample.logprobs, probed[len(request.prompt_token_ids) - 1 :], strict=True)
        gaps += [abs(a - b) for a, b in pairs]
    assert sum(gaps) / len(gaps) < 0.1


def test_an_engine_without_slots_is_refused():
    with pytest.raises(ConfigError, match=r"rollout\.slots"):
        engine(slots=0)


def test_a_copy_that_breaks_off_leaves_no_version():
    subject = engine()
    subject.load_weights(bundle(0, 1))
    sent = bundle(1, 2)
    last = list(sent.tensors)[-1]
    absent = {**sent.tensors, last: sent.tensors[last].to("meta")}
    with pytest.raises(NotImplementedError):
        subject.load_weights(WeightBundle(1, absent, sent.checksums))
    assert subject.version == -1


def test_tied_weights_are_sent_once_and_reach_the_head():
    subject, sent = engine(), bundle(0, 1)
    receipt = subject.load_weights(sent)
    assert "lm_head.weight" not in receipt.checksums
    assert subject.probe([PROMPTS[2]])[0] == pytest.approx(engine(seed=1).probe([PROMPTS[2]])[0], abs=1e-6)


def build(name, **extra):
    import transformers

    sizes = {
        "vocab_size": 261,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = getattr(transformers, f"{name}Config")(**{**sizes, **extra})
    head = "LMHeadModel" if name == "GPT2" else "ForCausalLM"
    return peaked(getattr(transformers, name + head)(config).eval())


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "GPT2", "OPT"])
def test_other_architectures_sample_with_the_logprobs_of_their_full_forward(name):
    subject = TorchEngine(build(name), TOKENIZER, slots=3)
    wanted = [replace(r, settings=SamplingSettings(max_tokens=12)) for r in ragged_requests(12)]
    samples = subject.generate(wanted)
    for request, sample in zip(wanted, samples, strict=True):
        probed = subject.probe([request.prompt_token_ids + sample.token_ids])[0]
        assert sample.logprobs == pytest.approx(probed[len(request.prompt_token_ids) - 1 :], abs=1e-3)


@pytest.mark.parametrize(
    ("name", "extra", "words"),
    [
        ("Mistral", {"sliding_window": 8}, ["'mistral'", "sliding window of 8"]),
        (
            "Qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            ["'qwen2'", "sliding_attention"],
        ),
    ],
)
def test_models_without_full_attention_are_refused_by_type(name, extra, words):
    with pytest.raises(ConfigError) as caught:
        TorchEngine(build(name, **extra), TOKENIZER)
    for word in words:
        assert word in str(caught.value)


def test_a_model_that_ignores_positions_is_noticed_by_its_log_probs():
    model = build("Qwen2")
    forward = model.forward

    def careless(input_ids, position_ids=None, **kwargs):
        return forward(input_ids, position_ids=None if position_ids is None else position_ids * 0, **kwargs)

    model.forward = careless
    with pytest.raises(ConfigError, match="'qwen2' wrongly"):
        TorchEngine(model, TOKENIZER)


@pytest.mark.parametrize("small_prefills", [False, True])
def test_responses_go_on_under_new_weights_with_the_same_random_stream(small_prefills, monkeypatch):
    if small_prefills:
        monkeypatch.setattr("rlpost.rollout.waiting.PREFILL_TOKENS", 20)
    subject, models = engine(7), {v: peaked(load_model(CONFIG), seed=v) for v in range(4)}
    subject.load_weights(bundle(0, 0))
    wanted, done = ragged_requests(), {}
    subject.add(wanted)
    for version in (1, 2, 3):
        for _ in range(9):
            done |= {s.id: s for s in subject.step()}
        subject.load_weights(bundle(version, version))
    while subject.unfinished:
        done |= {s.id: s for s in subject.step()}
    assert sum(len(set(sample.versions)) > 1 for sample in done.values()) > 4
    for request in wanted:
        sample, start = done[request.id], len(request.prompt_token_ids) - 1
        ids = torch.tensor([request.prompt_token_ids + sample.token_ids])
        with torch.no_grad():
            logits = {v: models[v](ids).logits[0, start:-1].tolist() for v in set(sample.versions)}
        for position, (token, version) in enumerate(zip(sample.token_ids, sample.versions, strict=True)):
            expected = slow_processed_logprobs(logits[version][position], request.settings)
            assert sample.logprobs[position] == pytest.approx(expected[token], abs=1e-4)
            assert token == slow_draw(expected, request, position)


def test_a_sleeping_engines_model_is_in_the_hosts_memory_and_comes_back_whole():
    subject = engine()
    subject.load_weights(bundle(0, 1))
    before = subject.probe([PROMPTS[2]])
    subject.sleep()
    subject.wake()
    receipt = subject.load_weights(bundle(1, 1))
    assert receipt.version == subject.version == 1
    assert subject.probe([PROMPTS[2]]) == before
