"""Makes the tiny cases `pth_tiny` and `unetr_tiny` with PyTorch.

    python3 make_tiny.py FOLDER

Writes `pth_tiny.{json,pth,safetensors}`, `unetr_tiny.{json,safetensors}` and `f64_unetr_tiny.json` into FOLDER. The
models are those of `../pytorch/strict_load.py`, which are written from the published architecture; given the reference's
own case `unetr_p12`, they reproduce its logits and its loss (`unetr_gradients_f64.py --check` prints the errors). Weights
and inputs come from a seed. Committed files were made with PyTorch 1.13 on a CPU.
"""

import json
import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "pytorch"))

import torch
from strict_load import HiEndMae, Unetr, unetr_image
from unetr_gradients_f64 import gradient_norms, labels_of, loss_of, weights_of

SEED = 13
MAE = {
    "kind": "hi_end_mae weights",
    "img_size": 27,
    "patch_size": 9,
    "in_chans": 1,
    "encoder_dim": 12,
    "encoder_heads": 2,
    "encoder_depth": 11,
    "decoder_dim": 6,
    "decoder_heads": 2,
    "decoder_self_depth": 2,
    "decoder_cross_depth": 3,
    "mask_ratio": 0.75,
}
UNETR = {
    "kind": "unetr",
    "img_size": 27,
    "patch_size": 9,
    "hidden_size": 12,
    "heads": 2,
    "depth": 11,
    "feature_size": 2,
    "classes": 4,
    "pretrained": "pth_tiny.pth",
    "input": "0.5+0.25*sin(0.11*z+0.2)+0.15*cos(0.07*y*1.3+0.5)+0.1*sin(0.05*x+0.03*z), axes (z,y,x) = tensor dims 2,3,4,"
    " computed in f64 then cast to f32",
    "labels": "((z//5)+(y//7)*2+(x//6)*3)%4",
    "loss": "softmax Dice (squared_pred, smooth_nr 0, smooth_dr 1e-6, background included, mean over classes and batch)"
    " + cross entropy",
}


def write_safetensors(path, tensors):
    header, body = {}, b""
    for name, tensor in sorted(tensors.items()):
        data = tensor.detach().contiguous().float().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def write_json(path, content):
    path.write_text(json.dumps(content, indent=1) + "\n")


def randomise(model):
    """Weights of unit gain, norms near the identity, everything else small."""
    for name, parameter in model.named_parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 and "token" not in name and "pos" not in name else 0
        values = torch.randn_like(parameter) * (fan_in**-0.5 if fan_in else 0.1)
        parameter.data = values + 1 if "norm" in name and name.endswith("weight") else values
    return model


def main(folder):
    torch.manual_seed(SEED)
    folder = pathlib.Path(folder)
    mae = randomise(HiEndMae(MAE))
    state = {name: tensor.detach().clone() for name, tensor in mae.state_dict().items()}
    released = {"module." + name: tensor for name, tensor in state.items()}
    torch.save({"epoch": 3, "state_dict": released}, folder / "pth_tiny.pth")
    image, noise = torch.rand(1, 1, 27, 27, 27), torch.rand(1, 27)
    tensors = {"param/" + name: tensor for name, tensor in state.items()}
    tensors.update({"input/image": image, "input/noise": noise, "expect/loss": mae(image, noise).reshape(1)})
    write_json(folder / "pth_tiny.json", MAE)
    write_safetensors(folder / "pth_tiny.safetensors", tensors)

    unetr = randomise(Unetr(UNETR))
    taken = weights_of({}, released)
    own = {name: tensor for name, tensor in unetr.state_dict().items() if name not in taken}
    unetr.load_state_dict({**own, **taken}, strict=True)
    logits = unetr(unetr_image(UNETR["img_size"]))
    loss = loss_of(logits, labels_of(UNETR))
    loss.backward()
    tensors = {"param/" + name: tensor for name, tensor in own.items()}
    tensors["expect/logits_stride5"] = logits[:, :, ::5, ::5, ::5]
    tensors["expect/logits_mean"] = logits.double().mean((2, 3, 4))
    tensors["expect/loss"] = loss.reshape(1)
    for name, parameter in unetr.named_parameters():
        tensors["gradnorm/" + name] = parameter.grad.double().norm().reshape(1)
    for name in ("out.conv.conv.weight", "vit.blocks.0.attn.qkv.weight"):
        tensors["grad/" + name] = dict(unetr.named_parameters())[name].grad
    write_json(folder / "unetr_tiny.json", {**UNETR, "loaded_keys": len(taken)})
    write_safetensors(folder / "unetr_tiny.safetensors", tensors)
    unetr.zero_grad()
    write_json(folder / "f64_unetr_tiny.json", gradient_norms(unetr.double(), UNETR))


if __name__ == "__main__":
    main(*sys.argv[1:])
