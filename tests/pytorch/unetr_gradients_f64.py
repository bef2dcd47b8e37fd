"""Computes a UNETR case's gradient norms with PyTorch in float64.

    python3 unetr_gradients_f64.py FOLDER/unetr_p12.json OUT.json

The golden gradients are the reference's in float32, whose convolutions sum almost a million terms one by one: they
carry rounding errors of up to 4e-3. The norms written here, of the same weights, image and labels, do not.
"""

import json
import os
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


def main(settings_path, out_path):
    with open(settings_path) as file:
        settings = json.load(file)
    case, _ = read_safetensors(settings_path.replace(".json", ".safetensors"))
    checkpoint = os.path.join(os.path.dirname(settings_path), settings["pretrained"])
    model = Unetr(settings)
    model.load_state_dict(weights_of(case, torch.load(checkpoint, map_location="cpu")["state_dict"]), strict=True)
    model = model.double()

    size, classes = settings["img_size"], settings["classes"]
    z, y, x = torch.meshgrid(*[torch.arange(size)] * 3, indexing="ij")
    labels = ((z // 13 + y // 17 * 2 + x // 19 * 3) % 5)[None]
    logits = model(unetr_image(size).double())
    probs = logits.softmax(1)
    one_hot = F.one_hot(labels, classes).permute(0, 4, 1, 2, 3).double()
    overlap, axes = (probs * one_hot).sum((2, 3, 4)), (2, 3, 4)
    dice = 1 - 2 * overlap / ((probs**2).sum(axes) + one_hot.sum(axes) + 1e-6)
    loss = dice.mean() + F.cross_entropy(logits, labels)
    loss.backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in sorted(model.named_parameters())}
    with open(out_path, "w") as file:
        json.dump({"kind": "unetr_f64", "loss": loss.item(), "gradnorm": norms}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
