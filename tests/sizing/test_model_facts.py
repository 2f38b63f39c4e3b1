import pytest
from small_models import FAMILIES, build

from rlpost.config.schema import LoraConfig, ModelConfig
from rlpost.errors import ConfigError
from rlpost.models import load_model
from rlpost.sizing.model_facts import facts_of, model_facts
from rlpost.sizing.published import PUBLISHED
from rlpost.sizing.rollout import response_bytes, token_bytes

# By hand: embeddings 500 x 64 = 32,000; the last norm 64; three layers of
QWEN2_LAYER = 2 * (64 * 64 + 64) + 2 * (64 * 32 + 32) - 64 + 3 * 64 * 176 + 2 * 64
QWEN3_LAYER = 2 * 64 * 96 + 2 * 64 * 48 + 2 * 24 + 3 * 64 * 176 + 2 * 64
MOE_LAYER = 2 * 64 * 96 + 2 * 64 * 48 + 2 * 24 + 64 * 8 + 8 * 3 * 64 * 48 + 2 * 64
LLAMA_LAYER = 2 * 64 * 96 + 2 * 64 * 48 + 3 * 64 * 176 + 2 * 64
GEMMA_LAYER = LLAMA_LAYER + 2 * 64
MISTRAL_LAYER = 4 * 64 * 64 + 3 * 64 * 176 + 2 * 64
TOTALS = {
    "qwen2": 32_000 + 64 + 3 * QWEN2_LAYER,
    "qwen3": 32_000 + 64 + 3 * QWEN3_LAYER,
    "qwen3_moe": 2 * 32_000 + 64 + 3 * MOE_LAYER,
    "llama": 2 * 32_000 + 64 + 3 * LLAMA_LAYER,
    "gemma2": 32_000 + 64 + 3 * GEMMA_LAYER,
    "mistral": 2 * 32_000 + 64 + 3 * MISTRAL_LAYER,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_counted_once_whether_tied_or_not(family):
    facts = facts_of(build(family, "meta"), ModelConfig(init=family), "")
    assert facts.total == facts.trained == facts.base == TOTALS[family]
    assert facts.tied == FAMILIES[family]["tie_word_embeddings"]
    assert facts.largest == (8 * 2 * 48 * 64 if family == "qwen3_moe" else 32_000)
    assert sum(p.elements for p in facts.parameters if p.vector) == sum(
        p.numel() for p in build(family, "meta").parameters() if p.ndim < 2
    )


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-7B", "Qwen/Qwen3-4B", "Qwen/Qwen3-30B-A3B-Thinking-2507"])
def test_a_published_configuration_gives_the_published_number_of_parameters(name):
    facts = model_facts(ModelConfig(init=name), hub=False)
    assert facts.total == PUBLISHED[name]
    assert "published" in facts.source


def test_an_adapter_is_counted_beside_what_it_is_trained_with():
    lora = LoraConfig(rank=4, target_modules=["q_proj", "down_proj"])
    facts = facts_of(build("llama", "meta"), ModelConfig(init="x", lora=lora), "")
    assert facts.trained == 3 * 4 * ((64 + 96) + (176 + 64))
    assert facts.base == TOTALS["llama"]
    everywhere = facts_of(build("llama", "meta"), ModelConfig(init="x", lora=LoraConfig(rank=1)), "")
    # q, k, v, o, gate, up, down; the output layer has none.
    one = (64 + 96) + 2 * (64 + 48) + (96 + 64) + 2 * (64 + 176) + (176 + 64)
    assert everywhere.trained == 3 * one


def test_the_tiny_model_is_that_which_is_trained():
    config = ModelConfig(init="tiny")
    facts = model_facts(config, hub=False)
    model = load_model(config)
    assert facts.total == sum(p.numel() for p in model.parameters()) == 1_084_672
    assert facts.buffer_bytes == sum(b.nbytes for b in model.buffers())


def test_keys_and_values_of_a_token_are_exact():
    facts = model_facts(ModelConfig(init="Qwen/Qwen2.5-7B"), hub=False)
    # 28 layers x 4 heads x 128 x keys and values x 2 bytes
    assert token_bytes(facts, 2) == 57_344
    assert token_bytes(facts, 2, tensor_parallel=4) == 57_344 // 4
    assert token_bytes(facts, 2, tensor_parallel=8) == 57_344 // 4


def test_layers_with_a_sliding_window_keep_no_more_than_that():
    facts = facts_of(build("gemma2", "meta"), ModelConfig(init="x"), "")
    assert (facts.window, facts.windowed_layers) == (64, 2)
    layer = 2 * 2 * 24 * 4
    assert response_bytes(facts, 100, 4) == layer * (2 * 64 + 100)


def test_a_model_that_nobody_knows_is_one_clear_error():
    with pytest.raises(ConfigError, match="its memory cannot be planned") as error:
        model_facts(ModelConfig(init="nobody/unknown"), hub=False)
    assert "nobody/unknown" in str(error.value) and "config.json" in str(error.value)
