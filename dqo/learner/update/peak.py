"""How much memory of the GPU an update takes."""

import torch

from dqo import distributed


class Peak:
    """From when it is made: the most memory of the GPU that is in use, what others hold there included.

    torch's own maximum alone would count vLLM's weights and cache, which torch calls allocated while vLLM sleeps.
    """

    def __init__(self, device: torch.device):
        self._device = device
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            self._others = total - free - torch.cuda.memory_reserved(device)  # negative where an engine sleeps
            torch.cuda.reset_peak_memory_stats(device)

    def metric(self) -> dict[str, float]:
        """``{"memory/peak": GB}``, the largest of all ranks; nothing on a CPU. A collective."""
        if self._device.type != "cuda":
            return {}
        peak = self._others + torch.cuda.max_memory_allocated(self._device)
        return {"memory/peak": distributed.all_reduce_max(peak) / 1e9}
