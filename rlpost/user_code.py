"""Python files of a user's own: imported under a name of their own, and their errors told by their lines."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from rlpost.errors import UserError

_PACKAGE = str(Path(__file__).parent)


class _Anew(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def file_spec(name: str, path: Path) -> ModuleSpec | None:
    """How a file becomes a module of that name; None where it is no Python file.

    It is compiled each time: Python itself knows by size and second alone whether a file has changed since.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is not None and isinstance(spec.loader, SourceFileLoader):
        spec.loader = _Anew(name, str(path))
    return spec


def import_file(path: Path, *, what: str, prefix: str, error_type: type[UserError] = UserError) -> ModuleType:
    """The module of a file, run anew; its folder is where it may import neighbours from.

    Args:
        what: whose file it is, to begin a sentence with, such as "the reward's file".
        prefix: of the module's name.

    Raises:
        UserError: (of `error_type`) the file is missing, is no Python file, or raises.
    """
    path = path.resolve()
    if not path.is_file():
        raise error_type(
            f"{what} does not exist", where=path, remedy="check the path, or run from its folder"
        )
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"{prefix}{path.stem}_{digest}"
    spec = file_spec(name, path)
    if spec is None or spec.loader is None:
        raise error_type(f"{what} is not a Python file", where=path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        raise error_type(f"{what} cannot be imported", where=path, found=user_traceback(error)) from error
    return module


def user_traceback(error: BaseException, frames: int = 3) -> str:
    """The error and the last places outside of this package that led to it, as `file:line in function`."""
    own = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if not f.filename.startswith((_PACKAGE, "<frozen"))
    ]
    places = [f"  {f.filename}:{f.lineno} in {f.name}" for f in own[-frames:]]
    if isinstance(error, SyntaxError) and error.filename:
        places.append(f"  {error.filename}:{error.lineno}")
    headline = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1][:500]
    return "\n".join([headline, *places])
