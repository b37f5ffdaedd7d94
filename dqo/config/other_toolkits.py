"""What keys of TRL, verl and OpenRLHF are called here: data for the message about an unknown key.

A name matches the end of what was typed: ``lr`` is found in ``actor_rollout_ref.actor.optim.lr``, ``rollout.n`` in
``actor_rollout_ref.rollout.n``. Keys that have the same name here (``num_iterations``, ``lora_alpha``) need no line.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key of another toolkit. ``type``: what to type here, ``KEY=EXAMPLE``, or nothing where there is no such key.
    ``carries``: whether the user's value is right for our key; ``note``: what else differs."""

    type: str
    carries: bool = True
    note: str = ""

    def with_value(self, value: str) -> str:
        """What to type for the user's value: ``k=16``; for none, and for one that is not right here, the example."""
        ours, _, example = self.type.partition("=")
        return f"{ours}={value if value and self.carries else example}"


def _same(*names: str, type: str, note: str = "") -> dict[str, Key]:
    """Names whose value is ours, too."""
    return {name: Key(type=type, note=note) for name in names}


def _other(*names: str, type: str = "", note: str = "") -> dict[str, Key]:
    """Names whose value is another than ours, or that nothing here is like."""
    return {name: Key(type=type, carries=False, note=note) for name in names}


BATCH = "a step's batch is prompts_per_step * k completions"
PPO = "with algorithm=ppo"
MICRO = "micro-batches are made, and accumulated, by their number of tokens"
EPOCHS = "steps counts updates; an epoch is the number of prompts / prompts_per_step"

