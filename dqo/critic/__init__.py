"""What estimates values for ``algorithm=ppo``; files at the top of this folder are the options of ``conf/critic/``."""
