"""A PyTorch module or an exported program (`.pt2`) -> `Program`, by litert-torch.

A module is exported as it is used for prediction (eval mode; its own mode is restored). litert-torch keeps the order
of dimensions that PyTorch has, (batch, channels, height, width), at inputs and outputs, and works channels last inside.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from octavo.errors import ConversionError, MissingDependencyError, ModelFileError, OctavoError
from octavo.frontends import batch as batching
from octavo.frontends import naming
from octavo.frontends.inputs import Input, input_specs, is_single
from octavo.graph import Program
from octavo.text import first_line

_INSTALL = 'pip install "octavo[torch]" (the page on PyTorch says how to get one without CUDA)'
# Classes of torch.nn with weights that an op of LiteRT takes in.
_WORKING = ("Conv", "Linear", "Embedding")
_REFUSED_TYPES = ("float16", "bfloat16", "float64")


def convert(source: Any, *, inputs: Any = None, batch: int | None = 1, name: str | None = None) -> Program:
    """Convert a PyTorch module.

    Args:
      source: a `torch.nn.Module`, or a `torch.export.ExportedProgram`, which knows its inputs.
      inputs: one entry per argument of `forward`, in order, or a dict by argument name: example tensors, shapes, or
        (shape, dtype); see `octavo.frontends.inputs`. Their sizes count, in the order of dimensions that the module
        takes; values only where the module looks at them in Python. A shape may start with None: the batch.
      batch: what stands for a leading None; None keeps it dynamic in the file, where the model allows.
      name: what messages and the program call it.

    Returns:
      The program; inputs are named as the arguments of `forward`, outputs after the keys of the dict that it returns,
      else `output_0`, `output_1`, ...; inner tensors after the submodule that makes them: `features/conv1`.

    Raises:
      ConversionError: the module can't be exported, keeps state, draws random numbers, or LiteRT has no op for a part.
      MissingDependencyError: litert-torch isn't installed.
    """
    torch, litert_torch = _libraries()
    if isinstance(source, torch.export.ExportedProgram):
        return _from_exported(litert_torch, source, inputs, name or "the exported program")
    where = name or f"PyTorch module {type(source).__name__}"
    if not isinstance(source, torch.nn.Module):
        raise ConversionError(f"{where}: pass a torch.nn.Module, or a torch.export.ExportedProgram")
    _check_parameters(source, where)
    specs, by_keyword = input_specs(source.forward, inputs, where)
    examples = _examples(inputs)

    def at_batch(size: int) -> Program:
        tensors = [_tensor(torch, spec, given, size, where) for spec, given in zip(specs, examples, strict=True)]
        exported = _export(torch, source, [spec.name for spec in specs], tensors, by_keyword, where)
        return _lower(litert_torch, exported, [spec.name for spec in specs], where)

    return batching.lower(at_batch, specs, batch, where)


def convert_file(path: str, *, inputs: Any = None, name: str | None = None) -> Program:
    """Convert what `torch.export.save` wrote.

    Raises:
      ModelFileError: the file is missing, or isn't an exported program.
      ConversionError, MissingDependencyError: as `convert`.
    """
    if not Path(path).is_file():
        raise ModelFileError(f"{path}: no such file")
    torch, litert_torch = _libraries()
    try:
        with _quiet():
            exported = torch.export.load(path)
    except Exception as error:  # zip, pickle, and whatever a broken file makes them raise
        raise ModelFileError(
            f"{path}: not a program that torch.export.save wrote ({first_line(error)}); for a checkpoint, build the "
            "module, load its weights and pass it to octavo.convert"
        ) from error
    return _from_exported(litert_torch, exported, inputs, name or path)


def _from_exported(litert_torch: Any, exported: Any, inputs: Any, where: str) -> Program:
    if inputs is not None:
        raise ConversionError(f"{where}: an exported program has its inputs already; leave inputs out, or export again")
    names = [spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    return _lower(litert_torch, exported, names, where)


def _libraries() -> tuple[Any, Any]:
    """PyTorch and litert-torch, which knows our op then."""
    try:
        with _quiet():
            import litert_torch  # pyright: ignore[reportMissingImports]
            import torch  # pyright: ignore[reportMissingImports]

            from octavo.frontends import torch_ops

            torch_ops.register()
    except ImportError as error:
        raise MissingDependencyError(f"litert-torch is needed to convert from PyTorch ({error}): {_INSTALL}") from error
    return torch, litert_torch


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what PyTorch and litert-torch log about themselves; errors still come as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _check_parameters(module: Any, where: str) -> None:
    """Refuse what a float32 file made on this machine can't hold."""
    for kind, tensors in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
        for path, tensor in tensors:
            dtype = str(tensor.dtype).removeprefix("torch.")
            if dtype in _REFUSED_TYPES:
                raise ConversionError(f"{where}: {kind} {path!r} is {dtype}; convert module.float()")
            if tensor.device.type != "cpu":
                raise ConversionError(f"{where}: {kind} {path!r} is on {tensor.device}; convert module.cpu()")


def _examples(inputs: Any) -> list[Any]:
    """The entries of `inputs`, as given."""
    if isinstance(inputs, Mapping):
        return list(inputs.values())
    return [inputs] if is_single(inputs) else list(inputs)


