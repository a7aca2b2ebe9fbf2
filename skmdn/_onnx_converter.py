"""Conversion of pipelines that end in an MDNRegressor, by skl2onnx."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

from skmdn._regressor import MDNRegressor

OUTPUTS = ("weights", "means", "precision_factors")


def register(export: Callable[[MDNRegressor, str], None]) -> None:
    """Make skl2onnx convert an MDNRegressor to the model that `export` writes.

    Without skl2onnx it does nothing.
    """
    try:
        from skl2onnx import update_registered_converter
    except ImportError:
        return

    def convert(scope: Any, operator: Any, container: Any) -> None:
        graph = _exported(export, operator.raw_operator, container.target_opset)
        _embed(graph, scope, operator, container)

    update_registered_converter(
        MDNRegressor, "SkmdnMDNRegressor", _set_output_types, convert, parser=_parse
    )


def _parse(
    scope: Any, model: Any, inputs: list[Any], custom_parsers: Any = None
) -> Any:
    """Declare the operator of an estimator, and its outputs."""
    from skl2onnx.common.data_types import DoubleTensorType

    operator = scope.declare_local_operator("SkmdnMDNRegressor", model)
    operator.inputs = inputs
    for name in OUTPUTS:
        variable = scope.declare_local_variable(name, DoubleTensorType())
        operator.outputs.append(variable)
    return operator.outputs


def _set_output_types(operator: Any) -> None:
    """Set the types and shapes of the outputs; the number of components is open."""
    from skl2onnx.common.data_types import DoubleTensorType, StringTensorType

    for variable in operator.inputs:
        if isinstance(variable.type, StringTensorType):
            raise TypeError(
                f"Input {variable.raw_name!r} of MDNRegressor is text, and its ONNX "
                "model takes numbers. Encode it in a step before, for example by "
                "OneHotEncoder."
            )
    d = operator.raw_operator._model.outputs.event_shape
    n_rows = operator.inputs[0].get_first_dimension()
    for variable, shape in zip(operator.outputs, ((), d, d + d), strict=True):
        variable.type = DoubleTensorType([n_rows, None, *shape])


def _exported(
    export: Callable[[MDNRegressor, str], None], estimator: MDNRegressor, opset: int
) -> Any:
    """Export an estimator, and return its graph for a version of ONNX's operators."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        export(estimator, path)
        model = onnx.load(path)
    (ours,) = (item.version for item in model.opset_import if item.domain == "")
    if opset < ours:
        raise ValueError(
            f"target_opset must be at least {ours} for MDNRegressor, got {opset}."
        )
    if opset > ours:
        model = onnx.version_converter.convert_version(model, opset)
    return model.graph


def _embed(graph: Any, scope: Any, operator: Any, container: Any) -> None:
    """Add a graph of one input and several outputs under names that are new."""
    import onnx
    from skl2onnx.common._apply_operation import apply_cast, apply_concat

    prefix = scope.get_unique_operator_name("skmdn") + "/"
    # Else onnx renames constants only after the body of a Scan, which uses them.
    constants = {tensor.name: prefix + tensor.name for tensor in graph.initializer}
    graph = onnx.compose.add_prefix_graph(graph, prefix, name_map=constants)
    columns = []
    for variable in operator.inputs:
        columns.append(scope.get_unique_variable_name(prefix + "column"))
        to = onnx.TensorProto.DOUBLE
        apply_cast(scope, variable.full_name, columns[-1], container, to=to)
    apply_concat(scope, columns, graph.input[0].name, container, axis=1)
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        tensor = onnx.numpy_helper.from_array(values, tensor.name)
        container.add_initializer(tensor.name, None, None, tensor)
    for node in graph.node:
        container.add_node(
            node.op_type,
            list(node.input),
            list(node.output),
            op_domain=node.domain,
            name=node.name,
            **{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
        )
    for inner, variable in zip(graph.output, operator.outputs, strict=True):
        container.add_node("Identity", inner.name, variable.full_name)
