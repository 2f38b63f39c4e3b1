import pytest

from rlpost.models.tokenizer import build_tiny_tokenizer
from rlpost.rollout.stop import StopWatch, TextView

TOKENIZER = build_tiny_tokenizer()
VIEW = TextView(TOKENIZER)


def ids(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


def run(stop, token_ids):
    """(the number of tokens pushed when the watch spoke or None, what it says at the end)."""
    watch = StopWatch(stop, VIEW)
    for n, token in enumerate(token_ids, start=1):
        if watch.push(token):
            return n, watch.finish()
    return None, watch.finish()


@pytest.mark.parametrize(
    ("stop", "text", "tokens", "before"),
    [
        (("END",), "one END two", 7, "one "),
        (("\n\n", "#"), "a#b\n\n", 2, "a"),
        (("bc", "abc"), "xabc", 4, "x"),
        (("é",), "caffé!", 6, "caff"),
        (("🙂",), "x🙂y", 5, "x"),
        (("a ",), "xa y", 3, "x"),
        (("ü🙂",), "xü🙂y", 7, "x"),
    ],
)
def test_the_token_that_completes_a_stop_string_ends_the_response(stop, text, tokens, before):
    assert run(stop, ids(text)) == (tokens, (tokens, before))


def test_half_a_character_is_no_match_and_no_stop_is_none():
    assert run(("🙂",), ids("x🙂")[:-1]) == (None, None)
    assert run(("zz",), ids("z z")) == (None, None)


def test_special_tokens_between_the_parts_do_not_hide_a_stop_string():
    sequence = [*ids("xa"), *[3] * 40, *ids("b")]
    assert run(("ab",), sequence) == (43, (43, "x"))


def test_a_stop_string_far_back_in_a_long_response_is_found_once():
    assert run(("stop",), ids("y" * 500 + "stop" + "y" * 50)) == (504, (504, "y" * 500))


def test_a_special_tokens_text_stops_at_that_token():
    assert run(("<user>",), [*ids("hello"), 3, *ids("more")]) == (6, (6, "hello"))
    assert run(("<user>",), ids("<user")) == (None, None)


def test_what_the_window_overlooked_is_cut_at_the_end():
    watch = StopWatch(("cd",), VIEW)
    watch._token_ids = ids("abcdef")
    assert watch.finish() == (4, "ab")


def test_a_space_that_a_lone_token_does_not_show_still_stops():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"▁a": 0, "▁b": 1, "<unk>": 2}, unk_token="<unk>"))
    words.decoder = decoders.Metaspace()
    view = TextView(PreTrainedTokenizerFast(tokenizer_object=words))
    assert (view([0, 1]), view.token(1)) == ("a b", "b")
    watch = StopWatch((" ",), view)
    assert [watch.push(0), watch.push(1)] == [False, True]
    assert watch.finish() == (2, "a")
