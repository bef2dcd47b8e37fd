"""Training loops on crops: the loss falls, and a resumed loop has the losses of an undisturbed one."""

import io
import os
import pathlib
import re
import tempfile
import unittest

import common
import torch
from common import dataset
from torch import nn

import hiend


class SmallUNet(nn.Module):
    """Two levels with one skip connection; six classes."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.InstanceNorm3d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv3d(8, 16, 3, 2, 1), nn.InstanceNorm3d(16), nn.ReLU())
        self.up = nn.ConvTranspose3d(16, 8, 2, 2)
        self.head = nn.Conv3d(16, 6, 1)

    def forward(self, image):
        skip = self.down(image)
        return self.head(torch.cat([skip, self.up(self.deep(skip))], 1))


def training(**changes):
    torch.manual_seed(0)
    net = SmallUNet()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    return net, optimizer, dataset(sample_by="label", **changes)


def losses(net, optimizer, crops, steps):
    found = []
    for batch in crops:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(batch.image), batch.label[:, 0].long())
        loss.backward()
        optimizer.step()
        found.append(loss.item())
        if len(found) == steps:
            return found


class Training(unittest.TestCase):
    def test_loss_falls(self):
        found = losses(*training(), 30)
        self.assertLess(sum(found[-5:]), 0.7 * sum(found[:5]), found)

    def test_losses_are_equal_after_resuming(self):
        undisturbed = losses(*training(), 8)
        net, optimizer, crops = training()
        found = losses(net, optimizer, crops, 3)
        checkpoint = io.BytesIO()
        torch.save([net.state_dict(), optimizer.state_dict(), crops.state_dict()], checkpoint)
        checkpoint.seek(0)

        torch.manual_seed(1)
        net = SmallUNet()
        optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
        crops = dataset(sample_by="label", threads=1)
        for part, state in zip((net, optimizer, crops), torch.load(checkpoint)):
            part.load_state_dict(state)
        self.assertEqual(crops.step, 3)
        self.assertEqual(found + losses(net, optimizer, crops, 5), undisturbed)

    def test_quantized_crops_train_alike(self):
        floats = next(iter(dataset()))
        quantized = next(iter(dataset(form="quantized")))
        torch.manual_seed(0)
        net = SmallUNet()
        self.assertTrue(torch.equal(net(floats.image), net(quantized.floats())))


def python_block(text):
    """The first block of Python code in a page."""
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


class Readme(unittest.TestCase):
    def test_example_of_the_readme_trains_a_unet(self):
        try:
            import monai  # noqa: F401
        except ImportError:
            if os.environ.get("CI") == "true":
                raise
            self.skipTest("needs MONAI")
        text = pathlib.Path(os.environ["HIEND_README"]).read_text()
        code = python_block(text)
        main = pathlib.Path(os.environ["HIEND_README"]).parents[2] / "README.md"
        for line in filter(None, python_block(main.read_text()).splitlines()):
            self.assertIn(f"{line}\n", code, f"{main} shows another example")
        # Smaller numbers, so that a CPU trains it in seconds.
        smaller = {"crop_size=96": "crop_size=16", "steps=1000": "steps=2", "visits_per_batch=2": "visits_per_batch=1"}
        for setting, small in smaller.items():
            self.assertIn(setting, code)
            code = code.replace(setting, small)
        before = os.getcwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                hiend.phantoms("data/Dataset001_Phantoms", cases=2, spacing=(6.0, 8.0))
                names = {}
                exec(compile(code, "README.md", "exec"), names)
            finally:
                os.chdir(before)
        self.assertGreater(names["loss"].item(), 0)
        self.assertEqual(names["batch"].step, 1)


if __name__ == "__main__":
    common.main()
