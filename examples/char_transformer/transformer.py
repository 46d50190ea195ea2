"""A decoder-only transformer in NumPy: forward, backward by hand, and AdamW.

Pre-LN blocks (Xiong et al. 2020, arXiv:2002.04745), causal multi-head attention (Vaswani et al. 2017,
arXiv:1706.03762), ReLU MLP, learned positions, output head tied to the embedding (Press and Wolf 2017,
arXiv:1608.05859). All parameters live in one flat vector; the named arrays are views into it, so that the
optimizer, the gradient norm and a checkpoint each work on a single array.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_EPSILON = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """The shape of a model. `vocabulary` is the number of symbols, `context` the longest sequence."""

    vocabulary: int
    layers: int
    hidden: int
    heads: int
    mlp: int
    context: int


class Transformer:
    """The model: `parameters` and `gradients` are flat vectors, `weights` and `gradient_of` named views."""

    def __init__(self, dimensions: Dimensions, random: np.random.Generator, dtype: Any = np.float32) -> None:
        self.dimensions = dimensions
        shapes = list_shapes(dimensions)
        size = sum(math.prod(shape) for shape in shapes.values())
        self.parameters: Array = np.zeros(size, dtype)
        self.gradients: Array = np.zeros(size, dtype)
        self.is_matrix = np.zeros(size, bool)
        """Which parameters weight decay applies to: matrices, not biases or normalization."""
        self.weights: dict[str, Array] = {}
        self.gradient_of: dict[str, Array] = {}
        start = 0
        for name, shape in shapes.items():
            part = slice(start, start + math.prod(shape))
            start = part.stop
            self.weights[name] = self.parameters[part].reshape(shape)
            self.gradient_of[name] = self.gradients[part].reshape(shape)
            self.is_matrix[part] = len(shape) == 2
            if name.endswith("scale"):
                self.weights[name][...] = 1
            elif len(shape) == 2:
                # As in GPT-2: what is added to the residual stream starts smaller the deeper the model.
                spread = 0.02 / math.sqrt(2 * dimensions.layers) if name.endswith(("out", "down")) else 0.02
                self.weights[name][...] = random.normal(0, spread, shape)
        self._mask = np.triu(np.full((dimensions.context, dimensions.context), -np.inf, dtype), 1)

    def compute_logits(self, symbols: Array) -> Array:
        """Return scores of shape (batch × length, vocabulary) for the symbol after each of `symbols`."""
        return self._forward(symbols)[0]

    def compute_loss(self, symbols: Array, targets: Array) -> float:
        """Return the mean cross-entropy in nats per symbol."""
        logits = self.compute_logits(symbols)
        return float(_softmax_loss(logits, targets.ravel()))

    def compute_gradients(self, symbols: Array, targets: Array) -> float:
        """Return the loss and leave its gradient in `gradients`."""
        logits, states = self._forward(symbols)
        flat = targets.ravel()
        loss = float(_softmax_loss(logits, flat))
        logits[np.arange(flat.size), flat] -= 1  # now the probabilities less the truth: the loss's gradient
        logits *= 1 / flat.size
        self._backward(symbols, logits, states)
        return loss

    def _forward(self, symbols: Array) -> tuple[Array, list[tuple[Array, ...]]]:
        batch, length = symbols.shape
        hidden = self.dimensions.hidden
        w = self.weights
        stream = (w["embedding"][symbols] + w["position"][:length]).reshape(batch * length, hidden)
        states: list[tuple[Array, ...]] = []
        for layer in range(self.dimensions.layers):
            p = f"layer{layer}."
            normal1, spread1 = _normalize(stream)
            inner1 = normal1 * w[p + "norm1.scale"] + w[p + "norm1.shift"]
            qkv = inner1 @ w[p + "qkv"] + w[p + "qkv.bias"]
            query, key, value = self._split_heads(qkv, batch, length)
            attention = query @ key.swapaxes(-1, -2)
            attention *= 1 / math.sqrt(query.shape[-1])
            attention += self._mask[:length, :length]
            attention -= attention.max(-1, keepdims=True)
            np.exp(attention, attention)
            attention /= attention.sum(-1, keepdims=True)
            mixed = (attention @ value).transpose(0, 2, 1, 3).reshape(batch * length, hidden)
            stream = stream + mixed @ w[p + "out"] + w[p + "out.bias"]
            normal2, spread2 = _normalize(stream)
            inner2 = normal2 * w[p + "norm2.scale"] + w[p + "norm2.shift"]
            active = inner2 @ w[p + "up"]
            active += w[p + "up.bias"]
            np.maximum(active, 0, out=active)
            stream = stream + active @ w[p + "down"] + w[p + "down.bias"]
            states.append((normal1, spread1, inner1, qkv, attention, mixed, normal2, spread2, inner2, active))
        normal, spread = _normalize(stream)
        last = normal * w["norm.scale"] + w["norm.shift"]
        states.append((normal, spread, last))
        return last @ w["embedding"].T, states

    def _backward(self, symbols: Array, d_logits: Array, states: list[tuple[Array, ...]]) -> None:
        batch, length = symbols.shape
        w, g = self.weights, self.gradient_of
        normal, spread, last = states[-1]
        np.matmul(d_logits.T, last, out=g["embedding"])
        d_stream = self._normalize_backward("norm", d_logits @ w["embedding"], normal, spread)
        for layer in reversed(range(self.dimensions.layers)):
            p = f"layer{layer}."
            normal1, spread1, inner1, qkv, attention, mixed, normal2, spread2, inner2, active = states[layer]
            d_active = self._linear_backward(p + "down", d_stream, active)
            d_active *= active > 0
            d_inner2 = self._linear_backward(p + "up", d_active, inner2)
            d_stream = d_stream + self._normalize_backward(p + "norm2", d_inner2, normal2, spread2)
            d_mixed = self._linear_backward(p + "out", d_stream, mixed)
            d_qkv = self._attention_backward(d_mixed, qkv, attention, batch, length)
            d_inner1 = self._linear_backward(p + "qkv", d_qkv, inner1)
            d_stream = d_stream + self._normalize_backward(p + "norm1", d_inner1, normal1, spread1)
        d_stream = d_stream.reshape(batch, length, -1)
        g["position"][...] = 0
        g["position"][:length] = d_stream.sum(0)
        # One product with a one-hot matrix adds up repeated symbols; np.add.at does it slowly one by one.
        one_hot = np.zeros((self.dimensions.vocabulary, symbols.size), d_stream.dtype)
        one_hot[symbols.ravel(), np.arange(symbols.size)] = 1
        g["embedding"] += one_hot @ d_stream.reshape(symbols.size, -1)

    def _split_heads(self, qkv: Array, batch: int, length: int) -> tuple[Array, Array, Array]:
        split = qkv.reshape(batch, length, 3, self.dimensions.heads, -1).transpose(2, 0, 3, 1, 4)
        return split[0], split[1], split[2]

    def _attention_backward(self, d_mixed: Array, qkv: Array, attention: Array, batch: int, length: int) -> Array:
        query, key, value = self._split_heads(qkv, batch, length)
        d_mixed = d_mixed.reshape(batch, length, self.dimensions.heads, -1).transpose(0, 2, 1, 3)
        d_scores = d_mixed @ value.swapaxes(-1, -2)
        d_scores -= np.einsum("bhij,bhij->bhi", d_scores, attention)[..., None]
        d_scores *= attention
        d_scores *= 1 / math.sqrt(query.shape[-1])
        d_qkv = np.empty_like(qkv)
        d_query, d_key, d_value = self._split_heads(d_qkv, batch, length)
        np.matmul(d_scores, key, out=d_query)
        np.matmul(d_scores.swapaxes(-1, -2), query, out=d_key)
        np.matmul(attention.swapaxes(-1, -2), d_mixed, out=d_value)
        return d_qkv

    def _linear_backward(self, name: str, d_output: Array, inputs: Array) -> Array:
        np.matmul(inputs.T, d_output, out=self.gradient_of[name])
        np.sum(d_output, 0, out=self.gradient_of[name + ".bias"])
        return d_output @ self.weights[name].T

    def _normalize_backward(self, name: str, d_output: Array, normal: Array, spread: Array) -> Array:
        np.einsum("ij,ij->j", d_output, normal, out=self.gradient_of[name + ".scale"])
        np.sum(d_output, 0, out=self.gradient_of[name + ".shift"])
        d_normal = d_output * self.weights[name + ".scale"]
        width = normal.shape[-1]
        slope = np.einsum("ij,ij->i", d_normal, normal)[:, None] / width
        d_normal -= d_normal.mean(-1, keepdims=True)
        d_normal -= normal * slope
        d_normal *= spread
        return d_normal


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101) on flat vectors."""

    def __init__(self, model: Transformer, *, weight_decay: float, gradient_clip: float) -> None:
        self.model = model
        self.first_moment = np.zeros_like(model.parameters)
        self.second_moment = np.zeros_like(model.parameters)
        self.gradient_clip = gradient_clip
        self._decay = model.is_matrix.astype(model.parameters.dtype) * weight_decay

    def update(self, *, step: int, learning_rate: float, beta1: float = 0.9, beta2: float = 0.99) -> float:
        """Change the parameters by the current gradients; `step` counts from 1. Return the gradient's norm."""
        gradients = self.model.gradients
        norm = math.sqrt(float(gradients @ gradients))
        if norm > self.gradient_clip:
            gradients *= self.gradient_clip / norm
        self.first_moment *= beta1
        self.first_moment += (1 - beta1) * gradients
        self.second_moment *= beta2
        self.second_moment += (1 - beta2) * gradients * gradients
        change = self.second_moment / (1 - beta2**step)
        np.sqrt(change, change)
        change += 1e-8
        np.divide(self.first_moment, change, out=change)
        change *= 1 / (1 - beta1**step)
        change += self._decay * self.model.parameters
        change *= learning_rate
        self.model.parameters -= change
        return norm


