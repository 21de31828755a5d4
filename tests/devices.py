"""Several devices pretended on one CPU, to test what lies where without a GPU."""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode


class Devices(TorchFunctionMode):
    """Inside, every tensor has a device of its choice; all are computed on the CPU.

    A call that mixes tensors of two devices fails, as it does on a machine that has them. What
    torch allows there is allowed here: a tensor without dimensions, or an index, on the CPU.
    "mps" has no float64, as the real one.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func == torch.Tensor.device.__get__:
            return torch.device(device_of(args[0]) or "cpu")
        if name in ("to", "cpu"):
            return _move(name, args, kwargs)
        wanted = kwargs.pop("device", None)
        if wanted is not None:
            kwargs["device"] = "cpu"
        if name == "numpy" and device_of(args[0]) != "cpu":
            raise TypeError(f"can't convert a tensor on {device_of(args[0])} to numpy")
        where = self._agree(name, args, kwargs)
        out = func(*args, **kwargs)
        for x in _tensors(out):
            x._pretended = str(wanted) if wanted is not None else where
            _exists(x)
        return out

    def _agree(self, name, args, kwargs):
        """The one device of all tensors among the arguments ("cpu" if there is none)."""
        if name == "copy_":
            return device_of(args[0])
        indexing = name in ("__getitem__", "__setitem__", "index_put")
        index = list(_tensors(args[1])) if indexing else []
        found = {
            device_of(x)
            for x in _tensors([args, kwargs])
            if device_of(x) and not (device_of(x) == "cpu" and (x.ndim == 0 or _among(x, index)))
        }
        if len(found) > 1:
            raise RuntimeError(f"{name}: tensors on {' and '.join(sorted(found))}")
        return found.pop() if found else "cpu"


def _move(name, args, kwargs):
    """Tensor.to and Tensor.cpu: a copy, if the device is another one."""
    tensor, *rest = args
    goal = "cpu" if name == "cpu" else kwargs.pop("device", None)
    kwargs.pop("non_blocking", None)
    plain = []  # what is left without a device: dtypes, flags
    for x in rest:
        if isinstance(x, torch.Tensor):
            goal = device_of(x)
            plain.append(x.dtype)
        elif isinstance(x, (torch.device, str)):
            goal = x
        else:
            plain.append(x)
    goal = device_of(tensor) if goal is None else str(torch.device(goal))
    out = torch.Tensor.to(tensor, *plain, **kwargs) if plain or kwargs else tensor
    if out is tensor and goal != device_of(tensor):
        out = tensor.clone()
    out._pretended = goal
    _exists(out)
    return out


def _exists(x):
    """TypeError for a number format that the device does not have."""
    if device_of(x).startswith("mps") and x.dtype == torch.float64:
        raise TypeError("the MPS framework doesn't support float64")


def device_of(x):
    """Where a tensor is said to be; None if nothing is known (inside vmap)."""
    return getattr(x, "_pretended", None)


def _among(x, xs):
    return any(x is y for y in xs)


def _tensors(x):
    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, dict):
        for y in x.values():
            yield from _tensors(y)
    elif isinstance(x, (list, tuple)):
        for y in x:
            yield from _tensors(y)


def device_map(model, architecture, devices):
    """{part: device} as "auto" makes it: the blocks in turn, the head and its norm at the end."""
    blocks, found = architecture.blocks, {}

    def place(module, path):
        for name, child in module.named_children():
            full = f"{path}.{name}" if path else name
            if full == blocks:
                found.update(
                    {f"{full}.{i}": devices[i * len(devices) // len(child)]
                     for i in range(len(child))}
                )  # fmt: skip
            elif blocks.startswith(full + "."):
                place(child, full)
            else:
                found[full] = devices[-1 if full in (architecture.norm, "lm_head") else 0]

    place(model, "")
    if model.get_output_embeddings().weight is model.get_input_embeddings().weight:
        found["lm_head"] = devices[0]  # tied
    return found


@contextmanager
def spread(model, places):
    """`model` as accelerate spreads it over pretended devices: its own hooks, its tensors placed.

    places: {part: device}, as of device_map.
    """
    from accelerate import hooks

    real = hooks.AlignDevicesHook.init_hook
    hooks.AlignDevicesHook.init_hook = lambda self, module: module  # which would ask for the GPUs
    for part, device in places.items():
        module = model.get_submodule(part)
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor._pretended = device
    where = {part: torch.device(device) for part, device in places.items()}
    hooks.attach_align_device_hook_on_blocks(
        model,
        execution_device=where | {"": next(iter(where.values()))},
        offload=dict.fromkeys(where, False),
        skip_keys="past_key_values",
    )
    try:
        with Devices():
            yield
    finally:
        hooks.remove_hook_from_submodules(model)
        hooks.AlignDevicesHook.init_hook = real
