"""Code: the response's program passes the row's tests, in a sandbox.

The program is the last fenced block marked as Python, else the last one without a mark. The tests come from
whichever of these columns a row has, the first that is there; lists and objects may be JSON text:

    tests               a list of `{"input", "output"}`, each with `type` (or `testtype`) "stdin" or
                        "stdin_stdout"; or with "function_call": `input` is the list of arguments, as JSON
                        text when `output` is such text; or with "functional": `input` is JSON text, one
                        argument a line, `output` JSON text. The function is `fn_name`, there or as a
                        column, or `metadata["func_name"]`. Or an object as `input_output`; or asserts
    inputs, outputs     one entry per test; with `fn_name`: arguments and value of that function
    input_output        an object with `inputs`, `outputs` and, for functions, `fn_name` (APPS, TACO)
    verification_info   an object with `test_cases`, a list as `tests` (SYNTHETIC-1)
    test, entry_point   source with `check(candidate)` (HumanEval), or that is run as it is
    test_list           asserts, with `test_setup_code` or `test_imports` before them (MBPP)
"""

from __future__ import annotations

import ast
import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

BLOCK = re.compile(r"^ {0,3}```[ \t]*([^\s`]*)[^\n`]*\n(.*?)^ {0,3}```[ \t]*$", re.MULTILINE | re.DOTALL)
PYTHON = ("python", "python3", "py")
TOLERANCE = 1e-6
SHARE_OF_DEADLINE = 0.8
DEADLINE_S = 5.0  # of a sample, where no scoring worker names its own
PRELUDE = (
    "from typing import *\nfrom collections import *\nfrom functools import *\nfrom itertools import *\n"
    "from heapq import *\nfrom bisect import *\nimport collections, functools, itertools, heapq, bisect\n"
    "import math, re, string, sys\n"
)
"""Before a program whose function is called, as such tests expect it."""
LIMITS = {
    "cpu_limit": "time_limit",
    "wall_limit": "time_limit",
    "memory_limit": "memory_limit",
    "output_limit": "output_limit",
    "process_limit": "process_limit",
    "file_limit": "file_limit",
    "crash": "crash",
    "lost": "crash",
}


@dataclass(frozen=True)
class Case:
    """One test: by standard input, by calling a function, or by source that runs after the program."""

    kind: str
    given: Any
    expected: Any = None
    function: str | None = None


def reward(
    completion: str,
    tests: Any = None,
    inputs: Any = None,
    outputs: Any = None,
    fn_name: str | None = None,
    input_output: Any = None,
    verification_info: Any = None,
    test: str | None = None,
    entry_point: str | None = None,
    test_list: Any = None,
    test_setup_code: str | None = None,
    test_imports: Any = None,
    metadata: Any = None,
    prompt: str = "",
    partial: bool = False,
    total_s: float | None = None,
    wall_s: float = 4.0,
    cpu_s: float = 4.0,
    memory_mib: int = 1024,
    processes: int = 32,
) -> dict[str, Any]:
    r"""1.0 when all tests pass, otherwise 0.0; unparseable when the response holds no fenced program.

    A program that passes a limit is wrong, and a part of the result says which limit. What it prints is
    compared line by line and word by word, without regard to white space; a number that is expected with a
    point or an exponent may be off by 1e-6. Values of functions are compared as JSON, likewise.

    Args:
        completion: the model's response.
        tests: and the others down to `metadata`: the row's tests; see above.
        prompt: HumanEval's holds functions that its tests may use; anything else is ignored.
        partial: the score is the share of tests that pass.
        total_s: seconds for all tests together; what is not tried by then counts as wrong. None: four
            fifths of `scoring.deadline_s`; more than that deadline would make it a failure of the verifier.
        wall_s, cpu_s, memory_mib, processes: limits of each test.

    Raises:
        ValueError: the row has no tests, or they make no sense.

    >>> reward("```python\nprint(int(input()) * 2)\n```", inputs=["4\n"], outputs=["8"])["score"]
    1.0
    """
    from rlpost.scoring.sandbox import Limits, shared_sandbox

    columns = {"tests": tests, "inputs": inputs, "outputs": outputs, "fn_name": fn_name}
    columns |= {"input_output": input_output, "verification_info": verification_info, "metadata": metadata}
    columns |= {"test": test, "entry_point": entry_point, "test_list": test_list}
    columns |= {"test_setup_code": test_setup_code, "test_imports": test_imports}
    cases = read_cases(columns)
    program = extract(completion)
    if program is None:
        return {"score": 0.0, "outcome": "unparseable", "note": "no fenced code block"}
    prelude = PRELUDE + (prompt if entry_point and defines(prompt, entry_point) else "")
    parts = dict.fromkeys(("passed", *LIMITS.values()), 0.0)
    until = time.monotonic() + (budget() if total_s is None else total_s)
    passed, note = 0, ""
    for number, case in enumerate(cases, 1):
        left = until - time.monotonic()
        if left <= 0:
            parts["time_limit"] = 1.0
            note = note or f"test {number} of {len(cases)}: the time for all tests is spent"
            break
        limits = Limits(
            cpu_s=cpu_s, wall_s=min(wall_s, left), memory_bytes=memory_mib << 20, processes=processes
        )
        execution = run_case(shared_sandbox(), program, prelude, case, limits)
        problem = judge(case, execution)
        passed += problem is None
        if problem is not None:
            note = note or f"test {number} of {len(cases)}: {problem}"
            if flag := LIMITS.get(execution.outcome.value):
                parts[flag] = 1.0
            if not partial:
                break
    parts["passed"] = passed / len(cases)
    return {"score": parts["passed"] if partial else float(passed == len(cases)), "note": note, **parts}


