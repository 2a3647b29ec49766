"""Trains with TRL, or opens an adapter with PEFT, as a job file says; tests/post_training_peers.rs writes it.

    python post_training_peer.py JOB.json OUT.json

Kinds of jobs: "adapter" (logits of some ids), "sft" and "dpo" (the losses of some steps).
"""
import json
import os
import sys
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
import datasets
import peft
import torch
import transformers
import trl


def model_of(job):
    return transformers.ChameleonForConditionalGeneration.from_pretrained(
        job["base"], dtype=torch.float32, attn_implementation="eager"
    )


def adapter(job):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT warns of tensors that fit nothing
        model = peft.PeftModel.from_pretrained(model_of(job), job["adapter"])
    model = model.eval().get_base_model()
    with torch.no_grad():
        hidden = model.model(input_ids=torch.tensor(job["ids"])).last_hidden_state
        return model.lm_head(hidden).flatten().tolist()  # image ids are not masked


def trained(job, trainer_class, config_class, **more):
    """The losses of one pass over the rows in their order, a step for each `batch` of them."""

    class InOrder(trainer_class):
        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset

        def _get_train_sampler(self, *args, **kwargs):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    out = os.path.join(os.path.dirname(sys.argv[2]), "trl")
    args = config_class(
        output_dir=out, per_device_train_batch_size=job["batch"], max_steps=job["steps"], learning_rate=job["lr"],
        lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=0.0, adam_beta1=job["betas"][0],
        adam_beta2=job["betas"][1], adam_epsilon=job["eps"], logging_steps=1, report_to=[], save_strategy="no",
        use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True, max_length=None, **more,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["base"])
    model = model_of(job)
    trainer = InOrder(
        model=model, args=args, train_dataset=datasets.Dataset.from_list(job["rows"]), processing_class=tokenizer
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main():
    job = json.load(open(sys.argv[1]))
    if job["kind"] == "adapter":
        found = adapter(job)
    elif job["kind"] == "sft":
        found = trained(job, trl.SFTTrainer, trl.SFTConfig, packing=False, dataset_kwargs={"skip_prepare_dataset": True})
    else:
        found = trained(job, trl.DPOTrainer, trl.DPOConfig, beta=job["beta"])
    json.dump(found, open(sys.argv[2], "w"))


main()
