"""The reward protocol: three signatures, told apart by parameter names, behind one call.

    native   def reward(completion, answer, ...)       `completion`, `prompt`, the dataset's columns by name
    TRL      def reward(completions, **kwargs)         lists of one; `prompts` and columns as lists too
    verl     def compute_score(data_source, solution_str, ground_truth, extra_info=None)

A native function returns a number, a bool, a RewardResult, or a dict with `score`; in the dict, other
numbers are reported as parts, and `{"score": 0.0, "outcome": "unparseable"}` says that the response holds
no answer. A function that cannot score a response raises: the sample then fails and is counted, it is never
a zero. All may be `async def`.

Beside the function, its file may define three hooks: `selfcheck()` returns `[(arguments, expected score),
...]`, `gold_completion(answer=...)` a response that must score 1.0 (without it: the answer itself), and
`warm_up()` is called once per worker process, before the first deadline runs.

When the row's `prompt` is a list of chat messages, a TRL function receives messages, as in TRL: `prompts`
is a list of one conversation and `completions` is `[[{"role": "assistant", "content": ...}]]`. Otherwise
both hold strings. A verl function's `ground_truth` is the column of that name, else
`reward_model["ground_truth"]`, else `answer`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from rlpost.errors import RewardError
from rlpost.scoring.reference import default_name, resolve, user_traceback
from rlpost.scoring.verdict import Verdict, failure, read_return

if TYPE_CHECKING:
    from rlpost.config.schema import RewardConfig

Form = Literal["native", "trl", "verl"]
GROUND_TRUTH = ("ground_truth", "reward_model", "answer")
SUPPLIED: dict[Form, tuple[str, ...]] = {
    "native": ("completion", "prompt"),
    "trl": ("completions", "prompts"),
    "verl": ("solution_str", "data_source", "extra_info"),
}


@dataclass(frozen=True)
class RewardDescription:
    """What the driver knows of a reward function, which only worker processes import.

    Attributes:
        name: of its metric.
        source: where the function is defined, `file:line`.
        form: "native", "trl" or "verl".
        needs: one entry per required argument: the columns of which one must be there.
        uses_answer: the dataset's gold answer is among its arguments.
        has_gold: its file defines `gold_completion`.
        has_selfcheck: its file defines `selfcheck`.
    """

    name: str
    source: str
    form: Form
    needs: Sequence[Sequence[str]]
    uses_answer: bool
    has_gold: bool
    has_selfcheck: bool


@dataclass(frozen=True)
class RewardFunction:
    """A loaded reward function; calling it scores one response and never raises an Exception."""

    name: str
    function: Callable[..., Any]
    module: ModuleType
    form: Form
    parameters: Mapping[str, inspect.Parameter]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def takes_any(self) -> bool:
        """True when the function has `**kwargs`."""
        return any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())

    @property
    def required(self) -> list[str]:
        """Parameters that must come from a column of the dataset."""
        return [
            name
            for name, p in self.parameters.items()
            if p.default is p.empty
            and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
            and name not in SUPPLIED[self.form]
            and name not in self.options
        ]

    def describe(self) -> RewardDescription:
        """What the driver needs to know of this function."""
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        source = f"{code.co_filename}:{code.co_firstlineno}" if code else str(self.module.__file__)
        answers = ("answer", "ground_truth") if self.form == "verl" else ("answer",)
        return RewardDescription(
            name=self.name,
            source=source,
            form=self.form,
            needs=[self._columns_for(name) for name in self.required],
            uses_answer=any(a in self.parameters and a not in self.options for a in answers),
            has_gold=callable(getattr(self.module, "gold_completion", None)),
            has_selfcheck=callable(getattr(self.module, "selfcheck", None)),
        )

    def __call__(self, prompt: str, completion: str, columns: Mapping[str, Any]) -> Verdict:
        """Score one response; an exception that the function raises becomes an "error"."""
        missing = [n for n in self.required if not any(c in columns for c in self._columns_for(n))]
        if missing:
            return failure(f"this row has no column {missing[0]!r}, only {', '.join(columns) or 'none'}")
        try:
            value = self.function(**self._arguments(prompt, completion, columns))
            if inspect.isawaitable(value):
                value = asyncio.run(_wait(value))
            return read_return(self._unlist(value))
        except Exception as error:
            return failure(user_traceback(error))

    def gold_completion(self, columns: Mapping[str, Any]) -> str:
        """A response to this row that must score 1.0: by the file's own hook, else the answer itself."""
        hook = getattr(self.module, "gold_completion", None)
        available = {**columns, **self.options, "answer": _ground_truth(columns)}
        if hook is None:
            return str(available["answer"])
        parameters = inspect.signature(hook).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return str(hook(**available))
        return str(hook(**{p.name: available[p.name] for p in parameters if p.name in available}))

    def selfcheck(self) -> list[tuple[dict[str, Any], float]]:
        """The file's own cases: arguments and expected score."""
        return [(dict(arguments), float(score)) for arguments, score in self.module.selfcheck()]

    def warm_up(self) -> None:
        """Let the file pay for its imports now."""
        hook = getattr(self.module, "warm_up", None)
        if callable(hook):
            hook()

    def _columns_for(self, parameter: str) -> tuple[str, ...]:
        return GROUND_TRUTH if self.form == "verl" and parameter == "ground_truth" else (parameter,)

    def _arguments(self, prompt: str, completion: str, columns: Mapping[str, Any]) -> dict[str, Any]:
        if self.form == "native":
            available = {**columns, "completion": completion, "prompt": prompt}
        elif self.form == "trl":
            messages = columns.get("prompt")
            chat = isinstance(messages, (list, tuple))
            available = {k: [v] for k, v in columns.items() if k not in ("prompt", "completion")}
            available["prompts"] = [messages] if chat else [prompt]
            available["completions"] = (
                [[{"role": "assistant", "content": completion}]] if chat else [completion]
            )
        else:
            available = {"data_source": "", "extra_info": {}, **columns}
            available |= {"solution_str": completion, "ground_truth": _ground_truth(columns)}
        available |= self.options
        return available if self.takes_any else {k: v for k, v in available.items() if k in self.parameters}

    def _unlist(self, value: Any) -> Any:
        if self.form != "trl":
            return value
        if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 1:
            raise TypeError(
                f"the reward function returned {value!r:.200}; needed a list of one score for one response"
            )
        return value[0]