def extract(completion: str) -> str | None:
    """The program of a response; None when it holds none."""
    blocks = [(mark.lower(), text) for mark, text in BLOCK.findall(completion.replace("\r\n", "\n"))]
    marked = [text for mark, text in blocks if mark in PYTHON]
    plain = [text for mark, text in blocks if not mark]
    return next(iter([*marked[-1:], *plain[-1:]]), None)


def run_case(sandbox: Any, program: str, prelude: str, case: Case, limits: Any) -> Any:
    """The program with one test, in the sandbox; the expected value stays outside."""
    if case.kind == "stdin":
        return sandbox.run(program, case.given, limits=limits)
    if case.kind == "call":
        return sandbox.run(program, call=(case.function, case.given), prelude=prelude, limits=limits)
    return sandbox.run(program, test=(case.given, case.function), prelude=prelude, limits=limits)


def judge(case: Case, execution: Any) -> str | None:
    """What is wrong with how a test went; None when it passed."""
    if execution.outcome.value != "ok":
        last = execution.stderr.strip().rpartition("\n")[2]
        return f"{execution.outcome.value}: {last}"[:300] if last else execution.outcome.value
    if case.kind == "stdin":
        same = same_text(execution.stdout, case.expected)
        return None if same else f"printed {execution.stdout!r:.120}, expected {case.expected!r:.120}"
    if case.kind == "source":
        return None if execution.completed else "it ended before its tests did"
    if execution.value is None:
        return "it ended before its function returned"
    try:
        value = json.loads(execution.value)["value"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "the function's value cannot be read"
    wrapped = isinstance(case.expected, list) and len(case.expected) == 1
    if same_value(value, case.expected) or (wrapped and same_value(value, case.expected[0])):
        return None
    return f"returned {value!r:.120}, expected {case.expected!r:.120}"


def same_text(found: str, expected: str) -> bool:
    """Whether two outputs have the same words on the same lines; empty lines at either end do not count."""
    ours, theirs = ([line.split() for line in text.strip().splitlines()] for text in (found, expected))
    return len(ours) == len(theirs) and all(
        len(a) == len(b) and all(map(same_word, a, b)) for a, b in zip(ours, theirs, strict=True)
    )


def same_word(found: str, expected: str) -> bool:
    """Whether words are equal, or numbers within the tolerance where a decimal number is expected."""
    if found == expected:
        return True
    if not re.fullmatch(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?", expected):
        return False
    try:
        return math.isclose(float(found), float(expected), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except ValueError:
        return False


def same_value(found: Any, expected: Any) -> bool:
    """Whether JSON values are equal; floats within the tolerance, tuples as lists."""
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(found, list)
            and len(found) == len(expected)
            and all(same_value(a, b) for a, b in zip(found, expected, strict=True))
        )
    if isinstance(expected, Mapping):
        keyed = {str(key): value for key, value in expected.items()}
        return (
            isinstance(found, dict)
            and found.keys() == keyed.keys()
            and all(same_value(found[key], keyed[key]) for key in keyed)
        )
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (found, expected))
    if numbers and (isinstance(found, float) or isinstance(expected, float)):
        return math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return found == expected


def read_cases(columns: Mapping[str, Any]) -> list[Case]:
    """The tests of a row.

    Raises:
        ValueError: there are none, or they make no sense.
    """
    found = {name: decoded(value) for name, value in columns.items() if value is not None}
    if "tests" in found:
        cases = listed_cases(found["tests"], found)
    elif "inputs" in found or "outputs" in found:
        cases = paired_cases(found)
    elif "input_output" in found:
        cases = paired_cases(found["input_output"])
    elif "verification_info" in found:
        cases = listed_cases(found["verification_info"]["test_cases"], found)
    elif columns.get("test"):
        cases = [Case("source", columns["test"], function=columns.get("entry_point"))]
    elif "test_list" in found:
        cases = listed_cases(found["test_list"], found)
    else:
        raise ValueError("the row has no tests, in none of the columns that may hold them")
    if not cases:
        raise ValueError("the row's list of tests is empty")
    return cases


def decoded(value: Any, always: bool = False) -> Any:
    """The list or object (or, with `always`, whatever) that JSON text holds; any other text as it is."""
    if isinstance(value, str) and (always or value.lstrip()[:1] in ("[", "{")):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value.tolist() if hasattr(value, "tolist") else value


def listed_cases(tests: Any, columns: Mapping[str, Any]) -> list[Case]:
    """Tests one by one, or as an object with `inputs` and `outputs`."""
    if isinstance(tests, Mapping):
        return paired_cases(tests)
    if not isinstance(tests, (list, tuple)):
        raise ValueError(f"the tests are no list: {tests!r:.200}")
    setup = columns.get("test_setup_code") or "\n".join(columns.get("test_imports") or ())
    metadata = columns.get("metadata")
    named = metadata.get("func_name") if isinstance(metadata, Mapping) else None
    return [
        Case("source", f"{setup}\n{test}")
        if isinstance(test, str)
        else one_case(test, columns.get("fn_name") or named)
        for test in tests
    ]


def one_case(test: Any, function: str | None) -> Case:
    """A test as an object."""
    if not isinstance(test, Mapping) or "input" not in test or "output" not in test:
        raise ValueError(f"a test without input and output: {test!r:.200}")
    kind = test.get("type") or test.get("testtype") or ("function_call" if test.get("fn_name") else "stdin")
    given, expected = test["input"], test["output"]
    if kind in ("stdin", "stdin_stdout"):
        return Case("stdin", as_text(given), as_text(expected))
    own = test.get("metadata")
    function = test.get("fn_name") or (own.get("func_name") if isinstance(own, Mapping) else None) or function
    if kind not in ("functional", "function_call") or not function:
        raise ValueError(f"a test of type {kind!r} for the function {function!r}")
    if kind == "functional":
        lines = [line for line in given.split("\n") if line.strip()]
        return Case("call", [json.loads(line) for line in lines], json.loads(expected), function)
    if isinstance(given, str) and isinstance(expected, str):
        expected = decoded(expected, always=True)
    return Case("call", arguments(decoded(given)), expected, function)


def paired_cases(pairs: Any) -> list[Case]:
    """Tests as two lists of equal length."""
    given, expected = (
        pairs.get(name) if isinstance(pairs, Mapping) else None for name in ("inputs", "outputs")
    )
    if not all(isinstance(v, (list, tuple)) for v in (given, expected)) or len(given) != len(expected):
        raise ValueError(f"`inputs` and `outputs` are not two lists of equal length: {pairs!r:.200}")
    function = pairs.get("fn_name")
    if function:
        return [Case("call", arguments(g), e, function) for g, e in zip(given, expected, strict=True)]
    return [Case("stdin", as_text(g), as_text(e)) for g, e in zip(given, expected, strict=True)]


def arguments(value: Any) -> list[Any]:
    """The arguments of a call.

    Raises:
        ValueError: they are no list.
    """
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"a function's arguments are no list: {value!r:.200}")
    return list(value)


