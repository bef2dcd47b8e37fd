"""nnU-Net trainer that fine-tunes UNETR from an encoder of `hiend-train export --format nnssl`.

nnU-Net 2.8 finds it in the folder that the environment variable nnUNet_extTrainer names:

    export nnUNet_extTrainer=/path/to/configs/nnunet
    nnUNetv2_train DATASET 3d_fullres FOLD -p hiendPlans -tr nnUNetTrainerHiEnd

README.md in this folder has all steps.
"""

import math

import torch
from hiend_unetr import HiEndUnetr, load_encoder
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerHiEnd(nnUNetTrainer):
    """Fine-tunes all weights with AdamW, a linear warm-up and a cosine decay, as `hiend-train finetune` does."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr, self.weight_decay, self.warmup_epochs = 1e-4, 1e-5, 50
        self.enable_deep_supervision = False
        self.info = plans["pretrain_info"]

    @staticmethod
    def build_network_architecture(plans_manager, configuration_manager, num_input_channels, num_output_channels,
                                   enable_deep_supervision=False):
        if num_input_channels != 1:
            raise ValueError(f"the encoder takes one channel, the dataset has {num_input_channels}")
        kwargs = plans_manager.plans["pretrain_info"]["arch_kwargs"]
        scheme = "CTNormalization" if "window" in kwargs else "ZScoreNormalization"
        if configuration_manager.normalization_schemes != [scheme]:
            raise ValueError(f"expected {scheme}, not {configuration_manager.normalization_schemes}")
        properties = plans_manager.foreground_intensity_properties_per_channel["0"]
        return HiEndUnetr(
            num_output_channels,
            configuration_manager.patch_size,
            (float(properties["mean"]), float(properties["std"])),
            **kwargs,
        )

    def initialize(self):
        super().initialize()
        path = self.info.get("checkpoint_path")
        if path is None:
            self.print_to_log_file("training from scratch: the plans name no checkpoint")
            return
        network = self.network.module if self.is_ddp else self.network
        num_loaded = load_encoder(getattr(network, "_orig_mod", network), path)
        self.print_to_log_file(f"{num_loaded} tensors of the encoder loaded from {path}")
        for paper in self.info.get("citations", []):
            self.print_to_log_file("please cite", *paper["apa_citations"])

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, None

    def lr_at(self, epoch):
        if epoch < self.warmup_epochs:
            return self.initial_lr * (epoch + 1) / self.warmup_epochs
        progress = (epoch - self.warmup_epochs) / max(self.num_epochs - self.warmup_epochs, 1)
        return self.initial_lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))

    def on_train_epoch_start(self):
        # Set from the epoch: nnU-Net's checkpoints hold no scheduler, and one with a state would start over after --c.
        self.network.train()
        lr = self.lr_at(self.current_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.print_to_log_file(f"\nEpoch {self.current_epoch}\nCurrent learning rate: {lr:.6f}")
        self.logger.log("lrs", lr, self.current_epoch)

    def set_deep_supervision_enabled(self, enabled):
        """The network has one output."""
