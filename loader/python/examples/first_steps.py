"""Draws phantoms, converts them and, with PyTorch, trains a small network on crops for a few steps.

    python first_steps.py [FOLDER]
"""

import sys
import tempfile

import hiend

try:
    import torch
except ImportError:
    torch = None


def main(folder):
    hiend.phantoms(f"{folder}/raw/Dataset001_Phantoms", cases=4, spacing=(4.0, 6.0))
    summary = hiend.shard(f"{folder}/raw", out=f"{folder}/cache", spacing=4.0, progress=print)
    print(f"{summary['converted']} cases converted in {summary['secs']:.1f} s")
    crops = hiend.CropDataset(
        f"{folder}/cache", crop_size=32, crops_per_visit=4, visits_per_batch=2, labels=True, sample_by="label", steps=10
    )
    print(crops)
    if torch is None:
        for batch in crops:
            print(batch, batch.digest())
        return
    net = torch.nn.Sequential(torch.nn.Conv3d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(16, 6, 1))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for batch in crops:
        loss = torch.nn.functional.cross_entropy(net(batch.image), batch.label[:, 0].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {batch.step}: loss {loss.item():.3f}, digest {batch.digest()}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(folder)