def as_text(value: Any) -> str:
    """What goes in or comes out, given as text or as its lines."""
    if isinstance(value, (list, tuple)):
        return "\n".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def defines(source: str, function: str) -> bool:
    """Whether a text is Python that defines the function."""
    if f"def {function}" not in source:
        return False
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return False
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in body)


@cache
def budget() -> float:
    """Seconds for all tests of a sample, by default."""
    return SHARE_OF_DEADLINE * float(os.environ.get("RLPOST_SCORING_DEADLINE_S", DEADLINE_S))


def warm_up() -> None:
    """Find out which form of the sandbox works, before the first deadline runs."""
    from rlpost.scoring.sandbox.sandbox import working_form

    working_form()


def gold_completion(
    canonical_solution: str | None = None,
    code: str | None = None,
    solution: Any = None,
    solutions: Any = None,
    prompt: Any = "",
) -> str:
    """A response that must score 1.0: the row's own solution, fenced.

    Raises:
        ValueError: the row has none.
    """
    several = decoded(solutions)
    first = (
        several[0] if isinstance(several, Sequence) and several and not isinstance(several, str) else several
    )
    found = code or solution or first
    if canonical_solution:
        found = (prompt if isinstance(prompt, str) else "") + canonical_solution
    if not found:
        raise ValueError(
            "the row has none of the columns canonical_solution, code, solution, solutions; "
            "scoring.canary=false trains without this check"
        )
    return found if extract(found) is not None else f"```python\n{found}\n```"


