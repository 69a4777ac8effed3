"""Training on several ranks, replicated (DDP) or sharded (FSDP2), and checkpoints that depend on neither.

This replaces torch.distributed.checkpoint: it handles one tensor at a time, copies no tensor that is already on
the CPU, and works for optimisers without step counts.
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

Object = TypeVar("Object")


def rank_and_world() -> tuple[int, int]:
    """Return this rank and the number of ranks; (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def replicate(detector: Detector, loss: Loss) -> tuple[nn.Module, nn.Module]:
    """Wrap a detector and its loss in DistributedDataParallel; each rank keeps all weights.

    DDP rearranges its gradient buckets after the first backward pass, and sums over more than two ranks depend on
    the arrangement. Two discarded passes here make new and resumed trainings use the same arrangement.

    Returns:
        The wrapped detector and loss; a loss without weights is returned as it is.
    """
    device = detector.device
    model = DistributedDataParallel(detector, gradient_as_bucket_view=True)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        # torch warns once per process about weights that have a dimension of size 1.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        for _ in range(2):  # the new arrangement takes effect in the second forward pass
            output = model(torch.zeros(2, 3200, device=device), None)
            torch.autograd.backward(output.logits.sum() + output.embedding.sum())
    detector.zero_grad(set_to_none=True)
    has_weights = any(True for _ in loss.parameters())
    return model, DistributedDataParallel(loss) if has_weights else loss


def shard(detector: Detector, loss: Loss, precision: Precision, reference: Detector | None = None) -> None:
    """Shard the weights over the ranks, in place; each layer is gathered when it is needed.

    In half precision, layers are gathered in that precision and their gradients are summed in float32. All other
    weights (convolutions, norms, head) are gathered in float32 and left to autocast.

    Args:
        detector: the detector in training.
        loss: sharded if it has weights.
        precision: of the training.
        reference: a frozen detector, sharded alike.
    """
    device = detector.device
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy()
    if precision in HALF_DTYPES:
        half = HALF_DTYPES[precision]
        policy = MixedPrecisionPolicy(half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for model in (detector, reference):
        if model is not None:
            for layer in model.encoder.layers:
                fully_shard(layer, mesh=mesh, mp_policy=policy)
            fully_shard(model, mesh=mesh)
    if any(True for _ in loss.parameters()):
        fully_shard(loss, mesh=mesh)


def release_forward(module: nn.Module) -> None:
    """Free what FSDP keeps of a forward pass until the backward pass, for a module that has none.

    That is the gathered weights of the root, and a list of the layers that grows with every pass.
    """
    if not isinstance(module, FSDPModule):
        return
    module.reshard()
    root: Any = module._get_fsdp_state()
    root._comm_ctx.post_forward_order.clear()
    for state in root._state_ctx.all_states:
        state._fsdp_param_group._post_forward_indices.clear()


@contextmanager
def gradient_sync(modules: Sequence[nn.Module], is_enabled: bool) -> Iterator[None]:
    """Sum gradients over ranks in backward passes, or defer the sum to a later pass."""
    with ExitStack() as stack:
        for module in modules:
            if isinstance(module, FSDPModule):
                module.set_requires_gradient_sync(is_enabled)
            elif isinstance(module, DistributedDataParallel) and not is_enabled:
                stack.enter_context(module.no_sync())
        yield


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor on every rank; return any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_to_rank_0(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return full tensors on the CPU of rank 0, and an empty dict elsewhere; all ranks must call it."""
    rank, _ = rank_and_world()
    gathered = {}
    for name, tensor in tensors.items():
        full = full_tensor(tensor.detach())
        if rank == 0:
            gathered[name] = full.cpu()
    return gathered


def gather_moments_to_rank_0(optimiser: Optimizer, names: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Return the optimiser state of each weight by name, as `gather_to_rank_0` does."""
    moments = {}
    for name, weight in zip(names, _weights(optimiser), strict=True):
        if weight in optimiser.state:
            moments[name] = gather_to_rank_0(optimiser.state[weight])
    return {name: parts for name, parts in moments.items() if parts}


def broadcast(tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor], what: str) -> None:
    """Copy rank 0's tensors into the targets of every rank, sharded or not.

    Args:
        tensors: full tensors by name; only those of rank 0 are used.
        targets: tensors to fill.
        what: name of the collection, for the error message.

    Raises:
        InputError: the names or shapes differ from those of the targets.
    """
    given = broadcast_object({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    expected = {name: tuple(target.shape) for name, target in targets.items()}
    if given != expected:
        names = sorted(
            name for name in given.keys() | expected.keys() if given.get(name) != expected.get(name)
        )
        raise InputError(
            f"the checkpoint is of a different {what}; tensors that differ: {', '.join(names[:5])}"
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(_broadcast_tensor(tensors.get(name), target.shape, target.dtype, target))


def broadcast_moments(
    moments: Mapping[str, Mapping[str, Tensor]], optimiser: Optimizer, names: Sequence[str]
) -> None:
    """Load the optimiser state of rank 0's checkpoint on every rank.

    Raises:
        InputError: the state has weights that the training does not have.
    """
    layout = broadcast_object(
        {
            name: {key: (tensor.shape, tensor.dtype) for key, tensor in parts.items()}
            for name, parts in moments.items()
        }
    )
    unknown = sorted(layout.keys() - set(names))
    if unknown:
        raise InputError(
            f"the checkpoint's optimiser has weights that this training does not have: {unknown[:5]}"
        )
    state: dict[int, dict[str, Tensor]] = {}
    for index, (name, weight) in enumerate(zip(names, _weights(optimiser), strict=True)):
        for key, (shape, dtype) in layout.get(name, {}).items():
            tensor = _broadcast_tensor(moments.get(name, {}).get(key), shape, dtype, weight)
            state.setdefault(index, {})[key] = tensor
    # load_state_dict moves step counts to the device that the implementation requires.
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def broadcast_object(value: Object) -> Object:
    """Return rank 0's value on every rank."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gather_lists(items: list[Any]) -> list[Any]:
    """Concatenate the lists of all ranks in rank order."""
    if not dist.is_initialized():
        return items
    lists: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(lists, items)
    return [item for part in lists for item in part]


def _weights(optimiser: Optimizer) -> list[Tensor]:
    return [weight for group in optimiser.param_groups for weight in group["params"]]


def _broadcast_tensor(tensor: Tensor | None, shape: torch.Size, dtype: torch.dtype, like: Tensor) -> Tensor:
    """Send rank 0's tensor to the device of weight `like` on every rank, and shard it like that weight."""
    rank, world = rank_and_world()
    if rank == 0:
        assert tensor is not None
        received = tensor.to(like.device, dtype, copy=True)
    else:
        received = torch.empty(shape, dtype=dtype, device=like.device)
    if world > 1:
        dist.broadcast(received, src=0)
    if isinstance(like, DTensor) and shape == like.shape:
        return distribute_tensor(received, like.device_mesh, like.placements, src_data_rank=None)
    return received
