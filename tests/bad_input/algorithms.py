"""Keys of algorithms, advantages, losses and dynamic sampling."""

from tests.bad_input.harness import Case
from tests.bad_input.keys import case

ALGORITHMS: list[Case] = [
    case("algorithm=a2c", "algorithm=a2c: there is no such option", "ppo | reinforce_pp | rloo"),
    case("advantage=gae", "critic=none: this advantage needs a critic's values", "or algorithm=ppo"),
    case("critic=model", "critic: this advantage has no use for a critic's values", "or critic=none"),
    case("algorithm=ppo advantage=joint", "critic: this advantage has no use for", "type algorithm=ppo"),
    case("algorithm=ppo credit=dpp_steps", "credit: this credit pays single tokens", "type credit=dpp"),
    case("algorithm=ppo advantage.lam=1.5", "advantage.lam=1.5: 0 or more and at most 1", "type advantage.lam=0.95"),
    case("algorithm=ppo advantage.gamma=-1", "advantage.gamma=-1: 0 or more", "type advantage.gamma=0.95"),
    case("algorithm=ppo advantage.kl_coef=-0.1", "advantage.kl_coef=-0.1: 0 or more", "type advantage.kl_coef=0.05"),
    case("algorithm=ppo advantage.kl_coef=nan", "advantage.kl_coef=nan: a finite number", "advantage.kl_coef=0.05"),
    case("algorithm=ppo advantage.kl_estimator=k2", "advantage.kl_estimator=k2: allowed are k1 | k3"),
    case("algorithm=ppo advantage.kl_target=0", "advantage.kl_target=0: more than 0", "type advantage.kl_target=6.0"),
    case("algorithm=ppo advantage.kl_target=6 advantage.kl_coef=0", "advantage.kl_target=6: ", "kl_coef=0 stays 0"),
    case("algorithm=ppo advantage.kl_horizon=0", "advantage.kl_horizon=0: 1 or more", "advantage.kl_horizon=10000"),
    case("algorithm=ppo advantage.kl_target=6 advantage.kl_horizon=7", "advantage.kl_horizon=7: ", "of 8 completions"),
    case("algorithm=ppo advantage.whiten_rewards=maybe", "advantage.whiten_rewards=maybe: true or false is needed"),
    case("algorithm=ppo advantage.normalize_reward=group", "normalize_reward=group: allowed are none | running"),
    case("algorithm=ppo num_iterations=0", "num_iterations=0: 1 or more", "type num_iterations="),
    case("algorithm=ppo num_mini_batches=3", "num_mini_batches=3: mini-batches are whole groups", "prompts_per_step=3"),
    case("num_mini_batches=0", "num_mini_batches=0: 1 or more", "type num_mini_batches=1"),
    case("algorithm=reinforce_pp advantage.baseline=batch", "advantage.baseline=batch: allowed are none | group"),
    case("algorithm=reinforce_pp advantage.baseline=group k=2 credit=dpp", "k=2: ", "type k=3 or more"),
    case("algorithm=reinforce_pp advantage.lam=0.9", "unknown key advantage.lam"),
    case("loss=cispo loss.delta=4.0", "loss.delta=4.0: loss.loss_type=cispo does not clip", "type loss.delta=null"),
    case("loss=sapo loss.sapo_temperature_pos=0", "loss.sapo_temperature_pos=0: more than 0", "sapo_temperature_pos=1"),
    case("loss.loss_type=ppo", "loss.loss_type=ppo: allowed are dapo | grpo | dr_grpo | bnpo | cispo | sapo"),
    case("redraw_signal=0.5", "redraw_signal=0.5: redraws=0 draws nothing anew", "type redraws=3, or redraw_signal=0"),
    case("redraws=1 redraw_signal=-1", "redraw_signal=-1: 0 or more and at most 10", "type redraw_signal=0.5"),
    case("advantage.normalize_reward=5", "advantage.normalize_reward=5: allowed are none | running"),
    case("vf_coef=0.1", "other toolkits' vf_coef is critic.vf_coef here", "type critic.vf_coef=0.1"),
    case("experiment=paper", "experiment=paper: there is no such option", "paper_gsm8k", "--config-dir FOLDER"),
]
