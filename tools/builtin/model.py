"""Training model: DeepSeek-V2's architecture in plain PyTorch for the CPU.

Experts run over tokens sorted by expert, one matrix product each over its own slice; the elementwise parts
are compiled, with hand-written backward passes, because autograd's many small operations cost more than the
matrix products at this size. Attention is a small C++ kernel (compiled when first used) that skips masked pairs.
"""

import ctypes
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional as F


@dataclass
class Config:
    vocab_size: int = 1024
    hidden_size: int = 128
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    kv_lora_rank: int = 64
    qk_nope_head_dim: int = 32
    qk_rope_head_dim: int = 16
    v_head_dim: int = 32
    intermediate_size: int = 384
    first_k_dense_replace: int = 1
    n_routed_experts: int = 24
    num_experts_per_tok: int = 4
    moe_intermediate_size: int = 32
    n_shared_experts: int = 2
    rope_theta: float = 1000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 512

    def dict(self):
        return asdict(self)


def _norm_f(x, w):
    r = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return x * r * w


def _norm_b(g, x, w):
    r = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    n = x * r
    gw = g * w
    return r * (gw - n * (gw * n).mean(-1, keepdim=True)), (g * n).sum(0)


def _glu_f(h):
    a, b = h.chunk(2, -1)
    return a * torch.sigmoid(a) * b


def _glu_b(g, h):
    a, b = h.chunk(2, -1)
    s = torch.sigmoid(a)
    return torch.cat([g * b * s * (1 + a * (1 - s)), g * a * s], -1)


def _gated_f(h, w):
    a, b = h.chunk(2, -1)
    return a * torch.sigmoid(a) * b * w[:, None]


def _gated_b(g, h, w):
    a, b = h.chunk(2, -1)
    s = torch.sigmoid(a)
    act = a * s
    gw = (g * act * b).sum(-1)
    g = g * w[:, None]
    return torch.cat([g * b * s * (1 + a * (1 - s)), g * act], -1), gw


def _rotate(x, cos, sin):
    # Pairs are adjacent (2i, 2i+1), as in the stored weights of the family.
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def _rope_f(q, k_nope, k_rope, cos, sin):
    # q [B,T,h,n+r], k_nope [B,T,h,n], k_rope [B,T,r] -> q, k [B,h,T,n+r]
    n = k_nope.shape[-1]
    c, s = cos[:, :, None], sin[:, :, None]
    q = torch.cat([q[..., :n], _rotate(q[..., n:], c, s)], -1)
    r = _rotate(k_rope, cos, sin)[:, :, None].expand(-1, -1, k_nope.shape[2], -1)
    k = torch.cat([k_nope, r], -1)
    return q.transpose(1, 2).contiguous(), k.transpose(1, 2).contiguous()


def _rope_b(gq, gk, cos, sin, n: int):
    gq, gk = gq.transpose(1, 2), gk.transpose(1, 2)
    c, s = cos[:, :, None], -sin[:, :, None]
    gq = torch.cat([gq[..., :n], _rotate(gq[..., n:], c, s)], -1)
    return gq, gk[..., :n].contiguous(), _rotate(gk[..., n:].sum(2), cos, -sin)


PLAIN = dict(norm_f=_norm_f, norm_b=_norm_b, glu_f=_glu_f, glu_b=_glu_b, gated_f=_gated_f, gated_b=_gated_b,
             rope_f=_rope_f, rope_b=_rope_b)
FAST = {}


class _Ops:
    def __init__(self):
        self.compiled = False

    def __getattr__(self, name):
        return (FAST if self.compiled else PLAIN)[name]

    def compile(self):
        for k, v in PLAIN.items():
            FAST[k] = torch.compile(v, dynamic=False)
        self.compiled = True


OPS = _Ops()