def selfcheck() -> list[tuple[dict[str, Any], float]]:
    """Cases: arguments and the score that they must get."""

    def fenced(program: str) -> str:
        return f"So:\n```python\n{program}\n```\nDone."

    double = "n = int(input())\nprint(n * 2)"
    function = "def add(a, b):\n    return a + b"
    stdin: dict[str, Any] = {"inputs": ["4\n", "-1\n"], "outputs": ["8\n", "-2"]}
    call: dict[str, Any] = {"inputs": [[1, 2], [0.1, 0.2]], "outputs": [3, 0.3], "fn_name": "add"}
    asserts: dict[str, Any] = {"test_list": ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"]}
    check = {"test": "def check(f):\n    assert f(1, 2) == 3", "entry_point": "add"}
    text = json.dumps([{"input": "4", "output": "8", "type": "stdin_stdout"}])
    one_line = [{"input": "[1]\n[2]", "output": "[1, 2]", "testtype": "functional"}]
    right = [
        (double, stdin),
        (double.replace("print(", "print(' ', "), stdin),
        (double, {"tests": text}),
        (function, call),
        ("class Solution:\n    def add(self, a, b):\n        return a + b", call),
        (function, {"tests": one_line, "metadata": {"func_name": "add"}}),
        (function, asserts),
        (function, check),
    ]
    wrong = [
        ("print(8)", stdin),
        (double + "\nprint()\nprint(1)", stdin),
        (double + "\nraise SystemExit(1)", stdin),
        (double.replace("* 2", "* 2.0"), stdin),
        (function.replace("+", "-"), call),
        ("def add(a, b):\n    print(a + b)", call),
        ("raise SystemExit(0)", asserts),
        (function.replace("add", "plus"), check),
        ("def add(a, b", check),
    ]
    return [
        *(({"completion": fenced(program), **row}, 1.0) for program, row in right),
        *(({"completion": fenced(program), **row}, 0.0) for program, row in wrong),
        ({"completion": double, **stdin}, 0.0),
        ({"completion": fenced("print(8)"), **stdin, "partial": True}, 0.5),
    ]
