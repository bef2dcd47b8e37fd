"""Compares the network of configs/nnunet with the reference's UNETR, both with the encoder of one pre-trained model.

    python3 nnunet_encoder.py SETTINGS.json ENCODER.pth UNETR.safetensors

ENCODER is an export for nnU-Net, UNETR the fine-tuning network that starts from the same model, SETTINGS its sizes. Needs
only PyTorch. Prints the largest relative error of the encoder's outputs; exits with 1 if it is above 1e-5.
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "configs" / "nnunet"))
import strict_load
from hiend_unetr import HiEndUnetr, load_encoder

TOLERANCE = 1e-5

if torch.__version__.startswith("1."):
    # nnU-Net needs PyTorch 2. Debian's is older: its restricted unpickler knows no floats, and it has no attention.
    def attention(q, k, v):
        return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v

    load_restricted = torch.load
    torch.load = lambda file, **kwargs: load_restricted(file, **{**kwargs, "weights_only": False})
    torch.nn.functional.scaled_dot_product_attention = attention


def main(settings_path, encoder_path, unetr_path):
    settings = json.loads(Path(settings_path).read_text())
    checkpoint = torch.load(encoder_path, weights_only=True)
    plan = checkpoint["nnssl_adaptation_plan"]
    kwargs = plan["architecture_plans"]["arch_kwargs"]
    patch_size = plan["recommended_downstream_patchsize"]
    assert set(checkpoint) >= {"network_weights", "nnssl_adaptation_plan", "citations"}, list(checkpoint)
    scheme = plan["pretrain_plan"]["configurations"]["3d_fullres"]["normalization_schemes"]
    units = torch.rand(1, 1, *patch_size, generator=torch.Generator().manual_seed(0))
    if "window" in kwargs:
        # An image that stands for [0, 1] after the window, in nnU-Net's units of mean 40 and standard deviation 100 HU.
        low, high = kwargs["window"]
        image, expected_scheme = (low + (high - low) * units - 40) / 100, ["CTNormalization"]
    else:
        # Z-scores go in as nnU-Net makes them, except for those beyond the range that was kept.
        image, expected_scheme = 30 * units - 25, ["ZScoreNormalization"]
        units = image.clamp(*kwargs["zscore_range"])
        assert (units != image).any()
    assert scheme == expected_scheme, scheme
    ours = HiEndUnetr(settings["classes"], patch_size, (40.0, 100.0), **kwargs, feature_size=2).eval()
    num_loaded = load_encoder(ours, encoder_path)
    assert num_loaded == len(checkpoint["network_weights"]), (num_loaded, len(checkpoint["network_weights"]))

    reference = strict_load.Unetr(settings).eval()
    reference.load_state_dict(strict_load.read_safetensors(unetr_path)[0], strict=True)
    p, g = settings["patch_size"], settings["img_size"] // settings["patch_size"]
    cut = units.permute(0, 1, 4, 3, 2)
    cut = cut.unfold(2, p, p).unfold(3, p, p).unfold(4, p, p).reshape(1, g**3, p**3)
    x = reference.vit.patch_embedding.patch_embeddings(cut) + reference.vit.patch_embedding.position_embeddings
    expected = []
    for i, block in enumerate(reference.vit.blocks):
        x = block(x)
        expected += [x] if i in kwargs["taps"] else []
    expected.append(reference.vit.norm(x))

    with torch.no_grad():
        tokens = ours.stem.proj(ours.pretraining_units(image)).flatten(2).transpose(1, 2)
        pairs = list(zip(ours.encoder(tokens), expected, strict=True))
        error = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
        shape = list(ours(image).shape)
    assert shape == [1, settings["classes"], *patch_size], shape
    print(f"nnU-Net network: {num_loaded} tensors loaded, largest relative error {error:.2e} (tolerance {TOLERANCE:.0e})")
    if not error <= TOLERANCE:
        sys.exit(1)


if __name__ == "__main__":
    with torch.no_grad():
        main(*sys.argv[1:])