def list_shapes(dimensions: Dimensions) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by name."""
    hidden, mlp = dimensions.hidden, dimensions.mlp
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (dimensions.vocabulary, hidden),
        "position": (dimensions.context, hidden),
    }
    for layer in range(dimensions.layers):
        p = f"layer{layer}."
        for name in ("norm1", "norm2"):
            shapes |= {f"{p}{name}.scale": (hidden,), f"{p}{name}.shift": (hidden,)}
        linear = {"qkv": (hidden, 3 * hidden), "out": (hidden, hidden), "up": (hidden, mlp), "down": (mlp, hidden)}
        for name, (inputs, outputs) in linear.items():
            shapes |= {p + name: (inputs, outputs), f"{p}{name}.bias": (outputs,)}
    return shapes | {"norm.scale": (hidden,), "norm.shift": (hidden,)}


def _normalize(stream: Array) -> tuple[Array, Array]:
    normal = stream - stream.mean(-1, keepdims=True)
    variance = np.einsum("ij,ij->i", normal, normal)[:, None] / stream.shape[-1]
    spread = 1 / np.sqrt(variance + _EPSILON)
    normal *= spread
    return normal, spread


def _softmax_loss(logits: Array, targets: Array) -> Any:
    """Return the mean cross-entropy; `logits` become probabilities in place."""
    logits -= logits.max(-1, keepdims=True)
    chosen = logits[np.arange(targets.size), targets]
    np.exp(logits, logits)
    total = logits.sum(-1, keepdims=True)
    logits /= total
    return (np.log(total[:, 0]) - chosen).mean()
