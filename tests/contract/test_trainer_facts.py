"""What frostline relies on in transformers' Trainer, and the traps that it works around.

When an upgrade changes one of these, the test says so; a trap that vanished means a workaround that can be removed.
"""

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from tests.conftest import tiny_config

pytestmark = pytest.mark.filterwarnings("ignore")


def rows(count=32, length=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "input_ids": torch.randint(5, 40, (length,), generator=generator),
            "attention_mask": torch.ones(length, dtype=torch.long),
            "labels": torch.tensor(index % 2),
        }
        for index in range(count)
    ]


def make_trainer(tmp_path, *, model=None, callbacks=(), **arguments):
    torch.manual_seed(0)
    config = tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    settings = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 16, "max_steps": 2, "logging_steps": 1,
        "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "learning_rate": 1e-3,
    }  # fmt: skip
    return Trainer(
        model=model or AutoModelForSequenceClassification.from_config(config),
        args=TrainingArguments(**{**settings, **arguments}),
        train_dataset=rows(),
        eval_dataset=rows(seed=1),
        callbacks=list(callbacks),
    )


def losses(trainer):
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_trap_train_mode_is_set_at_every_step(tmp_path):
    seen = []

    class Unfreeze(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            model.bert.embeddings.eval()

        def on_substep_end(self, args, state, control, **kwargs):
            pass

        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            seen.append(model.bert.embeddings.training)

    make_trainer(tmp_path, callbacks=[Unfreeze()]).train()
    assert seen == [True, True]  # .eval() was undone: frozen modules must be pinned


def test_trap_the_loss_scale_depends_on_accumulation(tmp_path):
    whole = make_trainer(tmp_path, max_steps=1)
    halves = make_trainer(tmp_path, max_steps=1, per_device_train_batch_size=8, gradient_accumulation_steps=2)
    whole.train()
    halves.train()
    assert losses(halves)[0] == pytest.approx(2 * losses(whole)[0], rel=1e-3)  # upstream #47688


def test_trap_a_nan_is_logged_as_a_loss_of_0(tmp_path):
    trainer = make_trainer(tmp_path, learning_rate=1e30, max_steps=4)
    trainer.train()
    assert losses(trainer)[-1] == 0.0


def test_trap_evaluating_changes_training(tmp_path):
    ends = []
    for strategy in ("no", "steps"):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(tiny_config())  # with dropout
        trainer = make_trainer(tmp_path, model=model, max_steps=4, eval_strategy=strategy, eval_steps=1)
        trainer.train()
        ends.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert not torch.equal(ends[0], ends[1])


def test_fact_the_default_flow_comes_first_and_on_evaluate_last(tmp_path):
    order = []

    class Watch(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            order.append(("epoch_end", control.should_evaluate, control.should_save))

        def on_evaluate(self, args, state, control, **kwargs):
            order.append("evaluate")

        def on_save(self, args, state, control, **kwargs):
            order.append("save")

    make_trainer(
        tmp_path, callbacks=[Watch()], max_steps=-1, num_train_epochs=1, eval_strategy="epoch", save_strategy="epoch"
    ).train()
    assert order == [("epoch_end", True, True), "evaluate", "save"]


def test_fact_a_checkpoint_has_the_files_that_resuming_needs(tmp_path):
    make_trainer(tmp_path, save_strategy="steps", save_steps=2).train()
    from frostline.train.checkpoint import _REQUIRED

    assert set(_REQUIRED) <= {path.name for path in (tmp_path / "checkpoint-2").iterdir()}


def test_fact_an_injected_optimizer_is_used_and_saved(tmp_path):
    trainer = make_trainer(tmp_path)
    optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.5)
    trainer.optimizer = optimizer
    trainer.train()
    assert getattr(trainer.optimizer, "optimizer", trainer.optimizer) is optimizer


def test_fact_num_items_counts_the_rows_of_the_whole_step(tmp_path):
    seen = []
    trainer = make_trainer(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=3, max_steps=3)

    def loss(outputs, labels, num_items_in_batch=None):
        seen.append((len(labels), int(num_items_in_batch)))
        return outputs["logits"].sum() / num_items_in_batch

    trainer.compute_loss_func = loss
    trainer.model_accepts_loss_kwargs = False
    trainer.train()
    assert seen[:3] == [(4, 12)] * 3
    assert seen[6:8] == [(4, 8)] * 2  # 32 rows are 12 + 12 + 8


def test_trap_the_logged_loss_forgets_the_steps_before_a_resume(tmp_path):
    def logged(folder, **arguments):
        trainer = make_trainer(folder, logging_steps=4, max_steps=8, **arguments)
        found = []

        class Watch(TrainerCallback):
            def on_train_begin(self, args, state, control, **kwargs):
                found.append((trainer._globalstep_last_logged, trainer._tr_loss.item()))

        trainer.add_callback(Watch())
        return trainer, found

    trainer, _ = logged(tmp_path, save_strategy="steps", save_steps=6)
    trainer.train()
    whole = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    again, found = logged(tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    # Where src/frostline/train/window.py sets both: they have been set to nothing, and nothing is added yet.
    assert found == [(6, 0.0)]
    assert [row["loss"] for row in again.state.log_history if "loss" in row][-1] != whole[-1]


def test_fact_warmup_below_one_is_a_share_of_the_steps(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), warmup_steps=0.25, report_to="none")
    assert arguments.get_warmup_steps(100) == 25


def test_fact_weights_are_loaded_in_the_files_dtype_by_default(tmp_path):
    model = AutoModelForSequenceClassification.from_config(tiny_config()).half()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float16


def test_fact_a_folder_without_a_tokenizer_gives_one_without_words(tmp_path):
    from transformers import AutoTokenizer

    tiny_config().save_pretrained(tmp_path)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) < 10  # hence model.TOKENIZER_FILES