KEYS: dict[str, Key] = {
    # sampling
    **_same("num_generations", "n_samples_per_prompt", "samples_per_prompt", "group_size", "rollout.n", type="k=8"),
    **_same("num_return_sequences", "num_samples", type="k=8"),
    **_same("num_generations_eval", "val_kwargs.n", type="eval.n=10"),
    **_same("max_new_tokens", "max_tokens", "max_response_length", "response_length", type="max_completion_length=64"),
    **_same("generate_max_len", type="max_completion_length=64"),
    **_other("max_length", "max_seq_length", "max_seq_len", type="max_completion_length=64",
             note="it counts the tokens of the completion alone"),
    **_other("max_prompt_length", "prompt_max_len", type="task.skip_long=true",
             note="with task=jsonl, which leaves long prompts out; dolly, scitldr and cnn_dailymail cut them and have "
                  "task.max_prompt_length"),
    **_other("use_vllm", "vllm_mode", "vllm_num_engines", "rollout.name", type="rollout=vllm",
             note="its engine shares the learner's GPU"),
    **_same("vllm_gpu_memory_utilization", type="rollout.gpu_memory_utilization=0.4", note="with rollout=vllm"),
    **_same("vllm_tensor_parallel_size", "tensor_model_parallel_size", type="rollout.tensor_parallel_size=1",
            note="with rollout=vllm"),
    **_same("vllm_max_model_length", type="rollout.max_model_len=2048", note="with rollout=vllm"),
    **_other("filter_groups.enable", "dynamic_filtering", "dynamic_sampling", type="redraws=3",
             note="redraw_signal says what a signal is"),
    **_other("max_num_gen_batches", type="redraws=3", note="draws after the first"),
    # the batch
    **_other("batch_size", "train_batch_size", "per_device_train_batch_size", "generation_batch_size",
             "steps_per_generation", type="prompts_per_step=4", note=BATCH),
    **_other("mini_batch_size", "ppo_mini_batch_size", type="num_mini_batches=1",
             note="the number of parts of a step's batch, not their size"),
    **_same("rollout_batch_size", "data.train_batch_size", type="prompts_per_step=4", note=BATCH),
    **_other("gradient_accumulation_steps", "micro_batch_size", "micro_train_batch_size",
             "ppo_micro_batch_size_per_gpu", "ppo_micro_batch_size", type="learner.max_tokens_per_micro_batch=1024",
             note=MICRO),
    **_same("ppo_max_token_len_per_gpu", type="learner.max_tokens_per_micro_batch=1024"),
    **_other("per_device_eval_batch_size", "eval_batch_size", "eval.batch_size", type="eval.prompts=16",
             note="the number of prompts"),
    **_same("rollout_micro_batch_size", type="rollout.batch_rows=64", note="with rollout=hf"),
    # length of the run
    **_same("max_steps", "total_training_steps", "train_steps", "num_steps", "total_steps", "num_train_steps",
            "max_train_steps", type="steps=100"),
    **_other("num_train_epochs", "num_epochs", "epochs", "total_epochs", "num_episodes", type="steps=100", note=EPOCHS),
    **_same("ppo_epochs", "num_ppo_epochs", "max_epochs", type="num_iterations=4"),
    # loss
    **_same("lr", "actor_learning_rate", type="learning_rate=1e-5"),
    **_same("kl_coef", "init_kl_coef", "kl_beta", "kl_loss_coef", "kl_penalty_coef", "kl_coeff", type="beta=0.02",
            note="in the loss; in the reward of algorithm=ppo and reinforce_pp it is advantage.kl_coef"),
    **_other("use_kl_loss", type="beta=0.02"),
    **_other("use_kl_in_reward", type="algorithm=ppo", note="or reinforce_pp; the weight is advantage.kl_coef"),
    **_other("target_kl", "kl_ctrl.type", "adap_kl_ctrl", type="advantage.kl_target=6.0",
             note="nats a completion, verl's is per token; with algorithm=ppo or reinforce_pp"),
    **_same("horizon", "kl_ctrl.horizon", type="advantage.kl_horizon=10000", note="with algorithm=ppo or reinforce_pp"),
    **_other("kl_penalty", "kl_ctrl.kl_penalty", type="advantage.kl_estimator=k1",
             note="k1 | k3; with algorithm=ppo or reinforce_pp"),
    **_same("clip_range", "cliprange", "clip_ratio", "clip_ratio_low", "eps_clip", "clip_eps", "epsilon_low",
            "clip_epsilon", type="loss.epsilon=0.2"),
    **_same("clip_ratio_high", "eps_clip_high", type="loss.epsilon_high=0.28"),
    **_same("clip_ratio_c", "dual_clip", type="loss.delta=4.0"),
    **_other("entropy_coef", "entropy_coeff", "ent_coef", "entropy_loss_coef", type="loss=entropy",
             note="its weight is loss.terms.entropy.coefficient; alpha pays for diversity of meaning"),
    **_other("use_adaptive_entropy", "entropy_target", "entropy_coef_delta", "entropy_coef_min", "entropy_coef_max",
             "target_entropy", type="loss=entropy_adaptive", note="its keys begin with loss.terms.entropy"),
    **_other("top_entropy_quantile", type="loss=top_entropy",
             note="the share is loss.terms.top_entropy.top_entropy_quantile"),
    **_other("use_clip_cov", "clip_cov_ratio", "clip_cov_lb", "clip_cov_ub", type="loss=clip_cov",
             note="its keys are share, low and high, and begin with loss.terms.clip_cov"),
    **_other("use_kl_cov", "kl_cov_ratio", "ppo_kl_coef", type="loss=kl_cov",
             note="its keys are share and coefficient, and begin with loss.terms.kl_cov"),
    **_other("loss_mode", "policy_loss", type="loss=clip", note="clip | gspo | cispo | sapo | clip_cov | kl_cov"),
    **_other("pass_at_k", "pass_k", "passk", type="advantage=set",
             note="advantage.n is the k of pass@k, and advantage.divide_by_std=true divides as pass@k training does"),
    **_other("diversity_weight", "diversity_coef", "diversity_coefficient", "diversity_lambda", type="alpha=1.0"),
    **_other("elliptical.enable", "elliptical.beta", "elliptical.lamb", type="credit=elliptic",
             note="its weight is alpha, its λ credit.ridge"),
    **_other("rank_penalty", type="credit=unlikeliness", note="its key is credit.penalty"),
    **_other("partition_correct", type="credit=partition",
             note="credit.gate=correct compares correct completions alone"),
    **_other("loss_agg_mode", type="loss.loss_type=dapo"),
    **_other("adv_estimator", "advantage_estimator", "estimator", type="algorithm=grpo",
             note="grpo | dr_grpo | dapo | gspo | cispo | rloo | reinforce_pp | ppo (gae); advantage=gdpo, maxrl, "
                  "pkpo, set (grpo_passk) … for the others"),
    **_other("multi_objective_aggregation", type="advantage=gdpo", note="for normalize_then_sum"),
    **_other("norm_adv_by_std_in_grpo", type="advantage.scale_rewards=group"),
    # PPO
    **_same("gamma", type="advantage.gamma=1.0", note=PPO),
    **_same("gae_lambda", "lam", "lambd", type="advantage.lam=0.95", note=PPO),
    **_same("vf_coef", "value_loss_coef", type="critic.vf_coef=0.1",
            note="with critic=head; a critic of its own has critic.learning_rate in its place"),
    **_same("cliprange_value", "value_clip", "vf_clip", type="critic.cliprange_value=0.2", note=PPO),
    **_same("critic_learning_rate", "critic_lr", "critic.optim.lr", "critic.adam.lr", type="critic.learning_rate=9e-6",
            note=PPO),
    **_same("critic_pretrain", "critic.model.path", "value_model_path", "value_model_name_or_path",
            type="critic.path=FOLDER", note=PPO),
    **_same("freezing_actor_steps", "critic_warmup", type="critic.warmup=10", note=PPO),
    **_other("value_model", "use_critic", "value_head", type="algorithm=ppo",
             note="critic=model: a model of its own; critic=head: a layer on the policy"),
    **_other("missing_eos_penalty", "overlong_buffer.enable", "overlong_buffer.len", "overlong_buffer.penalty_factor",
             type="reward=check_and_overlong", note="DAPO's punishment of long completions, reward.parts.overlong"),
    **_same("vllm_importance_sampling_cap", type="loss.importance_sampling_clip_max=3.0"),
    **_other("vllm_importance_sampling_correction", "tis_imp_ratio_cap",
             type="importance_sampling_mode=token_truncate"),
    # optimiser
    **_same("lr_scheduler", "lr_schedule", "lr_warmup_style", type="optim.lr_scheduler_type=linear"),
    **_other("warmup_ratio", "lr_warmup_ratio", "lr_warmup_steps_ratio", type="optim.warmup_steps=10",
             note="in steps, with optim.lr_scheduler_type=constant_with_warmup | linear | cosine"),
    **_same("lr_warmup_steps", "num_warmup_steps", type="optim.warmup_steps=10",
            note="with optim.lr_scheduler_type=constant_with_warmup | linear | cosine"),
    **_same("grad_clip", "clip_grad", "max_norm", "gradient_clipping", "clip_grad_norm",
            type="optim.max_grad_norm=1.0"),
    **_same("beta1", type="optim.adam_beta1=0.9"),
    **_same("beta2", type="optim.adam_beta2=0.999"),
    **_same("l2", type="optim.weight_decay=0.0"),
    **_other("optimizer", type="optim=adamw", note="adamw | adamw_linear"),
    # model
    **_same("model_name_or_path", "model_name", "model_path", "pretrain", "base_model", "pretrained_model",
            "actor_rollout_ref.model.path", type="model.path=FOLDER", note="with model=hf"),
    **_other("tokenizer", "tokenizer_name", "tokenizer_name_or_path", type="model.path=FOLDER",
             note="the tokenizer is that of the model's folder"),
    **_other("ref_model", "reference_model", "ref_model_path", type="beta=0.02",
             note="the reference is the policy before training, kept if beta > 0"),
    **_other("bf16", "use_bf16", type="learner.dtype=bfloat16"),
    **_other("fp16", type="learner.dtype=bfloat16", note="bfloat16 or float32"),
    **_other("fp32", "tf32", type="learner.dtype=float32"),
    **_same("torch_dtype", "dtype", "mixed_precision", "precision", "model_dtype", "param_dtype",
            type="learner.dtype=bfloat16"),
    **_other("enable_gradient_checkpointing", "use_gradient_checkpointing", type="learner.gradient_checkpointing=true"),
    **_same("lora_rank", "peft.r", "lora.r", type="learner.lora_r=16"),
    **_same("target_modules", type="learner.lora_target_modules=all-linear"),
    **_other("use_peft", "use_lora", "peft_config", type="learner.lora_r=16"),
    **_other("load_in_4bit", "load_in_8bit", "quantization",
             note="weights are not quantised; learner.lora_r=16 saves memory"),
    **_other("flash_attn", "use_flash_attn", "use_flash_attention_2",
             type="model.attn_implementation=flash_attention_2"),
    # data and reward
    **_other("dataset_streaming", "stream", type="task.streaming=true", note="with task=jsonl | hf_dataset"),
    **_other("dataset_config", "dataset_config_name", "subset", type="task.config=NAME", note="with task=hf_dataset"),
    **_other("dataset_split", "dataset_train_split", "prompt_split", type="task.split=train",
             note="with task=hf_dataset"),
    **_other("dataset_test_split", type="task.eval_split=test", note="with task=hf_dataset"),
    **_same("dataset", "dataset_name", "dataset_path", "dataset_name_or_path", "train_dataset", "train_file",
            "train_files", "train_path", "prompt_data", "data_path", type="task.path=my.jsonl",
            note="with task=jsonl; public data sets have tasks of their own: docs/tasks.md"),
    **_same("eval_dataset", "val_files", "eval_file", "validation_file", type="task.eval_path=eval.jsonl",
            note="with task=jsonl"),
    **_same("prompt_key", "input_key", "dataset_text_field", type="task.prompt_column=prompt", note="with task=jsonl"),
    **_same("label_key", "answer_key", type="task.answer_column=answer", note="with task=jsonl"),
    **_other("apply_chat_template", type="task.chat_template=true"),
    **_same("input_template", "prompt_template", type="task.template='{{ prompt }}'", note="with task=jsonl"),
    **_same("reward_funcs", "reward_func", "reward_function", "reward_fn", "custom_reward_function.path",
            type="reward.function=my_module.score", note="with reward=python"),
    **_same("remote_rm_url", "reward.remote_url", type="reward.url=http://HOST:5000/get_reward",
            note="with reward=remote reward.form=openrlhf"),
    **_same("reward_model_path", "reward_pretrain", "reward_model.model.path", "rm_model_name_or_path",
            type="reward.path=FOLDER", note="with reward=reward_model"),
    **_other("reward_model", type="reward.path=FOLDER", note="with reward=reward_model"),
    **_other("api_key", "openai_api_key",
             note="a service's key would stand in config.yaml; type export OPENAI_API_KEY=… before the command"),
    **_other("token", "auth_token", "hf_token",
             note="a token would stand in config.yaml; type export DQO_TOKEN=… (dqo-serve and its clients) or export "
                  "HF_TOKEN=… (the hub) before the command"),
    **_same("overlong_filtering", "mask_truncated", type="reward.mask_truncated_completions=true"),
    # the run
    **_same("output_dir", "save_path", "ckpt_path", "default_local_dir", "run_name", "experiment_name", "exp_name",
            "logging_dir", type="run_dir=runs/NAME"),
    **_same("save_steps", "save_freq", "save_interval", "save_every", type="checkpoint.every=20"),
    **_other("save_strategy", type="checkpoint.every=20", note="in steps; 0: none"),
    **_same("save_total_limit", "max_ckpt_num", "max_actor_ckpt_to_keep", type="checkpoint.keep_last=1"),
    **_same("eval_steps", "test_freq", "eval_freq", "eval_interval", type="eval.every=20"),
    **_other("eval_strategy", "evaluation_strategy", "do_eval", "eval_on_start", type="eval.every=20",
             note="in steps; 0: only before and after"),
    **_same("logging_steps", "log_interval", "log_freq", type="log.every=1"),
    **_other("report_to", "use_wandb", "trainer.logger", type="log.wandb=true"),
    **_other("use_tensorboard", type="log.tensorboard=true"),
    **_same("wandb_project", "project_name", type="log.project=dqo"),
    **_same("log_completions", type="log.completions=true"),
    **_same("resume_from_checkpoint", "load_checkpoint", "resume_from_path", type="resume=RUN"),
    **_other("resume_mode", type="resume=auto"),
    **_same("random_seed", "data_seed", type="seed=0"),
    **_other("deepspeed", "zero_optimization", "fsdp", "strategy", type="learner=deepspeed_zero"),
    **_same("zero_stage", type="learner.stage=2", note="with learner=deepspeed_zero"),
    **_same("num_processes", "nproc_per_node", "n_gpus_per_node", "num_gpus", "actor_num_gpus_per_node", "world_size",
            type="nproc=2"),
    **_other("nnodes", "actor_num_nodes", note="torchrun starts dqo-train on each machine, see docs/scaling.md"),
    **_other("use_cpu", "no_cuda", type="device=cpu"),
    **_other("push_to_hub", "hub_model_id", note="upload RUN/policy with huggingface-cli"),
}  # fmt: skip


