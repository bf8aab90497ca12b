"""What a folder's generation_config.json asks for and generate does not do is refused, not passed over."""

from __future__ import annotations

import pytest
import torch

from glm_train.checkpoint.pretrained import GlmForCausalLM
from glm_train.errors import CheckpointError
from glm_train.model.config import GlmConfig
from support.tiny_models import SHAPE

IDS = torch.randint(6, 90, (1, 4), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "value"), [("num_beams", 4), ("min_new_tokens", 5), ("bad_words_ids", [[3]])]
)
def test_a_setting_that_would_make_other_tokens_is_named(name: str, value: object) -> None:
    model = GlmForCausalLM(GlmConfig(**SHAPE))
    model.generation_config[name] = value
    with pytest.raises(CheckpointError, match=name):
        model.generate(IDS, max_new_tokens=2)


def test_settings_that_change_nothing_are_taken() -> None:
    model = GlmForCausalLM(GlmConfig(**SHAPE)).eval()
    plain = model.generate(IDS, max_new_tokens=4)
    model.generation_config |= {"num_beams": 1, "min_length": 0, "typical_p": 1.0, "guidance_scale": None}
    assert model.generate(IDS, max_new_tokens=4).tolist() == plain.tolist()
