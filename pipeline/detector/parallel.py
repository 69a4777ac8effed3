"""Ranks that train one detector together: replicated (DDP) or sharded (FSDP2), and whole again in a checkpoint.

torch.distributed.checkpoint has calls for this as well. These few lines take one tensor at a time, copy nothing
that lies on the CPU already, and leave the step counts of an optimiser that has none alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from pipeline.detector.config import Precision
from pipeline.detector.losses import Loss
from pipeline.detector.network import Detector
from pipeline.detector.precision import HALF_DTYPES
from pipeline.errors import InputError

Anything = TypeVar("Anything")


def rank_and_world() -> tuple[int, int]:
    """This rank and how many there are; without a process group the only one."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def replicate(detector: Detector, loss: Loss) -> tuple[nn.Module, nn.Module]:
    """Share gradients between the ranks of the process group; each keeps all weights.

    DDP arranges its buckets anew after its first backward pass, and a sum over more than two ranks depends
    on the arrangement. One pass that is thrown away lets a resumed training start with the final one.
    """
    device = detector.proj_fc.weight.device
    model = DistributedDataParallel(detector, gradient_as_bucket_view=True)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        # Said once a process, about weights whose dimension of one has another stride.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        for _ in range(2):  # the second forward pass is where the new arrangement begins
            logits_B2, embedding_BC = model(torch.zeros(2, 3200, device=device), None, with_embedding=True)
            torch.autograd.backward(logits_B2.sum() + embedding_BC.sum())
    detector.zero_grad(set_to_none=True)
    has_weights = any(True for _ in loss.parameters())
    return model, DistributedDataParallel(loss) if has_weights else loss


def shard(detector: Detector, loss: Loss, precision: Precision) -> None:
    """Cut the weights into a share for each rank, in place; layers are fetched when they are needed.

    In half precision the layers are fetched in it and their gradients summed in float32. What is outside of
    them, the convolutions, the norms and the head, is fetched in float32 and left to autocast.
    """
    device = detector.proj_fc.weight.device
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy()
    if precision in HALF_DTYPES:
        half = HALF_DTYPES[precision]
        policy = MixedPrecisionPolicy(half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in detector.encoder.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(detector, mesh=mesh)
    if any(True for _ in loss.parameters()):
        fully_shard(loss, mesh=mesh)


@contextmanager
def gradient_sync(modules: Sequence[nn.Module], is_shared: bool) -> Iterator[None]:
    """Sum the gradients of backward passes over ranks, or leave that to a later one."""
    with ExitStack() as stack:
        for module in modules:
            if isinstance(module, FSDPModule):
                module.set_requires_gradient_sync(is_shared)
            elif isinstance(module, DistributedDataParallel) and not is_shared:
                stack.enter_context(module.no_sync())
        yield


def full_tensor(tensor: Tensor) -> Tensor:
    """Put a sharded tensor together, on every rank; a tensor that is whole already stays itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_to_rank_0(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors on the CPU of rank 0, nothing elsewhere; for all ranks to call together."""
    rank, _ = rank_and_world()
    collected = {}
    for name, tensor in tensors.items():
        together = full_tensor(tensor.detach())
        if rank == 0:
            collected[name] = together.cpu()
    return collected


def gather_moments_to_rank_0(optimiser: Optimizer, names: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """What an optimiser remembers of each weight, by the names of its weights, as `collect` does."""
    moments = {}
    for name, weight in zip(names, _weights(optimiser), strict=True):
        if weight in optimiser.state:
            moments[name] = gather_to_rank_0(optimiser.state[weight])
    return {name: parts for name, parts in moments.items() if parts}


def broadcast(tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor], what: str) -> None:
    """Fill the targets of every rank, whole or sharded, with rank 0's tensors.

    Raises InputError when the names or shapes are others.
    """
    found = broadcast_object({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    expected = {name: tuple(target.shape) for name, target in targets.items()}
    if found != expected:
        odd = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise InputError(
            f"the checkpoint holds another {what} than the training has: they differ in {', '.join(odd[:5])}"
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(_broadcast_tensor(tensors.get(name), target.shape, target.dtype, target))


def broadcast_moments(
    moments: Mapping[str, Mapping[str, Tensor]], optimiser: Optimizer, names: Sequence[str]
) -> None:
    """Give the optimiser of every rank what rank 0's checkpoint remembers; strangers' names are an InputError."""
    layout = broadcast_object(
        {
            name: {key: (tensor.shape, tensor.dtype) for key, tensor in parts.items()}
            for name, parts in moments.items()
        }
    )
    strangers = sorted(layout.keys() - set(names))
    if strangers:
        raise InputError(f"the checkpoint's optimiser has weights that the training lacks: {strangers[:5]}")
    state: dict[int, dict[str, Tensor]] = {}
    for index, (name, weight) in enumerate(zip(names, _weights(optimiser), strict=True)):
        for key, (shape, dtype) in layout.get(name, {}).items():
            tensor = _broadcast_tensor(moments.get(name, {}).get(key), shape, dtype, weight)
            state.setdefault(index, {})[key] = tensor
    # This puts step counts on the device where the chosen implementation wants them.
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def broadcast_object(thing: Anything) -> Anything:
    """What rank 0 has, on every rank."""
    if not dist.is_initialized():
        return thing
    things = [thing]
    dist.broadcast_object_list(things, src=0)
    return things[0]


def gather_lists(items: list[Any]) -> list[Any]:
    """Join the lists of all ranks, in the order of the ranks."""
    if not dist.is_initialized():
        return items
    lists: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(lists, items)
    return [item for part in lists for item in part]


def _weights(optimiser: Optimizer) -> list[Tensor]:
    return [weight for group in optimiser.param_groups for weight in group["params"]]


def _broadcast_tensor(tensor: Tensor | None, shape: torch.Size, dtype: torch.dtype, like: Tensor) -> Tensor:
    """Send rank 0's tensor to the device of a weight on every rank; where the weight is sharded, cut it alike."""
    rank, world = rank_and_world()
    if rank == 0:
        assert tensor is not None
        spreading = tensor.to(like.device, dtype, copy=True)
    else:
        spreading = torch.empty(shape, dtype=dtype, device=like.device)
    if world > 1:
        dist.broadcast(spreading, src=0)
    if isinstance(like, DTensor) and shape == like.shape:
        return distribute_tensor(spreading, like.device_mesh, like.placements, src_data_rank=None)
    return spreading
