"""Loads exported weights into PyTorch modules of the reference's structure, strictly, and runs them.

    python3 strict_load.py KIND SETTINGS.json WEIGHTS.safetensors CASE.safetensors

KIND is `mae` or `unetr`, SETTINGS the JSON of a golden case, WEIGHTS a file that this project exported, and CASE the
golden tensors to compare with. Needs only PyTorch. Prints the largest relative error of the result; exits with 1
if a name or shape does not fit or the error is above 1e-5. The modules are written from the published architecture;
only the names of their parameters are the reference's.
"""

import json
import struct
import sys

import torch
from torch import nn
from torch.nn import functional as F

TOLERANCE = 1e-5


def read_safetensors(path):
    with open(path, "rb") as file:
        (header_len,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_len))
        body = bytearray(file.read())
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = {"F32": torch.float32, "F64": torch.float64}[entry["dtype"]]
        tensors[name] = torch.frombuffer(body[begin:end], dtype=dtype).reshape(entry["shape"])
    return tensors, metadata


class Attention(nn.Module):
    def __init__(self, dim, heads, proj):
        super().__init__()
        self.heads, self.proj_name = heads, proj
        self.qkv = nn.Linear(dim, 3 * dim)
        setattr(self, proj, nn.Linear(dim, dim))

    def forward(self, x):
        n, l, dim = x.shape
        q, k, v = self.qkv(x).reshape(n, l, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        return getattr(self, self.proj_name)(attend(q, k, v))


class CrossAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x, context):
        def split(y, parts):
            n, l, _ = y.shape
            return y.reshape(n, l, parts, self.heads, -1).permute(2, 0, 3, 1, 4)

        (q,), (k, v) = split(self.q(x), 1), split(self.kv(context), 2)
        return self.proj(attend(q, k, v))


def attend(q, k, v):
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    def __init__(self, dim, names):
        super().__init__()
        self.names = names
        setattr(self, names[0], nn.Linear(dim, 4 * dim))
        setattr(self, names[1], nn.Linear(4 * dim, dim))

    def forward(self, x):
        first, second = (getattr(self, name) for name in self.names)
        return second(F.gelu(first(x)))


class Block(nn.Module):
    def __init__(self, dim, heads, eps=1e-6, proj="proj", mlp=("fc1", "fc2")):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attn, self.mlp = Attention(dim, heads, proj), Mlp(dim, mlp)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    def __init__(self, dim, heads, eps=1e-6):
        super().__init__()
        self.norm0, self.norm1, self.norm2 = (nn.LayerNorm(dim, eps) for _ in range(3))
        self.self_attn, self.cross_attn = Attention(dim, heads, "proj"), CrossAttention(dim, heads)
        self.mlp = Mlp(dim, ("fc1", "fc2"))

    def forward(self, x, context):
        x = x + self.self_attn(self.norm0(x))
        x = x + self.cross_attn(self.norm1(x), context)
        return x + self.mlp(self.norm2(x))


def table(length, dim):
    return nn.Parameter(torch.zeros(1, length, dim), requires_grad=False)


class PatchConv(nn.Module):
    def __init__(self, patch, dim):
        super().__init__()
        self.proj = nn.Conv3d(1, dim, patch, patch)