def _tensor(torch: Any, spec: Input, given: Any, batch: int, where: str) -> Any:
    """An example: the tensor that was given, else zeros of the right shape."""
    if isinstance(given, torch.Tensor):
        return given.detach().cpu()
    try:
        dtype = getattr(torch, spec.dtype)
    except AttributeError as error:
        raise ConversionError(f"{where}: PyTorch has no type {spec.dtype} for input {spec.name!r}") from error
    return torch.zeros(tuple(batch if size is None else size for size in spec.shape), dtype=dtype)


def _export(torch: Any, module: Any, names: Sequence[str], tensors: Sequence[Any], by_keyword: bool, where: str) -> Any:
    """`torch.export` in eval mode; every submodule gets its own mode back."""
    args = () if by_keyword else tuple(tensors)
    kwargs = dict(zip(names, tensors, strict=True)) if by_keyword else {}
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with _quiet():
            return torch.export.export(module, args, kwargs)
    except OctavoError:
        raise
    except Exception as error:  # whatever the user's forward raises
        listed = ", ".join(f"{n} {str(t.dtype)[6:]}{list(t.shape)}" for n, t in zip(names, tensors, strict=True))
        raise ConversionError(f"torch.export can't trace {where} with {listed}: {first_line(error)}") from error
    finally:
        for part, mode in modes.items():
            part.training = mode


def _lower(litert_torch: Any, exported: Any, inputs: Sequence[str], where: str) -> Program:
    """Lower an exported program and name what is in it."""
    from octavo.tflite import read

    args, kwargs = exported.example_inputs
    progress = litert_torch.config.show_progress
    litert_torch.config.show_progress = False
    try:
        with _quiet():
            _refuse_state(exported, where)
            made = litert_torch.convert(exported.module(), args, kwargs)
            data = made.model_content()
    except OctavoError:
        raise
    except Exception as error:  # litert-torch and MLIR raise many kinds
        raise ConversionError(f"{where} can't be lowered to LiteRT: {_reason(error)}") from error
    finally:
        litert_torch.config.show_progress = progress
    program = read(data)
    program.source = where
    _name_signature(program, inputs)
    _name_tensors(program)
    return program


def _refuse_state(exported: Any, where: str) -> None:
    """Raise if calling the module changes a buffer: litert-torch would drop the change without a word."""
    plain = exported.run_decompositions({})
    signature = plain.graph_signature
    changed = [*signature.buffers_to_mutate.values(), *getattr(signature, "parameters_to_mutate", {}).values()]
    changed += signature.user_inputs_to_mutate.values()
    if changed:
        raise ConversionError(
            f"{where} keeps state between calls ({', '.join(changed)}), and a .tflite file made here can't: "
            "pass the state in and out"
        )


def _reason(error: Exception) -> str:
    """One line; an op that litert-torch has no lowering for is named, and random numbers explained."""
    line = first_line(error)
    if "Lowering not found" in line:
        op = line.rpartition(": ")[2]
        if "rand" in op or "dropout" in op or "bernoulli" in op:
            return (
                f"it draws random numbers when it predicts ({op}); with torch.nn.functional.dropout, "
                "say training=self.training"
            )
        return f"litert-torch has no lowering for {op}; replace it in the module by ops that it has"
    return line


def _name_signature(program: Program, inputs: Sequence[str]) -> None:
    """Inputs after the arguments, in their order; outputs in the order in which the module returns them."""
    for signature in program.signatures:
        graph = signature.graph
        signature.inputs.sort(key=lambda pair: graph.inputs.index(pair[1]))
        signature.outputs.sort(key=lambda pair: graph.outputs.index(pair[1]))
        if len(signature.inputs) == len(inputs):
            signature.inputs = [(name, tensor) for name, (_, tensor) in zip(inputs, signature.inputs, strict=True)]


def _name_tensors(program: Program) -> None:
    """Tensors after the submodule and the op that make them; the last one of a submodule has its name alone."""
    for graph in program.graphs:
        for op in graph.ops:
            for tensor in op.outputs:
                tensor.name = "/".join(filter(None, (_path(tensor.name), op.code.lower())))
        for tensor in graph.tensors:
            if tensor.is_constant:
                tensor.name = "/".join(filter(None, (_path(tensor.name), "const")))
    for signature in program.signatures:
        naming.name_tensors(program, [name for name, _ in signature.inputs], [name for name, _ in signature.outputs])


def _path(name: str) -> str:
    """`__main__.Net/torch.nn.modules.conv.Conv2d_conv1;2` -> `conv1`; "" where only the whole module is named.

    litert-torch writes one path of submodules (class, underscore, attribute) for each op that was fused: the one with
    weights counts, else the first.
    """
    found, working = [], []
    for path in name.split(";"):
        parts = [part.rpartition(".")[2].partition("_") for part in path.split("/")[1:] if part]
        if attributes := [attribute for _, _, attribute in parts if attribute]:
            found.append("/".join(attributes))
            if parts[-1][0].startswith(_WORKING):
                working.append(found[-1])
    return next(iter([*working[-1:], *found]), "")
