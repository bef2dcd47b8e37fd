"""PyTorch's side of `cpu-bench`: convolutions, and steps and predictions of UNETR, in f32 on a CPU.

    torch_unetr.py convolutions IN,OUT,SIDE ...   the convolution, its input's gradient and its weight's gradient
    torch_unetr.py finetune [--monai]             a step with one crop of 96 voxels per side
    torch_unetr.py predict [--monai]              a prediction of one window

The network is that of hiend-train for the encoder `tiny`, layer by layer: 12 blocks of width 192, patches of 12 voxels,
8 features, 14 classes. With --monai it is `monai.networks.nets.UNETR` with patches of 16 voxels instead. Prints one JSON
object: wall-clock and CPU seconds, the least of --rounds, and the peak of resident memory in bytes.
"""
import argparse, inspect, json, resource, time
import torch
from torch import nn
from torch.nn import functional as F

DIM, DEPTH, HEADS, PATCH, FEATURES, CLASSES, SIDE = 192, 12, 4, 12, 8, 14, 96


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.fc1, self.fc2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, x):
        n, tokens, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, tokens, 3, HEADS, DIM // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, DIM)
        x = x + self.proj(y)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def conv(inputs, outputs, kernel, bias=False):
    return nn.Conv3d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)


def up(inputs, outputs):
    return nn.ConvTranspose3d(inputs, outputs, 2, stride=2, bias=False)


class Residual(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, outputs, 3), conv(outputs, outputs, 3)
        self.conv3 = conv(inputs, outputs, 1) if inputs != outputs else None
        self.norm = nn.InstanceNorm3d(outputs)
        self.act = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, x):
        y = self.norm(self.conv2(self.act(self.norm(self.conv1(x)))))
        y += self.norm(self.conv3(x)) if self.conv3 is not None else x
        return self.act(y)


class Projection(nn.Module):
    def __init__(self, outputs, blocks):
        super().__init__()
        self.first = up(DIM, outputs)
        self.blocks = nn.ModuleList(
            nn.Sequential(up(outputs, outputs), Residual(outputs, outputs)) for _ in range(blocks))

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


class Up(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.up, self.block = up(inputs, outputs), Residual(2 * outputs, outputs)

    def forward(self, x, branch):
        return self.block(torch.cat([self.up(x), branch], 1))


class Unetr(nn.Module):
    def __init__(self):
        super().__init__()
        f, grid = FEATURES, SIDE // PATCH
        self.embed = nn.Linear(PATCH ** 3, DIM)
        self.positions = nn.Parameter(torch.zeros(1, grid ** 3, DIM))
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(DEPTH)), nn.LayerNorm(DIM)
        self.encoder1 = Residual(1, f)
        self.encoder2, self.encoder3, self.encoder4 = Projection(2 * f, 2), Projection(4 * f, 1), Projection(8 * f, 0)
        self.decoder5, self.decoder4, self.decoder3 = Up(DIM, 8 * f), Up(8 * f, 4 * f), Up(4 * f, 2 * f)
        self.conv, self.block = conv(2 * f, f, 3, bias=True), Residual(2 * f, f)
        self.out = conv(f, CLASSES, 1, bias=True)

    def forward(self, images):
        n, grid = images.shape[0], SIDE // PATCH
        x = images.view(n, grid, PATCH, grid, PATCH, grid, PATCH).permute(0, 1, 3, 5, 2, 4, 6)
        x = self.embed(x.reshape(n, grid ** 3, PATCH ** 3)) + self.positions
        taps = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in (3, 6, 9):
                taps.append(x)
        volume = lambda tokens: tokens.transpose(1, 2).reshape(n, DIM, grid, grid, grid)
        branch2, branch3, branch4 = (
            encoder(volume(tap)) for encoder, tap in zip([self.encoder2, self.encoder3, self.encoder4], taps))
        branch1 = self.encoder1(images)
        x = self.decoder5(volume(self.norm(x)), branch4)
        x = self.decoder3(self.decoder4(x, branch3), branch2)
        x = self.conv(F.interpolate(x, size=images.shape[2:], mode="trilinear", align_corners=False))
        return self.out(self.block(torch.cat([x, branch1], 1)))


def dice_ce(logits, labels):
    one_hot = F.one_hot(labels, CLASSES).movedim(-1, 1).float()
    probabilities = logits.softmax(1)
    axes = (2, 3, 4)
    overlap = (probabilities * one_hot).sum(axes)
    total = (probabilities ** 2).sum(axes) + one_hot.sum(axes)
    return (1 - (2 * overlap + 1e-5) / (total + 1e-5)).mean() + F.cross_entropy(logits, labels)


def model(monai):
    if not monai:
        return Unetr()
    from monai.networks.nets import UNETR
    # MONAI 1.3 renamed the parameter.
    projection = "proj_type" if "proj_type" in inspect.signature(UNETR).parameters else "pos_embed"
    return UNETR(1, CLASSES, (SIDE,) * 3, feature_size=FEATURES, hidden_size=DIM, mlp_dim=4 * DIM, num_heads=HEADS,
                 norm_name="instance", res_block=True, **{projection: "perceptron"})


def least(rounds, function):
    clocks = (time.perf_counter, time.process_time)
    best = [float("inf")] * 2
    for _ in range(rounds):
        started = [clock() for clock in clocks]
        function()
        best = [min(least, clock() - start) for least, clock, start in zip(best, clocks, started)]
    return best


def convolutions(shapes, rounds):
    results = []
    for inputs, outputs, side in shapes:
        x = torch.rand(1, inputs, side, side, side, requires_grad=True)
        weight = torch.rand(outputs, inputs, 3, 3, 3, requires_grad=True)
        y = F.conv3d(x, weight, padding=1)
        dy = torch.rand_like(y)
        results.append([
            least(rounds, lambda: F.conv3d(x, weight, padding=1)),
            least(rounds, lambda: torch.autograd.grad(y, x, dy, retain_graph=True)),
            least(rounds, lambda: torch.autograd.grad(y, weight, dy, retain_graph=True)),
        ])
    return results


def finetune(monai, rounds):
    net = model(monai)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4)
    images = torch.rand(1, 1, SIDE, SIDE, SIDE)
    labels = torch.randint(CLASSES, (1, SIDE, SIDE, SIDE))

    def update():
        optimizer.zero_grad(set_to_none=True)
        dice_ce(net(images), labels).backward()
        optimizer.step()

    return least(rounds, update)


def predict(monai, rounds):
    net = model(monai).eval()
    images = torch.rand(1, 1, SIDE, SIDE, SIDE)
    with torch.no_grad():
        return least(rounds, lambda: net(images))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=["convolutions", "finetune", "predict"])
    parser.add_argument("shapes", nargs="*")
    parser.add_argument("--monai", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.case == "convolutions":
        shapes = [tuple(map(int, shape.split(","))) for shape in args.shapes]
        secs = convolutions(shapes, args.rounds)
    else:
        secs = (finetune if args.case == "finetune" else predict)(args.monai, args.rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"secs": secs, "peak_bytes": peak, "torch": torch.__version__}))


main()
