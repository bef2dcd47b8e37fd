"""Computes a UNETR case's gradient norms with PyTorch in float64.

    python3 unetr_gradients_f64.py FOLDER/unetr_p12.json OUT.json
    python3 unetr_gradients_f64.py --check FOLDER/unetr_p12.json

The golden gradients are the reference's in float32, whose convolutions sum almost a million terms one by one: they
carry rounding errors of up to 4e-3. The norms written here, of the same weights, image and labels, do not. With
`--check` nothing is written; the relative errors of logits and loss in float32 against the case are printed.
"""

import json
import os
import re
import sys

import torch
from strict_load import F, Unetr, read_safetensors, unetr_image


def weights_of(case, checkpoint):
    weights = {name[6:]: tensor for name, tensor in case.items() if name.startswith("param/")}
    for name, tensor in checkpoint.items():
        name = name.replace("module.", "", 1)
        embedding = "vit.patch_embedding."
        if name == "encoder_pos_embed":
            weights[embedding + "position_embeddings"] = tensor
        elif name == "encoder.patch_embed.proj.weight":
            weights[embedding + "patch_embeddings.1.weight"] = tensor.permute(0, 2, 3, 4, 1).flatten(1)
        elif name == "encoder.patch_embed.proj.bias":
            weights[embedding + "patch_embeddings.1.bias"] = tensor
        elif name.startswith("encoder.") and name != "encoder.cls_token":
            name = name.replace("encoder.", "vit.", 1).replace("attn.proj", "attn.out_proj").replace(".fc", ".linear")
            weights[name] = tensor
    return weights


def labels_of(settings):
    """Labels [1, z, y, x] by the case's formula."""
    numbers = re.fullmatch(r"\(\(z//(\d+)\)\+\(y//(\d+)\)\*(\d+)\+\(x//(\d+)\)\*(\d+)\)%(\d+)", settings["labels"])
    by_z, by_y, times_y, by_x, times_x, modulus = map(int, numbers.groups())
    z, y, x = torch.meshgrid(*[torch.arange(settings["img_size"])] * 3, indexing="ij")
    return ((z // by_z + y // by_y * times_y + x // by_x * times_x) % modulus)[None]


def loss_of(logits, labels):
    """Soft Dice plus cross entropy of logits [1, classes, z, y, x] against labels [1, z, y, x]."""
    probs, axes = logits.softmax(1), (2, 3, 4)
    one_hot = F.one_hot(labels, logits.shape[1]).permute(0, 4, 1, 2, 3).to(logits.dtype)
    overlap = (probs * one_hot).sum(axes)
    dice = 1 - 2 * overlap / ((probs**2).sum(axes) + one_hot.sum(axes) + 1e-6)
    return dice.mean() + F.cross_entropy(logits, labels)


def gradient_norms(model, settings):
    """Loss and gradient norms of a model in float64."""
    loss = loss_of(model(unetr_image(settings["img_size"]).double()), labels_of(settings))
    loss.backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in sorted(model.named_parameters())}
    return {"kind": "unetr_f64", "loss": loss.item(), "gradnorm": norms}


def model_of(settings_path):
    with open(settings_path) as file:
        settings = json.load(file)
    case, _ = read_safetensors(settings_path.replace(".json", ".safetensors"))
    checkpoint = os.path.join(os.path.dirname(settings_path), settings["pretrained"])
    model = Unetr(settings)
    model.load_state_dict(weights_of(case, torch.load(checkpoint, map_location="cpu")["state_dict"]), strict=True)
    return settings, case, model


def check(settings_path):
    settings, case, model = model_of(settings_path)
    with torch.no_grad():
        logits = model(unetr_image(settings["img_size"]))
        loss = loss_of(logits, labels_of(settings)).reshape(1)
    pairs = [("logits", logits[:, :, ::5, ::5, ::5], "expect/logits_stride5"), ("loss", loss, "expect/loss")]
    for what, got, name in pairs:
        want = case[name].reshape(got.shape)
        print(f"{what}: {((got - want).abs().max() / want.abs().max()).item():.1e}")


def main(settings_path, out_path):
    settings, _, model = model_of(settings_path)
    with open(out_path, "w") as file:
        json.dump(gradient_norms(model.double(), settings), file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    check(*sys.argv[2:]) if sys.argv[1] == "--check" else main(*sys.argv[1:])
