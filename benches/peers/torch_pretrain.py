"""PyTorch's side of `cpu-bench --cases pretrain`: steps of Hi-End-MAE's preset `tiny`, in f32 on a CPU.

    torch_pretrain.py pretrain --batch 4

The model is that of hiend-train (arXiv 2502.08347) with what PyTorch offers for it: `scaled_dot_product_attention`, fused
AdamW, the head on masked tokens only. Prints one JSON object: wall-clock and CPU seconds of a step, the least of
--rounds, and the peak of resident memory in bytes.
"""
import argparse, json, resource, time
import torch
from torch import nn
from torch.nn import functional as F

SIDE, PATCH, TAPS, MASKED = 96, 12, (3, 6, 9), 0.75
ENCODER, DECODER, HEADS, DEPTH, OWN_DEPTH = 192, 96, 4, 12, 2
GRID, VALUES = SIDE // PATCH, PATCH ** 3
PATCHES = GRID ** 3
VISIBLE = int(PATCHES * (1 - MASKED))


def attend(q, k, v):
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Layer(nn.Module):
    """A transformer layer; with `reads`, it attends to another sequence after its own."""

    def __init__(self, width, reads=False):
        super().__init__()
        norm = lambda: nn.LayerNorm(width, eps=1e-6)
        self.norm_own, self.qkv, self.out = norm(), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm_mlp, self.up, self.down = norm(), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        if reads:
            self.norm_read, self.q, self.kv = norm(), nn.Linear(width, width), nn.Linear(width, 2 * width)
            self.out_read = nn.Linear(width, width)

    def forward(self, x, read=None):
        x = x + self.out(attend(*self.qkv(self.norm_own(x)).chunk(3, -1)))
        if read is not None:
            x = x + self.out_read(attend(self.q(self.norm_read(x)), *self.kv(read).chunk(2, -1)))
        return x + self.down(F.gelu(self.up(self.norm_mlp(x))))


def rows(table, index):
    return table.gather(1, index[..., None].expand(-1, -1, table.shape[-1]))


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(VALUES, ENCODER)
        self.first = nn.Parameter(0.02 * torch.randn(1, 1, ENCODER))
        self.masked = nn.Parameter(0.02 * torch.randn(1, 1, DECODER))
        self.encoder = nn.ModuleList(Layer(ENCODER) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(ENCODER, eps=1e-6)
        self.maps = nn.ModuleList(nn.Linear(ENCODER, DECODER) for _ in range(len(TAPS) + 1))
        self.own = nn.ModuleList(Layer(DECODER) for _ in range(OWN_DEPTH))
        self.readers = nn.ModuleList(Layer(DECODER, reads=True) for _ in TAPS)
        self.last, self.head = nn.LayerNorm(DECODER, eps=1e-6), nn.Linear(DECODER, VALUES)
        # Values of the positions do not change the time.
        self.register_buffer("encoder_positions", torch.rand(1, PATCHES, ENCODER))
        self.register_buffer("decoder_positions", torch.rand(1, PATCHES, DECODER))

    def forward(self, images):
        n = images.shape[0]
        patches = images.view(n, GRID, PATCH, GRID, PATCH, GRID, PATCH).permute(0, 1, 3, 5, 2, 4, 6)
        patches = patches.reshape(n, PATCHES, VALUES)
        order = torch.rand(n, PATCHES).argsort(1)
        visible, hidden = order[:, :VISIBLE], order[:, VISIBLE:]
        x = self.embed(rows(patches, visible)) + rows(self.encoder_positions.expand(n, -1, -1), visible)
        x = torch.cat([self.first.expand(n, -1, -1), x], 1)
        layers = []
        for number, layer in enumerate(self.encoder):
            x = layer(x)
            if number in TAPS:
                layers.append(x)
        seen = self.maps[-1](self.norm(x))
        positions = rows(self.decoder_positions.expand(n, -1, -1), order)
        tokens = torch.cat([seen[:, 1:], self.masked.expand(n, PATCHES - VISIBLE, -1)], 1) + positions
        x = torch.cat([seen[:, :1], tokens], 1)
        for layer in self.own:
            x = layer(x)
        for layer, linear, tap in zip(self.readers, reversed(self.maps[:-1]), reversed(layers)):
            x = layer(x, linear(tap))
        target = F.layer_norm(rows(patches, hidden), (VALUES,), eps=1e-6)
        return F.mse_loss(self.head(self.last(x[:, 1 + VISIBLE:])), target)


def least(rounds, function):
    clocks = (time.perf_counter, time.process_time)
    best = [float("inf")] * 2
    for _ in range(rounds):
        started = [clock() for clock in clocks]
        function()
        best = [min(least, clock() - start) for least, clock, start in zip(best, clocks, started)]
    return best


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=["pretrain"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = Autoencoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    images = torch.rand(args.batch, 1, SIDE, SIDE, SIDE)

    def update():
        optimizer.zero_grad(set_to_none=True)
        model(images).backward()
        optimizer.step()

    update()  # Makes the moments.
    secs = least(args.rounds, update)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"secs": secs, "peak_bytes": peak, "torch": torch.__version__}))


main()
