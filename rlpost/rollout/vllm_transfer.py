"""A policy version's way into the processes of a vLLM engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rlpost.errors import WeightTransferError
from rlpost.rollout.vllm_calls import Beat
from rlpost.weights.broadcast import Seat

if TYPE_CHECKING:
    from vllm.v1.engine.llm_engine import LLMEngine


def transfer(
    engine: LLMEngine, version: int, updates: Iterable[dict[str, list[Any]]], beat: Beat
) -> dict[str, int]:
    """Give every vLLM process the weights, then make running requests begin anew with all their tokens.

    Args:
        updates: what each call of vLLM's `update_weights` says.

    Returns:
        The checksums, by name, of what the processes received.

    Raises:
        WeightTransferError: the processes received different tensors.
    """
    pause(engine)
    beat()
    engine.collective_rpc("start_weight_update")
    for info in updates:
        engine.collective_rpc("update_weights", kwargs={"update_info": info})
        beat()
    engine.collective_rpc("finish_weight_update")
    beat()
    forget_keys_and_values(engine)
    engine.set_weight_version(str(version))
    received: list[dict[str, int]] = engine.collective_rpc("received_checksums")
    for rank, checksums in enumerate(received):
        if checksums != received[0]:
            name = min(checksums.items() ^ received[0].items())[0]
            raise WeightTransferError(
                f"tensor {name!r} arrived differently in the engine's processes",
                where=f"tensor-parallel ranks 0 and {rank}",
            )
    resume(engine)
    return received[0]


def join(engine: LLMEngine, seat: Seat) -> None:
    """Have every vLLM process take its place in a broadcast."""
    info = {"meeting": list(astuple(seat.meeting)), "rank": seat.rank}
    engine.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": info})


def check_shapes(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise WeightTransferError for a tensor of another shape than the engine's."""
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            raise WeightTransferError(
                f"tensor {name!r} does not fit the engine's model",
                found=list(tensor.shape),
                needed=list(shapes[name]),
                remedy="load learner and engine from the same model section",
            )


def pause(engine: LLMEngine) -> None:
    """Let the tokens in the making come out, then decode no more; requests stay as they are.

    vLLM's own process decodes whether or not anybody takes the outputs, so it is not enough to
    take none.
    """
    engine.sleep(level=0, mode="keep")


def resume(engine: LLMEngine) -> None:
    """Go on decoding."""
    engine.wake_up(tags=["scheduling"])


def forget_keys_and_values(engine: LLMEngine) -> None:
    """Drop the prefix cache and put all running requests back to the start of the queue.

    When their turn comes, keys and values of prompt and response so far are computed together.

    Raises:
        WeightTransferError: vLLM refuses.
    """
    if not engine.reset_prefix_cache(reset_running_requests=True):
        raise WeightTransferError("vLLM kept keys and values of the old weights", where="reset_prefix_cache")