class Norm(Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return OPS.norm_f(x, w)

    @staticmethod
    def backward(ctx, g):
        return OPS.norm_b(g.contiguous(), *ctx.saved_tensors)


class Glu(Function):
    @staticmethod
    def forward(ctx, h):
        ctx.save_for_backward(h)
        return OPS.glu_f(h)

    @staticmethod
    def backward(ctx, g):
        return OPS.glu_b(g.contiguous(), *ctx.saved_tensors)


def _kernels():
    source = Path(__file__).with_name("attention.cpp")
    out = Path(tempfile.mkdtemp()) / "attention.so"
    subprocess.run(["g++", "-O3", "-march=native", "-ffast-math", "-mprefer-vector-width=512", "-shared", "-fPIC",
                    str(source), "-o", str(out)], check=True)
    return ctypes.CDLL(str(out))


def _address(*tensors):
    return [ctypes.c_void_p(t.data_ptr()) for t in tensors]


class Attend(Function):
    """softmax(q k' scale) v over the two ranges that `seen` [B,T,4] gives each token."""

    library = None

    @staticmethod
    def forward(ctx, q, k, v, seen, scale):
        Attend.library = Attend.library or _kernels()
        b, h, t, _ = q.shape
        out, lse = torch.empty_like(v), q.new_empty(b, h, t)
        size = b, h, t, ctypes.c_float(scale)
        Attend.library.attention_forward(*_address(q, k, v, seen), *size, *_address(out, lse))
        ctx.save_for_backward(q, k, v, seen, lse)
        ctx.size = size
        return out

    @staticmethod
    def backward(ctx, g):
        q, k, v, seen, lse = ctx.saved_tensors
        g = g.contiguous()
        gq, gk, gv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        Attend.library.attention_backward(*_address(q, k, v, seen, lse, g), *ctx.size, *_address(gq, gk, gv))
        return gq, gk, gv, None, None


class Rope(Function):
    @staticmethod
    def forward(ctx, q, k_nope, k_rope, cos, sin):
        ctx.save_for_backward(cos, sin)
        ctx.n = k_nope.shape[-1]
        return OPS.rope_f(q, k_nope, k_rope, cos, sin)

    @staticmethod
    def backward(ctx, gq, gk):
        return *OPS.rope_b(gq, gk, *ctx.saved_tensors, ctx.n), None, None


class Experts(Function):
    """y[t] = sum over slots of weight * down(swiglu(up(x[t]))); up [E,H,2w], down [E,w,H]."""

    @staticmethod
    def forward(ctx, x, weight, ids, up, down):
        n, k = ids.shape
        flat = ids.flatten()
        order = torch.argsort(flat, stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(n * k)
        counts = torch.bincount(flat, minlength=up.shape[0]).tolist()
        token = torch.div(order, k, rounding_mode="floor")
        xs, ws = x.index_select(0, token), weight.flatten().index_select(0, order)
        h = xs.new_empty(n * k, up.shape[2])
        y = xs.new_empty(n * k, x.shape[1])
        at = 0
        for e, c in enumerate(counts):
            torch.mm(xs[at:at + c], up[e], out=h[at:at + c])
            at += c
        a = OPS.gated_f(h, ws)
        at = 0
        for e, c in enumerate(counts):
            torch.mm(a[at:at + c], down[e], out=y[at:at + c])
            at += c
        ctx.save_for_backward(xs, ws, h, a, up, down, token, inverse)
        ctx.counts, ctx.k = counts, k
        return y.index_select(0, inverse).view(n, k, -1).sum(1)

    @staticmethod
    def backward(ctx, g):
        xs, ws, h, a, up, down, token, inverse = ctx.saved_tensors
        gy = g.index_select(0, token)
        ga, gup, gdown = torch.empty_like(a), torch.empty_like(up), torch.empty_like(down)
        at = 0
        for e, c in enumerate(ctx.counts):
            part = gy[at:at + c]
            torch.mm(part, down[e].t(), out=ga[at:at + c])
            torch.mm(a[at:at + c].t(), part, out=gdown[e])
            at += c
        gh, gw = OPS.gated_b(ga, h, ws)
        gx = torch.empty_like(xs)
        at = 0
        for e, c in enumerate(ctx.counts):
            part = gh[at:at + c]
            torch.mm(part, up[e].t(), out=gx[at:at + c])
            torch.mm(xs[at:at + c].t(), part, out=gup[e])
            at += c
        n = inverse.shape[0] // ctx.k
        return (gx.index_select(0, inverse).view(n, ctx.k, -1).sum(1),
                gw.index_select(0, inverse).view(n, ctx.k), None, gup, gdown)


class Mlp(nn.Module):
    def __init__(self, hidden, width):
        super().__init__()
        self.up = nn.Linear(hidden, 2 * width, bias=False)  # gate, then up
        self.down = nn.Linear(width, hidden, bias=False)

    def forward(self, x):
        return self.down(Glu.apply(self.up(x)))


class Moe(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        e, h, w = c.n_routed_experts, c.hidden_size, c.moe_intermediate_size
        self.k, self.e = c.num_experts_per_tok, e
        self.router = nn.Parameter(torch.randn(e, h) * 0.05)
        # Not 0.02: gates are near 1/E without renormalisation, the routed part would vanish beside the shared one.
        self.up = nn.Parameter(torch.randn(e, h, 2 * w) / h ** 0.5)
        self.down = nn.Parameter(torch.randn(e, w, h) / w ** 0.5)
        self.shared = Mlp(h, w * c.n_shared_experts)
        self.balance = None
        self.ids = None
        self.ban = None

    def forward(self, x, valid):
        logits = F.linear(x, self.router)
        if self.ban is not None:
            logits = logits.masked_fill(self.ban, float("-inf"))
        p = torch.softmax(logits, -1)
        weight, ids = p.topk(self.k, -1)
        self.ids = ids
        if self.training:
            total = valid.sum()
            f = torch.zeros(self.e).index_add_(0, ids.flatten(), valid.repeat_interleave(self.k)) / (total * self.k)
            self.balance = self.e * (f * ((p * valid[:, None]).sum(0) / total)).sum()
        return Experts.apply(x, weight, ids, self.up, self.down) + self.shared(x)


class Attention(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        h, heads, n, r, v = c.hidden_size, c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim
        self.q = nn.Linear(h, heads * (n + r), bias=False)
        self.kv_a = nn.Linear(h, c.kv_lora_rank + r, bias=False)
        self.kv_norm = nn.Parameter(torch.ones(c.kv_lora_rank))
        self.kv_b = nn.Linear(c.kv_lora_rank, heads * (n + v), bias=False)
        self.o = nn.Linear(heads * v, h, bias=False)

    def forward(self, x, b, seen, cos, sin):
        c = self.c
        t, heads, n, r, v = x.shape[0] // b, c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim
        q = self.q(x).view(b, t, heads, n + r)
        latent, k_rope = self.kv_a(x).split([c.kv_lora_rank, r], -1)
        kv = self.kv_b(Norm.apply(latent.contiguous(), self.kv_norm)).view(b, t, heads, n + v)
        k_nope, value = kv.split([n, v], -1)
        q, k = Rope.apply(q, k_nope.contiguous(), k_rope.contiguous().view(b, t, r), cos, sin)
        y = Attend.apply(q, k, value.transpose(1, 2).contiguous(), seen, (n + r) ** -0.5)
        return self.o(y.transpose(1, 2).reshape(b * t, heads * v))


class Block(nn.Module):
    def __init__(self, c: Config, dense: bool):
        super().__init__()
        self.norm1 = nn.Parameter(torch.ones(c.hidden_size))
        self.attention = Attention(c)
        self.norm2 = nn.Parameter(torch.ones(c.hidden_size))
        self.dense = dense
        self.mlp = Mlp(c.hidden_size, c.intermediate_size) if dense else Moe(c)

    def forward(self, x, b, seen, cos, sin, valid):
        x = x + self.attention(Norm.apply(x, self.norm1), b, seen, cos, sin)
        h = Norm.apply(x, self.norm2)
        return x + (self.mlp(h) if self.dense else self.mlp(h, valid))


class Model(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocab_size, c.hidden_size)
        nn.init.normal_(self.embed.weight, std=0.5)
        self.blocks = nn.ModuleList(Block(c, i < c.first_k_dense_replace) for i in range(c.num_hidden_layers))
        self.norm = nn.Parameter(torch.ones(c.hidden_size))
        self.head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        scale = (2 * c.num_hidden_layers) ** -0.25
        for block in self.blocks:
            block.attention.o.weight.data *= scale
            (block.mlp.down.weight if block.dense else block.mlp.shared.down.weight).data *= scale

    def moe(self):
        return [b.mlp for b in self.blocks if not b.dense]

    def hidden(self, tokens, positions, seen, valid):
        """tokens, positions [B,T]; seen int32 [B,T,4], T a multiple of 32; valid [B*T] float. Returns [B*T, hidden]."""
        r = self.c.qk_rope_head_dim
        inverse = self.c.rope_theta ** (-torch.arange(0, r, 2, dtype=torch.float32) / r)
        angle = positions[..., None].float() * inverse
        cos, sin = angle.cos(), angle.sin()
        x = self.embed(tokens.flatten())
        for block in self.blocks:
            x = block(x, tokens.shape[0], seen, cos, sin, valid)
        return Norm.apply(x, self.norm)
