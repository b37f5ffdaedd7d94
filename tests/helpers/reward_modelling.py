"""Settings of dqo-rm for tests."""

from typing import Any


def settings(**changes: Any) -> dict[str, Any]:
    """``rm.*`` of a model that is tiny."""
    return {
        "path": None, "eval_path": None, "held_out": 0.25, "prompt_column": "prompt", "chosen_column": "chosen",
        "rejected_column": "rejected", "completion_column": "completion", "score_column": "score", "max_length": 64,
        "epochs": 1.0, "batch_size": 4, "learning_rate": 1e-3, "center_rewards_coefficient": 0.01, "lora_r": 0,
        "lora_alpha": 32, "gradient_checkpointing": False, "dtype": "float32",
    } | changes  # fmt: skip