class HiEndMae(nn.Module):
    def __init__(self, s):
        super().__init__()
        dim, width, patch = s["encoder_dim"], s["decoder_dim"], s["patch_size"]
        self.patch, self.visible = patch, 1 - s["mask_ratio"]
        length = (s["img_size"] // patch) ** 3
        self.encoder_pos_embed, self.decoder_pos_embed = table(length, dim), table(length, width)
        self.mask_token = table(1, width)
        self.encoder_to_decoder = nn.ModuleList(nn.Linear(dim, width) for _ in range(4))
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.cls_token, self.encoder.patch_embed = table(1, dim), PatchConv(patch, dim)
        self.encoder.blocks = nn.ModuleList(Block(dim, s["encoder_heads"]) for _ in range(s["encoder_depth"]))
        self.encoder.norm, self.decoder.norm = nn.LayerNorm(dim, 1e-6), nn.LayerNorm(width, 1e-6)
        heads = s["decoder_heads"]
        self.decoder.blocks = nn.ModuleList(Block(width, heads) for _ in range(s["decoder_self_depth"]))
        cross = nn.ModuleList(CrossBlock(width, heads) for _ in range(s["decoder_cross_depth"]))
        self.decoder.cross_attention_blocks, self.decoder.head = cross, nn.Linear(width, patch**3)

    def forward(self, image, noise):
        shuffle = noise.argsort(1)
        keep = int(noise.shape[1] * self.visible)

        def rows(x):
            return x.expand(len(image), -1, -1).gather(1, shuffle[..., None].expand(-1, -1, x.shape[-1]))

        tokens = self.encoder.patch_embed.proj(image).flatten(2).transpose(1, 2) + self.encoder_pos_embed
        x = torch.cat([self.encoder.cls_token.expand(len(image), -1, -1), rows(tokens)[:, :keep]], 1)
        taps = []
        for i, block in enumerate(self.encoder.blocks):
            x = block(x)
            taps += [x] if i in (3, 6, 9) else []
        contexts = [linear(tap) for linear, tap in zip(self.encoder_to_decoder, taps)]
        x = self.encoder_to_decoder[3](self.encoder.norm(x))
        masked = self.mask_token.expand(len(image), noise.shape[1] - keep, -1)
        y = torch.cat([x, masked], 1)
        y = y + F.pad(rows(self.decoder_pos_embed), (0, 0, 1, 0))
        for block in self.decoder.blocks:
            y = block(y)
        for block, context in zip(self.decoder.cross_attention_blocks, reversed(contexts)):
            y = block(y, context)
        pred = self.decoder.head(self.decoder.norm(y))[:, 1 + keep :]
        p = self.patch
        cut = image.unfold(2, p, p).unfold(3, p, p).unfold(4, p, p).reshape(len(image), -1, p**3)
        return F.mse_loss(pred, F.layer_norm(rows(cut)[:, keep:], (p**3,), eps=1e-6))


class Wrapped(nn.Module):
    """A module that holds one convolution, as the reference names its parameters."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return self.conv(x)


def conv(inputs, outputs, kernel):
    return Wrapped(nn.Conv3d(inputs, outputs, kernel, padding=kernel // 2, bias=False))


def up(inputs, outputs):
    return Wrapped(nn.ConvTranspose3d(inputs, outputs, 2, 2, bias=False))


class ResBlock(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, outputs, 3), conv(outputs, outputs, 3)
        self.conv3 = conv(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x):
        y = F.leaky_relu(F.instance_norm(self.conv1(x)), 0.01)
        y = F.instance_norm(self.conv2(y))
        return F.leaky_relu(y + (x if self.conv3 is None else F.instance_norm(self.conv3(x))), 0.01)


class Basic(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = ResBlock(inputs, outputs)


class Projection(nn.Module):
    def __init__(self, inputs, outputs, count):
        super().__init__()
        self.transp_conv_init = up(inputs, outputs)
        steps = (nn.Sequential(up(outputs, outputs), ResBlock(outputs, outputs)) for _ in range(count))
        self.blocks = nn.ModuleList(steps)

    def forward(self, x):
        x = self.transp_conv_init(x)
        for block in self.blocks:
            x = block(x)
        return x


class Up(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.transp_conv, self.conv_block = up(inputs, outputs), ResBlock(2 * outputs, outputs)

    def forward(self, x, branch):
        return self.conv_block(torch.cat([self.transp_conv(x), branch], 1))


class Resize(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv3d, self.conv_block = nn.Conv3d(inputs, outputs, 3, padding=1), ResBlock(2 * outputs, outputs)

    def forward(self, x, branch):
        x = F.interpolate(x, branch.shape[2:], mode="trilinear", align_corners=False)
        return self.conv_block(torch.cat([self.conv3d(x), branch], 1))


class Unetr(nn.Module):
    def __init__(self, s):
        super().__init__()
        dim, f, self.patch = s["hidden_size"], s["feature_size"], s["patch_size"]
        self.grid = s["img_size"] // self.patch
        self.vit, embedding = nn.Module(), nn.Module()
        embedding.position_embeddings = nn.Parameter(torch.zeros(1, self.grid**3, dim))
        embedding.patch_embeddings = nn.Sequential(nn.Identity(), nn.Linear(self.patch**3, dim))
        self.vit.patch_embedding = embedding
        heads, mlp = s["heads"], ("linear1", "linear2")
        self.vit.blocks = nn.ModuleList(Block(dim, heads, 1e-5, "out_proj", mlp) for _ in range(s["depth"]))
        self.vit.norm = nn.LayerNorm(dim, 1e-5)
        self.encoder1 = Basic(1, f)
        self.encoder2, self.encoder3 = Projection(dim, 2 * f, 2), Projection(dim, 4 * f, 1)
        self.encoder4, self.decoder5 = Projection(dim, 8 * f, 0), Up(dim, 8 * f)
        self.decoder4, self.decoder3, self.decoder2 = Up(8 * f, 4 * f), Up(4 * f, 2 * f), Resize(2 * f, f)
        self.out = nn.Module()
        self.out.conv = Wrapped(nn.Conv3d(f, s["classes"], 1))

    def forward(self, image):
        p, g = self.patch, self.grid
        cut = image.unfold(2, p, p).unfold(3, p, p).unfold(4, p, p).reshape(len(image), g**3, p**3)
        x = self.vit.patch_embedding.patch_embeddings(cut) + self.vit.patch_embedding.position_embeddings
        taps = []
        for i, block in enumerate(self.vit.blocks):
            x = block(x)
            taps += [x] if i in (3, 6, 9) else []
        first, second, third, last = (
            tokens.transpose(1, 2).reshape(len(image), -1, g, g, g) for tokens in (*taps, self.vit.norm(x))
        )
        y = self.decoder5(last, self.encoder4(third))
        y = self.decoder4(y, self.encoder3(second))
        y = self.decoder3(y, self.encoder2(first))
        return self.out.conv(self.decoder2(y, self.encoder1.layer(image)))


def unetr_image(size):
    z, y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * 3, indexing="ij")
    image = 0.5 + 0.25 * torch.sin(0.11 * z + 0.2) + 0.15 * torch.cos(0.07 * y * 1.3 + 0.5)
    return (image + 0.1 * torch.sin(0.05 * x + 0.03 * z)).float()[None, None]


def main(kind, settings_path, weights_path, case_path):
    with open(settings_path) as file:
        settings = json.load(file)
    weights, metadata = read_safetensors(weights_path)
    case, _ = read_safetensors(case_path)
    assert metadata == {"format": "pt"}, metadata
    model = {"mae": HiEndMae, "unetr": Unetr}[kind](settings).eval()
    model.load_state_dict(weights, strict=True)
    with torch.no_grad():
        if kind == "mae":
            pairs = [("loss", model(case["input/image"], case["input/noise"]), case["expect/loss"])]
        else:
            logits = model(unetr_image(settings["img_size"]))[:, :, ::5, ::5, ::5]
            pairs = [("logits", logits, case["expect/logits_stride5"])]
    for what, got, want in pairs:
        error = ((got - want).abs().max() / want.abs().max()).item()
        print(f"golden {kind}: {len(weights)} tensors loaded strictly, {what} {error:.2e} (tolerance {TOLERANCE:.0e})")
        if not error <= TOLERANCE:
            sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