def load_reward(config: RewardConfig) -> RewardFunction:
    """Import a reward function and read its signature.

    Raises:
        RewardError: it cannot be found or imported, its signature is none of the three, or an option is
            none of its parameters.
    """
    module, function = resolve(config.function)
    parameters = inspect.signature(function).parameters
    form = _form(parameters, config.function)
    reward = RewardFunction(
        name=config.name or default_name(config.function),
        function=function,
        module=module,
        form=form,
        parameters=parameters,
        options=dict(config.options),
    )
    unknown = [o for o in config.options if o not in parameters]
    if unknown and not reward.takes_any:
        raise RewardError(
            f"the reward function has no parameter {unknown[0]!r}",
            where=f"options of {config.function}",
            needed=f"one of {', '.join(parameters)}",
        )
    return reward


def _form(parameters: Mapping[str, inspect.Parameter], reference: str) -> Form:
    if any(p.kind is p.POSITIONAL_ONLY for p in parameters.values()):
        raise RewardError(
            "a reward function's arguments are passed by name",
            where=reference,
            found="a `/` in its signature",
        )
    for form, marker in (("trl", "completions"), ("verl", "solution_str"), ("native", "completion")):
        if marker in parameters:
            return form
    raise RewardError(
        "the reward function does not take the response",
        where=reference,
        found=f"parameters: {', '.join(parameters) or 'none'}",
        needed="a parameter `completion` (or `completions` as in TRL, `solution_str` as in verl)",
    )


def _ground_truth(columns: Mapping[str, Any]) -> Any:
    if "ground_truth" in columns:
        return columns["ground_truth"]
    nested = columns.get("reward_model")
    if isinstance(nested, Mapping) and "ground_truth" in nested:
        return nested["ground_truth"]
    return columns.get("answer")


async def _wait(value: Awaitable[Any]) -> Any:
    return await value