OF_RM: dict[str, Key] = {  # what to type at dqo-rm; names that are missing here are looked up in KEYS
    **_same("lr", "learning_rate", type="rm.learning_rate=1e-5"),
    **_same("num_train_epochs", "num_epochs", "epochs", "max_epochs", "total_epochs", type="rm.epochs=1"),
    **_same("batch_size", "train_batch_size", "per_device_train_batch_size", type="rm.batch_size=16",
            note="pairs or texts of an optimizer step"),
    **_other("gradient_accumulation_steps", "micro_train_batch_size", "micro_batch_size",
             note="the rm.batch_size rows of an optimizer step are read in one pass; rm.gradient_checkpointing=true "
                  "saves memory"),
    **_same("max_len", "max_seq_length", "max_seq_len", "max_length", type="rm.max_length=1024"),
    **_same("lora_rank", "peft.r", "lora.r", type="rm.lora_r=16"),
    **_other("use_peft", "use_lora", "peft_config", type="rm.lora_r=16"),
    **_other("bf16", "use_bf16", "fp16", type="rm.dtype=bfloat16"),
    **_other("fp32", "tf32", type="rm.dtype=float32"),
    **_same("torch_dtype", "precision", type="rm.dtype=bfloat16"),
    **_other("enable_gradient_checkpointing", "use_gradient_checkpointing", type="rm.gradient_checkpointing=true"),
    **_same("dataset", "dataset_name", "dataset_path", "train_dataset", "train_file", "train_files", "prompt_data",
            "data_path", type="rm.path=pairs.jsonl"),
    **_same("eval_dataset", "eval_file", "validation_file", "val_files", type="rm.eval_path=held_out.jsonl"),
    **_same("prompt_key", "input_key", type="rm.prompt_column=prompt"),
    **_same("chosen_key", type="rm.chosen_column=chosen"),
    **_same("rejected_key", type="rm.rejected_column=rejected"),
    **_same("label_key", "score_key", type="rm.score_column=score"),
}  # fmt: skip


def named(key: str, command: str = "train") -> tuple[str, Key] | None:
    """The longest name in the command's table that ``key`` ends with: whole parts, in any spelling (``Batch-Size``)."""
    table = KEYS | OF_RM if command == "rm" else KEYS
    parts = key.lower().replace("-", "_").split(".")
    names = (".".join(parts[first:]) for first in range(len(parts)))
    return next(((name, table[name]) for name in names if name in table), None)


def in_our_words(key: str, value: str) -> str:
    """``k=8`` for ``num_generations`` and 8; ``KEY=VALUE`` for a key that is in no other toolkit; without a value the
    example."""
    found = named(key)
    if found is None or not found[1].type:
        return f"{key.replace('-', '_')}={value or 'VALUE'}"
    return found[1].with_value(value)
