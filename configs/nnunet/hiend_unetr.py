"""UNETR on the encoder of `hiend-train export --format nnssl`, in PyTorch.

The network is the one that `hiend-train finetune` trains, with its parameters under the names of the checkpoint: `stem`,
`encoder`, and the convolutional decoder. Needs only PyTorch.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        n, length, dim = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, dim))


class Mlp(nn.Module):
    def __init__(self, dim, ratio):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, ratio * dim), nn.Linear(ratio * dim, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim, num_heads, mlp_ratio, eps):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attn, self.mlp = Attention(dim, num_heads), Mlp(dim, mlp_ratio)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """Transformer over all patches; returns the tokens after the tapped blocks, and the normed last ones."""

    def __init__(self, grid, embed_dim, depth, num_heads, mlp_ratio, taps, norm_eps):
        super().__init__()
        self.taps = taps
        self.pos_embed = nn.Parameter(positions(grid, embed_dim))
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio, norm_eps) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, norm_eps)

    def forward(self, tokens):
        x = tokens + self.pos_embed
        outputs = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taps:
                outputs.append(x)
        return [*outputs, self.norm(x)]


def positions(grid, dim):
    """Sine-cosine table [1, L, dim] of a grid of patches: a third of the width per axis, sines first."""
    waves = dim // 6
    omega = 1 / 10000 ** (torch.arange(waves, dtype=torch.float64) / waves)
    places = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in grid], indexing="ij"), -1)
    angles = places.reshape(-1, 3, 1) * omega
    return torch.cat([angles.sin(), angles.cos()], -1).reshape(1, -1, dim).float()


def conv(inputs, outputs, kernel):
    return nn.Conv3d(inputs, outputs, kernel, padding=kernel // 2, bias=False)


def up(inputs, outputs):
    return nn.ConvTranspose3d(inputs, outputs, 2, 2, bias=False)


class ResBlock(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, outputs, 3), conv(outputs, outputs, 3)
        self.conv3 = conv(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x):
        y = F.leaky_relu(F.instance_norm(self.conv1(x)), 0.01)
        y = F.instance_norm(self.conv2(y))
        return F.leaky_relu(y + (x if self.conv3 is None else F.instance_norm(self.conv3(x))), 0.01)


class Projection(nn.Module):
    """Brings tokens to `2 * 2**count` times the resolution of the patches."""

    def __init__(self, inputs, outputs, count):
        super().__init__()
        steps = [nn.Sequential(up(outputs, outputs), ResBlock(outputs, outputs)) for _ in range(count)]
        self.layers = nn.Sequential(up(inputs, outputs), *steps)

    def forward(self, x):
        return self.layers(x)


class Up(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.up, self.block = up(inputs, outputs), ResBlock(2 * outputs, outputs)

    def forward(self, x, branch):
        return self.block(torch.cat([self.up(x), branch], 1))


class Resize(nn.Module):
    """Last stage, from 8 voxels per patch to those of the crop."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv, self.block = nn.Conv3d(inputs, outputs, 3, padding=1), ResBlock(2 * outputs, outputs)

    def forward(self, x, branch):
        x = F.interpolate(x, branch.shape[2:], mode="trilinear", align_corners=False)
        return self.block(torch.cat([self.conv(x), branch], 1))


class HiEndUnetr(nn.Module):
    """UNETR on nnU-Net's crops [N, C, Z, Y, X].

    The encoder was trained on crops [N, C, X, Y, Z]. They had the HU range `window` mapped to [0, 1]: `intensities`, mean
    and standard deviation, then undo nnU-Net's CTNormalization. Or they were z-scores within `zscore_range`, as
    nnU-Net's ZScoreNormalization makes them.
    """

    # Names that nnU-Net's loaders of pre-trained weights ask for.
    key_to_encoder, key_to_stem, key_to_lpe = "encoder", "stem", "encoder.pos_embed"
    keys_to_in_proj = ("stem.proj",)

    def __init__(self, num_classes, input_patch_size, intensities, patch_size, embed_dim, depth, num_heads, mlp_ratio,
                 taps, norm_eps, window=None, zscore_range=None, feature_size=32):
        super().__init__()
        if (window is None) == (zscore_range is None):
            raise ValueError("expected either a window or a range of z-scores")
        if any(side % patch_size for side in input_patch_size):
            raise ValueError(f"the patch size {input_patch_size} is not a multiple of {patch_size} voxels")
        self.grid = [side // patch_size for side in reversed(input_patch_size)]
        self.intensities, self.window, self.zscore_range = intensities, window, zscore_range
        self.stem = nn.Module()
        self.stem.proj = nn.Conv3d(1, embed_dim, patch_size, patch_size)
        self.encoder = Encoder(self.grid, embed_dim, depth, num_heads, mlp_ratio, taps, norm_eps)
        dim, f = embed_dim, feature_size
        self.encoder1 = ResBlock(1, f)
        self.encoder2, self.encoder3 = Projection(dim, 2 * f, 2), Projection(dim, 4 * f, 1)
        self.encoder4, self.decoder5 = Projection(dim, 8 * f, 0), Up(dim, 8 * f)
        self.decoder4, self.decoder3, self.decoder2 = Up(8 * f, 4 * f), Up(4 * f, 2 * f), Resize(2 * f, f)
        self.out = nn.Conv3d(f, num_classes, 1)

    def pretraining_units(self, image):
        """Crops as in pre-training: axes x, y, z, and the window mapped to [0, 1] or z-scores within their range."""
        if self.window is None:
            return image.clamp(*self.zscore_range).permute(0, 1, 4, 3, 2)
        mean, std = self.intensities
        low, high = self.window
        hu = image * max(std, 1e-8) + mean
        return ((hu - low) / (high - low)).clamp(0, 1).permute(0, 1, 4, 3, 2)

    def forward(self, image):
        image = self.pretraining_units(image)
        tokens = self.stem.proj(image).flatten(2).transpose(1, 2)
        first, second, third, last = (
            tokens.transpose(1, 2).reshape(len(image), -1, *self.grid) for tokens in self.encoder(tokens)
        )
        y = self.decoder5(last, self.encoder4(third))
        y = self.decoder4(y, self.encoder3(second))
        y = self.decoder3(y, self.encoder2(first))
        return self.out(self.decoder2(y, self.encoder1(image))).permute(0, 1, 4, 3, 2)


def load_encoder(network, checkpoint_path):
    """Loads stem and encoder of a checkpoint strictly; returns the number of tensors loaded.

    The position table is a function of the grid and is kept where the crops have another size.
    """
    checkpoint = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
    weights, plan = checkpoint["network_weights"], checkpoint["nnssl_adaptation_plan"]
    num_loaded = 0
    for ours, theirs in (("stem", plan["key_to_stem"]), ("encoder", plan["key_to_encoder"])):
        module = network.get_submodule(ours)
        prefix = theirs + "."
        part = {key[len(prefix):]: tensor for key, tensor in weights.items() if key.startswith(prefix)}
        if "pos_embed" in part and part["pos_embed"].shape != module.pos_embed.shape:
            part["pos_embed"] = module.pos_embed.data
        module.load_state_dict(part, strict=True)
        num_loaded += len(part)
    return num_loaded
